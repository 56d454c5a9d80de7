//! The secret that the nodes of a cluster share, and how one proves to another that it has it. Pure.
//!
//! ```text
//! key      HMAC-SHA256("ringkeep cluster secret", secret)
//! proof    HMAC-SHA256(key, side u8 | what the connection is for, 8 bytes | store that is meant, u64 little-endian, or 0
//!                           | nonce of the connecting side | nonce of the accepting side)
//! ```
//! Each side draws a nonce for each connection, so what was overheard on one proves nothing on another, and a proof of one side is none of
//! the other. A proof for a store is none for another store, so whoever holds the address of a store that is gone cannot pass on what those
//! who look for it prove. Whose PD port is meant is not always known, as for a node that joins: there a proof can be passed on to another
//! member by whoever holds an address that nodes or operators still ask. A node may have two secrets while an operator changes them: it proves both, and whoever has one of them believes it.
//!
//! What it cannot do without TLS: whoever can change what travels between two nodes can speak on a connection once it is authenticated, and
//! whoever can listen reads it.
//!
//! Invariants: the text of a secret is not kept; neither it nor its key is in any text that this module writes; proofs are compared in
//! a time that does not depend on what is in them.

use std::fmt;

use hmac_sha256::HMAC;

/// Minimum length of a secret, bytes: 16 random bytes in hexadecimal.
pub const SECRET_BYTES_MIN: usize = 32;
/// Maximum length of one, bytes; a wrong file shall not be taken for one.
const SECRET_BYTES_MAX: usize = 1024;
/// Secrets that a node may have: the one that it is to have, and the one before.
const SECRETS_MAX: usize = 2;

/// Length of a nonce and of a proof, bytes.
pub const PROOF_BYTES: usize = 32;

/// What a side has drawn for one connection.
pub type Nonce = [u8; PROOF_BYTES];
/// That a side has a secret.
pub type Proof = [u8; PROOF_BYTES];

/// What proofs are made with; the secret cannot be found from it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key([u8; PROOF_BYTES]);

/// The secret of the cluster, and the one before while it is being changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterSecret {
    newest: Key,
    older: Option<Key>,
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(set)")
    }
}

/// Which side of a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// The one that has opened it.
    Connecting = 1,
    /// The one that has accepted it.
    Accepting = 2,
}

/// What both sides of one connection know.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// What the connection is for: the bytes that it began with.
    pub purpose: [u8; 8],
    /// The store that the connecting side means, 0 where any member is.
    pub meant: u64,
    /// The nonce of the side that has opened it.
    pub connecting: Nonce,
    /// That of the side that has accepted it.
    pub accepting: Nonce,
}

/// Why another node is not believed to be one of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// A secret is set here, and the other side proves none.
    Missing,
    /// It proves another one.
    Wrong,
    /// It proves one, and none is set here.
    Unset,
}

impl Unproven {
    /// How many there are.
    pub const COUNT: usize = 3;
    /// Their names, as labels of the metrics page, by place.
    pub const NAMES: [&'static str; Self::COUNT] = ["missing", "wrong", "unset"];

    /// Its place among all.
    pub fn place(self) -> usize {
        match self {
            Self::Missing => 0,
            Self::Wrong => 1,
            Self::Unset => 2,
        }
    }
}

impl fmt::Display for Unproven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => {
                "the cluster has a cluster_secret, and the side that connects does not prove that it has it: set cluster_secret_file there to \
                 the secret of the cluster, the same on every node, or name it with --cluster-secret-file"
            }
            Self::Wrong => {
                "the side that connects has another cluster_secret than the one that it connects to: set cluster_secret_file to the same \
                 secret on every node, and name that one with --cluster-secret-file"
            }
            Self::Unset => {
                "the side that connects has a cluster_secret, and the one that it connects to has none: set cluster_secret_file to the same \
                 secret on every node, or on none and name none with --cluster-secret-file"
            }
        })
    }
}

impl ClusterSecret {
    /// Reads the lines of a text: the secret, and on a second line, while it is being changed, the one before.
    ///
    /// # Errors
    /// What would be accepted; nothing of the text is in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut keys = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            keys.push(Key::of(line)?);
        }
        match keys[..] {
            [newest] => Ok(Self { newest, older: None }),
            [newest, older] if newest == older => Err("has the same secret twice: write each once".into()),
            [newest, older] => Ok(Self { newest, older: Some(older) }),
            [] => Err("is empty: write the secret there, such as `openssl rand -hex 32` makes".into()),
            _ => {
                Err(format!("has {} lines: the secret and the one before it are all that counts", keys.len()))
            }
        }
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.newest).chain(&self.older)
    }

    /// A nonce from what was drawn. It goes through the key, so that nonces say nothing about what is drawn next.
    pub fn nonce(&self, drawn: [u64; 2]) -> Nonce {
        let drawn = [drawn[0].to_le_bytes(), drawn[1].to_le_bytes()].concat();
        HMAC::mac([&b"nonce"[..], &drawn].concat(), self.newest.0)
    }

    /// The proofs of a side, one for each secret.
    pub fn proofs(&self, side: Side, exchange: &Exchange) -> Vec<Proof> {
        self.keys().map(|key| key.proof(side, exchange)).collect()
    }

    /// Whether `proofs` of a side, one after the other, show that it has one of the secrets; then that one alone.
    pub fn shared(&self, side: Side, exchange: &Exchange, proofs: &[u8]) -> Option<Self> {
        let (proofs, rest) = proofs.as_chunks::<PROOF_BYTES>();
        if !rest.is_empty() || proofs.len() > SECRETS_MAX {
            return None;
        }
        let is_proved = |key: &&Key| proofs.iter().any(|proof| key.proves(side, exchange, proof));
        self.keys().find(is_proved).map(|key| Self { newest: *key, older: None })
    }
}

impl Key {
    fn of(secret: &str) -> Result<Self, String> {
        match secret.len() {
            length if length < SECRET_BYTES_MIN => Err(format!(
                "has a secret of {length} characters, and one has at least {SECRET_BYTES_MIN}: take what `openssl rand -hex 32` makes"
            )),
            length if length > SECRET_BYTES_MAX => Err(format!(
                "has a line of {length} characters, which is no secret: one has at most {SECRET_BYTES_MAX}"
            )),
            _ => Ok(Self(HMAC::mac(secret, b"ringkeep cluster secret"))),
        }
    }

    fn said(side: Side, exchange: &Exchange) -> Vec<u8> {
        let Exchange { purpose, meant, connecting, accepting } = exchange;
        [&[side as u8][..], purpose, &meant.to_le_bytes(), connecting, accepting].concat()
    }

    fn proof(&self, side: Side, exchange: &Exchange) -> Proof {
        HMAC::mac(Self::said(side, exchange), self.0)
    }

    fn proves(&self, side: Side, exchange: &Exchange, proof: &Proof) -> bool {
        HMAC::verify(Self::said(side, exchange), self.0, proof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "0123456789abcdef0123456789abcdef";
    const OLD: &str = "the secret that was in force before";

    fn secret(lines: &[&str]) -> ClusterSecret {
        ClusterSecret::parse(&lines.join("\n")).expect("a secret")
    }

    fn exchange() -> Exchange {
        Exchange { purpose: *b"RKPEER\0\x01", meant: 7, connecting: [1; 32], accepting: [2; 32] }
    }

    /// Whether `theirs` is believed by `ours`, as each side.
    fn is_believed(theirs: &ClusterSecret, ours: &ClusterSecret) -> bool {
        let by = |side| ours.shared(side, &exchange(), &theirs.proofs(side, &exchange()).concat()).is_some();
        assert_eq!(by(Side::Connecting), by(Side::Accepting));
        by(Side::Connecting)
    }

    #[test]
    fn any_secret_that_both_have_is_enough() {
        let (new, old, both) = (secret(&[NEW]), secret(&[OLD]), secret(&[NEW, OLD]));
        for (theirs, ours, believed) in [
            (new, new, true),
            (new, old, false),
            (old, new, false),
            (both, old, true),
            (old, both, true),
            (both, new, true),
            (secret(&[OLD, NEW]), both, true),
        ] {
            assert_eq!(is_believed(&theirs, &ours), believed);
        }
        let shared =
            both.shared(Side::Connecting, &exchange(), &old.proofs(Side::Connecting, &exchange()).concat());
        assert_eq!(shared, Some(old), "what is answered with");
    }

    #[test]
    fn a_proof_is_of_one_connection_one_side_one_purpose_and_one_store() {
        let ours = secret(&[NEW]);
        let proof = ours.proofs(Side::Connecting, &exchange()).concat();
        assert!(ours.shared(Side::Connecting, &exchange(), &proof).is_some());
        assert!(ours.shared(Side::Accepting, &exchange(), &proof).is_none(), "it is sent back");
        let others = [
            Exchange { purpose: *b"RKBULK\0\x01", ..exchange() },
            Exchange { meant: 8, ..exchange() },
            Exchange { meant: 0, ..exchange() },
            Exchange { connecting: [3; 32], ..exchange() },
            Exchange { accepting: [3; 32], ..exchange() },
            Exchange { connecting: [2; 32], accepting: [1; 32], ..exchange() },
        ];
        for other in others {
            assert!(ours.shared(Side::Connecting, &other, &proof).is_none(), "{other:?}");
        }
        for bad in [
            &[][..],
            &proof[..31],
            &[proof.clone(), vec![0]].concat(),
            &[proof.clone(), vec![0; 64]].concat(),
        ] {
            assert!(ours.shared(Side::Connecting, &exchange(), bad).is_none(), "{} bytes", bad.len());
        }
        for bit in 0..8 * proof.len() {
            let mut flipped = proof.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(ours.shared(Side::Connecting, &exchange(), &flipped).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn nonces_differ_and_do_not_show_what_was_drawn() {
        let ours = secret(&[NEW]);
        assert_ne!(ours.nonce([1, 2]), ours.nonce([2, 1]));
        assert_ne!(ours.nonce([1, 2]), secret(&[OLD]).nonce([1, 2]));
        assert!(!ours.nonce([0x1111_1111_1111_1111, 0]).windows(8).any(|bytes| bytes == [0x11; 8]));
    }

    #[test]
    fn what_is_no_secret_is_refused_and_not_repeated() {
        let long = "x".repeat(SECRET_BYTES_MAX + 1);
        let twice = format!("{NEW}\n{NEW}\n");
        let three = format!("{NEW}\n{OLD}\n{}", "y".repeat(40));
        for (text, why) in [
            ("", "is empty"),
            (" \n\n", "is empty"),
            ("hunter2hunter2", "14 characters"),
            (&long[..], "1025 characters"),
            (&twice[..], "twice"),
            (&three[..], "3 lines"),
        ] {
            let said = ClusterSecret::parse(text).expect_err("it is none");
            assert!(said.contains(why), "{said}");
            assert!(!said.contains("hunter2") && !said.contains(NEW) && !said.contains("xxx"), "{said}");
        }
        assert_eq!(secret(&[NEW, ""]), secret(&["", &format!(" {NEW}\r")]), "space around it is none of it");
        assert_eq!(format!("{:?}", Some(secret(&[NEW, OLD]))), "Some(ClusterSecret(set))");
    }

    #[test]
    fn every_reason_has_a_name_and_names_the_setting() {
        for reason in [Unproven::Missing, Unproven::Wrong, Unproven::Unset] {
            assert!(Unproven::NAMES[reason.place()].eq_ignore_ascii_case(&format!("{reason:?}")));
            assert!(reason.to_string().contains("set cluster_secret_file"), "{reason}");
        }
    }
}

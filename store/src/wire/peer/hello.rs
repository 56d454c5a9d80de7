//! The introduction of two stores: who connects, whom it wants to reach, and why it may be refused. Pure.
//!
//! ```text
//! Hello, Welcome   [format u16] [openings: number u64, drawn u64, at most 16 of them] [rkyv archive of Stored, unaligned little-endian]
//! Refused          the reason as text, UTF-8
//! ```
//! Both sides say the same things of themselves, and both check the other. A connection serves one pair of stores in one
//! direction; what goes the other way has a connection of its own. The archive is read from its end, so a version that knows no openings
//! reads past them, and one that says none is judged by its incarnation alone.
//!
//! Invariants: no message is taken before both sides have passed [`judge`]; a refusal names the culprit and the remedy.

use std::fmt;

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};
use scheduler::StoreId;

use crate::plant::{Bug, planted};
use crate::region::lineage::{KEPT, Lineage, Opening};
use crate::secret::Unproven;

/// The newest version of the protocol that this build speaks.
pub const VERSION: u32 = 1;
/// The oldest one.
pub const VERSION_MIN: u32 = 1;

const FORMAT: u16 = 1;
const OPENING_BYTES: usize = 16;

/// What every refusal of an older copy says, of each version: by it the store that is refused knows.
pub const OLDER_COPY: &str = "an older copy of its directory must not come back";

/// What a store says of itself and of the one that it means to speak with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The cluster.
    pub cluster: u64,
    /// The store that speaks.
    pub store: StoreId,
    /// The store that it means to reach.
    pub target: StoreId,
    /// How often the speaker's log has been opened: a lower one than was seen before comes from an older copy of its directory.
    pub incarnation: u64,
    /// The latest of those openings, by which an older copy is recognised that was opened as often since.
    pub lineage: Lineage,
    /// The newest version of the protocol that it speaks.
    pub version: u32,
    /// The oldest one.
    pub version_min: u32,
    /// Optional features, one per bit; unknown bits are ignored.
    pub features: u64,
}

#[derive(Archive, Serialize, Deserialize)]
struct Stored {
    cluster: u64,
    store: u64,
    target: u64,
    incarnation: u64,
    version: u32,
    version_min: u32,
    features: u64,
}

/// Why a peer cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The bytes are no introduction.
    NotAHello,
    /// It is not shown that both sides have the secret of the cluster.
    Unproven(Unproven),
    /// It belongs to another cluster.
    OtherCluster {
        /// Ours.
        ours: u64,
        /// Its.
        theirs: u64,
    },
    /// It means another store: an address that has changed hands.
    OtherStore {
        /// The one that it means.
        meant: StoreId,
        /// The one that is here.
        here: StoreId,
    },
    /// It says that it is this very store.
    Ourselves(StoreId),
    /// It says that it is a store that has not joined, as the scheduler says.
    Unknown(StoreId),
    /// No version is spoken by both.
    Version {
        /// The oldest and newest that it speaks.
        theirs: (u32, u32),
    },
    /// It has been seen with a higher incarnation.
    OlderCopy {
        /// Who it says it is.
        store: StoreId,
        /// What it says.
        incarnation: u64,
        /// The highest one that was seen.
        seen: u64,
    },
    /// It knows nothing of an opening that has been seen.
    OtherLineage {
        /// Who it says it is.
        store: StoreId,
        /// The number of that opening.
        opening: u64,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAHello => f.write_str(
                "the peer does not introduce itself; is it a ringkeep node of a compatible version?",
            ),
            Self::Unproven(why) => write!(f, "{why}"),
            Self::OtherCluster { ours, theirs } => write!(
                f,
                "the peer belongs to cluster {theirs:016x}, this store to cluster {ours:016x}; check the addresses that --join names"
            ),
            Self::OtherStore { meant, here } => write!(
                f,
                "the peer wants {meant}, and here is {here}; its address book is out of date and is asked for again"
            ),
            Self::Ourselves(store) => {
                write!(f, "the peer says that it is {store}, which is this one; was a data directory copied?")
            }
            Self::Unknown(store) => write!(
                f,
                "{store} is not known to the cluster; a node joins it with `--join` on an empty directory"
            ),
            Self::Version { theirs: (oldest, newest) } => write!(
                f,
                "the peer speaks versions {oldest} to {newest} of the peer protocol, this store {VERSION_MIN} to {VERSION}; update the older node first to a release between"
            ),
            Self::OlderCopy { store, incarnation, seen } => write!(
                f,
                "{store} says it was opened {incarnation} times and was seen with {seen}; {OLDER_COPY}, start it empty with a new identity"
            ),
            Self::OtherLineage { store, opening } => write!(
                f,
                "{store} was seen with another opening {opening} than it says it had; {OLDER_COPY}, start it empty with a new identity"
            ),
        }
    }
}

impl std::error::Error for Rejection {}

impl Hello {
    /// Appends the introduction to a frame.
    pub fn encode(&self, mut out: Vec<u8>) -> Vec<u8> {
        let stored = Stored {
            cluster: self.cluster,
            store: self.store.0,
            target: self.target.0,
            incarnation: self.incarnation,
            version: self.version,
            version_min: self.version_min,
            features: self.features,
        };
        out.extend_from_slice(&FORMAT.to_le_bytes());
        for Opening { number, drawn } in self.lineage.iter() {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&drawn.to_le_bytes());
        }
        rkyv::api::high::to_bytes_in::<_, rancor::Error>(&stored, out)
            .expect("writing an archive into memory has no way to fail")
    }

    /// The inverse of [`Hello::encode`].
    ///
    /// # Errors
    /// [`Rejection::NotAHello`] for anything else.
    pub fn decode(payload: &[u8]) -> Result<Self, Rejection> {
        let (format, archive) = payload.split_first_chunk::<2>().ok_or(Rejection::NotAHello)?;
        if u16::from_le_bytes(*format) != FORMAT {
            return Err(Rejection::NotAHello);
        }
        let openings = archive.len().checked_sub(size_of::<ArchivedStored>()).ok_or(Rejection::NotAHello)?;
        let (openings, archive) = archive.split_at(openings);
        let lineage = lineage(openings).ok_or(Rejection::NotAHello)?;
        let stored =
            rkyv::from_bytes::<Stored, rancor::Failure>(archive).map_err(|_| Rejection::NotAHello)?;
        Ok(Self {
            cluster: stored.cluster,
            store: StoreId(stored.store),
            target: StoreId(stored.target),
            incarnation: stored.incarnation,
            lineage,
            version: stored.version,
            version_min: stored.version_min,
            features: stored.features,
        })
    }
}

/// The openings that stand before the archive.
fn lineage(bytes: &[u8]) -> Option<Lineage> {
    let (openings, rest) = bytes.as_chunks::<OPENING_BYTES>();
    let mut lineage = Lineage::default();
    if !rest.is_empty() || openings.len() > KEPT {
        return None;
    }
    for opening in openings {
        let [number, drawn] =
            [0, 8].map(|at| u64::from_le_bytes(opening[at..at + 8].try_into().expect("8 bytes")));
        lineage.push(Opening { number, drawn }).then_some(())?;
    }
    Some(lineage)
}

/// Whether `ours` speaks with `theirs`, and in which version of the protocol. `seen` is the latest opening of that store that was seen
/// before, number 0 if none was.
///
/// # Errors
/// Why not.
pub fn judge(ours: &Hello, theirs: &Hello, seen: Opening) -> Result<u32, Rejection> {
    if theirs.cluster != ours.cluster {
        return Err(Rejection::OtherCluster { ours: ours.cluster, theirs: theirs.cluster });
    }
    if theirs.store == ours.store {
        return Err(Rejection::Ourselves(ours.store));
    }
    if theirs.target != ours.store {
        return Err(Rejection::OtherStore { meant: theirs.target, here: ours.store });
    }
    let store = theirs.store;
    if theirs.incarnation < seen.number {
        return Err(Rejection::OlderCopy { store, incarnation: theirs.incarnation, seen: seen.number });
    }
    if !theirs.lineage.may_follow(seen) && !planted(Bug::CopyCounted) {
        return Err(Rejection::OtherLineage { store, opening: seen.number });
    }
    let version = ours.version.min(theirs.version);
    if version < ours.version_min.max(theirs.version_min) {
        return Err(Rejection::Version { theirs: (theirs.version_min, theirs.version) });
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            cluster: 77,
            store: StoreId(1),
            target: StoreId(2),
            incarnation: 5,
            lineage: Lineage::default(),
            version: 1,
            version_min: 1,
            features: 0b101,
        }
    }

    fn peer(change: impl FnOnce(&mut Hello)) -> Hello {
        let mut theirs = Hello { store: StoreId(2), target: StoreId(1), ..hello() };
        change(&mut theirs);
        theirs
    }

    #[test]
    fn each_wrong_part_of_an_introduction_has_its_own_refusal() {
        let ask =
            |change: fn(&mut Hello), seen| judge(&hello(), &peer(change), Opening { number: seen, drawn: 0 });
        assert_eq!(ask(|_| {}, 0), Ok(1));
        assert_eq!(ask(|_| {}, 5), Ok(1), "the same start connects again");
        assert_eq!(ask(|_| {}, 6), Err(Rejection::OlderCopy { store: StoreId(2), incarnation: 5, seen: 6 }));
        assert_eq!(ask(|it| it.cluster = 78, 0), Err(Rejection::OtherCluster { ours: 77, theirs: 78 }));
        assert_eq!(ask(|it| it.store = StoreId(1), 0), Err(Rejection::Ourselves(StoreId(1))));
        assert_eq!(
            ask(|it| it.target = StoreId(3), 0),
            Err(Rejection::OtherStore { meant: StoreId(3), here: StoreId(1) })
        );
        let newer = |it: &mut Hello| (it.version_min, it.version) = (2, 4);
        assert_eq!(ask(newer, 0), Err(Rejection::Version { theirs: (2, 4) }));
    }

    #[test]
    fn a_refusal_names_each_store_once() {
        let (meant, here) = (StoreId(3), StoreId(2));
        let text = Rejection::OtherStore { meant, here }.to_string();
        assert!(text.starts_with("the peer wants store 3, and here is store 2;"), "{text}");
        let text = Rejection::OtherCluster { ours: 77, theirs: 78 }.to_string();
        assert!(text.contains("cluster 000000000000004e, this store to cluster 000000000000004d"), "{text}");
        let text = Rejection::OlderCopy { store: here, incarnation: 1, seen: 2 }.to_string();
        assert!(
            text.starts_with("store 2 says it was opened 1 times") && text.contains(OLDER_COPY),
            "{text}"
        );
        let text = Rejection::OtherLineage { store: here, opening: 7 }.to_string();
        assert!(
            text.starts_with("store 2 was seen with another opening 7") && text.contains(OLDER_COPY),
            "{text}"
        );
    }

    #[test]
    fn the_newest_version_that_both_speak_is_chosen() {
        let ours = Hello { version: 5, version_min: 2, ..hello() };
        for (theirs, expected) in [((1, 3), Some(3)), ((4, 9), Some(5)), ((1, 1), None), ((6, 9), None)] {
            let theirs = peer(|it| (it.version_min, it.version) = theirs);
            assert_eq!(judge(&ours, &theirs, Opening::default()).ok(), expected);
        }
    }

    fn of(openings: &[(u64, u64)]) -> Lineage {
        let mut lineage = Lineage::default();
        for (number, drawn) in openings {
            assert!(lineage.push(Opening { number: *number, drawn: *drawn }));
        }
        lineage
    }

    #[test]
    fn an_older_copy_that_was_opened_as_often_is_refused() {
        let (store, seen) = (StoreId(2), Opening { number: 5, drawn: 50 });
        let ask = |incarnation, openings: &[(u64, u64)]| {
            let lineage = of(openings);
            judge(&hello(), &peer(|it| (it.incarnation, it.lineage) = (incarnation, lineage)), seen)
        };
        assert_eq!(ask(5, &[(4, 40), (5, 50)]), Ok(1));
        assert_eq!(ask(6, &[(4, 40), (5, 50), (6, 60)]), Ok(1));
        assert_eq!(ask(6, &[]), Ok(1), "a version that draws nothing");
        let refused = Err(Rejection::OtherLineage { store, opening: 5 });
        assert_eq!(ask(5, &[(4, 40), (5, 51)]), refused);
        assert_eq!(ask(7, &[(4, 40), (5, 51), (6, 61), (7, 71)]), refused);
    }

    #[test]
    fn the_openings_are_written_before_the_archive_and_versions_without_them_read_past() {
        let all: Vec<(u64, u64)> = (1..=20).map(|number| (number, 3 * number)).collect();
        for openings in [&all[..1], &all[..7], &all] {
            let said = Hello { lineage: of(openings), ..hello() };
            let bytes = said.encode(Vec::new());
            assert_eq!(Hello::decode(&bytes), Ok(said));
            let before =
                rkyv::from_bytes::<Stored, rancor::Failure>(&bytes[2..]).expect("the rest is ignored");
            assert_eq!((before.cluster, before.incarnation, before.features), (77, 5, 0b101));
            for cut in 0..bytes.len() {
                assert_ne!(Hello::decode(&bytes[..cut]), Hello::decode(&bytes), "cut at {cut}");
            }
            let swapped = [&bytes[..2], &bytes[2..18], &bytes[2..]].concat();
            assert_eq!(Hello::decode(&swapped), Err(Rejection::NotAHello), "they ascend");
        }
    }

    /// Nodes of different versions meet: these bytes were written by version 0.1 and must stay readable.
    #[test]
    fn the_bytes_of_version_0_1_are_still_written_and_read() {
        let fixture = concat!(
            "0100",
            "4d00000000000000010000000000000002000000000000000500000000000000",
            "01000000010000000500000000000000"
        );
        let bytes = hello().encode(Vec::new());
        assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), fixture);
        assert_eq!(Hello::decode(&bytes), Ok(hello()));
        for cut in 0..bytes.len() {
            assert_eq!(Hello::decode(&bytes[..cut]), Err(Rejection::NotAHello), "cut at {cut}");
        }
    }
}

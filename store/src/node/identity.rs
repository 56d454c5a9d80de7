//! Who a data directory belongs to, and under which rules it was written.
//!
//! ```text
//! IDENT      text, one "name value" per line, replaced as a whole
//!   ringkeep  1                format version of the whole directory
//!   cluster   7f3a...          cluster id, hexadecimal, never zero
//!   node      3                node id
//!   stores    2                how many stores the directory holds: store-1 ... store-N
//!   sum       9d1c...          CRC-32 over every byte before this line
//! LOCK       held by the process that uses the directory
//! store-N/   log and tree of one store
//! scheduler/ what the node's scheduler shard keeps
//! ```
//!
//! The number of stores is a property of the directory, not of the machine: fewer cores host several stores each.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use engine::error::{Fault, Result};
use engine::rt::Rt;
use scheduler::StoreId;

/// The format that this version reads and writes.
pub const FORMAT: u64 = 1;

const FILE: &str = "IDENT";

/// The contents of `IDENT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: u64,
    /// The node.
    pub node: u64,
    /// How many stores the directory holds.
    pub stores: usize,
}

impl Identity {
    /// The identity of `dir`, created with `stores` stores if the directory is empty.
    ///
    /// # Errors
    /// A `Foreign` fault for a directory of another version or one that holds something else.
    pub async fn open(rt: &Rt, dir: &Path, stores: usize) -> Result<Self> {
        let path = dir.join(FILE);
        let exists = rt.exists(&path).await.map_err(|error| Fault::io(&path, "looking for it", &error))?;
        if exists {
            let text = rt.read_small(&path).await.map_err(|error| Fault::io(&path, "reading it", &error))?;
            return Self::parse(&path, &text);
        }
        refuse_foreign(rt, dir).await?;
        // Ids come from one sequence: the stores have the first ones, the node the next.
        let identity = Self { cluster: rt.random().max(1), node: stores as u64 + 1, stores };
        rt.replace_small(&path, identity.render().as_bytes())
            .await
            .map_err(|error| Fault::io(&path, "writing it", &error))?;
        Ok(identity)
    }

    /// The id of store number `index` (from 0).
    pub fn store_id(index: usize) -> StoreId {
        StoreId(index as u64 + 1)
    }

    /// Where a store lives.
    pub fn store_dir(dir: &Path, store: StoreId) -> PathBuf {
        dir.join(format!("store-{}", store.0))
    }

    /// The first id that a fresh directory has not given to a store or to the node.
    pub fn first_free_id(&self) -> u64 {
        self.stores as u64 + 2
    }

    fn render(&self) -> String {
        let mut text = format!(
            "ringkeep {FORMAT}\ncluster {:016x}\nnode {}\nstores {}\n",
            self.cluster, self.node, self.stores
        );
        let sum = crc32fast::hash(text.as_bytes());
        writeln!(text, "sum {sum:08x}").expect("writing into a string has no way to fail");
        text
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| damaged(path, "it is not text"))?;
        let format: u64 = field(path, text, "ringkeep", 10)?;
        if format != FORMAT {
            let what = format!(
                "the directory has format {format}, this version reads format {FORMAT}: start the version that wrote it, \
                 or choose another directory"
            );
            return Err(Fault::foreign(path, what));
        }
        let stores = usize::try_from(field(path, text, "stores", 10)?).unwrap_or(0);
        let identity =
            Self { cluster: field(path, text, "cluster", 16)?, node: field(path, text, "node", 10)?, stores };
        if identity.cluster == 0 || stores == 0 {
            return Err(damaged(path, "a number is zero that never is"));
        }
        // There is one way to write an identity, so anything else is damage, the checksum line included.
        if identity.render().as_bytes() != bytes {
            return Err(damaged(path, "its checksum does not match"));
        }
        Ok(identity)
    }
}

/// A directory with files of somebody else is not ours to write into.
async fn refuse_foreign(rt: &Rt, dir: &Path) -> Result<()> {
    let names = rt.read_dir(dir).await.map_err(|error| Fault::io(dir, "listing it", &error))?;
    let ours = |name: &str| name == "LOCK" || name.starts_with(FILE) || name == "lost+found";
    match names.iter().find(|name| !ours(name)) {
        None => Ok(()),
        Some(name) => Err(Fault::foreign(
            dir,
            format!(
                "it holds \"{name}\" but no {FILE}: it is not a ringkeep directory; name an empty or a new one"
            ),
        )),
    }
}

fn field(path: &Path, text: &str, name: &str, radix: u32) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
        .and_then(|value| u64::from_str_radix(value, radix).ok())
        .ok_or_else(|| damaged(path, &format!("the line \"{name}\" is missing or not a number")))
}

fn damaged(path: &Path, what: &str) -> Fault {
    Fault::corruption(
        path,
        format!("{what}; restore the file from a backup, its lines are described in the documentation"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::error::FaultKind;

    fn identity() -> Identity {
        Identity { cluster: 0xab, node: 3, stores: 2 }
    }

    #[test]
    fn it_reads_what_it_wrote() {
        assert_eq!(Identity::parse(Path::new("IDENT"), identity().render().as_bytes()).unwrap(), identity());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let good = identity().render().into_bytes();
        for place in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[place / 8] ^= 1 << (place % 8);
            assert!(Identity::parse(Path::new("IDENT"), &bad).is_err(), "bit {place} went unnoticed");
        }
    }

    #[test]
    fn another_format_is_foreign_and_says_what_to_do() {
        let text = identity().render().replace("ringkeep 1", "ringkeep 9");
        let fault = Identity::parse(Path::new("IDENT"), text.as_bytes()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Foreign);
        assert!(fault.what.contains("format 9"), "{fault}");
    }
}

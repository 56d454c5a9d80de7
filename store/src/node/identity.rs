//! Who a data directory belongs to, what belongs in it, and under which rules it was written.
//!
//! ```text
//! IDENT      text, one "name value" per line, replaced as a whole
//!   ringkeep  2                format version of the whole directory: 2 for a node that has begun its cluster, 3 for one that has joined
//!   state     ready            or "bootstrap": nothing was ever acknowledged, and not everything may have been created
//!   cluster   7f3a...          cluster id, hexadecimal, never zero
//!   node      3                node id
//!   stores    2                how many stores the directory holds: store-1 ... store-N
//!   ids       1029             the scheduler's state has given out the ids below; 0 for a node that has joined
//!   scheduler 10.0.0.1:20160   in format 3, once or more: where the node has found the scheduler, which is in no store of its own
//!   store 1 log 3c1f... tree 88a0... opened 7       per store: its id, one more than that of the one before; the ids of its log and of its tree, hexadecimal, and how often
//!                              its log has been opened
//!   sum       9d1c...          CRC-32 over every byte before this line
//! LOCK       held by the process that uses the directory
//! CONTACTS   where other nodes were last reached ([`contacts`](super::contacts))
//! store-N/   log and tree of one store, DAMAGE where damage was found in them, and a copy of IDENT ([`vouchers`](super::vouchers))
//! scheduler/ where 0.1 kept the scheduler's state; store-1 has it now, and takes it over from here
//! ```
//!
//! The number of stores is a property of the directory, not of the machine: fewer cores host several stores each.
//!
//! Absence is never newness. Stores are created only while the state is "bootstrap", which ends, durably, before the first listener
//! opens. From then on the ids and counts here say what has to be there: a log, a tree or a state of the scheduler that is gone, that
//! belongs elsewhere, or that was opened less often, is refused. A log counts its openings itself, and here stands a count that
//! it is known to have reached: raised after the log has counted and before anything that it counts for is acknowledged. So a crash at
//! any moment leaves a log that is at or ahead of its count here, and only an older copy is behind it. Where this file is an older copy, too,
//! the other stores vouch for what it was. Where a full disk keeps the
//! count from being raised, reads are served and writes wait for it ([`openings`](crate::shard::openings)).
//!
//! A first start makes its files in this order, each durable before the next: the directory, `LOCK`, `IDENT` (by way of `IDENT.tmp`), and only
//! then `SYNC`, the stores and `CONTACTS`. So where there is no `IDENT`, `LOCK` and `IDENT.tmp` may be left by a start that was cut off, and
//! anything else of ours says that `IDENT` was lost ([`WithoutIdent`]).

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use engine::error::{Fault, Result};
use engine::origin::Origin;
use engine::rt::Rt;
use scheduler::StoreId;

use super::{contacts, vouchers};

/// The format of the directory of a node that has begun its cluster.
pub const FORMAT: u64 = 2;

/// The format of the directory of a node that has joined. An older version would begin a cluster of its own in it.
pub const FORMAT_JOINED: u64 = 3;

/// The name of the file.
pub(super) const FILE: &str = "IDENT";

/// Where its next version is prepared.
const NEXT: &str = "IDENT.tmp";

/// What a directory without `IDENT` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutIdent<'a> {
    /// Empty, or what a first start leaves that was cut off before it had an identity.
    New,
    /// Ours: this is made only after `IDENT` is durable, so that has gone since.
    Lost(&'a str),
    /// Of something else, which made this.
    Foreign(&'a str),
}

impl<'a> WithoutIdent<'a> {
    /// What a directory with these names is.
    pub fn of(names: &'a [String]) -> Self {
        let is_ours = |name: &str| {
            let files = [FILE, "SYNC", "sync-probe", contacts::FILE, "scheduler"];
            let at_start = |known: &str| {
                name.strip_prefix(known).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
            };
            name.starts_with("store-") || files.into_iter().any(at_start)
        };
        let is_first = |name: &str| {
            ["LOCK", NEXT, "lost+found"].contains(&name) || name.starts_with(engine::host::TEST_FILE)
        };
        let mut others = names.iter().map(String::as_str).filter(|name| !is_first(name)).peekable();
        match (others.peek().copied(), others.find(|name| is_ours(name))) {
            (None, _) => Self::New,
            (Some(_), Some(ours)) => Self::Lost(ours),
            (Some(foreign), None) => Self::Foreign(foreign),
        }
    }
}

/// What never changes about a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: u64,
    /// The node.
    pub node: u64,
    /// How many stores the directory holds.
    pub stores: usize,
    /// The id of the first of them; the others have those that follow.
    pub first_store: u64,
}

/// The contents of `IDENT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ident {
    /// What never changes.
    pub identity: Identity,
    /// Whether everything has been created.
    pub state: IdentState,
    /// Ids below this one have been given out by the scheduler's state.
    pub ids: u64,
    /// Where the scheduler was found; empty if the node has begun its cluster and hosts the scheduler itself.
    pub schedulers: Vec<SocketAddr>,
    /// What belongs in each store, by its number from 0.
    pub holdings: Vec<Holding>,
}

/// Whether a directory is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentState {
    /// Stores may be absent, and nothing was ever acknowledged.
    Bootstrap,
    /// Everything has been created.
    Ready,
}

/// Whether `IDENT` says what a start has found.
#[derive(Clone, Debug)]
pub enum Confirmed {
    /// It does, durably.
    Now,
    /// This was short, so it says what it said before.
    Later(Fault),
}

/// What belongs in a store's directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The id of its log.
    pub log: u64,
    /// The id of its tree.
    pub tree: u64,
    /// How often its log has been opened, at least.
    pub opened: u64,
}

impl Holding {
    /// What is known about the log.
    pub fn log_origin(&self) -> Origin {
        Origin { id: Some(self.log), opened_min: self.opened }
    }

    /// What is known about the tree. It counts no openings: that it is no older copy is vouched for by the log, which was cut only
    /// where the tree had everything.
    pub fn tree_origin(&self) -> Origin {
        Origin { id: Some(self.tree), opened_min: self.opened }
    }
}

impl Identity {
    /// The id of store number `index` (from 0).
    pub fn store_id(&self, index: usize) -> StoreId {
        StoreId(self.first_store + index as u64)
    }

    /// Where a store lives.
    pub fn store_dir(dir: &Path, store: StoreId) -> PathBuf {
        dir.join(format!("store-{}", store.0))
    }

    /// The first id that a fresh directory has not given to a store or to the node.
    pub fn first_free_id(&self) -> u64 {
        self.stores as u64 + 2
    }
}

impl Ident {
    /// Reads the `IDENT` of `dir`, or begins to bootstrap `stores` stores if the directory is empty.
    ///
    /// # Errors
    /// Corruption if it is damaged, or gone although there are stores; Foreign for a directory of another version or one that
    /// holds something else.
    pub async fn open(rt: &Rt, dir: &Path, stores: usize) -> Result<Self> {
        if let Some(found) = Self::read(rt, dir).await? {
            return Ok(found);
        }
        // Ids come from one sequence: the stores have the first ones, the node the next.
        let identity =
            Identity { cluster: rt.random().max(1), node: stores as u64 + 1, stores, first_store: 1 };
        Self::begin(rt, dir, identity, Vec::new()).await
    }

    /// Gives an empty directory an identity; `schedulers` says where the scheduler is, if not here.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn begin(rt: &Rt, dir: &Path, identity: Identity, schedulers: Vec<SocketAddr>) -> Result<Self> {
        let holding = |_| Holding { log: rt.random(), tree: rt.random(), opened: 0 };
        let holdings = (0..identity.stores).map(holding).collect();
        let ident = Self { identity, state: IdentState::Bootstrap, ids: 0, schedulers, holdings };
        ident.write(rt, dir).await?;
        Ok(ident)
    }

    /// Reads the `IDENT` of `dir`; `None` in a directory that is empty.
    ///
    /// # Errors
    /// As [`Ident::open`].
    pub async fn read(rt: &Rt, dir: &Path) -> Result<Option<Self>> {
        let mut found = Self::read_alone(rt, dir).await?;
        if let Some(ident) = &mut found {
            vouchers::raise(rt, dir, ident).await;
        }
        Ok(found)
    }

    /// The same without what the stores vouch for.
    pub(super) async fn read_alone(rt: &Rt, dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        if !rt.exists(&path).await.map_err(|error| Fault::io(&path, "looking for it", &error))? {
            return refuse_foreign(rt, dir).await.map(|()| None);
        }
        let text = rt.read_small(&path).await.map_err(|error| Fault::io(&path, "reading it", &error))?;
        Self::parse(&path, &text).map(Some)
    }

    /// Remembers that everything has been created and how often each log has been opened, by store number. A store that did not
    /// open keeps its count.
    ///
    /// # Errors
    /// Those of the disk. A full one is none, once the state is ready: the counts of an earlier start still hold, and the caller tries
    /// again before it lets anything be written. Foreign if a store that is being created is not among them.
    pub async fn confirm(
        &mut self,
        rt: &Rt,
        dir: &Path,
        opened: &[(usize, u64)],
        ids: u64,
    ) -> Result<Confirmed> {
        let was_ready = self.state == IdentState::Ready;
        if !was_ready && opened.len() < self.holdings.len() {
            // It stays in bootstrap, so that the next start creates the rest.
            let what = "not every store could be created; remove what is in the way and start again";
            return Err(Fault::foreign(dir, what));
        }
        let mut next = self.clone();
        (next.state, next.ids) = (IdentState::Ready, self.ids.max(ids));
        for (store, times) in opened {
            let holding = &mut next.holdings[*store];
            holding.opened = holding.opened.max(*times);
        }
        match next.write(rt, dir).await {
            Err(short) if short.is_passing() && was_ready => Ok(Confirmed::Later(short)),
            Err(fault) => Err(fault),
            Ok(()) => {
                *self = next;
                vouchers::renew(rt, dir, self).await;
                Ok(Confirmed::Now)
            }
        }
    }

    async fn write(&self, rt: &Rt, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        rt.replace_small(&path, self.render().as_bytes())
            .await
            .map_err(|error| Fault::io(&path, "writing it", &error))
    }

    pub(super) fn render(&self) -> String {
        let Identity { cluster, node, stores, first_store: _ } = &self.identity;
        let state = match self.state {
            IdentState::Bootstrap => "bootstrap",
            IdentState::Ready => "ready",
        };
        let format = if self.schedulers.is_empty() { FORMAT } else { FORMAT_JOINED };
        let mut text = format!(
            "ringkeep {format}\nstate {state}\ncluster {cluster:016x}\nnode {node}\nstores {stores}\nids {}\n",
            self.ids
        );
        for addr in &self.schedulers {
            text.push_str(&format!("scheduler {addr}\n"));
        }
        for (index, Holding { log, tree, opened }) in self.holdings.iter().enumerate() {
            let store = self.identity.store_id(index).0;
            text.push_str(&format!("store {store} log {log:016x} tree {tree:016x} opened {opened}\n"));
        }
        let sum = crc32fast::hash(text.as_bytes());
        writeln!(text, "sum {sum:08x}").expect("writing into a string has no way to fail");
        text
    }

    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| Fault::corruption(path, "it is not text"))?;
        let format: u64 = field(path, text, "ringkeep", 10)?;
        if format != FORMAT && format != FORMAT_JOINED {
            let what = format!(
                "the directory has format {format}, this version reads formats {FORMAT} and {FORMAT_JOINED}: start the version that wrote \
                 it, or choose another directory"
            );
            return Err(Fault::foreign(path, what));
        }
        let stores = usize::try_from(field(path, text, "stores", 10)?).unwrap_or(0);
        let identity = Identity {
            cluster: field(path, text, "cluster", 16)?,
            node: field(path, text, "node", 10)?,
            stores,
            first_store: field(path, text, "store", 10)?,
        };
        let state = match text.lines().find_map(|line| line.strip_prefix("state ")) {
            Some("bootstrap") => IdentState::Bootstrap,
            Some("ready") => IdentState::Ready,
            Some(_) | None => {
                return Err(Fault::corruption(path, "the line \"state\" is missing or unknown"));
            }
        };
        let holdings: Vec<Holding> =
            text.lines().filter_map(|line| line.strip_prefix("store ")).filter_map(holding).collect();
        let places: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("scheduler ")).collect();
        let schedulers: Vec<SocketAddr> = places.iter().filter_map(|place| place.parse().ok()).collect();
        if schedulers.len() != places.len() || schedulers.is_empty() != (format == FORMAT) {
            return Err(Fault::corruption(path, "where the scheduler is does not fit its format"));
        }
        if identity.cluster == 0 || stores == 0 || identity.first_store == 0 || holdings.len() != stores {
            return Err(Fault::corruption(path, "a number is zero that never is, or a store has no line"));
        }
        let ident = Self { identity, state, ids: field(path, text, "ids", 10)?, schedulers, holdings };
        // There is one way to write it, so anything else is damage, the checksum line included.
        if ident.render().as_bytes() != bytes {
            return Err(Fault::corruption(path, "its checksum does not match"));
        }
        Ok(ident)
    }
}

/// What follows "store " in a line.
fn holding(line: &str) -> Option<Holding> {
    let mut words = line.split(' ').skip(1);
    let mut next = |name: &str, radix: u32| {
        let word = words.next().filter(|word| *word == name).and_then(|_| words.next())?;
        u64::from_str_radix(word, radix).ok()
    };
    Some(Holding { log: next("log", 16)?, tree: next("tree", 16)?, opened: next("opened", 10)? })
}

/// A directory with files of something else is not ours to write into.
async fn refuse_foreign(rt: &Rt, dir: &Path) -> Result<()> {
    let names = rt.read_dir(dir).await.map_err(|error| Fault::io(dir, "listing it", &error))?;
    match WithoutIdent::of(&names) {
        WithoutIdent::New => {}
        WithoutIdent::Lost(name) => {
            let what = format!("it is gone, but there is \"{name}\" beside it");
            return Err(Fault::corruption(&dir.join(FILE), what));
        }
        WithoutIdent::Foreign(name) => {
            let what = format!(
                "it holds \"{name}\" but no {FILE}: it is not a ringkeep directory; name an empty or a new one"
            );
            return Err(Fault::foreign(dir, what));
        }
    }
    // A first start that was cut off leaves at most a part of its first version.
    let next = dir.join(NEXT);
    if names.iter().any(|name| name == NEXT)
        && let Ok(text) = rt.read_small(&next).await
        && Ident::parse(&next, &text).is_ok_and(|ident| ident.state == IdentState::Ready)
    {
        let what = format!("it is gone, but \"{NEXT}\" beside it was written by a node that has served");
        return Err(Fault::corruption(&dir.join(FILE), what));
    }
    Ok(())
}

fn field(path: &Path, text: &str, name: &str, radix: u32) -> Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.split(' ').next())
        .and_then(|value| u64::from_str_radix(value, radix).ok())
        .ok_or_else(|| Fault::corruption(path, format!("the line \"{name}\" is missing or not a number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::error::FaultKind;
    use engine::rt::sim;

    fn ident() -> Ident {
        let holding = |n: u64| Holding { log: 0x10 + n, tree: 0x20 + n, opened: 5 + n };
        Ident {
            identity: Identity { cluster: 0xab, node: 3, stores: 2, first_store: 1 },
            state: IdentState::Ready,
            ids: 77,
            schedulers: Vec::new(),
            holdings: vec![holding(1), holding(2)],
        }
    }

    fn joined() -> Ident {
        let schedulers = vec!["10.0.0.1:20160".parse().unwrap(), "[::1]:7".parse().unwrap()];
        Ident { ids: 0, schedulers, ..ident() }
    }

    #[test]
    fn version_two_is_what_it_was() {
        let text = "ringkeep 2\nstate ready\ncluster 00000000000000ab\nnode 3\nstores 2\nids 77\n\
                    store 1 log 0000000000000011 tree 0000000000000021 opened 6\n\
                    store 2 log 0000000000000012 tree 0000000000000022 opened 7\n";
        let rendered = ident().render();
        assert_eq!(rendered.rsplit_once("sum ").unwrap().0, text);
        assert_eq!(Ident::parse(Path::new("IDENT"), rendered.as_bytes()).unwrap(), ident());
    }

    #[test]
    fn version_three_is_what_it_was() {
        let text = "ringkeep 3\nstate ready\ncluster 00000000000000ab\nnode 3\nstores 2\nids 0\nscheduler 10.0.0.1:20160\n\
                    scheduler [::1]:7\nstore 1 log 0000000000000011 tree 0000000000000021 opened 6\n\
                    store 2 log 0000000000000012 tree 0000000000000022 opened 7\n";
        let rendered = joined().render();
        assert_eq!(rendered.rsplit_once("sum ").unwrap().0, text);
        assert_eq!(Ident::parse(Path::new("IDENT"), rendered.as_bytes()).unwrap(), joined());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        [ident(), joined()].iter().for_each(notices_flips);
    }

    fn notices_flips(ident: &Ident) {
        let good = ident.render().into_bytes();
        for place in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[place / 8] ^= 1 << (place % 8);
            assert!(Ident::parse(Path::new("IDENT"), &bad).is_err(), "bit {place} went unnoticed");
        }
        for len in 0..good.len() {
            assert!(Ident::parse(Path::new("IDENT"), &good[..len]).is_err(), "length {len} went unnoticed");
        }
    }

    #[test]
    fn another_format_is_foreign_and_says_what_to_do() {
        let text = ident().render().replace("ringkeep 2", "ringkeep 9");
        let fault = Ident::parse(Path::new("IDENT"), text.as_bytes()).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Foreign);
        assert!(fault.what.contains("format 9"), "{fault}");
    }

    #[test]
    fn a_directory_without_it_is_new_only_if_nothing_is_there() {
        sim::run(1, |rt| async move {
            let dir = Path::new("/data");
            rt.create_dir_all(dir).await.unwrap();
            let first = Ident::open(&rt, dir, 2).await.unwrap();
            assert_eq!(first.state, IdentState::Bootstrap);
            assert_eq!(Ident::open(&rt, dir, 3).await.unwrap(), first, "it is read, not begun again");
            rt.create_dir_all(&dir.join("store-1")).await.unwrap();
            rt.remove(&dir.join(FILE)).await.unwrap();
            let fault = Ident::open(&rt, dir, 2).await.unwrap_err();
            assert_eq!((fault.kind, fault.path), (FaultKind::Corruption, dir.join(FILE)));
            // What a start that was cut off before it had an identity leaves, and what only a later one does.
            for (name, text, lost) in [
                ("LOCK", String::new(), false),
                ("IDENT.tmp", "ringkeep 2\nsta".into(), false),
                ("IDENT.tmp", Ident { state: IdentState::Bootstrap, ..ident() }.render(), false),
                (".direct-io-77", String::new(), false),
                ("lost+found", String::new(), false),
                ("IDENT.tmp", ident().render(), true),
                ("IDENT.bak", ident().render(), true),
                ("SYNC", "dsync\n".into(), true),
                ("SYNC.tmp", String::new(), true),
                ("sync-probe", String::new(), true),
                ("CONTACTS", String::new(), true),
                ("CONTACTS.tmp", String::new(), true),
            ] {
                let dir = Path::new("/cut-off");
                rt.create_dir_all(dir).await.unwrap();
                rt.replace_small(&dir.join(name), text.as_bytes()).await.unwrap();
                let begun = Ident::open(&rt, dir, 2).await;
                let expected = lost.then(|| (FaultKind::Corruption, dir.join(FILE)));
                assert_eq!(begun.err().map(|fault| (fault.kind, fault.path)), expected, "{name} {text}");
                for left in rt.read_dir(dir).await.unwrap() {
                    rt.remove(&dir.join(left)).await.unwrap();
                }
            }
            let other = Path::new("/home");
            rt.create_dir_all(&other.join("letters")).await.unwrap();
            assert_eq!(Ident::open(&rt, other, 2).await.unwrap_err().kind, FaultKind::Foreign);
        });
    }
}

//! Where other nodes and their stores were last reached, kept over restarts: members that start together find each other by it, also
//! while whoever hosts the scheduler is gone.
//!
//! ```text
//! CONTACTS   text, one "name value" per line, beside IDENT, replaced as a whole
//!   ringkeep-contacts  1              format version of the file
//!   node 3 10.0.0.3:20160             the port of the PD API of a node that may host the scheduler, by id, ascending; its host may be a name
//!   store 4 10.0.0.2:20161            the port of a store of another node, by id, ascending; its host may be a name
//!   sum       9d1c...                 CRC-32 over every byte before this line
//! ```
//!
//! What is in it was true once. It is a hint: whoever dials says which store it means and is refused by any other, and every address is
//! asked for again. So a file that is missing or damaged costs the time until the scheduler has said the addresses anew, and is no
//! reason not to start; it is said in the log, and the next change replaces it.
//!
//! Invariants: only the root core writes it; it is replaced durably or not at all; at most [`LINES_MAX`] lines are kept.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::local::Bell;
use scheduler::{NodeId, StoreId};

use crate::plant::{Bug, planted};
use crate::wire::peer::book::is_address;

/// The file, in the data directory.
pub const FILE: &str = "CONTACTS";

const FORMAT: &str = "ringkeep-contacts 1";

/// Addresses of each kind that are kept; further ones are asked for after each start.
const LINES_MAX: usize = 16 << 10;

/// The shortest time between two writes of the file.
const WRITE_PAUSE: Duration = Duration::from_secs(1);

/// What is known of where others are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contacts {
    /// Where nodes that may host the scheduler serve the PD API, as `HOST:PORT`.
    pub nodes: BTreeMap<NodeId, String>,
    /// Where each store is reached, as `HOST:PORT`.
    pub stores: BTreeMap<StoreId, String>,
}

impl Contacts {
    /// What the file in `dir` says; nothing if there is none, or if it cannot be used.
    pub async fn read(rt: &Rt, dir: &Path) -> Self {
        let path = dir.join(FILE);
        let there = rt.exists(&path).await.unwrap_or(true);
        if !there || planted(Bug::ContactsForgotten) {
            return Self::default();
        }
        let unusable = |why: &str| {
            let file = path.display();
            tracing::warn!(%file, why, "the addresses of other nodes are asked for anew");
            Self::default()
        };
        match rt.read_small(&path).await {
            Ok(bytes) => Self::parse(&bytes).unwrap_or_else(unusable),
            Err(error) => unusable(&error.to_string()),
        }
    }

    fn render(&self) -> String {
        let mut text = format!("{FORMAT}\n");
        for (node, addr) in &self.nodes {
            text.push_str(&format!("node {} {addr}\n", node.0));
        }
        for (store, addr) in &self.stores {
            text.push_str(&format!("store {} {addr}\n", store.0));
        }
        let sum = crc32fast::hash(text.as_bytes());
        writeln!(text, "sum {sum:08x}").expect("writing into a string has no way to fail");
        text
    }

    /// What a file with these bytes says.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
        let mut lines = text.lines();
        if lines.next() != Some(FORMAT) {
            return Err("it is of a format that this version does not read");
        }
        let mut contacts = Self::default();
        for line in lines {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["node", id, address] if is_address(address) => {
                    let id = id.parse().map_err(|_| "an id is no number")?;
                    contacts.nodes.insert(NodeId(id), address.to_owned());
                }
                ["store", id, address] if is_address(address) => {
                    let id = id.parse().map_err(|_| "an id is no number")?;
                    contacts.stores.insert(StoreId(id), address.to_owned());
                }
                ["sum", _] => {}
                _ => return Err("a line is none that there is"),
            }
        }
        // There is one way to write it, so anything else is damage, the checksum line included.
        if contacts.render().as_bytes() != bytes {
            return Err("its checksum does not match");
        }
        Ok(contacts)
    }
}

/// Keeps the contacts while the node runs. Cheap to clone; stays on the root core.
#[derive(Clone, Debug)]
pub struct Keeper(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    contacts: RefCell<Contacts>,
    changed: Bell,
}

impl Keeper {
    /// Keeps `contacts` in `dir`, as long as the core runs.
    pub fn start(rt: &Rt, dir: &Path, contacts: Contacts) -> Self {
        let path = dir.join(FILE);
        let keeper =
            Self(Rc::new(Inner { path, contacts: RefCell::new(contacts), changed: Bell::default() }));
        let (writing, rt_of_task) = (keeper.clone(), rt.clone());
        rt.spawn(async move { writing.write_loop(&rt_of_task).await });
        keeper
    }

    /// Notes where stores are reached. An address that is not HOST:PORT cannot be dialled and is not kept.
    pub fn learn_stores(&self, addresses: &[(StoreId, String)]) {
        let mut contacts = self.0.contacts.borrow_mut();
        let known = addresses.iter().filter(|(_, address)| is_address(address));
        let changed = known.fold(false, |changed, (store, address)| {
            note(&mut contacts.stores, *store, address.clone()) || changed
        });
        if changed {
            self.0.changed.ring();
        }
    }

    /// Where nodes that may host the scheduler serve the PD API.
    pub fn nodes(&self) -> BTreeMap<NodeId, String> {
        self.0.contacts.borrow().nodes.clone()
    }

    /// Notes where nodes serve the PD API.
    pub fn learn_nodes(&self, places: &[(NodeId, String)]) {
        let mut contacts = self.0.contacts.borrow_mut();
        let known = places.iter().filter(|(_, address)| is_address(address));
        let changed = known.fold(false, |changed, (node, address)| {
            note(&mut contacts.nodes, *node, address.clone()) || changed
        });
        if changed {
            self.0.changed.ring();
        }
    }

    /// Writes what has changed. A write that fails is followed by the next change's.
    async fn write_loop(&self, rt: &Rt) {
        loop {
            self.0.changed.wait().await;
            let text = self.0.contacts.borrow().render();
            if let Err(error) = rt.replace_small(&self.0.path, text.as_bytes()).await {
                let file = self.0.path.display();
                tracing::warn!(%file, %error, "the addresses of other nodes are not kept over a restart");
            }
            rt.sleep(WRITE_PAUSE).await;
        }
    }
}

/// Whether that changes anything.
fn note<K: Ord, A: PartialEq>(map: &mut BTreeMap<K, A>, key: K, addr: A) -> bool {
    if map.get(&key) == Some(&addr) || (map.len() >= LINES_MAX && !map.contains_key(&key)) {
        return false;
    }
    map.insert(key, addr);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::rt::sim;

    fn sample() -> Contacts {
        Contacts {
            nodes: BTreeMap::from([(NodeId(3), "10.0.0.1:20160".into()), (NodeId(9), "[::1]:7".into())]),
            stores: BTreeMap::from([(StoreId(1), "10.0.0.1:20161"), (StoreId(10), "[::1]:8")])
                .into_iter()
                .map(|(store, address)| (store, address.to_owned()))
                .collect(),
        }
    }

    #[test]
    fn version_one_is_what_it_was() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/contacts-v1.txt");
        let rendered = sample().render();
        if std::env::var_os("RINGKEEP_WRITE_FIXTURE").is_some() {
            std::fs::write(path, &rendered).expect("the fixture's directory exists");
        }
        assert_eq!(rendered, std::fs::read_to_string(path).expect("the fixture"));
        assert_eq!(Contacts::parse(rendered.as_bytes()), Ok(sample()));
        let none = Contacts::default();
        assert_eq!(Contacts::parse(none.render().as_bytes()), Ok(none));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let good = sample().render().into_bytes();
        for place in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[place / 8] ^= 1 << (place % 8);
            assert!(Contacts::parse(&bad).is_err(), "bit {place} went unnoticed");
        }
        for len in 0..good.len() {
            assert!(Contacts::parse(&good[..len]).is_err(), "length {len} went unnoticed");
        }
    }

    #[test]
    fn what_changes_is_there_after_a_restart_and_damage_is_no_obstacle() {
        sim::run(1, |rt| async move {
            let dir = Path::new("/data");
            rt.create_dir_all(dir).await.unwrap();
            assert_eq!(Contacts::read(&rt, dir).await, Contacts::default());
            let keeper = Keeper::start(&rt, dir, Contacts::default());
            let at = |address: &str| address.to_owned();
            let said = [
                (StoreId(1), at("10.0.0.1:20161")),
                (StoreId(2), at("a.name:1")),
                (StoreId(3), at("no port")),
            ];
            keeper.learn_stores(&said);
            keeper.learn_nodes(&[(NodeId(7), at("a.name:2")), (NodeId(8), at("no port"))]);
            rt.sleep(2 * WRITE_PAUSE).await;
            let kept = Contacts::read(&rt, dir).await;
            assert_eq!(kept.nodes, BTreeMap::from([(NodeId(7), at("a.name:2"))]));
            let usable = said[..2].iter().cloned().collect();
            assert_eq!(kept.stores, usable);
            rt.replace_small(&dir.join(FILE), b"ringkeep-contacts 1\nsum 0\n").await.unwrap();
            assert_eq!(Contacts::read(&rt, dir).await, Contacts::default());
            // What is known already is not written again; what is new is.
            keeper.learn_stores(&said);
            rt.sleep(2 * WRITE_PAUSE).await;
            assert_eq!(Contacts::read(&rt, dir).await, Contacts::default());
            keeper.learn_stores(&[(StoreId(1), "10.0.0.1:9".to_owned())]);
            rt.sleep(2 * WRITE_PAUSE).await;
            assert_eq!(Contacts::read(&rt, dir).await.stores[&StoreId(1)], "10.0.0.1:9");
        });
    }

    #[test]
    fn a_list_that_is_full_takes_changes_and_nothing_new() {
        let mut map: BTreeMap<usize, String> = BTreeMap::new();
        let addr = |port| format!("127.0.0.1:{port}");
        (0..LINES_MAX).for_each(|key| assert!(note(&mut map, key, addr(1))));
        assert!(!note(&mut map, LINES_MAX, addr(1)));
        assert!(note(&mut map, 0, addr(2)) && !note(&mut map, 0, addr(2)));
    }
}

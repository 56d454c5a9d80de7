//! Where other stores are reached. Filled from what the scheduler says; asked again for stores that could not be reached.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use engine::rt::local::Bell;
use scheduler::StoreId;

/// The addresses that one core knows.
#[derive(Debug, Default)]
pub struct AddressBook {
    /// As `HOST:PORT`; a name is resolved by whoever connects, each time.
    known: RefCell<BTreeMap<StoreId, Rc<str>>>,
    wanted: RefCell<BTreeSet<StoreId>>,
    missed: Bell,
}

impl AddressBook {
    /// Where `store` is reached, if that is known. If it is not, the store is wanted from now on.
    pub fn find(&self, store: StoreId) -> Option<Rc<str>> {
        let known = self.known.borrow().get(&store).cloned();
        if known.is_none() && self.wanted.borrow_mut().insert(store) {
            self.missed.ring();
        }
        known
    }

    /// Waits until a store is looked for that is not known and was not wanted yet. One waiter at a time.
    pub async fn missed(&self) {
        self.missed.wait().await;
    }

    /// Notes where `store` is reached. What is no address is said in the log, and the store stays wanted.
    pub fn set(&self, store: StoreId, address: &str) {
        if !is_address(address) {
            return tracing::warn!(
                store = store.0,
                address,
                "the address of a store is not HOST:PORT, so it is not reached"
            );
        }
        self.known.borrow_mut().insert(store, address.into());
        self.wanted.borrow_mut().remove(&store);
    }

    /// Notes that `store` was not reached where it was thought to be. The address stays in use until a newer one is set.
    pub fn failed(&self, store: StoreId) {
        self.wanted.borrow_mut().insert(store);
    }

    /// The stores whose addresses are to be asked for.
    pub fn wanted(&self) -> Vec<StoreId> {
        self.wanted.borrow().iter().copied().collect()
    }
}

/// Whether a text has the form `HOST:PORT`, where the host is a name or an IP address.
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let is_name = !host.is_empty() && host.len() <= 253 && host.bytes().all(is_host);
    port.parse::<u16>().is_ok_and(|port| port != 0)
        && (is_name || text.parse::<std::net::SocketAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_or_failed_is_wanted_until_it_is_set() {
        let book = AddressBook::default();
        let find = || book.find(StoreId(3)).map(|address| address.to_string());
        let at = |address: &str| Some(address.to_owned());
        assert_eq!((find(), book.wanted()), (None, vec![StoreId(3)]));
        book.set(StoreId(3), "127.0.0.1:7");
        assert_eq!((find(), book.wanted()), (at("127.0.0.1:7"), vec![]));
        book.failed(StoreId(3));
        assert_eq!((find(), book.wanted()), (at("127.0.0.1:7"), vec![StoreId(3)]));
        book.set(StoreId(3), "no address");
        assert_eq!((find(), book.wanted()), (at("127.0.0.1:7"), vec![StoreId(3)]));
    }

    #[test]
    fn a_host_is_a_name_or_an_ip_address() {
        for address in ["node-1.example:20161", "10.0.0.7:1", "[::1]:20161", "localhost:65535"] {
            assert!(is_address(address), "{address}");
        }
        for other in ["", ":7", "host", "host:", "host:0", "host:65536", "::1:7", "a b:7", "http://host:7"] {
            assert!(!is_address(other), "{other}");
        }
    }
}

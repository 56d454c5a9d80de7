//! Where other stores are reached. Filled from what the scheduler says; asked again for stores that could not be reached.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use engine::rt::local::Bell;
use scheduler::StoreId;

/// The addresses that one core knows.
#[derive(Debug, Default)]
pub struct AddressBook {
    known: RefCell<BTreeMap<StoreId, SocketAddr>>,
    wanted: RefCell<BTreeSet<StoreId>>,
    missed: Bell,
}

impl AddressBook {
    /// Where `store` is reached, if that is known. If it is not, the store is wanted from now on.
    pub fn find(&self, store: StoreId) -> Option<SocketAddr> {
        let known = self.known.borrow().get(&store).copied();
        if known.is_none() && self.wanted.borrow_mut().insert(store) {
            self.missed.ring();
        }
        known
    }

    /// Waits until a store is looked for that is not known and was not wanted yet. One waiter at a time.
    pub async fn missed(&self) {
        self.missed.wait().await;
    }

    /// Notes where `store` is reached.
    pub fn set(&self, store: StoreId, addr: SocketAddr) {
        self.known.borrow_mut().insert(store, addr);
        self.wanted.borrow_mut().remove(&store);
    }

    /// Notes where `store` is reached, as the scheduler says it. What is no address is said in the log, and the store stays wanted.
    pub fn learn(&self, store: StoreId, address: &str) {
        match address.parse() {
            Ok(addr) => self.set(store, addr),
            Err(_) => tracing::warn!(
                store = store.0,
                address,
                "the address of a store is not IP:PORT, so it is not reached"
            ),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_or_failed_is_wanted_until_it_is_set() {
        let book = AddressBook::default();
        let addr = SocketAddr::from(([127, 0, 0, 1], 7));
        assert_eq!((book.find(StoreId(3)), book.wanted()), (None, vec![StoreId(3)]));
        book.set(StoreId(3), addr);
        assert_eq!((book.find(StoreId(3)), book.wanted()), (Some(addr), vec![]));
        book.failed(StoreId(3));
        assert_eq!((book.find(StoreId(3)), book.wanted()), (Some(addr), vec![StoreId(3)]));
    }
}

//! Which other stores there are, and where they are reached. Filled from what the scheduler says; asked again for stores that could not
//! be reached.
//!
//! A store that speaks to this core is recognised if the book has it or looks for it, because a region names it; else the scheduler is
//! asked, and it is refused on the scheduler's word and on no other: members have to find each other while the scheduler is away.
//!
//! Invariant: at most [`ASKED_MAX`] stores that others say they are make the scheduler be asked at a time, each for at most [`ASK_MAX`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::local::{Answer, Bell, oneshot};
use scheduler::StoreId;

/// Stores that speak to a core, are not known to it, and are asked for, at a time.
pub(super) const ASKED_MAX: usize = 64;
/// How long the scheduler may take to say whether such a store has joined: a report goes out soon. Shorter than a client waits.
pub(super) const ASK_MAX: Duration = Duration::from_secs(2);

/// The addresses that one core knows.
#[derive(Debug, Default)]
pub struct AddressBook {
    /// As `HOST:PORT`; a name is resolved by whoever connects, each time.
    known: RefCell<BTreeMap<StoreId, Rc<str>>>,
    wanted: RefCell<BTreeSet<StoreId>>,
    missed: Bell,
    /// Stores that speak to this core and are not known, while they are asked for.
    asked: RefCell<BTreeMap<StoreId, Asked>>,
}

/// Connections that wait until a store is known.
#[derive(Debug, Default)]
struct Asked {
    waiting: usize,
    answers: Vec<Answer<bool>>,
}

/// One of these connections; a store for which none waits is not asked for any more.
struct Asking<'a>(&'a AddressBook, StoreId);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut asked = self.0.asked.borrow_mut();
        let store = asked.get_mut(&self.1).expect("a connection waits for it");
        store.waiting -= 1;
        if store.waiting == 0 {
            asked.remove(&self.1);
        }
    }
}

impl AddressBook {
    /// Whether `store` may be one of the cluster: it is known, or the scheduler does not say in time that it has not joined.
    pub(super) async fn recognises(&self, rt: &Rt, store: StoreId) -> bool {
        if self.has(store) {
            return true;
        }
        let (answer, said) = oneshot();
        {
            let mut asked = self.asked.borrow_mut();
            if asked.len() >= ASKED_MAX && !asked.contains_key(&store) {
                return false;
            }
            let asked = asked.entry(store).or_default();
            asked.waiting += 1;
            asked.answers.push(answer);
        }
        let _asking = Asking(self, store);
        self.missed.ring();
        rt.timeout(ASK_MAX, said).await.flatten().unwrap_or(true)
    }

    /// Whether the scheduler has named the store, or something here names it: a region, or an answer of the scheduler.
    fn has(&self, store: StoreId) -> bool {
        self.known.borrow().contains_key(&store) || self.wanted.borrow().contains(&store)
    }

    /// The scheduler says that no such store has joined. One that something here names is looked for all the same.
    pub fn deny(&self, store: StoreId) {
        self.say(store, self.has(store));
    }

    /// Whoever waits for that hears whether a store is known.
    fn say(&self, store: StoreId, known: bool) {
        if let Some(asked) = self.asked.borrow_mut().get_mut(&store) {
            asked.answers.drain(..).for_each(|answer| answer.send(known));
        }
    }

    /// Where `store` is reached, if that is known. If it is not, the store is wanted from now on.
    pub fn find(&self, store: StoreId) -> Option<Rc<str>> {
        let known = self.known.borrow().get(&store).cloned();
        if known.is_none() && self.wanted.borrow_mut().insert(store) {
            self.say(store, true);
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
        self.say(store, true);
    }

    /// Notes that `store` was not reached where it was thought to be. The address stays in use until a newer one is set.
    pub fn failed(&self, store: StoreId) {
        self.wanted.borrow_mut().insert(store);
    }

    /// The stores whose addresses are to be asked for.
    pub fn wanted(&self) -> Vec<StoreId> {
        self.wanted.borrow().iter().chain(self.asked.borrow().keys()).copied().collect()
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
    use engine::rt::sim;

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

    /// Whoever likes may say that it is any store, so what is asked of the scheduler for that is bounded, and over when they are gone.
    #[test]
    fn stores_that_speak_are_asked_for_while_they_wait_and_not_many_at_a_time() {
        sim::run(1, |rt| async move {
            let book = Rc::new(AddressBook::default());
            let ask = |store| {
                let (book, task_rt) = (book.clone(), rt.clone());
                rt.spawn(async move { book.recognises(&task_rt, StoreId(store)).await })
            };
            let mut asking: Vec<_> = (0..ASKED_MAX as u64).map(ask).collect();
            rt.sleep(ASK_MAX / 2).await;
            assert_eq!(book.wanted().len(), ASKED_MAX);
            let began = rt.now();
            assert!(!book.recognises(&rt, StoreId(1000)).await);
            assert!(rt.now().since(began) < Duration::from_millis(1), "one more is refused at once");
            // The scheduler names one of them and denies the next, a region names a third.
            let (again, named) = (ask(5), asking.remove(5));
            book.set(StoreId(5), "127.0.0.1:7");
            let denied = asking.remove(5);
            book.deny(StoreId(6));
            let by_region = asking.remove(5);
            assert_eq!(book.find(StoreId(7)), None);
            book.deny(StoreId(7));
            assert_eq!((again.await, named.await, denied.await, by_region.await), (true, true, false, true));
            // Of the others it says nothing.
            for asking in asking {
                assert!(asking.await);
            }
            assert_eq!(book.wanted(), [StoreId(7)], "what is over is not asked for any more");
            assert!(book.recognises(&rt, StoreId(5)).await && book.recognises(&rt, StoreId(7)).await);
        });
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

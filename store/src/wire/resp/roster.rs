//! The RESP connections of the whole node, as `CLIENT LIST`, `CLIENT KILL` and the bound on their number see them.
//!
//! A connection is served by one core, and what other cores may know of it lies in an [`Entry`] that the roster shares. The
//! roster's lock is taken when a connection begins or ends and by commands that list or kill, never for a command that names keys.
//! What changes with every command (which one it was, when it came, how many are queued for `EXEC`) is stored in atomics that
//! only the owning session writes; a reader on another core may see the command of one moment and the time of the next.
//!
//! Invariants: an id is never used twice, and later connections have higher ids; an entry is in the roster exactly as long as
//! its [`Listing`] lives, also while the connection migrates; there are never more entries than were allowed at admission.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::rt::Mono;

use super::command::{RespCommand, SPECS};
use super::reply::Protocol;
use super::request::Error;

/// Maximum length of the name of a connection, a library or a version, bytes.
const NAME_BYTES_MAX: usize = 256;

/// The connections of one node. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    /// The latest id.
    last_id: u64,
    by_id: BTreeMap<u64, Arc<Entry>>,
}

/// A connection's membership: dropping it takes the connection off the roster.
#[derive(Debug)]
pub struct Listing {
    roster: Roster,
    entry: Arc<Entry>,
}

/// What a connection is known by on all cores.
#[derive(Debug)]
pub struct Entry {
    /// Unique on the node, ascending.
    pub id: u64,
    /// Where it connects from.
    pub from: SocketAddr,
    /// The address that it has dialed; `None` if the kernel did not say.
    pub local: Option<SocketAddr>,
    /// When it was accepted.
    pub began: Mono,
    /// The core that serves it.
    core: AtomicUsize,
    /// 2 or 3.
    protocol: AtomicU8,
    /// The latest command, counted from 1; 0 for none.
    last: AtomicU8,
    last_at_ns: AtomicU64,
    /// Commands that wait for `EXEC`; -1 outside of `MULTI`.
    queued: AtomicI64,
    killed: AtomicBool,
    names: Mutex<Names>,
}

/// What the client calls itself. Absent until it does, because most never do.
#[derive(Debug, Default)]
struct Names {
    connection: Box<str>,
    library: Box<str>,
    version: Box<str>,
}

/// Something that a client can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// `CLIENT SETNAME`.
    Connection,
    /// `CLIENT SETINFO LIB-NAME`.
    Library,
    /// `CLIENT SETINFO LIB-VER`.
    Version,
}

/// A connection that has just been accepted.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Where it connects from.
    pub from: SocketAddr,
    /// The address that it has dialed.
    pub local: Option<SocketAddr>,
    /// Now.
    pub began: Mono,
    /// The core that has accepted it.
    pub core: usize,
}

impl Roster {
    /// Enters a connection, unless there are `entries_max` already.
    pub fn admit(&self, arrival: Arrival, entries_max: usize) -> Option<Listing> {
        let entries = &mut *self.lock();
        if entries.by_id.len() >= entries_max {
            return None;
        }
        entries.last_id += 1;
        let Arrival { from, local, began, core } = arrival;
        let entry = Arc::new(Entry {
            id: entries.last_id,
            from,
            local,
            began,
            core: AtomicUsize::new(core),
            protocol: AtomicU8::new(2),
            last: AtomicU8::new(0),
            last_at_ns: AtomicU64::new(began.0),
            queued: AtomicI64::new(-1),
            killed: AtomicBool::new(false),
            names: Mutex::default(),
        });
        entries.by_id.insert(entry.id, entry.clone());
        Some(Listing { roster: self.clone(), entry })
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The highest id so far.
    pub fn last_id(&self) -> u64 {
        self.lock().last_id
    }

    /// At most `count` connections whose ids lie above `after` and not above `up_to`, by id.
    pub fn page(&self, after: u64, up_to: u64, count: usize) -> Vec<Arc<Entry>> {
        if after >= up_to {
            return Vec::new();
        }
        self.lock().by_id.range(after + 1..=up_to).take(count).map(|(_, entry)| entry.clone()).collect()
    }

    /// The connection with this id.
    pub fn find(&self, id: u64) -> Option<Arc<Entry>> {
        self.lock().by_id.get(&id).cloned()
    }

    /// Nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Deref for Listing {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        &self.entry
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.roster.lock().by_id.remove(&self.entry.id);
    }
}

impl Entry {
    /// The core that serves the connection, or the one that it has left last.
    pub fn core(&self) -> usize {
        self.core.load(Ordering::SeqCst)
    }

    /// The connection is served by `core` from now on.
    pub fn arrive(&self, core: usize) {
        self.core.store(core, Ordering::SeqCst);
    }

    /// Asks the connection to end. Whether this is the first time.
    ///
    /// The caller reads [`Entry::core`] afterwards, and a core that takes a connection in calls [`Entry::arrive`] before it asks
    /// [`Entry::is_killed`]; so one of the two sees the other, wherever the connection is.
    pub fn kill(&self) -> bool {
        !self.killed.swap(true, Ordering::SeqCst)
    }

    /// Whether the connection was asked to end.
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::SeqCst)
    }

    /// A command came at `now`.
    pub fn saw(&self, command: RespCommand, now: Mono) {
        self.last.store(command as u8 + 1, Ordering::Relaxed);
        self.last_at_ns.store(now.0, Ordering::Relaxed);
    }

    /// The connection speaks `protocol` from now on.
    pub fn speaks(&self, protocol: Protocol) {
        let version = match protocol {
            Protocol::Resp2 => 2,
            Protocol::Resp3 => 3,
        };
        self.protocol.store(version, Ordering::Relaxed);
    }

    /// This many commands wait for `EXEC`; `None` outside of `MULTI`.
    pub fn queues(&self, queued: Option<usize>) {
        let queued = queued.map_or(-1, |queued| i64::try_from(queued).unwrap_or(i64::MAX));
        self.queued.store(queued, Ordering::Relaxed);
    }

    /// What the connection is called; empty when it has no name.
    pub fn name(&self) -> String {
        self.names().connection.as_ref().to_owned()
    }

    /// Takes the connection's name away.
    pub fn forget_name(&self) {
        self.names().connection = Box::default();
    }

    /// Calls the client something.
    ///
    /// # Errors
    /// `text` is too long, or has bytes that would break the line of `CLIENT LIST`.
    pub fn set_name(&self, which: Name, text: &[u8]) -> Result<(), Error> {
        let printable = |text: &&str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let text = std::str::from_utf8(text).ok().filter(printable).ok_or(which.unprintable())?;
        if text.len() > NAME_BYTES_MAX {
            return Err(Error::new(format!("ERR a client's names have at most {NAME_BYTES_MAX} bytes")));
        }
        let names = &mut *self.names();
        *match which {
            Name::Connection => &mut names.connection,
            Name::Library => &mut names.library,
            Name::Version => &mut names.version,
        } = text.into();
        Ok(())
    }

    /// Appends the connection's line in `CLIENT LIST`, in the order of Redis. Ages are seconds.
    pub fn describe(&self, now: Mono, line: &mut String) {
        let names = self.names();
        let Names { connection, library, version } = &*names;
        let (id, from, age) = (self.id, self.from, now.since(self.began).as_secs());
        let local = self.local.map(|local| local.to_string()).unwrap_or_default();
        // Another core's command may have come after `now` was read.
        let last_at = Mono(self.last_at_ns.load(Ordering::Relaxed).min(now.0));
        let idle = now.since(last_at).as_secs();
        let queued = self.queued.load(Ordering::Relaxed);
        let flags = if queued >= 0 { "x" } else { "N" };
        let protocol = self.protocol.load(Ordering::Relaxed);
        let last = usize::from(self.last.load(Ordering::Relaxed));
        let command = last.checked_sub(1).and_then(|place| SPECS.get(place)).map_or("NULL", |spec| spec.name);
        // Writing to a string cannot fail.
        let _ = writeln!(
            line,
            "id={id} addr={from} laddr={local} fd=-1 name={connection} age={age} idle={idle} flags={flags} db=0 sub=0 \
             psub=0 ssub=0 multi={queued} events=r cmd={command} user=default redir=-1 resp={protocol} \
             lib-name={library} lib-ver={version}"
        );
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Name {
    fn unprintable(self) -> Error {
        match self {
            Name::Connection => {
                Error::constant("ERR Client names cannot contain spaces, newlines or special characters.")
            }
            Name::Library => {
                Error::constant("ERR lib-name cannot contain spaces, newlines or special characters.")
            }
            Name::Version => {
                Error::constant("ERR lib-ver cannot contain spaces, newlines or special characters.")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrival(core: usize) -> Arrival {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        Arrival { from: addr, local: Some(addr), began: Mono(0), core }
    }

    #[test]
    fn the_bound_holds_over_all_cores_and_ids_are_never_used_twice() {
        let roster = Roster::default();
        let clone = roster.clone();
        let first = roster.admit(arrival(0), 2).unwrap();
        let second = clone.admit(arrival(1), 2).unwrap();
        assert_eq!((first.id, second.id, roster.len()), (1, 2, 2));
        assert!(roster.admit(arrival(0), 2).is_none() && clone.admit(arrival(1), 2).is_none());
        drop(first);
        let third = clone.admit(arrival(1), 2).unwrap();
        assert_eq!((third.id, roster.len()), (3, 2));
        assert!(roster.find(1).is_none() && roster.find(3).is_some());
        drop((second, third));
        assert!(clone.is_empty());
    }

    #[test]
    fn pages_go_on_after_the_last_id_and_end() {
        let roster = Roster::default();
        let mut members: Vec<_> = (0..10).map(|_| roster.admit(arrival(0), 99).unwrap()).collect();
        drop(members.remove(3));
        let last = roster.last_id();
        let later = roster.admit(arrival(0), 99).unwrap();
        let ids = |after| roster.page(after, last, 4).iter().map(|entry| entry.id).collect::<Vec<_>>();
        assert_eq!((ids(0), ids(5), ids(9)), (vec![1, 2, 3, 5], vec![6, 7, 8, 9], vec![10]));
        assert!(ids(10).is_empty(), "what came later is not listed");
        assert!(roster.page(u64::MAX, last, 4).is_empty() && later.id > last);
    }

    #[test]
    fn a_connection_is_killed_once() {
        let roster = Roster::default();
        let member = roster.admit(arrival(0), 1).unwrap();
        let seen = roster.find(member.id).unwrap();
        assert!(!member.is_killed());
        assert!(seen.kill() && !seen.kill() && member.is_killed());
        member.arrive(7);
        assert_eq!(seen.core(), 7);
    }
}

//! One connection as others see it: `CLIENT LIST`, and what `HELLO`, `AUTH` and `CLIENT` change about it.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::net::SocketAddr;
use std::task::Waker;

use engine::rt::Mono;

use super::command::Command;
use super::reply::Protocol;
use super::request::Error;
use super::transaction::Transaction;

/// Longest name of a connection, a library or a version, bytes.
const NAME_BYTES_MAX: usize = 256;

/// What a connection is known by.
#[derive(Debug)]
pub struct Client {
    /// Unique on the node, ascending on each core.
    pub id: u64,
    /// Where it connects from.
    pub from: SocketAddr,
    began: Mono,
    /// The protocol that it speaks.
    pub protocol: Cell<Protocol>,
    /// Whether it may issue commands.
    pub authenticated: Cell<bool>,
    last: Cell<Option<Command>>,
    last_at: Cell<Mono>,
    names: RefCell<Names>,
    /// Its transaction, and what it watches.
    pub transaction: RefCell<Transaction>,
    /// What its session keeps in memory, if that is much.
    pub held: Cell<Held>,
    /// Others wait for the memory that it holds, and it does nothing: its session ends.
    pub evicted: Cell<bool>,
    /// Wakes its session, to tell it that the server is stopping.
    pub waker: RefCell<Option<Waker>>,
}

/// What a session keeps in memory and others may wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Of an incomplete request that its client could go on with, bytes.
    pub input: usize,
    /// Of replies that its client could read, bytes.
    pub output: usize,
    /// When bytes last went in or out.
    pub moved: Mono,
}

/// What the client calls itself. Absent until it does, because most never do.
#[derive(Clone, Debug, Default)]
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

/// What a connection takes along to another core.
#[derive(Debug)]
pub(crate) struct Travelling {
    id: u64,
    from: SocketAddr,
    began: Mono,
    protocol: Protocol,
    authenticated: bool,
    last: Option<Command>,
    last_at: Mono,
    names: Names,
}

impl From<Travelling> for Client {
    fn from(travelling: Travelling) -> Self {
        let Travelling { id, from, began, protocol, authenticated, last, last_at, names } = travelling;
        Self {
            id,
            from,
            began,
            protocol: Cell::new(protocol),
            authenticated: Cell::new(authenticated),
            last: Cell::new(last),
            last_at: Cell::new(last_at),
            names: RefCell::new(names),
            transaction: RefCell::default(),
            held: Cell::default(),
            evicted: Cell::new(false),
            waker: RefCell::new(None),
        }
    }
}

impl Client {
    /// A new connection.
    pub fn new(id: u64, from: SocketAddr, began: Mono, authenticated: bool) -> Self {
        Self {
            id,
            from,
            began,
            protocol: Cell::default(),
            authenticated: Cell::new(authenticated),
            last: Cell::new(None),
            last_at: Cell::new(began),
            names: RefCell::default(),
            transaction: RefCell::default(),
            held: Cell::default(),
            evicted: Cell::new(false),
            waker: RefCell::new(None),
        }
    }

    /// When it was accepted.
    pub fn began(&self) -> Mono {
        self.began
    }

    /// A command came at `now`.
    pub fn saw(&self, command: Command, now: Mono) {
        self.last.set(Some(command));
        self.last_at.set(now);
    }

    /// What the connection takes along.
    pub(crate) fn pack(&self) -> Travelling {
        Travelling {
            id: self.id,
            from: self.from,
            began: self.began,
            protocol: self.protocol.get(),
            authenticated: self.authenticated.get(),
            last: self.last.get(),
            last_at: self.last_at.get(),
            names: self.names.borrow().clone(),
        }
    }

    /// Back to how it began, for `RESET`.
    pub fn reset(&self, authenticated: bool) {
        self.protocol.set(Protocol::default());
        self.authenticated.set(authenticated);
        self.names.borrow_mut().connection = Box::default();
        self.transaction.take();
    }

    /// What the connection is called; empty when it has no name.
    pub fn name(&self) -> String {
        self.names.borrow().connection.as_ref().to_owned()
    }

    /// Calls it something.
    pub fn set_name(&self, which: Name, text: &[u8]) -> Result<(), Error> {
        let printable = |text: &&str| text.bytes().all(|byte| byte.is_ascii_graphic());
        let text = std::str::from_utf8(text).ok().filter(printable).ok_or(which.unprintable())?;
        if text.len() > NAME_BYTES_MAX {
            return Err(Error::new(format!("ERR a client's names have at most {NAME_BYTES_MAX} bytes")));
        }
        let names = &mut *self.names.borrow_mut();
        *match which {
            Name::Connection => &mut names.connection,
            Name::Library => &mut names.library,
            Name::Version => &mut names.version,
        } = text.into();
        Ok(())
    }

    /// Its line in `CLIENT LIST`, ended, in the order of Redis; `local` is where the server listens. Ages are seconds.
    pub fn describe(&self, now: Mono, local: Option<SocketAddr>, line: &mut String) {
        let names = self.names.borrow();
        let (id, from, age) = (self.id, self.from, now.since(self.began).as_secs());
        let idle = now.since(self.last_at.get()).as_secs();
        let local = local.map(|local| local.to_string()).unwrap_or_default();
        let queued = self.transaction.borrow().queued();
        let flags = if queued.is_some() { "x" } else { "N" };
        let queued = queued.map_or("-1".to_owned(), |queued| queued.to_string());
        let protocol = if self.protocol.get() == Protocol::Resp3 { 3 } else { 2 };
        let command = self.last.get().map_or("NULL", |command| command.spec().name);
        let Names { connection, library, version } = &*names;
        // Writing to a string cannot fail.
        let _ = writeln!(
            line,
            "id={id} addr={from} laddr={local} fd=-1 name={connection} age={age} idle={idle} flags={flags} db=0 sub=0 \
             psub=0 ssub=0 multi={queued} events=r cmd={command} user=default redir=-1 resp={protocol} \
             lib-name={library} lib-ver={version}"
        );
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

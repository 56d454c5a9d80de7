//! gRPC on one core: the few rules of gRPC over crate h2, for handlers that never leave their core.
//!
//! The published gRPC servers want handlers that can move between threads; a store's state cannot. What is needed of gRPC is
//! small enough to own: unary calls and streams in both directions, deadlines, status trailers, bounds.
//!
//! * [`server`] accepts connections, counts them, drains them; `places` says which of them keep their place where there are too many,
//!   and `newcomers` lists those that do not; `connection` drives one: HTTP/2, keepalive, one write per turn.
//! * `call` runs one call: bounds, deadline, answer. [`Inbox`] and [`CallOutbox`] are the two directions of a stream. [`tally`] counts the
//!   calls that run and how they ended.
//! * [`mod@frame`] cuts messages out of bodies, `gzip` inflates those that are compressed and compresses large answers. What unfinished requests and unsent answers hold is charged to the core, and a
//!   caller is not let to send on while there is no room for it ([`crate::memory`]).
//! * `holders` lists the calls and connections that wait for their client, and ends those that are too slow while others wait for memory or the server drains.
//! * [`client`] is the other side, for tools and tests.
//!
//! What holds: a message that has not arrived is not allocated; an answer that the caller does not take waits in the caller's
//! window, not in memory without bound; a broken connection harms no other; a call ends with its stream, and so does what it
//! started; a connection gets a bounded share of the core's time, whatever it sends.
//!
//! Not done here, on purpose: compression other than gzip, client streaming alone, TLS (it belongs below, on the stream).

mod call;
pub mod client;
mod connection;
mod drain;
pub mod frame;
mod gzip;
mod holders;
mod io;
mod items;
mod newcomers;
mod places;
pub mod server;
pub mod status;
pub mod tally;
mod timeout;
mod waiters;

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::net::SocketAddr;

use bytes::Bytes;
use engine::rt::Mono;

pub use crate::memory::Charge;
pub use call::{CallOutbox, Inbox, Message};
pub use frame::{answer, frame};
pub use items::{bound_items, count_items};
pub(crate) use newcomers::{Newcomer, Newcomers};
pub use server::{Gate, Guest, Handle, Options, Stats, serve};
pub use status::{Code, Status};
pub use tally::{Ended, Tally};
pub(crate) use waiters::Waiters;

/// How messages flow in a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallShape {
    /// One message in, one message out.
    Unary,
    /// Any number in both directions, independently.
    Bidi,
}

/// A set of methods. One value serves all connections of a listener, on one core.
pub trait Service: 'static {
    /// The service's own name for a method.
    type Method: Copy + Debug + Eq + Hash + 'static;

    /// Returns the method of a path like `/package.Service/Method`.
    fn method(&self, path: &str) -> Option<(Self::Method, CallShape)>;

    /// Maximum length of a method's message, bytes, if it is not the server's.
    fn message_bytes_max(&self, method: Self::Method) -> Option<usize> {
        let _: Self::Method = method;
        None
    }

    /// Whether only callers that the port's [`Gate`] has let in may call it.
    fn is_for_members(&self, method: Self::Method) -> bool {
        let _: Self::Method = method;
        false
    }

    /// The message of a call as it is answered; a service adds to it who calls where that is to be known.
    fn called(&self, method: Self::Method, message: Bytes, from: SocketAddr) -> Bytes {
        let _: (Self::Method, SocketAddr) = (method, from);
        message
    }

    /// Answers one message with one framed message; see [`frame()`](frame::frame). The future is dropped at the deadline.
    fn unary(
        &self,
        method: Self::Method,
        message: Bytes,
        deadline: Option<Mono>,
    ) -> impl Future<Output = Result<Bytes, Status>>;

    /// Requests that it counts itself, because they are no calls of their own.
    fn ended(&self) -> Vec<Ended> {
        Vec::new()
    }

    /// Serves a stream until the caller ends it, the server drains (the inbox ends then) or an error.
    fn bidi(
        &self,
        method: Self::Method,
        inbox: &mut Inbox,
        outbox: &mut CallOutbox,
    ) -> impl Future<Output = Result<(), Status>>;
}

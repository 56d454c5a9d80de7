//! Requests of clients that another node can carry out, sent to the store that leads their region.
//!
//! | module | owns |
//! |---|---|
//! | [`codec`] (with `store` and `load`) | requests and answers as payloads of frames |
//! | [`asking`] | the asking side: one connection per core and store, what is in flight on it |
//! | [`serving`] | the answering side |
//!
//! A connection of requests is apart from that of Raft messages: answers come back on it, and a client's large value must not stand
//! before a heartbeat. It begins with the same introduction.
//!
//! Invariants: a request is sent at most once, and its answer is `Unknown` if it may have been carried out and its outcome was not
//! heard; what is answered by a refusal was not carried out. What is in flight on a connection is bounded on both sides.

pub mod asking;
pub mod codec;
mod load;
pub mod serving;
mod store;

#[cfg(test)]
mod tests;

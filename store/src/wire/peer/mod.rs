//! The peer protocol: how stores of different nodes speak to each other, core to core.
//!
//! One TCP connection per pair of stores and direction carries frames ([`frame`]). It begins with an introduction by which both
//! sides make sure whom they speak with ([`hello`]), after they have proved the cluster's secret to each other where one is set
//! ([`authenticate`]); afterwards the connecting side sends the Raft messages that its turns have
//! for the other store ([`messages`]), and the accepting side sends nothing: answers are messages of its own and take its own
//! connection. Requests of clients that another node can carry out have connections of their own ([`requests`]), and so has each snapshot
//! ([`bulk`]). [`open`] opens a connection of any kind, to where [`book`] says; [`link`] feeds and closes those of messages; [`port`] and
//! [`inbound`] take them in.
//!
//! ```text
//! store A  outbox per store ──► link task ──► [preface][Hello] ... [Messages] [Messages] ──► inbound task ──► inbox  store B
//!                                         ◄── [preface][Welcome or Refused]
//! ```
//!
//! Invariants: a core never waits for a peer, because what does not fit into a bounded outbox is dropped and counted, and Raft
//! repeats it; nothing is delivered that did not pass the checksum, the codec and the introduction.

pub(in crate::wire) mod authenticate;
mod body;
pub mod book;
pub mod bulk;
pub mod counters;
pub mod frame;
pub mod hello;
pub mod inbound;
pub mod link;
pub mod messages;
pub(in crate::wire) mod notice;
pub mod open;
pub mod port;
mod reading;
pub mod requests;
mod ship;
mod take;

#[cfg(test)]
mod tests;

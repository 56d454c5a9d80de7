//! One group's consensus, as a pure state machine: inputs in, a [`Ready`] out.
//!
//! # The story
//!
//! A *group* of members keeps one log. One member leads: it appends proposals to its log, sends them to the others,
//! and calls an entry *committed* once a quorum holds it on disk. Every member applies committed entries in order, so
//! every state machine goes through the same states. When the leader falls silent another member campaigns, and
//! voters make sure that only a log that contains everything committed can win. This is Raft (Ongaro and Ousterhout,
//! 2014), with what Ongaro's thesis adds: pre-vote, leader transfer, read index, leases, membership changes.
//!
//! The crate does no IO, reads no clock and draws no randomness of its own: time is an argument, the seed is part of
//! [`Identity`]. The same inputs give the same outputs, which is how the tests replay any failure.
//!
//! # The conversation
//!
//! Inputs change the replica; afterwards the driver collects one [`Ready`] and does what it says. Many inputs may be
//! given before one `Ready` is taken: all proposals of a turn then share one write and one message per follower.
//!
//! ```text
//! while let Some(input) = inbox.next() {
//!     match input {
//!         Message(m)        => if let Err(dropped) = raft.step(now, m) { count(dropped.name()) },
//!         Tick              => raft.tick(now),
//!         Propose(bytes)    => match raft.propose(bytes.into()) { Ok(id) => remember(id, client), Err(r) => refuse(r) },
//!         Durable(write)    => { let (ack, messages) = write.durable(); raft.written(ack); network.send(messages) }
//!         Applied(index)    => raft.applied(index),
//!         Fetched(f, found) => raft.fetched(&f, found),        // None: already cut off
//!     }
//! }
//! if raft.has_ready() {
//!     let ready = raft.ready();
//!     network.send(ready.send);                                // true without any disk
//!     if let Some(write) = ready.write { disk.submit(write) }  // hard state + entries, one atomic record
//!     if let Some(apply) = ready.apply { apply_task.push(apply) }
//!     for f in ready.fetch { disk.read(f) }                    // for followers that lag behind memory
//!     for s in ready.snapshots { snapshots.make(s) }           // then raft.send_snapshot(&s, snapshot)
//!     for r in ready.reads { serve_or_fail(r) }
//!     for e in ready.events { report(e) }                      // ends of transfers, learners that keep up
//! }
//! ```
//!
//! What the driver owes the core:
//! - A [`Write`] is atomic and writes of a group become durable in order. The messages inside a write come out only
//!   through [`Write::durable`]; a leader's own vote for its entries is counted in [`Raft::written`], never before.
//! - [`Apply`] is worked off in order, at the driver's pace. For an entry of kind [`EntryKind::Membership`] it decodes
//!   the [`MembershipChange`] and calls [`Raft::apply_change`] before it reports [`Raft::applied`], and stores the
//!   returned [`Membership`] atomically with the applied index and the entry's effects; or it drops the rest of its
//!   [`Apply`], if [`ChangeEffect::Overtaken`] says that a snapshot is about to replace the state anyway.
//! - Every [`Fetch`] and every [`SnapshotWanted`] is answered, be it with `None` or [`SnapshotReport::Failed`], and
//!   passed back as it came: it distinguishes a late answer from a current one.
//! - The log on disk is cut only up to a durably applied index, after which [`Raft::compacted`] is called
//!   ([`Raft::compact_hint`] spares followers a snapshot).
//! - At start it hands over what it stored: [`Start`], with a [`LogSummary`] built from the entries' headers.
//! - It calls [`Raft::tick`] at a steady pace, except on groups that sleep ([`Raft::is_asleep`]), and wakes those
//!   when the `quiet` module says so.
//!
//! # Rooms
//!
//! | file | what it decides |
//! |---|---|
//! | `raft.rs` | the replica: starting it, its local inputs |
//! | `step.rs` | messages: admission, terms, who handles what |
//! | `office.rs` | changes of role, all of them |
//! | `turn.rs` | what there is to do, and what has been done |
//! | `core.rs` | what every role shares; what a message may rely on |
//! | `follower.rs` `candidate.rs` `leader.rs` | the roles |
//! | `progress.rs`, `flow.rs`, `inflight.rs` | one member as its leader sees it; what is sent to it; what it has not answered |
//! | `log.rs` `terms.rs` | bytes of the recent entries, how far things got; terms of all entries |
//! | `quorum.rs` `membership.rs` | majorities, single and joint; changes |
//! | `transfer.rs` `read.rs` `quiet.rs` | handing over, reading, sleeping |
//! | `ready.rs` `message.rs` `error.rs` `status.rs` | the vocabulary |
//! | `check.rs` `planted.rs` | the invariants as assertions; the mistakes they must catch |
//!
//! # How it is tested
//!
//! - `tests/it/course`, `paper.rs`: the scenarios of the TinyKV course and of the paper's sections, by name.
//! - `tests/scripts/*.txt`: one rule each, message by message; `tests/it/script.rs` explains the commands.
//! - `tests/it/scenario/mod.rs`: lagging state machines, lost snapshots and late answers, each with the mistake it catches.
//! - `tests/it/random.rs`: whole groups under every fault at once, judged after each event by
//!   `tests/it/sim/oracle.rs`. `RINGKEEP_SEEDS=20000 cargo test -p ringkeep-raft --release --test it random` runs many
//!   seeds, `RINGKEEP_SEED=7` replays one. The same run has to find every mistake listed in `planted.rs`.
//! - `tests/it/fuzz.rs`: anything at all from the network.
//! - [`Raft::check`] asserts the stated invariants; debug builds call it after every input.
//!
//! # Not done here, on purpose
//!
//! - Proposals are not forwarded: the client of a follower is answered with who leads.
//! - Nothing de-duplicates commands: a retry needs an idempotent command or a session in the state machine.
//! - Snapshot data does not pass through the core, only its description.
//! - Leases are not renewed while a group sleeps, and no witness or log-less voter exists.
//! - No rollback of a membership at truncation: changes take effect when applied, see `membership.rs`.
//! - Nothing protects against members that lie. Malformed input is refused, a forged but well-formed one is believed.

#![warn(clippy::wildcard_enum_match_arm)]

mod candidate;
mod check;
mod config;
mod core;
mod entry;
mod error;
mod flow;
mod follower;
mod id;
mod inflight;
mod leader;
mod log;
mod membership;
mod message;
mod office;
#[cfg(feature = "planted-bugs")]
pub mod planted;
#[cfg(not(feature = "planted-bugs"))]
mod planted;
mod progress;
mod quiet;
mod quorum;
mod raft;
mod read;
mod ready;
mod rng;
mod status;
mod step;
mod terms;
mod transfer;
mod turn;

pub use crate::config::{Config, ConfigError, Identity};
pub use crate::entry::{Entry, EntryKind, Payload};
pub use crate::error::{Dropped, Loss, Refusal, StartError};
pub use crate::id::{GroupId, Index, LogId, NodeId, Term, Time};
pub use crate::log::LogSummary;
pub use crate::membership::{
    ChangeEffect, ChangeStep, Joint, Membership, MembershipChange, MembershipError, Transition,
};
pub use crate::message::{AppendOutcome, Beat, Body, Message, ReadId, Snapshot, VoteAnswer, VoteAsk};
pub use crate::progress::Mode;
pub use crate::quorum::{Verdict, majority};
pub use crate::raft::{Raft, RoleKind, Start};
pub use crate::ready::{
    Apply, Event, Fetch, GaveUp, HardState, ReadOutcome, Ready, SnapshotReport, SnapshotWanted,
    TransferOutcome, Write, WriteAck,
};
pub use crate::status::{MemberStatus, Status};

pub(crate) use planted::planted;

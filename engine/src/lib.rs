//! One core's storage and the runtime below it.
//!
//! The engine knows bytes, groups as `u64` and ranges as bytes. It knows nothing of Raft, regions or protocols; the crates
//! above give those bytes their meaning.
//!
//! | module | owns |
//! |---|---|
//! | [`rt`] | time, tasks, files, sockets and core-to-core queues, in two worlds: native and sim |
//! | [`log`] | one core's durable log, shared by all of its groups |
//! | [`lsm`] | one core's tree: memtable, tables, manifest, compaction |
//! | [`host`] | what the host allows: CPUs, limits, io_uring, the data directory |
//! | [`in_place`] | whether open files are still those at their paths |
//! | [`error`] | the one way in which storage fails |
//!
//! What is durable when: a log append is durable when its future returns; a table is durable when the manifest names it; the
//! memtable is never durable by itself, because the log is its write-ahead log.

pub mod error;
pub mod host;
pub mod in_place;
pub mod log;
pub mod lsm;
pub mod origin;
pub mod rt;

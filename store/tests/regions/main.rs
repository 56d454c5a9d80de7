//! Regions without IO: several stores, each with the real table and the real replicas, over logs and trees in memory. One binary of its
//! own, because it needs nothing of the rest.

mod kit;
#[path = "../../../raft/tests/play/mod.rs"]
mod play;
mod script;

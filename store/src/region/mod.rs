//! One region as its store sees it: descriptor, Raft group, and what waits for it. Pure: no IO, no clock, no randomness.

pub mod command;
pub mod guard;
pub mod peer;
pub mod record;

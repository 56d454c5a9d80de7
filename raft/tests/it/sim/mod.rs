//! A whole group in one thread: replicas with disks that lose unsynced writes, a network that loses, doubles and
//! reorders, clocks that drift, and an oracle that looks after every event. One seed decides everything.

mod faults;
mod handover;
mod node;
mod options;
mod oracle;
mod world;

pub(crate) use options::Options;
pub(crate) use world::{Coverage, run};

//! The scheduler from outside: the TinyKV course's tables, scenarios, a simulated cluster, fuzzing, planted bugs.

mod balance_core;
mod balance_region;
mod bytes_moved;
mod coordinator;
mod fuzz;
mod heartbeat;
mod kit;
mod leaders;
mod load_splits;
mod lost_targets;
mod merges;
mod model;
mod operators;
mod planted;
mod policies;
mod prepare;
mod queries;
mod relocations;
mod replicas;
mod restart;
mod verdicts;
mod world;

//! The scheduler from outside: the TinyKV course's tables, scenarios, a simulated cluster, fuzzing, planted bugs.

mod balance_region;
mod heartbeat;
mod kit;
mod leaders;
mod model;
mod operators;
mod replicas;
mod world;

//! The crate's integration tests, one binary.

mod course;
mod fuzz;
mod kit;
mod paper;
#[path = "../play/mod.rs"]
mod play;
mod random;
mod rng;
mod scenario;
mod script;
mod sim;
mod single;
mod start;

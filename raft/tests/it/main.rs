//! The crate's integration tests, one binary.

mod random;
mod rng;
mod sim;
mod single;

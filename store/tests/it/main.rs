//! The store's integration tests, one binary.

mod crash;
mod gateway;
mod node;

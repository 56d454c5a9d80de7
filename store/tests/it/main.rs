//! The store's integration tests, one binary.

mod gateway;
mod node;

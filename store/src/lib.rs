//! The server: many regions on many cores. Joins `engine`, `raft` and `scheduler`, and speaks to clients.

pub mod config;
pub mod control;
pub mod descriptors;
pub mod gateway;
pub mod keyspace;
pub mod memory;
pub mod metrics;
pub mod node;
pub mod plant;
mod process;
pub mod publish;
pub mod refusal;
pub mod region;
pub mod request;
pub mod secret;
pub mod shard;
pub mod wire;
pub mod witness;

pub use process::resident_bytes;

//! The protocols: bytes to typed requests and typed answers to bytes. Nothing in here knows how data is kept.

pub mod grpc;
pub mod health;
pub mod pd;
pub mod proto;
pub mod tikv;

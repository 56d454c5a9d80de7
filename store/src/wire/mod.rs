//! The wire: bytes to typed requests and back, one folder per protocol. Nothing here touches data except through the gateway.

pub mod admin;
pub mod board;
pub mod grpc;
pub mod health;
pub mod pd;
pub mod peer;
pub mod proto;
pub mod reflection;
pub mod resp;
pub mod tikv;

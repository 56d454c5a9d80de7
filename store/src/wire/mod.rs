//! The wire: bytes to typed requests and back, one folder per protocol. Nothing here touches data except through the gateway.

pub mod resp;

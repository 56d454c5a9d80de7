//! The process.

pub mod birth;
pub mod core;
pub mod identity;

//! Placeholder while the crate's first rooms are built.

pub mod scheduler;

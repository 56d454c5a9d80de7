//! What an operator asked for: emptying a store, keeping leaders off it, spreading a group of regions, splitting ahead.

pub mod drain;
pub mod evict;
pub mod presplit;
pub mod scatter;

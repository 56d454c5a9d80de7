//! What must be repaired, one region at a time.

pub mod replica;
pub mod split;

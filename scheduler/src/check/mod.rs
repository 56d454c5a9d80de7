//! What must be repaired, and which regions are to become two or one.

pub mod merge;
pub mod replica;
pub mod split;

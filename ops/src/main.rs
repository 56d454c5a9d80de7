//! The `ringkeep` binary.
fn main() {}

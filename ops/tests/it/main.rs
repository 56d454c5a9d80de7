//! What must hold of the tree and of the binary as a whole.

mod tidy;

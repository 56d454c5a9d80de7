//! The engine's integration tests, one binary.

mod hang;
mod idle;
mod log;
mod lsm;
mod seam;

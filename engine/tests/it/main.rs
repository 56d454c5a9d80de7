//! The engine's integration tests, one binary.

mod hang;
mod idle;
mod log;
mod log_crash;
mod lsm;
mod seam;

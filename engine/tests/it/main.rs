//! The engine's integration tests, one binary.

mod log;
mod log_crash;
mod seam;

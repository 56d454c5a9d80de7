//! The engine's integration tests, one binary.

mod hang;
mod idle;
mod seam;

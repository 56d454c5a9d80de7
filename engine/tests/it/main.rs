//! The engine's integration tests, one binary.

mod hang;
mod seam;

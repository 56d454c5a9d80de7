//! The engine's integration tests, one binary.

mod hang;
mod idle;
mod in_place;
mod log;
mod log_crash;
mod log_damage;
mod log_end;
mod log_model;
mod log_names;
mod log_shortage;
mod log_world;
mod lsm;
mod seam;
mod short_writes;

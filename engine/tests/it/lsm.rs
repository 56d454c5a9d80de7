//! The tree: a model with crashes, faults, damage, and old files.

mod damage;
mod fixture;
mod full;
mod ingest;
mod marks;
mod model;
mod names;
mod pace;
mod pressure;
mod share;
mod shortage;
mod world;

//! What must hold of the tree and of the binary as a whole.

mod acts;
mod checks;
mod code;
mod console;
mod ctl;
mod damaged;
mod deploy;
mod docs;
mod host;
mod joined;
mod lost_lines;
mod metrics;
mod owners;
mod paths;
mod pauses;
mod pipes;
mod places;
mod pure;
mod regions;
mod scale;
mod scrape;
mod server;
mod shortage;
mod signals;
mod starts;
mod tidy;

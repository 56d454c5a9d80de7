//! What must hold of the tree and of the binary as a whole.

mod deploy;
mod docs;
mod host;
mod joined;
mod metrics;
mod pipes;
mod scrape;
mod server;
mod tidy;

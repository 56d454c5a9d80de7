//! The store's integration tests, one binary.

mod resp_clients;
mod resp_frame;
mod resp_scripts;
mod resp_server;
mod resp_session;

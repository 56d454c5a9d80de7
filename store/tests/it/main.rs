//! The store's integration tests, one binary.

mod crash;
mod gateway;
mod node;
mod resp_clients;
mod resp_frame;
mod resp_scripts;
mod resp_server;
mod resp_session;

//! The store's integration tests, one binary.

mod grpc;
mod grpc_client;
mod grpc_faults;
mod grpc_fuzz;
mod grpc_pd;
mod resp_clients;
mod resp_frame;
mod resp_scripts;
mod resp_server;
mod resp_session;

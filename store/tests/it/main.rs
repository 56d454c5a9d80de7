//! The store's integration tests, one binary.

mod grpc;
mod grpc_client;
mod grpc_faults;
mod grpc_fuzz;
mod grpc_pd;

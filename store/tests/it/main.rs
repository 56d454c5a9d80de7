//! The store's integration tests, one binary.

mod cold;
mod crash;
mod damage;
mod fenced;
mod full;
mod gateway;
mod grpc;
mod grpc_batch;
mod grpc_client;
mod grpc_ends;
mod grpc_faults;
mod grpc_fuzz;
mod grpc_pd;
mod health;
mod memory;
mod migration;
mod node;
mod protocol;
mod resp_clients;
mod resp_frame;
mod resp_node;
mod resp_scripts;
mod resp_server;
mod resp_session;
mod restart;
mod transactions;

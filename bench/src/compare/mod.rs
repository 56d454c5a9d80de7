//! The same load on another server and on ringkeep, in turn, in one run on one machine.
//!
//! | module | beside |
//! |---|---|
//! | [`redis`] | one Redis server, `appendfsync always`, driven by `redis-benchmark` |
//! | [`etcd`] | an etcd cluster, driven by the clients of [`load`](crate::load) |

pub mod etcd;
pub mod redis;

//! The same load on another server, or another build, and on ringkeep, in turn, in one run on one machine.
//!
//! | module | beside |
//! |---|---|
//! | [`redis`] | one Redis server, `appendfsync always`, driven by `redis-benchmark` |
//! | [`build`] | another build of ringkeep, driven by `redis-benchmark` |
//! | [`driver`] | `redis-benchmark` against one server |
//! | [`etcd`] | an etcd cluster, driven by the clients of [`load`](crate::load) |

pub mod build;
pub mod driver;
pub mod etcd;
pub mod redis;

//! RESP: the raw key space for everything that can talk to Redis.
//!
//! The protocol of Redis in both versions, with pipelining, and its string commands; plus `RANGE`, because our keys are in
//! order. A connection belongs to one core at a time; keys of other cores are reached through the core's
//! [`Gateway`](crate::gateway::Gateway), so nothing here knows regions.
//!
//! | file | owns |
//! |---|---|
//! | [`frame`] | requests as bytes: the incremental parser and its bounds |
//! | [`reply`] | replies as bytes, in RESP2 and RESP3 |
//! | [`request`] | one complete command, and the texts of errors |
//! | [`command`], [`table`] | which commands there are, and what is known of each |
//! | [`data`] | commands that name their keys, as operations and back |
//! | [`part`] | parts and bits of a value |
//! | [`expiry`] | when keys go: commands, options, answers |
//! | [`walk`] | commands that take many steps: [`scan`], [`range`], [`keys`], [`count`] and others |
//! | [`control`], [`settings`], [`describe`], [`help`] | commands about connection, server and commands |
//! | [`subcommand`] | which parts the commands have that have parts |
//! | [`client`], [`roster`] | what a connection is known by, on its core and on all |
//! | [`clients`] | `CLIENT LIST` and `CLIENT KILL`, over all cores |
//! | [`connections`] | what the cores share: the roster and a mailbox per core |
//! | [`transaction`], [`exec`] | commands that take effect together |
//! | [`queue`] | the order of one connection's commands and answers |
//! | [`session`] | one connection |
//! | [`migration`] | when and how a connection goes to the core that owns its keys |
//! | [`server`], [`stalls`] | one core: accepting, sharing, draining, closing what stalls |
//! | [`cursor`] | what a `SCAN` cursor stands for |
//! | [`counters`] | what is counted |
//!
//! # The range scan
//!
//! `RANGE start end [LIMIT n] [REVERSE] [NOVALUES]` returns the pairs with `start <= key < end` in key order as a flat array:
//! key, value, key, value. An empty `end` means unbounded. `LIMIT` is 1000 pairs unless given; `REVERSE` begins at the end;
//! `NOVALUES` leaves the values out and returns the keys alone. To go on, ask again with the last key and a zero byte after
//! it as `start` (reverse: with the last key as `end`).
//!
//! # What a client may rely on
//!
//! * Answers come in the order of the commands. A command sees what earlier commands of its connection did to its keys.
//! * A write that is answered is durable. A write whose connection breaks before the answer may have happened or not.
//! * Commands of one key are atomic. `MSET` is atomic for keys of one region; `DEL` and `UNLINK` delete each key by itself. `MSETNX`,
//!   `RENAME`, `RENAMENX` and `COPY` take effect as one step, and are refused where their keys lie in two regions.
//! * What stands between `MULTI` and `EXEC` takes effect as one step or not at all; its keys lie in one region
//!   ([`transaction`]). On a fresh node those are keys with the same first byte.
//! * `SCAN` goes in key order, returns every key that stays exactly once, and its cursors are remembered by the node for a
//!   while ([`cursor`]). `DBSIZE` counts by walking, and `KEYS` walks, too, and refuses what is too much for one answer ([`keys`]).
//! * A key that expires is gone for every command at its moment, which is one of the wall clock, set by the leader that took the write and
//!   compared with the clock of the node that answers. What is made of a value goes when it did; a value that is set stays, unless it is
//!   said. `EXPIRE` writes the value again.
//! * `OBJECT ENCODING` is what Redis would have chosen: what has been appended to or overwritten in part is `raw`, however it looks. That is remembered for the
//!   latest such keys, by the node that leads them and until it ends ([`Appended`](crate::memory::Appended)).
//! * Keys have at most 8 KiB, values 8 MiB, one command 64 MiB, one reply about 64 MiB.
//!
//! # Not done here, on purpose
//!
//! * Notice of a key that expires: it ends no `WATCH`, and `INFO` does not count which keys expire.
//! * Databases other than 0, users other than `default`, scripts, publish and subscribe, and types
//!   other than strings: Redis' own error for an unknown command.
//! * TLS.

pub mod client;
pub mod clients;
pub mod command;
pub mod connections;
pub mod control;
mod count;
pub mod counters;
pub mod cursor;
pub mod data;
pub mod describe;
pub mod exec;
pub mod expiry;
pub mod frame;
pub mod glob;
pub mod help;
pub mod keys;
mod migration;
pub mod part;
pub mod queue;
pub mod range;
pub mod reply;
pub mod request;
pub mod roster;
pub mod scan;
pub mod server;
pub mod session;
pub mod settings;
mod stalls;
pub mod subcommand;
pub mod table;
pub mod transaction;
pub mod walk;

pub use connections::Connections;
pub use counters::{Counters, RespNumbers};
pub use cursor::Cursors;
pub use server::{Config, Facts, serve};

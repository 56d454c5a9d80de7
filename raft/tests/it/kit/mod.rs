//! Replicas in one thread with a synchronous network: a message is stepped, what it causes is sent, until all is
//! quiet. Disks are instant, state machines are lists that may lag: a [`Net`] applies what its messages committed
//! sometimes at once and sometimes later, as long as no message waits for it.

mod messages;
mod net;
mod peer;

use raft::Config;

pub(crate) use messages::*;
pub(crate) use net::{Net, with_every_lag};
pub(crate) use peer::{Peer, State};

/// The course's settings: neither pre-vote nor check-quorum.
pub(crate) fn course() -> Config {
    Config { heartbeat_ticks: 1, pre_vote: false, check_quorum: false, ..Config::default() }
}

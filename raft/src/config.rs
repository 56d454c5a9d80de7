//! What can be set, with its unit and its default, and what must hold between the settings.

use std::fmt;

use crate::id::{GroupId, NodeId};

/// Settings shared by all groups of a store. Hand it over in an `Arc`: a group keeps only the pointer.
///
/// All members of a group should run with the same `lease_*` values; the safety of lease reads rests on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Ticks without word from a leader before a follower campaigns; the real value is drawn from
    /// `election_ticks .. 2 * election_ticks` for each wait. Default 10.
    pub election_ticks: u32,
    /// Ticks between two heartbeats of a leader. Default 2.
    pub heartbeat_ticks: u32,
    /// Ask for the votes before raising the term, so that a node returning from a partition does not depose a
    /// working leader (thesis, 9.6). Default true.
    pub pre_vote: bool,
    /// A leader that hears no quorum for `election_ticks` steps down, and a follower that hears its leader refuses
    /// to vote (thesis, 6.2). Default true.
    pub check_quorum: bool,
    /// How long after the *sending* of a heartbeat round that a quorum answered the leader may serve reads without
    /// asking any other member, in nanoseconds on its own clock. Zero switches leases off. Default 0.
    pub lease_nanos: u64,
    /// How much faster a voter's clock may run than the leader's, in percent: a voter withholds its vote for
    /// `lease_nanos * (100 + lease_drift_percent) / 100` after it heard the leader. Default 10.
    pub lease_drift_percent: u32,
    /// Maximum bytes of entries in one append message; a single larger entry still travels alone. Default 1 MiB.
    pub message_bytes_max: u64,
    /// Maximum unanswered append messages per follower. Default 256.
    pub inflight_messages_max: usize,
    /// Maximum unanswered bytes per follower. Default 16 MiB.
    pub inflight_bytes_max: u64,
    /// Maximum payload bytes of one proposal. Default 8 MiB.
    pub entry_bytes_max: u64,
    /// Maximum payload bytes a leader holds uncommitted; further proposals are refused, but one is always admitted
    /// when there are none. Default 64 MiB.
    pub uncommitted_bytes_max: u64,
    /// How many bytes of committed, durable entries stay in memory for followers and apply. Default 1 MiB.
    pub cache_bytes_max: u64,
    /// Maximum bytes of entries handed out for apply and not yet reported applied; one entry is always admitted.
    /// Default 16 MiB.
    pub apply_bytes_max: u64,
    /// Ticks a leader waits for a follower to install a snapshot before it tries anew. Default 600.
    pub snapshot_ticks_max: u32,
    /// Ticks without work after which a group goes quiet. Zero: never. Default 0.
    pub quiet_after_ticks: u32,
    /// Notify followers of every commit at once, with an append without entries if need be. Otherwise they hear of it with the next
    /// entries or the next heartbeat, and at once only where something waits for it: a change of the membership, a read of a
    /// follower, and what the driver [announces](crate::Raft::announce_commit). Default true.
    pub commits_at_once: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            election_ticks: 10,
            heartbeat_ticks: 2,
            pre_vote: true,
            check_quorum: true,
            lease_nanos: 0,
            lease_drift_percent: 10,
            message_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            inflight_bytes_max: 16 << 20,
            entry_bytes_max: 8 << 20,
            uncommitted_bytes_max: 64 << 20,
            cache_bytes_max: 1 << 20,
            apply_bytes_max: 16 << 20,
            snapshot_ticks_max: 600,
            quiet_after_ticks: 0,
            commits_at_once: true,
        }
    }
}

impl Config {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// The first rule that does not hold, with the name of the field and the remedy.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let rule = |holds: bool, text: &'static str| if holds { Ok(()) } else { Err(ConfigError(text)) };
        rule(self.heartbeat_ticks > 0, "heartbeat_ticks is 0: set it to 1 or more")?;
        rule(
            self.election_ticks > self.heartbeat_ticks,
            "election_ticks must be greater than heartbeat_ticks, or every follower campaigns between heartbeats",
        )?;
        rule(self.election_ticks <= 1 << 20, "election_ticks is above 1048576: use fewer, longer ticks")?;
        rule(self.message_bytes_max > 0, "message_bytes_max is 0: nothing could be replicated")?;
        rule(self.inflight_messages_max > 0, "inflight_messages_max is 0: nothing could be replicated")?;
        rule(
            self.inflight_bytes_max >= self.message_bytes_max,
            "inflight_bytes_max must be at least message_bytes_max",
        )?;
        rule(self.entry_bytes_max > 0, "entry_bytes_max is 0: no proposal would be admitted")?;
        rule(
            self.uncommitted_bytes_max >= self.entry_bytes_max,
            "uncommitted_bytes_max must be at least entry_bytes_max",
        )?;
        rule(self.apply_bytes_max > 0, "apply_bytes_max is 0: nothing could be applied")?;
        rule(
            self.snapshot_ticks_max >= self.election_ticks,
            "snapshot_ticks_max must be at least election_ticks, or snapshots are given up while they travel",
        )?;
        rule(
            self.quiet_after_ticks == 0 || self.quiet_after_ticks > self.election_ticks,
            "quiet_after_ticks must be 0 (never) or greater than election_ticks",
        )?;
        rule(
            self.lease_nanos == 0 || self.check_quorum,
            "lease_nanos needs check_quorum: without it a cut-off leader stays leader for ever",
        )
    }

    /// How long a voter withholds its vote after it heard its leader, in nanoseconds.
    #[must_use]
    pub fn promise_nanos(&self) -> u64 {
        self.lease_nanos.saturating_add(self.lease_nanos / 100 * u64::from(self.lease_drift_percent))
    }
}

/// Who this replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub id: NodeId,
    /// Among equally complete logs, voters favour the higher priority. Zero for all is usual.
    pub priority: u32,
    /// Must differ at every start of this replica (a boot counter or a random number). It seeds the election jitter
    /// and keeps answers to reads of an earlier incarnation apart from those of this one.
    pub incarnation: u64,
}

/// A setting that cannot work, with its remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigError(pub &'static str);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "raft configuration: {}", self.0)
    }
}

impl std::error::Error for ConfigError {}

//! Epochs, and the one table that says which command checks and raises which part of one.
//!
//! An epoch has two counters. `conf_ver` counts changes of who holds the region;
//! `version` counts changes of what the region covers (splits). Whoever orders something done to a region names the
//! epoch that the order was thought out against, and the region refuses it when the parts that matter have moved.
//! Equality is strict: an epoch from the future is refused as well, because the replica that reads it does not know
//! yet what it is being asked to obey.
//!
//! ```text
//! command          checks               raises     why
//! Data             version              -          a key must still belong to the region
//! ChangePeer       conf_ver             conf_ver   one step of membership at a time; a split in between is harmless
//! ChangePeers      conf_ver             conf_ver   joint: entering and leaving are one step each
//! Split            conf_ver + version   version    new peer ids are matched to peers by position
//! PrepareMerge     conf_ver + version   both       what was thought out before, of whatever kind, is refused behind it
//! CommitMerge      conf_ver + version   version    above the version of the region that is taken in, too (see [`crate::merge`])
//! RollbackMerge    conf_ver + version   version    what is sent to the region as it was while it waited is refused
//! RefuseMerge      conf_ver + version   version    a merge that was thought out against the epoch can not be committed any more
//! TransferLeader   conf_ver + version   -          the target must still be a member
//! CompactLog       -                    -          depends on log positions alone
//! ```

use std::cmp::Ordering;
use std::fmt;

/// Which incarnation of a region's membership and range is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// Raised by one for each membership change.
    pub conf_ver: u64,
    /// Raised by one for each split, and by the steps of a merge.
    pub version: u64,
}

impl Epoch {
    /// The epoch of the first region of a cluster.
    pub const FIRST: Self = Self { conf_ver: 1, version: 1 };

    /// The epoch with these two parts.
    #[must_use]
    pub const fn new(conf_ver: u64, version: u64) -> Self {
        Self { conf_ver, version }
    }

    /// Whether either part is lower than that of `other`: news under this epoch is older than what is known.
    #[must_use]
    pub const fn is_stale_against(self, other: Self) -> bool {
        self.conf_ver < other.conf_ver || self.version < other.version
    }

    /// The epoch after a `command` was applied, per the module's table.
    #[must_use]
    pub const fn after(self, command: Command) -> Self {
        let raised = command.rule().raises;
        Self {
            conf_ver: self.conf_ver.saturating_add(raised.conf_ver as u64),
            version: self.version.saturating_add(raised.version as u64),
        }
    }

    /// Whether a `command` that was thought out against `request` may run on a region at epoch `self`.
    ///
    /// # Errors
    /// [`EpochMismatch`] where a checked part differs in either direction.
    pub const fn admit(self, command: Command, request: Self) -> Result<(), EpochMismatch> {
        let checks = command.rule().checks;
        let conf_ver_moved = checks.conf_ver && request.conf_ver != self.conf_ver;
        let version_moved = checks.version && request.version != self.version;
        if conf_ver_moved || version_moved {
            return Err(EpochMismatch { command, request, current: self });
        }
        Ok(())
    }
}

/// Epochs are only partly ordered: (2, 1) and (1, 2) are each newer than the other in one part.
impl PartialOrd for Epoch {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let (conf_ver, version) = (self.conf_ver.cmp(&other.conf_ver), self.version.cmp(&other.version));
        match (conf_ver, version) {
            (Ordering::Equal, order) | (order, Ordering::Equal) => Some(order),
            (one, two) if one == two => Some(one),
            _ => None,
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "(conf_ver {}, version {})", self.conf_ver, self.version)
    }
}

/// A kind of command, as far as epochs care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Any read or write of keys.
    Data,
    /// One single-step membership change.
    ChangePeer,
    /// Entering or leaving a joint configuration.
    ChangePeers,
    /// Cutting the region in two or more.
    Split,
    /// Stopping a region, so that its neighbour can take it in.
    PrepareMerge,
    /// Taking a neighbour in.
    CommitMerge,
    /// Going on after a merge that cannot be committed any more.
    RollbackMerge,
    /// Seeing to it that a merge cannot be committed any more.
    RefuseMerge,
    /// Handing leadership to another peer.
    TransferLeader,
    /// Cutting the log below an index.
    CompactLog,
}

impl Command {
    /// Every command, in the order of the module's table.
    pub const ALL: [Self; 10] = [
        Self::Data,
        Self::ChangePeer,
        Self::ChangePeers,
        Self::Split,
        Self::PrepareMerge,
        Self::CommitMerge,
        Self::RollbackMerge,
        Self::RefuseMerge,
        Self::TransferLeader,
        Self::CompactLog,
    ];

    /// This command's line of the module's table.
    #[must_use]
    pub const fn rule(self) -> EpochRule {
        const NONE: Parts = Parts { conf_ver: false, version: false };
        const CONF_VER: Parts = Parts { conf_ver: true, version: false };
        const VERSION: Parts = Parts { conf_ver: false, version: true };
        const BOTH: Parts = Parts { conf_ver: true, version: true };
        let (checks, raises) = match self {
            Self::Data => (VERSION, NONE),
            Self::ChangePeer | Self::ChangePeers => (CONF_VER, CONF_VER),
            Self::PrepareMerge => (BOTH, BOTH),
            Self::Split | Self::CommitMerge | Self::RollbackMerge | Self::RefuseMerge => (BOTH, VERSION),
            Self::TransferLeader => (BOTH, NONE),
            Self::CompactLog => (NONE, NONE),
        };
        EpochRule { checks, raises }
    }
}

/// One line of the table: what a command checks before it runs and what it raises when applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochRule {
    /// Parts that must equal the region's when the command is proposed and again when it is applied.
    pub checks: Parts,
    /// Parts that grow by one when the command is applied.
    pub raises: Parts,
}

/// A choice of epoch parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The membership counter.
    pub conf_ver: bool,
    /// The range counter.
    pub version: bool,
}

/// A command was thought out against another epoch than the region has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochMismatch {
    /// What was to be done.
    pub command: Command,
    /// The epoch that the command names.
    pub request: Epoch,
    /// The epoch that the region has.
    pub current: Epoch,
}

impl fmt::Display for EpochMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, request, current } = self;
        write!(f, "{command:?} for epoch {request}, but the region is at {current}; look the region up again")
    }
}

impl std::error::Error for EpochMismatch {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_documented_one() {
        let rows = [
            // command, checks conf_ver, checks version, raises conf_ver, raises version
            (Command::Data, false, true, false, false),
            (Command::ChangePeer, true, false, true, false),
            (Command::ChangePeers, true, false, true, false),
            (Command::Split, true, true, false, true),
            (Command::PrepareMerge, true, true, true, true),
            (Command::CommitMerge, true, true, false, true),
            (Command::RollbackMerge, true, true, false, true),
            (Command::RefuseMerge, true, true, false, true),
            (Command::TransferLeader, true, true, false, false),
            (Command::CompactLog, false, false, false, false),
        ];
        let now = Epoch::new(5, 7);
        for (command, checks_conf, checks_version, raises_conf, raises_version) in rows {
            for (request, part_checked) in [
                (Epoch::new(4, 7), checks_conf),
                (Epoch::new(6, 7), checks_conf),
                (Epoch::new(5, 6), checks_version),
                (Epoch::new(5, 8), checks_version),
            ] {
                assert_eq!(now.admit(command, request).is_err(), part_checked, "{command:?} with {request}");
            }
            assert_eq!(now.admit(command, now), Ok(()));
            let after = Epoch::new(5 + u64::from(raises_conf), 7 + u64::from(raises_version));
            assert_eq!(now.after(command), after, "{command:?}");
        }
        assert_eq!(Command::ALL.map(|command| command), rows.map(|row| row.0));
    }

    #[test]
    fn either_lower_part_makes_an_epoch_stale() {
        let known = Epoch::new(10, 10);
        assert!(Epoch::new(9, 10).is_stale_against(known));
        assert!(Epoch::new(10, 9).is_stale_against(known));
        assert!(Epoch::new(11, 9).is_stale_against(known));
        assert!(!Epoch::new(10, 10).is_stale_against(known));
        assert!(!Epoch::new(11, 10).is_stale_against(known));
    }

    #[test]
    fn crossing_epochs_are_not_ordered() {
        assert_eq!(Epoch::new(2, 1).partial_cmp(&Epoch::new(1, 2)), None);
        assert!(Epoch::new(2, 2) > Epoch::new(1, 2));
    }
}

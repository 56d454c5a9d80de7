//! What a region's leader reports, and why a report is refused.

use std::fmt;

use crate::epoch::Epoch;
use crate::id::{PeerId, RegionId, StoreId};
use crate::load::{Load, LoadCut};
use crate::operator::OperatorId;
use crate::region::{Region, RegionError};

/// A peer that its leader has not heard for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownPeer {
    /// The silent peer.
    pub peer: PeerId,
    /// For how long it has been silent, in milliseconds.
    pub down_ms: u64,
}

/// A region heartbeat: what the leader of a region says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionReport {
    /// Range, peers and epoch.
    pub region: Region,
    /// The peer that leads; `None` where that is not known.
    pub leader: Option<PeerId>,
    /// The Raft term it leads in. Where given, a report of a lower term is refused, so that a deposed leader that
    /// still speaks cannot make leadership flap.
    pub term: Option<u64>,
    /// Peers that are not caught up.
    pub pending: Vec<PeerId>,
    /// Peers that are silent.
    pub down: Vec<DownPeer>,
    /// Approximate size of the data, in bytes.
    pub size_bytes: u64,
    /// Approximate number of keys.
    pub keys: u64,
    /// Reads and writes of the last interval.
    pub load: Load,
    /// An operator whose split found no key to cut at, because there is too little data. Said once.
    pub uncut: Option<OperatorId>,
    /// Where samples of its requests say that it could be cut.
    pub cut: LoadCut,
}

impl RegionReport {
    /// A report of an empty, idle region in good health.
    #[must_use]
    pub const fn new(region: Region, leader: Option<PeerId>) -> Self {
        let load = Load { read_bytes: 0, write_bytes: 0, read_ops: 0, write_ops: 0 };
        Self {
            region,
            leader,
            term: None,
            pending: Vec::new(),
            down: Vec::new(),
            size_bytes: 0,
            keys: 0,
            load,
            uncut: None,
            cut: LoadCut::Unknown,
        }
    }

    /// Refuses what no honest leader can say, before it is compared with anything known.
    pub(crate) fn check(&self) -> Result<(), RegionRefusal> {
        let region = self.region.id;
        let bounded = |what, value, max| {
            if value > max { Err(RegionRefusal::Absurd { region, what, value, max }) } else { Ok(()) }
        };
        bounded("peers", self.region.peers.len() as u64, PEERS_MAX)?;
        bounded("pending peers", self.pending.len() as u64, PEERS_MAX)?;
        bounded("down peers", self.down.len() as u64, PEERS_MAX)?;
        bounded("size in bytes", self.size_bytes, SIZE_MAX)?;
        bounded("keys", self.keys, SIZE_MAX)?;
        bounded("read bytes per second", self.load.read_bytes, SIZE_MAX)?;
        bounded("written bytes per second", self.load.write_bytes, SIZE_MAX)?;
        bounded("conf_ver", self.region.epoch.conf_ver, EPOCH_MAX)?;
        bounded("version", self.region.epoch.version, EPOCH_MAX)?;
        if let LoadCut::OneKey(percent) | LoadCut::Lopsided(percent) = self.cut {
            bounded("percent of its load in one part", percent, 100)?;
        }
        self.region.check().map_err(RegionRefusal::Contradiction)?;
        let named = self.leader.iter().chain(&self.pending).copied();
        let mut named = named.chain(self.down.iter().map(|down| down.peer));
        match named.find(|peer| self.region.peer(*peer).is_none()) {
            Some(peer) => Err(RegionRefusal::ForeignPeer { region, peer }),
            None => Ok(()),
        }
    }
}

/// More peers than this is no region of ours.
const PEERS_MAX: u64 = 64;
/// 16 TiB, also as a rate per second: a region is split long before, and sums over half a million of them still fit a
/// signed 64-bit number.
const SIZE_MAX: u64 = 1 << 44;
/// An epoch part grows by one a step; half the number space is never reached honestly.
const EPOCH_MAX: u64 = u64::MAX / 2;

/// What an accepted report changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The region was not known before.
    pub new: bool,
    /// Range, peers, roles, epoch, leader or a peer's health changed; sizes and loads alone do not count.
    pub changed: bool,
    /// Regions that the reported range has displaced.
    pub displaced: Vec<RegionId>,
}

/// Why a region report is refused. The map is then as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegionRefusal {
    /// Something newer is known, of the region itself or, where it is not known, of one that it overlaps.
    Stale {
        /// The region reported.
        region: RegionId,
        /// Its epoch in the report.
        reported: Epoch,
        /// The region that is known better.
        known_region: RegionId,
        /// The known epoch.
        known: Epoch,
    },
    /// A leader of a later term has reported already.
    StaleTerm {
        /// The region reported.
        region: RegionId,
        /// The term in the report.
        reported: u64,
        /// The known term.
        known: u64,
    },
    /// Two peers claim to lead in the same term; one of the reports is forged or broken.
    TwoLeaders {
        /// The region reported.
        region: RegionId,
        /// The disputed term.
        term: u64,
        /// The leader in the report.
        reported: PeerId,
        /// The known leader.
        known: PeerId,
    },
    /// The descriptor contradicts itself.
    Contradiction(RegionError),
    /// The leader, or a pending or down peer, is not a peer of the region.
    ForeignPeer {
        /// The region reported.
        region: RegionId,
        /// The peer that is not listed.
        peer: PeerId,
    },
    /// A number is out of all reason.
    Absurd {
        /// The region reported.
        region: RegionId,
        /// What the number counts.
        what: &'static str,
        /// The number.
        value: u64,
        /// The greatest that is believed.
        max: u64,
    },
    /// The report names no leader, so no peer can be given a step.
    NoLeader {
        /// The region reported.
        region: RegionId,
    },
}

impl fmt::Display for RegionRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale { region, reported, known_region, known } => {
                write!(
                    f,
                    "report of {region} at epoch {reported} is stale: {known_region} is known at {known}"
                )
            }
            Self::StaleTerm { region, reported, known } => {
                write!(
                    f,
                    "report of {region} in term {reported} is stale: a leader of term {known} has reported"
                )
            }
            Self::TwoLeaders { region, term, reported, known } => {
                write!(f, "{reported} of {region} claims to lead in term {term}, in which {known} leads")
            }
            Self::Contradiction(error) => write!(f, "the report contradicts itself: {error}"),
            Self::ForeignPeer { region, peer } => {
                write!(f, "report of {region} speaks of {peer}, which it does not list")
            }
            Self::Absurd { region, what, value, max } => {
                write!(f, "report of {region} has {value} {what}; more than {max} is not plausible")
            }
            Self::NoLeader { region } => write!(f, "report of {region} names no leader"),
        }
    }
}

impl std::error::Error for RegionRefusal {}

/// Why news of a store is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRefusal {
    /// No store with that id has joined.
    Unknown(StoreId),
    /// The store is gone for ever; a node that comes back needs a new id.
    Tombstone(StoreId),
    /// Another store in use has that address.
    AddressTaken {
        /// The store that was to be entered.
        store: StoreId,
        /// Who has the address.
        holder: StoreId,
    },
    /// A store stays in the node that it joined with.
    NodeChanged(StoreId),
    /// The report has more space available or used than there is.
    Absurd {
        /// Who reports.
        store: StoreId,
        /// What the number counts.
        what: &'static str,
        /// The number.
        value: u64,
        /// The greatest that is believed.
        max: u64,
    },
    /// The store still holds peers, so it cannot be buried.
    NotEmpty {
        /// The store.
        store: StoreId,
        /// How many regions it has a peer of.
        regions: u64,
    },
    /// The store is in use; drain it first.
    NotOffline(StoreId),
}

impl fmt::Display for StoreRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(store) => write!(f, "{store} has not joined"),
            Self::Tombstone(store) => {
                write!(
                    f,
                    "{store} was taken out of use for good; start its node on an empty directory with --join"
                )
            }
            Self::AddressTaken { store, holder } => {
                write!(
                    f,
                    "the address of {store} belongs to {holder}; drain that one first or choose another address"
                )
            }
            Self::NodeChanged(store) => write!(f, "{store} joined with another node id and keeps it"),
            Self::Absurd { store, what, value, max } => {
                write!(f, "report of {store} has {value} {what}; more than {max} is not plausible")
            }
            Self::NotEmpty { store, regions } => write!(f, "{store} still holds {regions} regions"),
            Self::NotOffline(store) => write!(f, "{store} is not offline; drain it first"),
        }
    }
}

impl std::error::Error for StoreRefusal {}

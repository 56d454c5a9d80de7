//! What is known of one region.

use super::holding::{Burden, Kind, Standing};
use super::report::{DownPeer, RegionReport};
use crate::id::{PeerId, RegionId, StoreId};
use crate::load::{Load, LoadCut};
use crate::region::{Peer, Region};
use crate::time::Time;

/// A region as last reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionInfo {
    /// Range, peers and epoch.
    pub region: Region,
    /// Who leads, if that is known.
    pub leader: Option<PeerId>,
    /// The term it leads in, if reports carry one.
    pub term: Option<u64>,
    /// Approximate size of the data, in bytes.
    pub size_bytes: u64,
    /// Approximate number of keys.
    pub keys: u64,
    /// Reads and writes of the last interval.
    pub load: Load,
    ailments: Option<Box<Ailments>>,
    strain: Option<Box<Strain>>,
}

/// Peers in ill health. Boxed, because nearly no region has any and a million of them pay for the field.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Ailments {
    pending: Vec<PeerId>,
    down: Vec<DownPeer>,
}

/// What is known of the load of a region beside its rates. Boxed for the same reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Strain {
    cut: LoadCut,
    busy_since: Option<Time>,
}

impl RegionInfo {
    pub(super) fn new(mut report: RegionReport) -> Self {
        // A list that grew while it was built holds room for peers that will not come.
        report.region.peers.shrink_to_fit();
        let healthy = report.pending.is_empty() && report.down.is_empty();
        let ailments = Ailments { pending: report.pending, down: report.down };
        let strain = Strain { cut: report.cut, busy_since: None };
        Self {
            region: report.region,
            leader: report.leader,
            term: report.term,
            size_bytes: report.size_bytes,
            keys: report.keys,
            load: report.load,
            ailments: (!healthy).then(|| Box::new(ailments)),
            strain: (strain != Strain::default()).then(|| Box::new(strain)),
        }
    }

    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> RegionId {
        self.region.id
    }

    /// Peers that are not caught up.
    #[must_use]
    pub fn pending(&self) -> &[PeerId] {
        self.ailments.as_ref().map_or(&[], |ailments| &ailments.pending)
    }

    /// Peers that are silent.
    #[must_use]
    pub fn down(&self) -> &[DownPeer] {
        self.ailments.as_ref().map_or(&[], |ailments| &ailments.down)
    }

    /// Since when every report of its leader has had more load than a region is to bear, if the last one had.
    #[must_use]
    pub fn busy_since(&self) -> Option<Time> {
        self.strain.as_ref()?.busy_since
    }

    /// Where samples of its requests say that it could be cut.
    #[must_use]
    pub fn cut(&self) -> &LoadCut {
        self.strain.as_ref().map_or(&LoadCut::Unknown, |strain| &strain.cut)
    }

    pub(super) fn set_cut(&mut self, cut: LoadCut) {
        self.set_strain(Strain { cut, busy_since: self.busy_since() });
    }

    pub(super) fn set_busy_since(&mut self, busy_since: Option<Time>) {
        self.set_strain(Strain { cut: self.cut().clone(), busy_since });
    }

    fn set_strain(&mut self, strain: Strain) {
        self.strain = (strain != Strain::default()).then(|| Box::new(strain));
    }

    /// Whether this peer is not caught up.
    #[must_use]
    pub fn is_pending(&self, peer: PeerId) -> bool {
        self.pending().contains(&peer)
    }

    /// Whether this peer is silent.
    #[must_use]
    pub fn is_down(&self, peer: PeerId) -> bool {
        self.down().iter().any(|down| down.peer == peer)
    }

    pub(super) fn standing(&self, peer: &Peer) -> Standing {
        let kind = Kind::of(peer, self.leader);
        Standing { kind, led: self.leader.is_some(), pending: self.is_pending(peer.id) }
    }

    pub(super) fn burden(&self, floor_bytes: u64) -> Burden {
        Burden::new(self.size_bytes, &self.load, floor_bytes)
    }

    /// The store of the leader, if that is known.
    #[must_use]
    pub fn leader_store(&self) -> Option<StoreId> {
        Some(self.region.peer(self.leader?)?.store)
    }

    /// Stores of peers that vote and do not lead.
    pub fn follower_stores(&self) -> impl Iterator<Item = StoreId> {
        let followers = self.region.peers.iter().filter(|peer| Kind::of(peer, self.leader) == Kind::Follower);
        followers.map(|peer| peer.store)
    }
}

//! The peers of a region as its replica knows them: who they are, where they live, and how they change.
//!
//! Peers that the descriptor does not name, yet or any more, are remembered for a while with their stores: messages go to them, too.

use raft::{LogId, Mode, NodeId, Payload, Time};
use scheduler::change::{Change, keeps_quorum};
use scheduler::epoch::Command;
use scheduler::{DownPeer, Epoch, Peer, PeerId, Region, Role};

use super::change::Proposed;
use super::replica::Replica;
use super::split::{Cut, Split};
use super::submit::TurnRoom;
use crate::refusal::Refusal;

/// Peers beyond the descriptor whose stores are remembered.
const STRANGERS_MAX: usize = 16;

/// Entries by which a peer may be behind the commit index and still count as caught up.
const LAG_MAX: u64 = 256;

/// Peers of a region that its leader cannot rely on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// They are not caught up.
    pub pending: Vec<PeerId>,
    /// They have been silent for a while.
    pub down: Vec<DownPeer>,
}

impl<W, R> Replica<W, R> {
    /// Proposes a change of membership; `waiter` hears once it is applied.
    ///
    /// # Errors
    /// If it cannot be proposed now or makes no sense; the waiter comes back. A leader that is asked to remove itself hands over
    /// leadership first and answers that it is busy.
    pub fn propose_change(&mut self, change: Change, asked: Epoch, waiter: W) -> Result<(), (W, Refusal)> {
        let proposed = self.try_change(change, asked);
        self.wait_for(proposed, waiter)
    }

    /// Proposes a split, behind the writes that have gathered; `waiter` hears once it is applied.
    ///
    /// # Errors
    /// If it cannot be proposed now or makes no sense; the waiter comes back.
    pub fn propose_split(&mut self, cuts: Vec<Cut>, asked: Epoch, waiter: W) -> Result<(), (W, Refusal)> {
        let proposed = self.try_split(cuts, asked);
        self.wait_for(proposed, waiter)
    }

    fn try_split(&mut self, cuts: Vec<Cut>, asked: Epoch) -> Result<LogId, Refusal> {
        let region_id = self.region().id;
        if self.is_system() {
            return Err(Refusal::RegionNotFound { region_id: region_id.0 });
        }
        if !self.is_leader() {
            return Err(self.not_leader());
        }
        self.check_goes_on()?;
        if !self.is_current() {
            return Err(Refusal::not_current());
        }
        if self.region().is_joint() {
            // No leader would take the new regions out of it.
            return Err(Refusal::Busy { reason: "the region is in a joint configuration", backoff_ms: 1000 });
        }
        let split = Split { region: region_id, epoch: asked, cuts };
        split.judge(self.region())?;
        // Behind the split they would be of an old version.
        self.propose_gathered(&mut TurnRoom::unlimited());
        if self.has_gathered() {
            return Err(Refusal::Busy { reason: "writes wait to be proposed", backoff_ms: 100 });
        }
        let payload = Payload::from(split.encode());
        let bytes = payload.len();
        self.raft.propose(payload).map_err(|refusal| self.refusal_of(refusal, bytes))
    }

    /// The peers that this leader cannot rely on: those that lag, and those that were silent for more than `silent_ticks_max` ticks of
    /// `tick_ms` each. None if it does not lead, or if its group sleeps: then all have everything, and nothing is said.
    pub fn behind(&self, silent_ticks_max: u32, tick_ms: u64) -> Behind {
        if !self.is_leader() || self.raft.is_asleep() || self.region().peers.len() < 2 {
            return Behind::default();
        }
        let committed = self.raft.committed();
        let mut behind = Behind::default();
        for member in self.raft.followers() {
            let id = PeerId(member.id.0);
            if self.region().peer(id).is_none() {
                continue;
            }
            let streams = match member.mode {
                Mode::Replicate => true,
                Mode::Probe { sent: _ } => member.matched.0 > 0,
                Mode::SnapshotWanted { ticks: _ } | Mode::Snapshot { index: _, ticks: _ } => false,
            };
            if !streams || member.matched.0 + LAG_MAX < committed.0 {
                behind.pending.push(id);
            }
            if member.silent_ticks > silent_ticks_max {
                behind.down.push(DownPeer { peer: id, down_ms: u64::from(member.silent_ticks) * tick_ms });
            }
        }
        behind
    }

    /// Whether the region can commit after a change, as far as its leader has heard its peers within `silent_ticks_max` ticks. Of a peer
    /// that the change brings nothing was heard yet; whoever asks for it has seen that its store lives.
    pub fn keeps_quorum(&self, change: &Change, silent_ticks_max: u32) -> bool {
        let silent = self.behind(silent_ticks_max, 1).down;
        let Ok(after) = change.apply(self.region()) else { return true };
        keeps_quorum(&after, |store| {
            self.region().peer_on(store).is_none_or(|peer| silent.iter().all(|down| down.peer != peer.id))
        })
    }

    fn try_change(&mut self, change: Change, asked: Epoch) -> Result<LogId, Refusal> {
        super::guard::lead(self.here())?;
        self.check_goes_on()?;
        self.check_epoch(change.command(), asked)?;
        let after = change.apply(self.region()).map_err(|error| Refusal::Invalid(error.to_string()))?;
        // One that leaves a joint half keeps its vote until that ends, and hands over then: whoever comes for it, perhaps the only other
        // one, has no vote before.
        if !after.peer(self.me()).is_some_and(Peer::votes) {
            let heir = after.peers.iter().find(|peer| peer.will_vote()).map(|peer| NodeId(peer.id.0));
            if let Some(heir) = heir
                && self.raft.status(Time(0)).transfer.is_none()
                && let Err(refusal) = self.raft.transfer(heir)
            {
                return Err(self.refusal_of(refusal, 0));
            }
            return Err(Refusal::Busy {
                reason: "the leader hands over before it is removed",
                backoff_ms: 100,
            });
        }
        let invalid = || Refusal::Invalid(format!("{change:?} is no change of membership"));
        let raft = Proposed { epoch: asked, change: change.clone() }.to_raft().ok_or_else(invalid)?;
        self.raft.propose_change(&raft).map_err(|refusal| self.refusal_of(refusal, 0))
    }

    /// Hands leadership to a peer; how it ends comes as an event.
    ///
    /// # Errors
    /// Why the request went nowhere.
    pub fn transfer(&mut self, target: PeerId, asked: Epoch) -> Result<(), Refusal> {
        self.check_epoch(Command::TransferLeader, asked)?;
        match self.raft.transfer(NodeId(target.0)) {
            Ok(()) => Ok(()),
            Err(refusal) => Err(self.refusal_of(refusal, 0)),
        }
    }

    fn check_epoch(&self, command: Command, asked: Epoch) -> Result<(), Refusal> {
        let current = || Refusal::EpochNotMatch { current: vec![self.region().clone()] };
        self.region().epoch.admit(command, asked).map_err(|_| current())
    }

    pub(super) fn sender(&self) -> Peer {
        let stranger = Peer { id: self.me(), store: self.store, role: Role::Learner };
        self.region().peer(self.me()).copied().unwrap_or(stranger)
    }

    /// The peer of this id, and its store, as far as it is known here.
    pub(super) fn address(&self, id: PeerId) -> Option<Peer> {
        let stranger = || self.strangers.iter().rev().find(|peer| peer.id == id);
        self.region().peer(id).or_else(stranger).copied()
    }

    pub(super) fn remember(&mut self, peer: Peer) {
        if self.region().peer(peer.id).is_some() || self.strangers.back() == Some(&peer) {
            return;
        }
        self.strangers.retain(|known| known.id != peer.id);
        if self.strangers.len() == STRANGERS_MAX {
            self.strangers.pop_front();
        }
        self.strangers.push_back(peer);
    }

    /// Remembers those whom a change takes out of the descriptor: they hear of it from us.
    pub(super) fn remember_leavers(&mut self, after: &Region) {
        let leavers: Vec<Peer> =
            self.region().peers.iter().filter(|peer| after.peer(peer.id).is_none()).copied().collect();
        leavers.into_iter().for_each(|peer| self.strangers.push_back(peer));
        while self.strangers.len() > STRANGERS_MAX {
            self.strangers.pop_front();
        }
    }
}

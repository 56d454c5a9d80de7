//! A change of membership as the log carries it, and as Raft wants it.
//!
//! The scheduler's [`Change`] is what all replicas decide by when they apply the entry; Raft's own steps follow from it. It travels as
//! the context of Raft's change, with the epoch that it was thought out against:
//!
//! ```text
//! context   version u8 = 1, conf_ver u64, version u64, kind u8, store u64, promoted u16, demoted u16, peer u64 ...   little-endian
//! kind      1 add voter, 2 add learner, 3 promote, 4 demote, 5 remove, 6 enter joint, 7 leave joint
//! ```
//!
//! The peers of kinds 1 to 5 count as promoted.

use raft::{ChangeStep, Joint, Membership, MembershipChange, NodeId, Payload, Transition};
use scheduler::change::Change;
use scheduler::{Epoch, Peer, PeerId, Region, Role, StoreId};

const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 30;

/// A change and the epoch it was thought out against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposed {
    /// The epoch.
    pub epoch: Epoch,
    /// The change.
    pub change: Change,
}

impl Proposed {
    /// The change as Raft wants it; `None` for one that no group can carry out.
    pub fn to_raft(&self) -> Option<MembershipChange> {
        let node = |peer: &PeerId| NodeId(peer.0);
        let (steps, transition) = match &self.change {
            Change::AddVoter { peer, store: _ } | Change::Promote { peer } => {
                (vec![ChangeStep::AddVoter(node(peer))], Transition::Auto)
            }
            Change::AddLearner { peer, store: _ } | Change::Demote { peer } => {
                (vec![ChangeStep::AddLearner(node(peer))], Transition::Auto)
            }
            Change::Remove { peer } => (vec![ChangeStep::Remove(node(peer))], Transition::Auto),
            Change::EnterJoint { promote, demote } => {
                let promoted = promote.iter().map(|peer| ChangeStep::AddVoter(node(peer)));
                let demoted = demote.iter().map(|peer| ChangeStep::AddLearner(node(peer)));
                (promoted.chain(demoted).collect(), Transition::JointExplicit)
            }
            Change::LeaveJoint => (Vec::new(), Transition::Auto),
        };
        Some(MembershipChange { steps, transition, context: Payload::from(self.encode()?) })
    }

    /// The inverse of [`Proposed::to_raft`]; `None` if the context is none of ours.
    pub fn from_raft(change: &MembershipChange) -> Option<Self> {
        Self::decode(&change.context)
    }

    /// As bytes; `None` for a change that no group can carry out.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let (kind, store, promoted, demoted): (u8, StoreId, &[PeerId], &[PeerId]) = match &self.change {
            Change::AddVoter { peer, store } => (1, *store, std::slice::from_ref(peer), &[]),
            Change::AddLearner { peer, store } => (2, *store, std::slice::from_ref(peer), &[]),
            Change::Promote { peer } => (3, StoreId(0), std::slice::from_ref(peer), &[]),
            Change::Demote { peer } => (4, StoreId(0), std::slice::from_ref(peer), &[]),
            Change::Remove { peer } => (5, StoreId(0), std::slice::from_ref(peer), &[]),
            Change::EnterJoint { promote, demote } => (6, StoreId(0), promote, demote),
            Change::LeaveJoint => (7, StoreId(0), &[], &[]),
        };
        let mut bytes = Vec::with_capacity(HEAD_BYTES + 8 * (promoted.len() + demoted.len()));
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.epoch.conf_ver.to_le_bytes());
        bytes.extend_from_slice(&self.epoch.version.to_le_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&store.0.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(promoted.len()).ok()?.to_le_bytes());
        bytes.extend_from_slice(&u16::try_from(demoted.len()).ok()?.to_le_bytes());
        promoted.iter().chain(demoted).for_each(|peer| bytes.extend_from_slice(&peer.0.to_le_bytes()));
        Some(bytes)
    }

    /// The inverse of [`Proposed::encode`]; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_at_checked(HEAD_BYTES)?;
        let long = |at: usize| Some(u64::from_le_bytes(head[at..at + 8].try_into().ok()?));
        let short = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let (format, kind) = (head[0], head[17]);
        let (epoch, store) = (Epoch::new(long(1)?, long(9)?), StoreId(long(18)?));
        let (promoted, demoted) = (short(26), short(28));
        let (chunks, left) = rest.as_chunks::<8>();
        if format != FORMAT || !left.is_empty() || chunks.len() != promoted + demoted {
            return None;
        }
        let peers: Vec<PeerId> = chunks.iter().map(|chunk| PeerId(u64::from_le_bytes(*chunk))).collect();
        let change = match (kind, &peers[..]) {
            (1, &[peer]) => Change::AddVoter { peer, store },
            (2, &[peer]) => Change::AddLearner { peer, store },
            (3, &[peer]) => Change::Promote { peer },
            (4, &[peer]) => Change::Demote { peer },
            (5, &[peer]) => Change::Remove { peer },
            (6, peers) => {
                let (promote, demote) = peers.split_at(promoted);
                Change::EnterJoint { promote: promote.to_vec(), demote: demote.to_vec() }
            }
            (7, []) => Change::LeaveJoint,
            (_, _) => return None,
        };
        Some(Self { epoch, change })
    }
}

/// The membership that a descriptor describes.
pub fn membership(region: &Region) -> Membership {
    let ids = |wanted: fn(&Peer) -> bool| -> Vec<NodeId> {
        let mut ids: Vec<NodeId> =
            region.peers.iter().filter(|peer| wanted(peer)).map(|peer| NodeId(peer.id.0)).collect();
        ids.sort_unstable();
        ids
    };
    let mut membership =
        Membership::with_learners(ids(Peer::will_vote), ids(|peer| peer.role == Role::Learner));
    if region.is_joint() {
        let outgoing = ids(|peer| matches!(peer.role, Role::Voter | Role::Outgoing));
        let learners_next = ids(|peer| peer.role == Role::Outgoing);
        membership.joint = Some(Box::new(Joint { outgoing, learners_next, auto_leave: false }));
    }
    membership
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::{KeyRange, RegionId};

    fn region() -> Region {
        Region {
            id: RegionId(1),
            range: KeyRange::new("", "").unwrap(),
            epoch: Epoch::FIRST,
            peers: vec![
                Peer::voter(PeerId(1), StoreId(1)),
                Peer::voter(PeerId(2), StoreId(2)),
                Peer::learner(PeerId(3), StoreId(3)),
            ],
        }
    }

    fn changes() -> Vec<Change> {
        let (peer, store) = (PeerId(4), StoreId(4));
        vec![
            Change::AddVoter { peer, store },
            Change::AddLearner { peer, store },
            Change::Promote { peer: PeerId(3) },
            Change::Demote { peer: PeerId(2) },
            Change::Remove { peer: PeerId(2) },
            Change::EnterJoint { promote: vec![PeerId(3)], demote: vec![PeerId(2)] },
        ]
    }

    #[test]
    fn a_change_reads_back_and_cut_ones_do_not() {
        for change in changes().into_iter().chain([Change::LeaveJoint]) {
            let proposed = Proposed { epoch: Epoch::new(3, 9), change };
            let raft = proposed.to_raft().unwrap();
            assert_eq!(Proposed::from_raft(&raft), Some(proposed.clone()));
            let travelled = MembershipChange::decode(&raft.encode()).unwrap();
            assert_eq!(Proposed::from_raft(&travelled), Some(proposed));
            for cut in 0..raft.context.len() {
                assert_eq!(Proposed::decode(&raft.context[..cut]), None);
            }
        }
    }

    /// Logs outlive versions: these bytes were written by the first version that had changes.
    #[test]
    fn the_bytes_of_a_change_stay_as_they_are() {
        let change = Change::EnterJoint { promote: vec![PeerId(3)], demote: vec![PeerId(2)] };
        let bytes = Proposed { epoch: Epoch::new(3, 9), change }.encode().unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "0103000000000000000900000000000000060000000000000000",
                "0100010003000000000000000200000000000000"
            )
        );
    }

    /// Descriptor and core are two accounts of one membership. Whatever the change, they agree.
    #[test]
    fn the_descriptor_and_the_core_change_alike() {
        for change in changes() {
            let before = region();
            let raft = Proposed { epoch: before.epoch, change: change.clone() }.to_raft().unwrap();
            let after = change.apply(&before).unwrap();
            assert_eq!(membership(&before).after(&raft), Ok(membership(&after)), "{change:?}");
            if after.is_joint() {
                let left = Change::LeaveJoint.apply(&after).unwrap();
                let raft = Proposed { epoch: after.epoch, change: Change::LeaveJoint }.to_raft().unwrap();
                assert_eq!(membership(&after).after(&raft), Ok(membership(&left)));
            }
        }
    }
}

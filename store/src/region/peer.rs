//! One region's replica on this store: descriptor, Raft group, the writes that gather for the next turn, and the answers
//! that wait for their entries to be applied.
//!
//! Pure: it says what is to be written and sent, and is told what became durable. `A` is whatever the store has to do once
//! an entry is applied; this file only keeps it in order.
//!
//! Invariants:
//! * what waits is ordered by index, and all of it was proposed in the current term or an earlier one;
//! * an answer leaves exactly once: when its entry is applied, or when another entry or nothing can be applied in its place.

use std::collections::VecDeque;
use std::sync::Arc;

use raft::{Identity, LogId, Membership, NodeId, Payload, Raft, Refusal, Start, StartError, Time};
use scheduler::{Peer as Member, PeerId};

use super::command::{Write, Writes, encoded_bytes};
use super::guard::Here;
use super::record::RegionRecord;

/// A command is closed and the next one begun when it has gathered this much.
const COMMAND_BYTES_MAX: usize = 512 << 10;

/// One region's replica.
#[derive(Debug)]
pub struct Peer<A> {
    /// The stored metadata.
    pub record: RegionRecord,
    /// The consensus core.
    pub raft: Raft,
    /// The largest command that the group takes, bytes.
    command_bytes_max: usize,
    gathering: VecDeque<Gathered<A>>,
    waiting: VecDeque<Waiting<A>>,
}

/// A command that no group would take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// Its size as an entry, bytes.
    pub bytes: usize,
    /// The bound, bytes.
    pub bytes_max: usize,
}

/// Writes of one command before it is proposed.
#[derive(Debug)]
pub struct Gathered<A> {
    /// The writes.
    pub writes: Writes,
    /// What to do once they are applied, in order.
    pub answers: Vec<A>,
}

/// A proposed command.
#[derive(Debug)]
pub struct Waiting<A> {
    /// Where it stands in the log.
    pub id: LogId,
    /// The command, so that what it pinned can be released without it being applied.
    pub payload: Payload,
    /// What to do once it is applied, in order.
    pub answers: Vec<A>,
}

/// What an entry that is about to be applied means for those who wait.
#[derive(Debug)]
pub struct Settled<A> {
    /// Those who wait for this very entry.
    pub mine: Vec<A>,
    /// Proposals in whose place other entries were committed.
    pub overtaken: Vec<Waiting<A>>,
}

impl<A> Peer<A> {
    /// A replica from its stored state.
    pub fn new(
        record: RegionRecord,
        config: Arc<raft::Config>,
        start: Start,
        incarnation: u64,
        now: Time,
    ) -> Result<Self, StartError> {
        let identity = Identity {
            group: raft::GroupId(record.region.id.0),
            id: NodeId(record.me.0),
            priority: 0,
            incarnation,
        };
        let command_bytes_max = usize::try_from(config.entry_bytes_max).unwrap_or(usize::MAX);
        let raft = Raft::new(config, identity, start, now)?;
        Ok(Self { record, raft, command_bytes_max, gathering: VecDeque::new(), waiting: VecDeque::new() })
    }

    /// What the guard needs to know.
    pub fn here(&self) -> Here<'_> {
        let region = &self.record.region;
        let leader = self.raft.leader().and_then(|id| region.peer(PeerId(id.0))).copied();
        let store = region.peer(self.record.me).map_or(scheduler::StoreId(0), |member| member.store);
        Here { store, region, me: self.record.me, term: self.raft.term().0, leader }
    }

    /// Our own entry in the descriptor.
    pub fn member(&self) -> Option<Member> {
        self.record.region.peer(self.record.me).copied()
    }

    /// Whether our peer leads and its state contains everything that was acknowledged before it was elected. Nothing is read or
    /// computed from the state before that: after a restart or an election, what is committed may still wait to be applied.
    pub fn is_current(&self) -> bool {
        self.raft.has_applied_in_term()
    }

    /// Whether our peer leads and has committed an entry of its term which its state does not contain yet.
    pub fn is_catching_up(&self) -> bool {
        self.raft.has_committed_in_term() && !self.raft.has_applied_in_term()
    }

    /// Whether a read may be served from the applied state `now`: the peer is current, nobody else can lead, and everything that
    /// the read must see has been applied.
    ///
    /// A sole voter needs no lease, nor the time: nobody else can be elected.
    pub fn may_read(&mut self, now: impl FnOnce() -> Time) -> bool {
        if !self.is_current() || self.is_sole_voter() {
            return self.is_current();
        }
        let applied = self.raft.applied_index();
        self.raft.lease_read(now()).is_ok_and(|index| index <= applied)
    }

    /// Whether our own durable entry is already a quorum.
    pub fn is_sole_voter(&self) -> bool {
        let mut voters = self.record.region.voters();
        voters.next().is_some_and(|voter| voter.id == self.record.me) && voters.next().is_none()
    }

    /// The largest command that the group takes, bytes.
    pub fn command_bytes_max(&self) -> usize {
        self.command_bytes_max
    }

    /// Adds writes to the command that the next turn proposes; `answer` is due when they are applied. What has gathered never grows
    /// beyond what the group takes, so nothing is refused because of what else came.
    ///
    /// # Errors
    /// If the writes alone are more than the group takes; the answer comes back.
    pub fn gather(&mut self, writes: &[Write<'_>], answer: A) -> Result<(), (A, TooLarge)> {
        let version = self.record.region.epoch.version;
        let bytes: usize = writes.iter().map(Write::bytes).sum();
        let alone = encoded_bytes(writes.len(), bytes);
        if alone > self.command_bytes_max {
            return Err((answer, TooLarge { bytes: alone, bytes_max: self.command_bytes_max }));
        }
        let open = self.gathering.back().is_some_and(|last| {
            let together = encoded_bytes(last.writes.len() + writes.len(), last.writes.bytes() + bytes);
            last.writes.version() == version
                && last.writes.bytes() < COMMAND_BYTES_MAX
                && together <= self.command_bytes_max
        });
        if !open {
            self.gathering.push_back(Gathered { writes: Writes::new(version), answers: Vec::new() });
        }
        let last = self.gathering.back_mut().expect("one was pushed if there was none");
        for write in writes {
            last.writes.push(*write);
        }
        last.answers.push(answer);
        Ok(())
    }

    /// Proposes what has gathered, as far as the group accepts it now. What can never be proposed here comes back with the reason:
    /// everything if leadership is lost, otherwise the command alone that was refused.
    pub fn propose_gathered(&mut self) -> Vec<(Gathered<A>, Refusal)> {
        let mut refused = Vec::new();
        while let Some(next) = self.gathering.pop_front() {
            let payload = Payload::from(next.writes.encode());
            match self.raft.propose(payload.clone()) {
                Ok(id) => self.waiting.push_back(Waiting { id, payload, answers: next.answers }),
                Err(Refusal::UncommittedFull | Refusal::TransferPending { .. }) => {
                    self.gathering.push_front(next);
                    break;
                }
                Err(why @ Refusal::NotLeader { .. }) => {
                    refused.push((next, why));
                    refused.extend(self.gathering.drain(..).map(|gathered| (gathered, why)));
                }
                Err(
                    why @ (Refusal::EntryTooLarge
                    | Refusal::TermNotCommitted
                    | Refusal::ChangePending
                    | Refusal::InvalidChange(_)
                    | Refusal::NotVoter
                    | Refusal::MayNotCampaign
                    | Refusal::NoLease
                    | Refusal::OutOfPlace),
                ) => refused.push((next, why)),
            }
        }
        refused
    }

    /// Whether writes have gathered that no turn has proposed yet.
    pub fn has_gathered(&self) -> bool {
        !self.gathering.is_empty()
    }

    /// Who waited for the entry `id`, which is being applied, and whose proposals it overtook.
    pub fn settle(&mut self, id: LogId) -> Settled<A> {
        let mut overtaken = Vec::new();
        while let Some(front) = self.waiting.pop_front_if(|front| front.id.index <= id.index) {
            if front.id == id {
                return Settled { mine: front.answers, overtaken };
            }
            overtaken.push(front);
        }
        Settled { mine: Vec::new(), overtaken }
    }

    /// Everything that waits or has gathered, because the peer or the store ends.
    pub fn abandon(&mut self) -> (Vec<Waiting<A>>, Vec<Gathered<A>>) {
        (self.waiting.drain(..).collect(), self.gathering.drain(..).collect())
    }
}

/// The membership that a descriptor describes.
pub fn membership(region: &scheduler::Region) -> Membership {
    let ids = |wanted: bool| {
        region.peers.iter().filter(move |peer| peer.votes() == wanted).map(|peer| NodeId(peer.id.0))
    };
    Membership::with_learners(ids(true), ids(false))
}

#[cfg(test)]
mod tests {
    use raft::{Apply, Ready};
    use scheduler::{Epoch, KeyRange, Region, RegionId, StoreId};

    use super::*;
    use crate::region::command::Cf;

    const ENTRY_BYTES_MAX: usize = 16 << 20;

    /// A sole voter that leads.
    fn leader() -> Peer<u32> {
        let config = raft::Config { entry_bytes_max: ENTRY_BYTES_MAX as u64, ..raft::Config::default() };
        let me = PeerId(3);
        let region = Region {
            id: RegionId(7),
            range: KeyRange::new("", "").unwrap(),
            epoch: Epoch::FIRST,
            peers: vec![Member::voter(me, StoreId(1))],
        };
        let start = Start::bootstrap(LogId::new(5, 5), membership(&region));
        let record = RegionRecord { region, me, tombstone: false };
        let mut peer = Peer::new(record, Arc::new(config), start, 1, Time(0)).unwrap();
        peer.raft.campaign(Time(0)).unwrap();
        while peer.raft.has_ready() {
            let Ready { write, apply, .. } = peer.raft.ready();
            if let Some(write) = write {
                peer.raft.written(write.durable().0);
            }
            if let Some(Apply::Entries(entries)) = apply {
                peer.raft.applied(entries.last().unwrap().index);
            }
        }
        assert!(peer.is_current());
        peer
    }

    fn put(value: &[u8]) -> Write<'_> {
        Write::Put { cf: Cf::Default, key: b"k", value }
    }

    /// What is large enough to fill a command alone is not put to what has gathered already, or the group would refuse both.
    #[test]
    fn a_command_never_grows_beyond_what_the_group_takes() {
        let (few, most, rest) = (vec![0; 400 << 10], vec![0; 8 << 20], vec![0; (79 << 20) / 10]);
        let mut peer = leader();
        peer.gather(&[put(&few)], 1).unwrap();
        assert!(few.len() < COMMAND_BYTES_MAX, "the first command is still open");
        peer.gather(&[put(&most), put(&rest)], 2).unwrap();
        peer.gather(&[put(&few)], 3).unwrap();
        let sizes: Vec<usize> = peer.gathering.iter().map(|next| next.writes.encode().len()).collect();
        assert!(sizes.iter().all(|bytes| *bytes <= ENTRY_BYTES_MAX), "{sizes:?}");
        assert_eq!(peer.propose_gathered().len(), 0, "commands of {sizes:?} bytes are refused");
        let answers: Vec<&[u32]> = peer.waiting.iter().map(|waiting| &waiting.answers[..]).collect();
        assert_eq!(answers, [[1], [2], [3]]);
    }

    /// The bound is exact: the largest write that is let in is one that the group takes.
    #[test]
    fn what_is_let_in_alone_is_taken_and_one_byte_more_is_not() {
        let mut peer = leader();
        let fits = vec![0; ENTRY_BYTES_MAX - encoded_bytes(1, 1)];
        peer.gather(&[put(&fits)], 1).unwrap();
        assert_eq!(peer.propose_gathered().len(), 0);
        let (answer, refused) = peer.gather(&[put(&[fits, vec![0]].concat())], 2).unwrap_err();
        assert_eq!((answer, refused.bytes, refused.bytes_max), (2, ENTRY_BYTES_MAX + 1, ENTRY_BYTES_MAX));
    }
}

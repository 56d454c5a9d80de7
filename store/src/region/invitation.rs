//! How a replica that waits for its first snapshot learns that it was removed before it had any data.
//!
//! It knows no member of its region but those that have spoken to it. Who created it by a message had already applied that it belongs to the
//! region: that peer and its epoch are the invitation, which the log keeps with the replica's first record, because a start forgets the
//! rest. What it says carries that epoch, so whoever knows a newer one without it knows for certain that it was removed.
//!
//! Unheard for [`UNHEARD_TICKS`], it says to those that it knows, and to the stores that share other groups with this one
//! ([`PeerId`] 0: whichever peer is there), that it lives. Who is still of the region brings it what it lacks, who knows better answers
//! that it was removed. A store that has left the region itself says nothing, so a newcomer learns nothing while no store that shares groups
//! with its own is still of the region.
//!
//! ```text
//! invitation   peer u64, store u64, conf_ver u64, version u64     little-endian
//! ```

use raft::{Body as RaftBody, Message, NodeId, Time};
use scheduler::{Epoch, Peer, PeerId, Role, StoreId};

use super::life::Life;
use super::message::{Body, PeerMessage};
use super::replica::Replica;
use crate::plant::{Bug, planted};

/// After this many ticks without a message of any other member, ten of the shortest election timeouts, it asks.
pub const UNHEARD_TICKS: u32 = 100;

/// Whichever peer of the region is on the store that is asked.
const WHOEVER: PeerId = PeerId(0);

const BYTES: usize = 32;

/// Who brought a replica into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invitation {
    /// The leader that sent the message.
    pub by: Peer,
    /// The epoch of the region then, which has the replica.
    pub epoch: Epoch,
}

impl Invitation {
    /// The invitation that a message is.
    pub const fn of(message: &PeerMessage) -> Self {
        Self { by: message.from, epoch: message.epoch }
    }

    /// The invitation as bytes.
    pub fn encode(&self) -> [u8; BYTES] {
        let Self { by: Peer { id, store, role: _ }, epoch: Epoch { conf_ver, version } } = *self;
        let mut bytes = [0; BYTES];
        for (part, number) in bytes.chunks_exact_mut(8).zip([id.0, store.0, conf_ver, version]) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// The inverse of [`Invitation::encode`]; none for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let long = |part: usize| {
            let part: [u8; 8] =
                bytes[part * 8..part * 8 + 8].try_into().expect("eight bytes are eight bytes");
            u64::from_le_bytes(part)
        };
        let by = Peer { id: PeerId(long(0)), store: StoreId(long(1)), role: Role::Voter };
        Some(Self { by, epoch: Epoch::new(long(2), long(3)) })
    }
}

impl PeerMessage {
    /// Whether the sender asks for a word of the others: it has heard no leader for long, and may have been removed.
    pub fn asks_for_word(&self) -> bool {
        match &self.body {
            Body::Raft(inner) => matches!(inner.body, RaftBody::Stale | RaftBody::PreVote(_)),
            Body::Removed | Body::Merged { into: _ } => false,
        }
    }
}

impl<W, R> Replica<W, R> {
    /// It was brought into being by this message, or, before a start, by one like it.
    pub fn invite(&mut self, invitation: Invitation) {
        self.invitation = Some(invitation);
        self.remember(invitation.by);
    }

    /// Who brought it into being, if it still waits for its first snapshot.
    pub fn invitation(&self) -> Option<Invitation> {
        self.invitation.filter(|_| self.life() == Life::Initialising)
    }

    /// The epoch that its messages carry.
    pub(super) fn known_epoch(&self) -> Epoch {
        self.invitation().map_or(self.region().epoch, |invitation| invitation.epoch)
    }

    /// A member has spoken to it.
    pub(super) fn hear_word(&mut self, message: &PeerMessage) {
        self.remember(message.from);
        self.unheard_ticks = 0;
        let is_older = |known: Invitation| message.epoch.is_stale_against(known.epoch);
        // Only leaders say what the range is.
        if self.life() == Life::Initialising
            && message.range.is_some()
            && !self.invitation.is_some_and(is_older)
        {
            self.invitation = Some(Invitation::of(message));
        }
    }

    /// Counts a tick without a word. Whether it is time to ask for one.
    pub(super) fn misses_word(&mut self) -> bool {
        if self.invitation().is_none() || planted(Bug::BlankIsMute) {
            return false;
        }
        self.unheard_ticks = self.unheard_ticks.saturating_add(1);
        self.unheard_ticks.is_multiple_of(UNHEARD_TICKS)
    }

    /// Asks those that have spoken to it, and whoever is on `stores`, for a word.
    pub fn ask_for_word(&mut self, stores: impl Iterator<Item = StoreId>) {
        let mut asked: Vec<Peer> = self.strangers.iter().copied().collect();
        for store in stores.filter(|store| *store != self.store) {
            if asked.iter().all(|peer| peer.store != store) {
                asked.push(Peer { id: WHOEVER, store, role: Role::Learner });
            }
        }
        let (from, epoch, region) = (self.sender(), self.known_epoch(), self.id());
        let questions = asked.into_iter().map(|to| {
            let message = Message {
                group: raft::GroupId(region.0),
                from: NodeId(from.id.0),
                to: NodeId(to.id.0),
                term: self.raft.term(),
                body: RaftBody::Stale,
            };
            PeerMessage { region, from, to, epoch, range: None, body: Body::Raft(Box::new(message)) }
        });
        self.out.messages.extend(questions);
    }

    /// Lets one tick pass. Whether it was so long without a word that it is to ask for one ([`Replica::ask_for_word`]).
    pub fn tick(&mut self, now: Time) -> bool {
        self.raft.tick(now);
        self.notice();
        let given_up = self.doubt.tick();
        self.answer_unknown(given_up);
        self.misses_word()
    }
}

#[cfg(test)]
mod tests {
    use scheduler::{KeyRange, Region, RegionId};

    use super::super::message::{LocalReplica, Verdict, admit};
    use super::*;

    #[test]
    fn an_invitation_survives_its_codec() {
        let by = Peer { id: PeerId(7), store: StoreId(3), role: Role::Voter };
        let invitation = Invitation { by, epoch: Epoch::new(5, 2) };
        let bytes = invitation.encode();
        assert_eq!(Invitation::decode(&bytes), Some(invitation));
        // Logs outlive versions: these bytes are what the log has under its tag 5.
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../../tests/fixtures/invitation-v1.hex").trim_end());
        for length in (0..BYTES).chain([BYTES + 1]) {
            assert_eq!(Invitation::decode(&vec![1; length]), None, "{length} bytes");
        }
    }

    /// What peer 9 of store 9 asks for under `epoch`, of peer `to`.
    fn question(to: u64, epoch: Epoch) -> PeerMessage {
        let (from, to) = (Peer::learner(PeerId(9), StoreId(9)), Peer::learner(PeerId(to), StoreId(1)));
        let message = Message {
            group: raft::GroupId(7),
            from: NodeId(9),
            to: NodeId(to.id.0),
            term: raft::Term(3),
            body: RaftBody::Stale,
        };
        let body = Body::Raft(Box::new(message));
        PeerMessage { region: RegionId(7), from, to, epoch, range: None, body }
    }

    fn region(epoch: Epoch) -> Region {
        let peers = vec![Peer::voter(PeerId(4), StoreId(4)), Peer::voter(PeerId(5), StoreId(5))];
        Region { id: RegionId(7), range: KeyRange::new("a", "m").unwrap(), epoch, peers }
    }

    fn judged(here: LocalReplica<'_>, question: &PeerMessage) -> Verdict {
        admit(here, question, |_| false)
    }

    #[test]
    fn who_knows_a_newer_region_without_the_sender_says_so_and_who_does_not_is_silent() {
        let invited = Epoch::new(5, 2);
        for to in [WHOEVER.0, 3, 4] {
            for (epoch, verdict) in
                [(Epoch::new(6, 2), Verdict::TellRemoved), (invited, Verdict::TellRemoved)]
            {
                let here = region(epoch);
                let here = LocalReplica::Replica(PeerId(4), &here);
                assert_eq!(judged(here, &question(to, invited)), verdict, "peer {to} at {epoch}");
            }
        }
        // It may have been started again, and has not applied yet that there is a newcomer.
        let behind = region(Epoch::new(4, 2));
        for to in [WHOEVER.0, 4] {
            let verdict = judged(LocalReplica::Replica(PeerId(4), &behind), &question(to, invited));
            assert_ne!(verdict, Verdict::TellRemoved, "peer {to} that is behind");
        }
        let mut member = region(Epoch::new(6, 2));
        member.peers.push(Peer::learner(PeerId(9), StoreId(9)));
        let here = LocalReplica::Replica(PeerId(4), &member);
        assert_eq!(judged(here, &question(4, invited)), Verdict::Step, "a member is asked of the core");
    }
}

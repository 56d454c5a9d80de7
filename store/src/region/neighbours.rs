//! The stores of other nodes that have replicas of the groups here, and whether they are heard.
//!
//! A group that sleeps sends nothing, so nothing of its own shows that its leader lives. What shows it is the store: each one says at a
//! fixed pace that it is there to every store with which it shares a group, and anything else that it sends counts as well. So an idle
//! cluster costs a few frames per pair of stores, however many groups they share.
//!
//! Pure: time comes as ticks, of which a store that is paused has none, so that it suspects no store when it goes on. What the groups do
//! about the [`StoreNews`] is at the end of this file; who is to be waked is known to the table ([`crate::shard::quiet`]).
//!
//! | a store | the groups that sleep here and have a peer there |
//! |---|---|
//! | was not heard for [`SILENT_TICKS`] | led from there: go on as if they had ticked meanwhile; led from here: wake |
//! | is heard again, or over another connection | led from there or from here: wake, because something may have been lost |
//! | was started again | led from there: its leadership is over; led from here: wake, and bring it what it lacks |

use std::collections::{BTreeMap, BTreeSet};

use raft::Time;
use scheduler::StoreId;

use super::replica::Replica;
use crate::plant::{Bug, planted};

/// A store that was not heard for this many ticks may be gone: the shortest election timeout of a group.
pub const SILENT_TICKS: u32 = 10;

/// Ticks between two signs of life; anything else that is sent meanwhile is one, too.
pub const SIGN_TICKS: u32 = 5;

/// What has become of another store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreNews {
    /// It was not heard for [`SILENT_TICKS`].
    Silent,
    /// It is heard again, or what was on its way to or from it may be lost.
    Back,
    /// Its process, or its node, was started again.
    Restarted,
}

/// A sign of life that has arrived: anything that a store has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign {
    /// Whose it is.
    pub store: StoreId,
    /// How often the log of that store has been opened.
    pub incarnation: u64,
    /// It is the first on its connection.
    pub is_first: bool,
}

#[derive(Debug, Default)]
struct Neighbour {
    silent_ticks: u32,
    /// Ticks since something was sent to it.
    unsaid_ticks: u32,
    /// The highest that was seen.
    incarnation: u64,
    /// Whether it has a replica of a group here.
    shares: bool,
}

/// What one store knows of the others.
#[derive(Debug, Default)]
pub struct Neighbours {
    known: BTreeMap<StoreId, Neighbour>,
}

impl Neighbours {
    /// Those with replicas of the groups here are `stores` from now on. One that was none before counts as heard just now, and is to hear
    /// from here at once: this store may have been started again.
    pub fn share(&mut self, stores: &BTreeSet<StoreId>) {
        for store in stores {
            self.known.entry(*store).or_default();
        }
        for (store, neighbour) in &mut self.known {
            let shares = stores.contains(store);
            if shares && !std::mem::replace(&mut neighbour.shares, shares) {
                (neighbour.silent_ticks, neighbour.unsaid_ticks) = (0, SIGN_TICKS);
            }
            neighbour.shares = shares;
        }
    }

    /// A tick passes. The stores that were not heard for too long by now.
    pub fn tick(&mut self) -> Vec<StoreId> {
        let sharing = self.known.iter_mut().filter(|(_, neighbour)| neighbour.shares);
        let silent = sharing.filter_map(|(store, neighbour)| {
            neighbour.silent_ticks = neighbour.silent_ticks.saturating_add(1);
            neighbour.unsaid_ticks = neighbour.unsaid_ticks.saturating_add(1);
            (neighbour.silent_ticks == SILENT_TICKS).then_some(*store)
        });
        silent.collect()
    }

    /// Something was sent to a store since the latest tick.
    pub fn spoke_to(&mut self, store: StoreId) {
        if let Some(neighbour) = self.known.get_mut(&store) {
            neighbour.unsaid_ticks = 0;
        }
    }

    /// The stores that are to have a sign of life with this tick, because nothing else is on its way to them.
    pub fn take_due(&mut self) -> Vec<StoreId> {
        let due = self.known.iter_mut().filter(|(_, it)| it.shares && it.unsaid_ticks >= SIGN_TICKS);
        let due = due.map(|(store, neighbour)| {
            neighbour.unsaid_ticks = 0;
            *store
        });
        due.collect()
    }

    /// Something of another store has arrived.
    pub fn hear(&mut self, sign: Sign) -> Option<StoreNews> {
        let neighbour = self.known.entry(sign.store).or_default();
        let was_silent = neighbour.silent_ticks >= SILENT_TICKS;
        neighbour.silent_ticks = 0;
        let before = neighbour.incarnation;
        neighbour.incarnation = before.max(sign.incarnation);
        if before > 0 && sign.incarnation > before {
            return Some(StoreNews::Restarted);
        }
        (was_silent || sign.is_first).then_some(StoreNews::Back)
    }

    /// The stores that share groups with this one.
    pub fn stores(&self) -> impl Iterator<Item = StoreId> {
        self.known.iter().filter(|(_, it)| it.shares).map(|(store, _)| *store)
    }

    /// Ticks since a store was heard; none if it has no replica of a group here.
    pub fn silent_ticks(&self, store: StoreId) -> Option<u32> {
        self.known.get(&store).filter(|it| it.shares).map(|it| it.silent_ticks)
    }
}

impl<W, R> Replica<W, R> {
    /// Whether the group sleeps here: it needs no ticks until something wakes it.
    pub fn is_asleep(&self) -> bool {
        self.raft.is_asleep() && self.doubt.is_empty()
    }

    /// The stores of the other members.
    pub fn others(&self) -> impl Iterator<Item = StoreId> {
        self.region().peers.iter().map(|peer| peer.store).filter(|store| *store != self.store)
    }

    /// There is news of a store. Whether that wakes the replica.
    pub fn hear_of(&mut self, store: StoreId, news: StoreNews, now: Time) -> bool {
        if !self.raft.is_asleep() || (news == StoreNews::Silent && planted(Bug::DeadStoreIgnored)) {
            return false;
        }
        let Some(peer) = self.region().peer_on(store).map(|peer| peer.id) else { return false };
        let leads_there = self.raft.leader().is_some_and(|leader| leader.0 == peer.0);
        let woke = match news {
            StoreNews::Silent | StoreNews::Restarted if leads_there => self.raft.suspect_leader(now),
            StoreNews::Back if leads_there => self.raft.wake(),
            StoreNews::Silent | StoreNews::Back | StoreNews::Restarted => {
                self.is_leader() && self.raft.wake()
            }
        };
        self.notice();
        woke
    }

    /// It has slept for long, so it is made sure that nothing was missed: a leader speaks up, and a member that has heard nothing since the
    /// last time (it was not `stirred`) wakes and asks. Whether it has something to do now.
    pub fn be_sure(&mut self, stirred: bool) -> bool {
        let slept = self.raft.speak_up() || (!stirred && self.raft.wake());
        self.notice();
        slept
    }

    /// Wakes the replica if it sleeps: its driver may have missed what should have. Whether it slept.
    pub fn wake(&mut self) -> bool {
        let woke = self.raft.wake();
        self.notice();
        woke
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sign(store: u64, incarnation: u64) -> Sign {
        Sign { store: StoreId(store), incarnation, is_first: false }
    }

    fn sharing(stores: &[u64]) -> Neighbours {
        let mut neighbours = Neighbours::default();
        neighbours.share(&stores.iter().copied().map(StoreId).collect());
        neighbours
    }

    #[test]
    fn a_store_falls_silent_once_and_comes_back_once() {
        let mut all = sharing(&[2, 3]);
        let mut silent = Vec::new();
        for tick in 1..=40 {
            assert_eq!(all.hear(sign(3, 1)), None);
            silent.extend(all.tick().into_iter().map(|store| (tick, store)));
        }
        assert_eq!(silent, [(SILENT_TICKS, StoreId(2))]);
        assert_eq!(all.silent_ticks(StoreId(2)), Some(40));
        assert_eq!([all.hear(sign(2, 1)), all.hear(sign(2, 1))], [Some(StoreNews::Back), None]);
    }

    #[test]
    fn a_restart_is_noticed_however_short_it_was_and_another_connection_is_no_restart() {
        let mut all = sharing(&[2]);
        assert_eq!(all.hear(sign(2, 4)), None, "the first that is heard of it");
        assert_eq!(all.hear(Sign { is_first: true, ..sign(2, 4) }), Some(StoreNews::Back));
        assert_eq!(all.hear(Sign { is_first: true, ..sign(2, 5) }), Some(StoreNews::Restarted));
        assert_eq!(all.hear(sign(2, 4)), None, "late, from before the restart");
        assert_eq!(all.hear(sign(2, 5)), None);
    }

    #[test]
    fn who_hears_enough_gets_no_signs_and_who_hears_nothing_gets_them_in_time() {
        let mut all = sharing(&[2, 3]);
        let mut greeted = BTreeMap::<u64, Vec<u32>>::new();
        for tick in 1..=40 {
            if tick % 2 == 0 && tick <= 20 {
                all.spoke_to(StoreId(3));
            }
            assert_eq!(all.tick().len(), usize::from(tick == SILENT_TICKS) * 2);
            all.take_due().into_iter().for_each(|store| greeted.entry(store.0).or_default().push(tick));
        }
        assert_eq!(greeted[&2], [1, 6, 11, 16, 21, 26, 31, 36]);
        assert_eq!(greeted[&3], [1, 24, 29, 34, 39], "never later than this after what was sent last");
    }

    #[test]
    fn only_stores_that_share_a_group_are_greeted_and_watched() {
        let mut all = sharing(&[2]);
        all.hear(sign(9, 1));
        let mut greeted = BTreeMap::new();
        for _ in 0..30 {
            assert_eq!(all.tick().iter().filter(|store| store.0 == 9).count(), 0);
            all.take_due().into_iter().for_each(|store| *greeted.entry(store.0).or_insert(0) += 1);
        }
        assert_eq!(greeted, BTreeMap::from([(2, 30 / SIGN_TICKS)]));
        all.share(&BTreeSet::from([StoreId(9)]));
        assert_eq!([all.silent_ticks(StoreId(2)), all.silent_ticks(StoreId(9))], [None, Some(0)]);
    }
}

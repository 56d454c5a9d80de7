//! Which replicas of a store get ticks, and what wakes those that get none.
//!
//! A group that sleeps costs its store nothing: a tick visits the replicas that are awake, and signs of life go to stores, not to groups
//! ([`Neighbours`](crate::region::neighbours::Neighbours)). Whoever takes a replica out of the table to give it an input has it get ticks
//! again; one that finds it asleep and without anything to do is its last. So only what comes from no input has to look for its sleepers:
//! news of another store, and a gap in time.
//!
//! Invariant, asserted by [`Table::check`]: a replica that does not sleep gets ticks.

use std::collections::BTreeSet;
use std::ops::Bound;

use raft::Time;
use scheduler::{RegionId, StoreId};

use super::Shard;
use super::table::Table;
use super::upkeep::TICK;
use crate::plant::{Bug, planted};
use crate::region::neighbours::{SIGN_TICKS, SILENT_TICKS, Sign, StoreNews};

/// A tick that comes this much later than the one before it, nanoseconds, was held up by more than the load of a core.
const GAP_NANOS: u64 = 2_000_000_000;

/// Within this many ticks, ten minutes, each replica is looked at once even if nothing happens: what a full queue has dropped may have been
/// the last that its group had for it, as where it was removed. A leader speaks up, and a member that has heard nothing since the look before
/// wakes.
const ROUND_TICKS: usize = 6000;

/// Replicas that are looked at together, at least this many ticks apart: what they say to the same stores travels together.
const TOGETHER_TICKS: usize = 100;
/// Maximum of replicas that are looked at with one tick, as long as there are no more than that for each tick of the round.
const TOGETHER_MAX: usize = 32;

/// What a tick has come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticked {
    /// Whether a replica has something to do.
    pub moved: bool,
    /// The stores that are to have a sign of life.
    pub signs: Vec<StoreId>,
}

impl<W, R> Table<W, R> {
    /// Lets a tick pass at every replica that is awake, and at what is known of other stores. A store that is `mute` sends no signs of life;
    /// those that are due then are given with the first tick at which it is so no more.
    pub fn tick(&mut self, now: Time, mute: bool) -> Ticked {
        let late = self.ticked_at.is_some_and(|before| now.0.saturating_sub(before.0) > GAP_NANOS);
        self.ticked_at = Some(now);
        if late {
            // A machine that was suspended has missed what others have said meanwhile.
            self.mark_moved(|replica| replica.wake());
        }
        for store in self.neighbours.tick() {
            self.mark_moved(|replica| replica.hear_of(store, StoreNews::Silent, now));
        }
        self.look_at_the_next();
        let moved = self.tick_the_awake(now);
        self.look_around();
        let signs = if mute { Vec::new() } else { self.neighbours.take_due() };
        Ticked { moved, signs }
    }

    fn tick_the_awake(&mut self, now: Time) -> bool {
        let mut moved = false;
        let (regions, dirty, neighbours) = (&mut self.regions, &mut self.dirty, &self.neighbours);
        self.awake.retain(|id| {
            let Some(entry) = regions.get_mut(id) else { return false };
            if entry.replica.tick(now) {
                entry.replica.ask_for_word(neighbours.stores());
            }
            entry.stirred = true;
            // What could not be proposed, because leadership was being handed over, is tried again.
            let has_effects = entry.replica.has_effects();
            if has_effects && !std::mem::replace(&mut entry.dirty, true) {
                dirty.push(*id);
            }
            moved |= has_effects;
            entry.awake = has_effects || !entry.replica.is_asleep();
            if !entry.awake {
                entry.replica.release();
            }
            entry.awake
        });
        moved
    }

    /// Looks at the next regions of the round, when their time has come.
    fn look_at_the_next(&mut self) {
        let regions = self.by_start.len().max(1);
        let together = TOGETHER_TICKS.min(ROUND_TICKS * TOGETHER_MAX / regions);
        let apart = (ROUND_TICKS / regions).max(together).max(1);
        self.round_ticks += 1;
        if self.round_ticks < apart {
            return;
        }
        self.round_ticks = 0;
        for _ in 0..(regions * apart).div_ceil(ROUND_TICKS).min(regions) {
            let behind = (Bound::Excluded(std::mem::take(&mut self.round_at)), Bound::Unbounded);
            // The round begins anew with the first, which no other comes before.
            let next =
                self.by_start.range::<Vec<u8>, _>(behind).next().or_else(|| self.by_start.iter().next());
            let Some((start, id)) = next.map(|(start, id)| (start.clone(), *id)) else { return };
            self.round_at = start;
            self.look_at(id);
        }
    }

    fn look_at(&mut self, id: RegionId) {
        let Some(entry) = self.regions.get_mut(&id) else { return };
        let stirred = std::mem::take(&mut entry.stirred);
        if entry.replica.be_sure(stirred) {
            self.mark_dirty(id);
        }
    }

    /// Finds out which stores share groups with this one, if that may have changed. Not at every tick: it costs in all the groups.
    fn look_around(&mut self) {
        self.ticks_unlooked = self.ticks_unlooked.saturating_add(1);
        if self.ticks_unlooked >= SILENT_TICKS && std::mem::take(&mut self.changed_groups) {
            self.ticks_unlooked = 0;
            let others: BTreeSet<StoreId> = self.iter().flat_map(|replica| replica.others()).collect();
            self.neighbours.share(&others);
        }
    }

    /// Something of another store has arrived. Whether that woke a replica.
    pub fn hear(&mut self, sign: Sign, now: Time) -> bool {
        let Some(news) = self.neighbours.hear(sign) else { return false };
        let mut woke = false;
        self.mark_moved(|replica| {
            let wakes = replica.hear_of(sign.store, news, now);
            woke |= wakes;
            wakes
        });
        woke
    }

    /// Something was sent to a store since the latest tick, so it needs no sign of life.
    pub fn spoke_to(&mut self, store: StoreId) {
        self.neighbours.spoke_to(store);
    }

    /// Another store was not reached, so what was on its way there is lost.
    pub fn report_unreachable(&mut self, store: StoreId, now: Time) {
        self.mark_moved(|replica| {
            replica.report_unreachable(store);
            replica.is_leader() && replica.hear_of(store, StoreNews::Back, now)
        });
    }
}

impl Shard {
    /// Whether the turn is where it was a while ago: the log hangs or has no room, or the tree takes nothing more. Nothing leaves the store
    /// without a turn, so the groups that are awake have others lead soon. Those that sleep elsewhere rest on signs of life alone, so this
    /// store sends none until it goes on, and asks the scheduler for no leadership.
    pub fn is_stuck(&self) -> bool {
        let inner = &*self.inner;
        let stuck = |since| inner.rt.now().since(since) >= TICK * SIGN_TICKS;
        inner.turn_since.get().is_some_and(stuck) && !planted(Bug::StuckStoreGreets)
    }

    /// Something of another store has arrived: it lives.
    pub fn hear(&self, sign: Sign) {
        let inner = &*self.inner;
        if inner.health.has_stopped() {
            return;
        }
        let now = Time(inner.rt.boot_time().0);
        if inner.state.borrow_mut().table.hear(sign, now) {
            inner.bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Else a log that hangs for half a second could cost a whole second of silence, after which the store is missed.
    #[test]
    fn a_store_that_was_stuck_says_at_once_that_it_lives() {
        let mut table = Table::<(), ()>::default();
        table.neighbours.share(&BTreeSet::from([StoreId(2)]));
        let mut said = Vec::new();
        for tick in 1..=20 {
            let stuck = (5..=8).contains(&tick);
            if !table.tick(Time(tick), stuck).signs.is_empty() {
                said.push(tick);
            }
        }
        assert_eq!(said, [1, 9, 14, 19]);
    }
}

//! Splits of regions: asked for by the scheduler, proposed by the leader, and published once their entry is applied.
//!
//! Where to cut is asked of the tree unless the scheduler says it: the middle by bytes, from the indexes of tables and samples of memory,
//! without a look at the data. Such a key is one of those that users write, and what the tree keeps of a key, its versions, is on one
//! side of every border.
//!
//! Where there is too little data for a middle, the next report of the region says so ([`Shard::take_uncut`]), and the scheduler gives up.
//!
//! A new region stays on its store, and so on its core. Its replica here campaigns at once where the one of the parent leads, because
//! that one is known to be up to date and heard; the others follow it, or their timers.

use engine::error::Fault;
use engine::lsm::Cf;
use raft::{Index, Time};
use scheduler::operator::OperatorId;
use scheduler::{Command, Epoch, Key, KeyRange, NewRegion, Region, RegionId};

use super::halves::Begun;
use super::members::Entry;
use super::{Due, Inner, Queued, Shard, State};
use crate::keyspace;
use crate::refusal::Refusal;
use crate::region::guard;
use crate::region::message::{PeerMessage, Verdict};
use crate::region::replica::{Replica, Stored};
use crate::region::split::{Cut, Half};
use crate::request::Route;

impl Shard {
    /// Splits a region at `keys`, or in its middle if there are none, as `operator` wants it. Success means that it has begun; the region's reports show what it
    /// came to.
    ///
    /// # Errors
    /// If the region is not led from here, `asked` is not its epoch, or the keys and ids make no sense.
    pub fn split(
        &self,
        region: RegionId,
        asked: Epoch,
        operator: OperatorId,
        keys: &[Key],
        new: &[NewRegion],
    ) -> Result<(), Refusal> {
        let inner = &*self.inner;
        inner.health.check_running()?;
        if !keys.is_empty() {
            if keys.len() != new.len() {
                return Err(Refusal::Invalid(format!("{} keys for {} new regions", keys.len(), new.len())));
            }
            let cut = |(key, new): (&Key, &NewRegion)| Cut { key: key.clone(), new: new.clone() };
            return self.propose_split(region, asked, keys.iter().zip(new).map(cut).collect());
        }
        let [new] = new else {
            return Err(Refusal::Invalid("a region is cut once where no keys are named".to_owned()));
        };
        let range = self.splittable(region, asked)?;
        // The step is repeated with every report, also while its key is looked for.
        if inner.searches.borrow_mut().insert(region) {
            let (shard, new) = (self.clone(), new.clone());
            inner.rt.spawn(async move {
                let found = shard.split_in_the_middle(region, asked, range, new).await;
                if !found {
                    shard.inner.uncut.borrow_mut().insert(region, operator);
                }
                shard.inner.searches.borrow_mut().remove(&region);
            });
        }
        Ok(())
    }

    /// The region that `route` names, if it is led here as the route says and each of `keys` cuts it.
    ///
    /// # Errors
    /// Those of the guard.
    pub(crate) fn may_split_at(&self, route: &Route, keys: &[Key]) -> Result<Region, Refusal> {
        self.inner.health.check_running()?;
        let id = RegionId(route.region_id);
        let state = self.inner.state.borrow();
        let replica = state.table.get(id).ok_or(Refusal::RegionNotFound { region_id: id.0 })?;
        guard::admit(replica.here(), route)?;
        self.splittable(id, Epoch::new(route.conf_ver, route.version))?;
        let region = replica.region();
        for key in keys {
            guard::covers(region, key.as_bytes())?;
            if key == region.range.start() {
                let key = key.as_bytes().to_vec().into();
                return Err(Refusal::KeyNotInRegion { key, region: Box::new(region.clone()) });
            }
        }
        Ok(region.clone())
    }

    /// The range of a region that may be split under the epoch `asked`.
    fn splittable(&self, region: RegionId, asked: Epoch) -> Result<KeyRange, Refusal> {
        let state = self.inner.state.borrow();
        let of_users = |replica: &&Replica<Due, Queued>| !replica.is_system();
        let not_found = Refusal::RegionNotFound { region_id: region.0 };
        let replica = state.table.get(region).filter(of_users).ok_or(not_found)?;
        guard::lead(replica.here())?;
        match replica.region().epoch.admit(Command::Split, asked) {
            Ok(()) => Ok(replica.region().range.clone()),
            Err(_) => Err(Refusal::EpochNotMatch { current: vec![replica.region().clone()] }),
        }
    }

    /// The operator that wanted the region split in its middle where none was found, if that is not reported yet. A report that is lost
    /// costs another search: the step is repeated until the scheduler knows.
    pub(crate) fn take_uncut(&self, region: RegionId) -> Option<OperatorId> {
        self.inner.uncut.borrow_mut().remove(&region)
    }

    /// Splits a region where its middle is. False if there is too little data for one.
    async fn split_in_the_middle(
        &self,
        region: RegionId,
        asked: Epoch,
        range: KeyRange,
        new: NewRegion,
    ) -> bool {
        let (store, region_id) = (self.inner.store.0, region.0);
        let key = match self.split_key(&range).await {
            // In the keyspace someone else has written what its clients could not decode.
            Ok(Some(key)) if !keyspace::may_cut(key.as_bytes()) => return false,
            Ok(Some(key)) => key,
            Ok(None) => {
                let sentence = "too little data".to_owned();
                if let Some(unsaid) = self.inner.repeats.may_say(region, sentence, self.inner.rt.now()) {
                    tracing::info!(
                        store,
                        region = region_id,
                        unsaid,
                        "a region has too little data to be split"
                    );
                }
                return false;
            }
            Err(fault) => {
                // Damage shows in the store's health; a shortage passes.
                let refusal = self.inner.unreadable(&fault);
                let reason = refusal.reason();
                let sentence = format!("no key: {reason}");
                if let Some(unsaid) = self.inner.repeats.may_say(region, sentence, self.inner.rt.now()) {
                    tracing::warn!(
                        store,
                        region = region_id,
                        reason,
                        unsaid,
                        "no key is found to split a region at"
                    );
                }
                return true;
            }
        };
        if let Err(refusal) = self.propose_split(region, asked, vec![Cut { key, new }]) {
            let reason = refusal.reason();
            let sentence = format!("split refused: {reason}");
            if let Some(unsaid) = self.inner.repeats.may_say(region, sentence, self.inner.rt.now()) {
                tracing::info!(
                    store,
                    region = region_id,
                    reason,
                    unsaid,
                    "a split that has its key is refused"
                );
            }
        }
        true
    }

    /// A key that has about half of what lies in `range` on either side; nothing if there is too little.
    ///
    /// # Errors
    /// A fault of a file that had to be read.
    pub async fn split_key(&self, range: &KeyRange) -> engine::error::Result<Option<Key>> {
        let key = self.inner.tree.split_key(Cf::Default, range.start(), range.end()).await?;
        Ok(key.map(|key| Key::from(&key[..])))
    }

    /// Proposes a split at these keys. Success means that it is proposed.
    fn propose_split(&self, region: RegionId, asked: Epoch, cuts: Vec<Cut>) -> Result<(), Refusal> {
        self.propose(region, asked, Entry::Split(cuts))
    }
}

impl Inner {
    /// Publishes what a region was split into, together with the region itself. The tree has all of it.
    pub(super) fn publish_halves(
        &self,
        state: &mut State,
        parent: RegionId,
        halves: Vec<Half>,
    ) -> Result<(), Fault> {
        if halves.is_empty() {
            return Ok(());
        }
        let leads = state.table.get(parent).is_some_and(Replica::is_leader);
        let begun = state.table.split_region(parent, halves, |stored| self.begin(stored))?;
        for Begun { region, unlogged, votes } in begun {
            if let Some(origin) = unlogged {
                state.unlogged.insert(region, Some(origin));
            }
            let replica = state.table.get_mut(region).expect("it has begun");
            tracing::info!(store = self.store.0, parent = parent.0, region = %replica.region(), "a region was split");
            if leads || replica.is_sole_voter() {
                self.campaign(replica);
            }
            votes.into_iter().for_each(|message| self.hand_over(state, message));
        }
        self.bell.ring();
        Ok(())
    }

    /// A replica of what a split brought into being. What it may have promised before the start is over as long after the start as for
    /// any other; since then it has promised nothing.
    fn begin(&self, stored: Stored) -> Result<Replica<Due, Queued>, Fault> {
        let id = stored.record.region.id;
        let replica = Replica::new(self.store, stored, self.raft.clone(), self.rt.random(), self.opened_at);
        let mut replica = replica.map_err(|error| {
            Fault::corruption(&self.dir, format!("stored state of region {}: {error}", id.0))
        })?;
        replica.forget_promise_alone();
        Ok(replica)
    }

    fn campaign(&self, replica: &mut Replica<Due, Queued>) {
        if let Err(why) = replica.campaign(Time(self.rt.boot_time().0)) {
            // The election timer decides.
            let region = replica.id().0;
            tracing::info!(store = self.store.0, region, %why, "a new region waits for its election timer");
        }
    }

    /// Hands a message to the replica that it came too early for.
    fn hand_over(&self, state: &mut State, message: PeerMessage) {
        if state.table.admit(&message) != Verdict::Step {
            return;
        }
        let region = message.region;
        if let Err(dropped) = self.step_peer(state, message) {
            tracing::debug!(region = region.0, %dropped, "an early vote is of no use any more");
        }
    }

    /// Whether regions that this one was split into are in the tree's memory only, so that a start needs its log to bring them back.
    pub(super) fn is_needed_by_halves(&self, state: &State, region: RegionId) -> bool {
        state.table.is_needed_by_halves(region, Index(self.tree.flushed_index(region.0)))
    }
}

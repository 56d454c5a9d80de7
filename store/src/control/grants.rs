//! What is handed out: ids, timestamps, the GC safe point. Each only after the entry that allows it is applied.

use std::time::Duration;

use scheduler::scheduler::AskSplitError;
use scheduler::services::NEVER;
use scheduler::{
    NewRegion, Oracle, Region, ServiceSafePoint, StateAnswer, StateCommand, Timestamp, TsoRefusal,
};

use super::denied::Denied;
use super::{Control, wall_ms};
use crate::plant::{Bug, planted};
use crate::region::system::SystemRefusal;

/// Ids that one command covers.
const ID_BLOCK: u64 = 1000;
/// Maximum number of ids that one call takes.
const IDS_MAX: u64 = 100_000;
/// How long the scheduler goes without asking for ids again after it was denied some.
const DENIED_PAUSE: Duration = Duration::from_secs(1);

impl Control {
    /// Ids below this one may have been given out, according to what is known to be durable; 0 if nothing is known.
    pub fn next_id(&self) -> u64 {
        self.0.state.known(|image| image.next_id).unwrap_or(0)
    }

    /// Takes `count` consecutive ids for stores, regions and peers, and returns the first. Every id of a cluster comes from here.
    ///
    /// # Errors
    /// The count is out of bounds, or the state cannot be changed.
    pub async fn alloc_ids(&self, count: u64) -> Result<u64, Denied> {
        if count == 0 || count > IDS_MAX {
            return Err(Denied::BadCount { asked: count, most: IDS_MAX });
        }
        let mut confirmed = false;
        loop {
            {
                let mut ids = self.0.ids.borrow_mut();
                if (confirmed || self.leads()) && ids.end - ids.start >= count {
                    let first = ids.start;
                    ids.start += count;
                    return Ok(first);
                }
            }
            // What is left of the block before is dropped: ids are plenty, and one call's are consecutive.
            let command = StateCommand::AllocateIds { count: count.max(ID_BLOCK) };
            match self.0.state.apply(command).await? {
                // Of two that are asked for at once the later one is kept.
                StateAnswer::Ids(block) => *self.0.ids.borrow_mut() = block,
                other => unreachable!("ids were asked for, and the answer is {other:?}"),
            }
            confirmed = true;
        }
    }

    /// Hands the scheduler ids for new peers before it runs out of them, in the background: without ids, proposals that need some are
    /// declined, and nothing else waits.
    pub(super) fn grant_ids_in_time(&self) {
        let wanted = self.0.scheduler.borrow().ids_wanted();
        let Some(count) = wanted else { return };
        if self.0.granting.replace(true) {
            return;
        }
        let control = self.clone();
        drop(self.0.rt.spawn(async move {
            if let Err(denied) = control.grant_ids(count).await {
                tracing::warn!(why = %denied, "the scheduler gets no ids for new peers");
                control.0.rt.sleep(DENIED_PAUSE).await;
            }
            control.0.granting.set(false);
        }));
    }

    pub(super) async fn grant_ids(&self, count: u64) -> Result<(), Denied> {
        let first = self.alloc_ids(count).await?;
        self.0.scheduler.borrow_mut().grant_ids(first..first + count);
        Ok(())
    }

    /// Ids for the right half of a split of `asked`.
    ///
    /// # Errors
    /// The region is not known as it is described; ask again once it has been reported. Or there are no ids, because the state cannot be
    /// changed.
    pub async fn ask_split(&self, asked: &Region) -> Result<NewRegion, AskSplitError> {
        let taken = self.0.scheduler.borrow_mut().ask_split(asked);
        match taken {
            Err(AskSplitError::OutOfIds) => {
                let wanted = self.0.scheduler.borrow().ids_wanted();
                if let Some(count) = wanted
                    && let Err(denied) = self.grant_ids(count).await
                {
                    tracing::warn!(region = asked.id.0, why = %denied, "there are no ids for a split");
                }
                self.0.scheduler.borrow_mut().ask_split(asked)
            }
            taken => taken,
        }
    }

    /// Ids for `count` parts that are to be cut off `asked`.
    ///
    /// # Errors
    /// As for one; what was handed out before is lost.
    pub async fn ask_splits(&self, asked: &Region, count: u32) -> Result<Vec<NewRegion>, AskSplitError> {
        let (mut parts, budget) = (Vec::new(), self.budget());
        for _ in 0..count {
            parts.push(self.ask_split(asked).await?);
            budget.tick().await;
        }
        Ok(parts)
    }

    /// Takes `count` timestamps and returns the largest; the others are the ones just below it.
    ///
    /// # Errors
    /// The count is out of bounds, or the state cannot be changed.
    pub async fn timestamps(&self, count: u32) -> Result<Timestamp, Denied> {
        if !self.0.oracle_is_set.get() {
            self.set_oracle().await?;
        }
        let mut confirmed = false;
        loop {
            if !confirmed && !self.leads() {
                // Without a lease an entry shows that no other leader has given anything out before this was asked.
                let end_ms = self.0.oracle.borrow().window_end_ms();
                self.extend(end_ms).await?;
                confirmed = true;
            }
            let taken = self.0.oracle.borrow_mut().take(count, wall_ms(&self.0.rt));
            match taken {
                Ok(timestamp) => {
                    self.extend_in_time();
                    return Ok(timestamp);
                }
                Err(TsoRefusal::Count { .. }) => {
                    let most = u64::from(scheduler::tso::LOGICAL_MAX) - 1;
                    return Err(Denied::BadCount { asked: u64::from(count), most });
                }
                Err(TsoRefusal::Window { wanted_end_ms }) => {
                    self.extend(wanted_end_ms).await?;
                }
            }
        }
    }

    /// Whether it is certain that no other member gives anything out now.
    fn leads(&self) -> bool {
        self.0.office.as_ref().is_none_or(|office| office.holds(&self.0.rt))
    }

    /// The oracle goes on from the saved window, so it needs to know the state; the store that keeps it may not have been able to answer.
    async fn set_oracle(&self) -> Result<(), Denied> {
        if !self.0.state.read().await? {
            return Err(Denied::from(SystemRefusal::NotBegun));
        }
        let end_ms = self.0.state.known(|image| image.timestamp_end_ms).unwrap_or(0);
        if !self.0.oracle_is_set.replace(true) {
            *self.0.oracle.borrow_mut() = Oracle::new(end_ms, wall_ms(&self.0.rt));
        }
        Ok(())
    }

    /// Saves a higher bound in the background while the old one still lasts.
    fn extend_in_time(&self) {
        let Some(end_ms) = self.0.oracle.borrow().window_wanted(wall_ms(&self.0.rt)) else { return };
        if self.0.extending.replace(true) {
            return;
        }
        let control = self.clone();
        drop(self.0.rt.spawn(async move {
            if let Err(denied) = control.extend(end_ms).await {
                // The caller that finds the bound used up tries again and gets the error.
                tracing::warn!(why = %denied, "the timestamp window could not be extended in advance");
            }
            control.0.extending.set(false);
        }));
    }

    async fn extend(&self, end_ms: u64) -> Result<(), Denied> {
        match self.0.state.apply(StateCommand::SaveTimestampWindow { end_ms }).await {
            Ok(StateAnswer::TimestampWindow(end_ms)) => self.0.oracle.borrow_mut().window_saved(end_ms),
            Ok(other) => unreachable!("a window was to be saved, and the answer is {other:?}"),
            Err(_) if planted(Bug::RefusedTakenForDone) => self.0.oracle.borrow_mut().window_saved(end_ms),
            Err(denied) => return Err(denied),
        }
        Ok(())
    }

    /// Enters the safe point of a service for a number of seconds, or removes it; returns the least one of all services then, with the
    /// seconds that it stands. One below the least is not entered, because that may be collected already.
    ///
    /// # Errors
    /// The timestamp lies above the present, the name is none, there are too many, or the state cannot be changed.
    pub async fn set_service_safe_point(
        &self,
        service: Vec<u8>,
        timestamp: u64,
        ttl_seconds: i64,
    ) -> Result<(ServiceSafePoint, i64), Denied> {
        let present = self.timestamps(1).await?.to_u64();
        if ttl_seconds > 0 && timestamp > present {
            return Err(Denied::AheadOfPresent { asked: timestamp, present });
        }
        let now_ms = wall_ms(&self.0.rt);
        // What is longer than a clock can count does not end.
        let ttl_ms = u64::try_from(ttl_seconds).unwrap_or(0).checked_mul(1000);
        let expires_ms = match ttl_ms {
            Some(0) => 0,
            ttl_ms => ttl_ms.and_then(|ttl_ms| now_ms.checked_add(ttl_ms)).unwrap_or(NEVER),
        };
        let point = ServiceSafePoint { service, timestamp, expires_ms };
        match self.0.state.apply(StateCommand::SetServiceSafePoint { point, now_ms }).await? {
            StateAnswer::ServiceSafePoint(least) => {
                let left = match least.expires_ms {
                    NEVER => i64::MAX,
                    until => i64::try_from(until.saturating_sub(now_ms) / 1000).unwrap_or(i64::MAX),
                };
                Ok((least, left))
            }
            other => unreachable!("a safe point was to be entered, and the answer is {other:?}"),
        }
    }

    /// The safe points of all services, and the present by which they expire, milliseconds since the Unix epoch.
    pub fn service_safe_points(&self) -> (Vec<ServiceSafePoint>, u64) {
        let known = self.0.state.known(|image| image.services.list().collect());
        (known.unwrap_or_default(), wall_ms(&self.0.rt))
    }

    /// Versions below this timestamp may be collected; 0 if nothing is known.
    pub fn gc_safe_point(&self) -> u64 {
        self.0.state.known(|image| image.gc_safe_point).unwrap_or(0)
    }

    /// Raises the GC safe point and returns what it is now; a lower value changes nothing.
    ///
    /// # Errors
    /// The timestamp lies above the present, or the state cannot be changed.
    pub async fn raise_gc_safe_point(&self, timestamp: u64) -> Result<u64, Denied> {
        let present = self.timestamps(1).await?.to_u64();
        if timestamp > present {
            return Err(Denied::AheadOfPresent { asked: timestamp, present });
        }
        if timestamp > self.gc_safe_point() {
            self.0.state.apply(StateCommand::AdvanceGcSafePoint { timestamp }).await?;
        }
        Ok(self.gc_safe_point())
    }
}

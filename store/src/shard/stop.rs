//! How a store ends: in peace, when the node stops, or after a fault.
//!
//! Invariants: a store that has stopped takes no more turns and applies nothing; everything that waited for it is answered when it
//! stops: with [`Refusal::Unknown`] what may have reached the log, with [`Refusal::Stopped`] what has not begun.

use std::time::Duration;

use engine::error::Fault;

use super::health::Event;
use super::{Due, Queued, Shard};
use crate::refusal::Refusal;
use crate::region::replica::{Abandoned, Replica};
use crate::region::system::GROUP;

/// Everything that waits for an answer.
struct Waiting {
    /// Its entries may be in the log.
    proposed: Vec<Due>,
    /// Gathered for the next turn.
    gathered: Vec<Due>,
    /// Writes behind keys that are read from disk, and reads that wait for an index.
    queued: Vec<Queued>,
    /// What came of them is known, and no turn has answered it yet.
    decided: Vec<(Due, Result<(), Refusal>)>,
}

/// How often a store that closes looks whether everything is finished.
const LOOK_EVERY: Duration = Duration::from_millis(1);

impl Shard {
    /// Lets what is in flight finish, then closes the files. Takes no longer than about `time_max`; what is not finished then is
    /// answered as after a fault, and what is not closed is left to the next start. Nothing may be submitted any more.
    ///
    /// # Errors
    /// The fault that ended the log, or of closing.
    pub async fn close(&self, time_max: Duration) -> Result<(), Fault> {
        let rt = &self.inner.rt;
        let until = rt.now() + time_max;
        let finished = async {
            self.finish().await;
            self.shorten_restart().await;
        };
        if rt.timeout(time_max, finished).await.is_none() {
            tracing::warn!(store = self.store().0, "the store closes before its work has finished");
        }
        self.end(Event::Closed);
        let closed = async {
            self.inner.tree.clone().close().await;
            self.inner.log.clone().close().await
        };
        let left = until.since(rt.now()).max(LOOK_EVERY);
        match rt.timeout(left, closed).await {
            Some(closed) => closed,
            // A start that is given up has no time, and another one finds what it needs.
            None if time_max.is_zero() => Ok(()),
            None => {
                tracing::warn!(store = self.store().0, "the store's files did not close in time");
                Ok(())
            }
        }
    }

    /// Waits until nothing is in flight, unless it never will be.
    async fn finish(&self) {
        let inner = &*self.inner;
        let in_flight = || {
            let state = inner.state.borrow();
            let commands = state.table.get(GROUP).map_or(0, Replica::commands_waiting);
            (state.inflight_bytes + state.waiting_bytes > 0 || commands > 0) && !inner.log_waits.get()
        };
        while in_flight() && !inner.health.has_stopped() {
            inner.rt.sleep(LOOK_EVERY).await;
        }
    }

    /// Stops the store after a fault: nothing waits for an answer that cannot come, and everything hears why.
    pub(super) fn stop(&self, fault: &Fault) {
        self.end(Event::Failed(fault));
    }

    fn end(&self, event: Event<'_>) {
        let inner = &*self.inner;
        inner.health.enter(event);
        let Waiting { proposed, gathered, queued, decided } = self.take_waiting();
        inner.settle(decided);
        for due in proposed {
            // The write may or may not have reached the disk.
            inner.refuse(due.reply, Refusal::Unknown);
        }
        let not_begun =
            gathered.into_iter().map(|due| due.reply).chain(queued.into_iter().map(|queued| queued.reply));
        for reply in not_begun {
            let reason = inner.health.stopped().expect("it has just stopped");
            inner.refuse(reply, Refusal::Stopped(reason));
        }
        // The turns are over, and so is what the store did for the scheduler.
        inner.bell.ring();
        inner.system_moved.ring();
    }

    fn take_waiting(&self) -> Waiting {
        let state = &mut *self.inner.state.borrow_mut();
        let mut waiting = Waiting {
            proposed: Vec::new(),
            gathered: Vec::new(),
            queued: state.loads.take_queued(),
            decided: Vec::new(),
        };
        waiting.queued.extend(state.gate.drain(..));
        for replica in state.table.iter_mut() {
            let Abandoned { proposed, gathered, reads, decided } = replica.abandon();
            waiting.proposed.extend(proposed);
            waiting.gathered.extend(gathered);
            waiting.queued.extend(reads);
            waiting.decided.extend(decided);
        }
        (state.waiting_bytes, state.inflight_bytes) = (0, 0);
        waiting
    }
}

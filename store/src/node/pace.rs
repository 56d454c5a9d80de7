//! When a core reports next: once per second, and soon while there is something that the scheduler waits for.
//!
//! ```text
//!   a new step, or a store whose address is unknown ──▶ soon ──▶ twice as long ──▶ … ──▶ once per second
//! ```
//!
//! A change of membership takes several steps, each of which the scheduler sees done in a report only. Were those a second apart, a
//! replica would take four seconds to add, and a node that joins would be reached a second late. After a new step the next beat comes
//! soon, and each one after it twice as late, so a step that takes long or never ends costs a handful of beats.
//!
//! What holds: a core with many regions, whose beats are long, does not report them more often than a share of its time allows.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::time::Duration;

use engine::rt::local::Bell;
use engine::rt::{Mono, Rt};
use futures_util::future::select;
use scheduler::Instruction;

use super::report::REPORT_EVERY;

/// The wait before a beat that something waits for.
const SOON: Duration = Duration::from_millis(30);
/// What each region of the beat adds to that.
const PER_REGION: Duration = Duration::from_micros(100);

/// The wait before the next beat of one core.
#[derive(Debug)]
pub(super) struct BeatPace {
    wait: Cell<Duration>,
    /// The shortest wait, by the size of the latest beat.
    soon: Cell<Duration>,
    changed: Bell,
    /// The steps of the latest answer that had any.
    steps: RefCell<Vec<Instruction>>,
}

impl Default for BeatPace {
    fn default() -> Self {
        Self {
            wait: Cell::new(REPORT_EVERY),
            soon: Cell::new(SOON),
            changed: Bell::default(),
            steps: RefCell::default(),
        }
    }
}

impl BeatPace {
    /// The next beat is to come soon.
    pub(super) fn hurry(&self) {
        if self.wait.replace(self.soon.get()) > self.soon.get() {
            self.changed.ring();
        }
    }

    /// Takes note of the steps in an answer. Those that were in the one before, too, are not done yet, and may take their time.
    pub(super) fn answered(&self, instructions: &[Instruction]) {
        let is_new = instructions.iter().any(|step| !self.steps.borrow().contains(step));
        if !instructions.is_empty() {
            *self.steps.borrow_mut() = instructions.to_vec();
        }
        if is_new {
            self.hurry();
        }
    }

    /// Takes note of a beat about this many regions.
    pub(super) fn sent(&self, regions: usize) {
        let regions = u32::try_from(regions).unwrap_or(u32::MAX);
        self.soon.set(PER_REGION.saturating_mul(regions).saturating_add(SOON).min(REPORT_EVERY));
        self.wait.set((self.wait.get() * 2).clamp(self.soon.get(), REPORT_EVERY));
    }

    /// Waits until the beat after one at `last` is due.
    pub(super) async fn due(&self, rt: &Rt, last: Mono) {
        loop {
            let left = self.wait.get().saturating_sub(rt.now().since(last));
            if left.is_zero() {
                return;
            }
            select(pin!(rt.sleep(left)), pin!(self.changed.wait())).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use scheduler::operator::OperatorId;
    use scheduler::{Action, Epoch, Peer, PeerId, RegionId, StoreId};

    use super::*;

    fn step(operator: u64, to: u64) -> Instruction {
        Instruction {
            region: RegionId(1),
            epoch: Epoch::FIRST,
            leader: Peer::voter(PeerId(2), StoreId(1)),
            operator: OperatorId(operator),
            action: Action::TransferLeader(Peer::voter(PeerId(to), StoreId(to))),
        }
    }

    #[test]
    fn a_new_step_hurries_and_one_that_goes_on_does_not() {
        let pace = BeatPace::default();
        assert_eq!(pace.wait.get(), REPORT_EVERY, "there is nothing to wait for");
        pace.answered(&[step(7, 3)]);
        let mut waits = Vec::new();
        for _ in 0..8 {
            waits.push(pace.wait.get().as_millis());
            pace.sent(1);
            pace.answered(&[step(7, 3)]);
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1000, 1000]);
        pace.answered(&[]);
        assert_eq!(pace.wait.get(), REPORT_EVERY, "no step is no news");
        pace.answered(&[step(8, 3)]);
        assert_eq!(pace.wait.get(), pace.soon.get(), "the next operator");
        pace.sent(1);
        pace.answered(&[step(8, 4)]);
        assert_eq!(pace.wait.get(), pace.soon.get(), "its next step");
    }

    #[test]
    fn long_beats_stay_a_share_of_the_time() {
        let pace = BeatPace::default();
        pace.sent(1_000);
        pace.hurry();
        assert_eq!(pace.wait.get(), SOON + Duration::from_millis(100));
        pace.sent(1_000_000);
        pace.hurry();
        assert_eq!(pace.wait.get(), REPORT_EVERY);
    }
}

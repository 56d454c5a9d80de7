//! Whether the core stands still while a record is written.
//!
//! Handing a sync to the kernel's workers and hearing of its end costs a core about as much time as a fast disk needs for the
//! sync itself. So if the core's tasks all wait for the log anyway (its owner says so), it is cheaper and quicker to wait in
//! the call. That is right only while the disk is fast: standing still must not take longer than any other slice of work that
//! a task may do without looking up.
//!
//! Invariants: a core whose owner has not said so never stands still; after writes that were slow it does not for
//! [`WRITES_GOING_ON`] writes.

use std::cell::Cell;
use std::time::Duration;

use crate::rt::Meanwhile;

/// The average write that may hold the core: what other tasks may take at a time, too.
const AVERAGE_MAX: Duration = Duration::from_micros(500);
/// The latest write has this share of the average, one in so many.
const AVERAGE_OVER: u32 = 16;
/// Writes during which the core goes on before it tries again to stand still.
const WRITES_GOING_ON: u32 = 256;

/// What has been learnt from the writes so far.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    /// The owner says that the core has nothing better to do.
    idle: Cell<bool>,
    average: Cell<Duration>,
    going_on: Cell<u32>,
}

impl Patience {
    /// Says whether the core has nothing better to do than to wait for the writes that follow.
    pub(crate) fn set_idle(&self, idle: bool) {
        self.idle.set(idle);
    }

    /// What the core does during the next write.
    pub(crate) fn meanwhile(&self) -> Meanwhile {
        if !self.idle.get() {
            return Meanwhile::GoOn;
        }
        match self.going_on.get() {
            0 => Meanwhile::StandStill,
            left => {
                self.going_on.set(left - 1);
                Meanwhile::GoOn
            }
        }
    }

    /// Learns from a write during which the core did that.
    pub(crate) fn took(&self, meanwhile: Meanwhile, time: Duration) {
        if meanwhile == Meanwhile::GoOn {
            return;
        }
        let average = (self.average.get() * (AVERAGE_OVER - 1) + time) / AVERAGE_OVER;
        let slow = average > AVERAGE_MAX;
        self.average.set(if slow { Duration::ZERO } else { average });
        self.going_on.set(if slow { WRITES_GOING_ON } else { 0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `writes` writes of this duration hold the core.
    fn held(patience: &Patience, writes: u32, micros: u64) -> u32 {
        let hold = |_: &u32| {
            let meanwhile = patience.meanwhile();
            patience.took(meanwhile, Duration::from_micros(micros));
            meanwhile == Meanwhile::StandStill
        };
        (0..writes).filter(hold).count() as u32
    }

    #[test]
    fn only_an_idle_core_stands_still_and_only_while_the_disk_is_fast() {
        let patience = Patience::default();
        assert_eq!(held(&patience, 100, 80), 0, "nobody has said that the core is idle");
        patience.set_idle(true);
        assert_eq!(held(&patience, 100, 80), 100);
        assert_eq!(held(&patience, 1, 5_000), 1);
        assert_eq!(held(&patience, 100, 80), 100, "one slow write is not a slow disk");
        assert_eq!(held(&patience, 1, 8_000), 1);
        assert_eq!(held(&patience, WRITES_GOING_ON, 80), 0, "unless it is very slow");
        assert_eq!(held(&patience, 100, 80), 100);
        patience.set_idle(false);
        assert_eq!(held(&patience, 100, 80), 0);
    }

    #[test]
    fn a_slow_disk_holds_the_core_a_few_times_in_a_thousand_writes() {
        let patience = Patience::default();
        patience.set_idle(true);
        let tries = 10;
        assert_eq!(held(&patience, tries * (3 + WRITES_GOING_ON), 3_000), tries * 3);
    }
}

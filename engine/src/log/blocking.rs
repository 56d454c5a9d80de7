//! Whether the core blocks while a record is written.
//!
//! Handing a sync to the kernel's workers and hearing of its end costs a core about as much time as a fast disk needs for the
//! sync itself. So if the core's tasks all wait for the log anyway (who writes says so), it is cheaper and quicker to wait in
//! the call. That is right only while the disk is fast and the record small: blocking must not take longer than any other
//! slice of work that a task may do without looking up.
//!
//! Invariants: the core blocks only for writes of which that was said, and for none above [`STILL_BYTES_MAX`]; after
//! writes that were slow it does not for [`WRITES_GOING_ON`] writes.

use std::cell::Cell;
use std::time::Duration;

use crate::rt::Meanwhile;

/// The largest record that may hold the core.
const STILL_BYTES_MAX: u64 = 16 << 10;
/// The average write that may hold the core: what other tasks may take at a time, too.
const AVERAGE_MAX: Duration = Duration::from_micros(500);
/// The share of the latest write in the average is one in this many.
const AVERAGE_OVER: u32 = 16;
/// Writes during which the core goes on before it tries again to block.
const WRITES_GOING_ON: u32 = 256;

/// What has been learnt from the writes so far.
#[derive(Debug, Default)]
pub(crate) struct Blocking {
    average: Cell<Duration>,
    going_on: Cell<u32>,
}

impl Blocking {
    /// What the core does during a write of `bytes`; `idle` says that it has nothing better to do than to wait for it.
    pub(crate) fn meanwhile(&self, idle: bool, bytes: u64) -> Meanwhile {
        if !idle || bytes > STILL_BYTES_MAX {
            return Meanwhile::GoOn;
        }
        match self.going_on.get() {
            0 => Meanwhile::Block,
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
    fn held(blocking: &Blocking, writes: u32, micros: u64) -> u32 {
        let hold = |_: &u32| {
            let meanwhile = blocking.meanwhile(true, 4096);
            blocking.took(meanwhile, Duration::from_micros(micros));
            meanwhile == Meanwhile::Block
        };
        (0..writes).filter(hold).count() as u32
    }

    #[test]
    fn only_an_idle_core_blocks_and_only_for_small_records() {
        let blocking = Blocking::default();
        assert_eq!(blocking.meanwhile(true, STILL_BYTES_MAX), Meanwhile::Block);
        assert_eq!(blocking.meanwhile(true, STILL_BYTES_MAX + 1), Meanwhile::GoOn);
        assert_eq!(blocking.meanwhile(false, 4096), Meanwhile::GoOn);
    }

    #[test]
    fn a_core_blocks_only_while_the_disk_is_fast() {
        let blocking = Blocking::default();
        assert_eq!(held(&blocking, 100, 80), 100);
        assert_eq!(held(&blocking, 1, 5_000), 1);
        assert_eq!(held(&blocking, 100, 80), 100, "one slow write is not a slow disk");
        assert_eq!(held(&blocking, 1, 8_000), 1);
        assert_eq!(held(&blocking, WRITES_GOING_ON, 80), 0, "unless it is very slow");
        assert_eq!(held(&blocking, 100, 80), 100);
    }

    #[test]
    fn a_slow_disk_holds_the_core_a_few_times_in_a_thousand_writes() {
        let blocking = Blocking::default();
        let tries = 10;
        assert_eq!(held(&blocking, tries * (3 + WRITES_GOING_ON), 3_000), tries * 3);
    }
}

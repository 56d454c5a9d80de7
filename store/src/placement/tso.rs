//! Timestamps: strictly increasing over restarts and whatever the clock does.
//!
//! A timestamp is a physical part in milliseconds and a counter of 18 bits. Pure: the clock's reading and the saved bound are handed in.
//!
//! What holds: a timestamp is given out only below the saved bound, and a restarted oracle begins at the saved bound. So nothing that
//! was ever given out can be given out again, and no reading of the clock can break that.

/// Bits of the counter.
pub const LOGICAL_BITS: u32 = 18;
/// How far ahead of the clock the bound is saved, milliseconds. Also how far a restart may jump ahead of the clock.
pub const WINDOW_MS: u64 = 3000;
/// With less than this left below the bound it is time to save a higher one.
const LOW_MS: u64 = 1500;
const LOGICAL_MAX: u64 = (1 << LOGICAL_BITS) - 1;

/// A timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Timestamp {
    /// Milliseconds since the Unix epoch, or later where the clock has been behind.
    pub physical_ms: u64,
    /// Counts within the millisecond.
    pub logical: u64,
}

/// Why there is no timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoTimestamp {
    /// A higher bound must be saved first: at least this.
    Exhausted {
        /// The bound to save, milliseconds.
        bound_ms: u64,
    },
    /// None or too many were asked for.
    BadCount,
}

/// Gives timestamps out.
#[derive(Debug)]
pub struct Oracle {
    last: Timestamp,
    bound_ms: u64,
}

impl Oracle {
    /// An oracle that continues where one with this saved bound may have stopped.
    pub fn resume(bound_ms: u64) -> Self {
        // Everything below the bound may have been given out; the first one will be at the bound, with counter 1 or more.
        Self { last: Timestamp { physical_ms: bound_ms, logical: 0 }, bound_ms }
    }

    /// A higher bound has been saved.
    pub fn raise(&mut self, bound_ms: u64) {
        self.bound_ms = self.bound_ms.max(bound_ms);
    }

    /// Takes `count` timestamps and gives the largest; the others are the ones just below it.
    pub fn take(&mut self, clock_ms: u64, count: u32) -> Result<Timestamp, NoTimestamp> {
        let count = u64::from(count);
        if count == 0 || count > LOGICAL_MAX {
            return Err(NoTimestamp::BadCount);
        }
        let mut next = self.last;
        if clock_ms > next.physical_ms {
            next = Timestamp { physical_ms: clock_ms, logical: 0 };
        }
        if next.logical + count > LOGICAL_MAX {
            next = Timestamp { physical_ms: next.physical_ms + 1, logical: 0 };
        }
        next.logical += count;
        if next.physical_ms >= self.bound_ms {
            return Err(NoTimestamp::Exhausted { bound_ms: next.physical_ms + WINDOW_MS });
        }
        self.last = next;
        Ok(next)
    }

    /// The bound to save soon, so that nobody has to wait for it.
    pub fn wants(&self) -> Option<u64> {
        (self.last.physical_ms + LOW_MS > self.bound_ms).then_some(self.last.physical_ms + WINDOW_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64.
    fn random(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    #[test]
    fn timestamps_only_rise_over_restarts_and_clock_jumps() {
        for seed in 0..200 {
            let state = &mut { seed };
            let (mut clock, mut saved, mut last) = (1_000_000u64, 0u64, Timestamp::default());
            let mut oracle = Oracle::resume(saved);
            for _ in 0..2000 {
                match random(state) % 100 {
                    0 => oracle = Oracle::resume(saved),
                    1 => clock = clock.saturating_sub(random(state) % 10_000),
                    2 => clock += random(state) % 10_000,
                    _ => clock += random(state) % 3,
                }
                let count = [1, 7, 64, 10_000, 200_000][random(state) as usize % 5];
                match oracle.take(clock, count) {
                    Ok(largest) => {
                        assert!(largest.logical >= u64::from(count) && largest.logical <= LOGICAL_MAX);
                        let smallest =
                            Timestamp { logical: largest.logical + 1 - u64::from(count), ..largest };
                        assert!(smallest > last, "seed {seed}: {smallest:?} after {last:?}");
                        last = largest;
                    }
                    Err(NoTimestamp::Exhausted { bound_ms }) => {
                        // The save may fail, and a crash may come between the save and the news of it.
                        if !random(state).is_multiple_of(4) {
                            saved = saved.max(bound_ms);
                        }
                        if !random(state).is_multiple_of(4) {
                            oracle.raise(saved);
                        }
                    }
                    Err(NoTimestamp::BadCount) => panic!("{count} is a legal count"),
                }
            }
            assert!(last > Timestamp::default(), "seed {seed} took none");
        }
    }

    #[test]
    fn a_count_that_no_millisecond_holds_is_refused() {
        let mut oracle = Oracle::resume(0);
        oracle.raise(10_000);
        assert_eq!(oracle.take(5, 0), Err(NoTimestamp::BadCount));
        assert_eq!(oracle.take(5, 1 << LOGICAL_BITS), Err(NoTimestamp::BadCount));
        assert!(oracle.take(5, (1 << LOGICAL_BITS) - 1).is_ok());
    }

    #[test]
    fn a_new_bound_is_wanted_before_the_old_one_is_reached() {
        let mut oracle = Oracle::resume(0);
        oracle.raise(10_000);
        oracle.take(8_000, 1).unwrap();
        assert_eq!(oracle.wants(), None);
        oracle.take(9_000, 1).unwrap();
        assert_eq!(oracle.wants(), Some(12_000));
    }
}

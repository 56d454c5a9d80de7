//! Timestamps that never repeat and never go back, over crashes and clock jumps.
//!
//! A timestamp is physical milliseconds and a logical counter of 18 bits, the layout of TiKV's placement driver. Order
//! is kept by a persisted *window*: before the oracle hands out a physical time it makes sure that a bound above it has
//! been saved (replicated, by [`crate::state`]), and an oracle that starts anew begins above the saved bound. So
//! whatever the wall clock does, no timestamp of a new leader is below one of an old leader.
//!
//! ```text
//!   handed out so far          may be handed out       needs a new window first
//! ───────────────────┼───────────────────────────────┼──────────────────────────▶ physical
//!                 physical                       window end
//! ```
//!
//! The wall clock only suggests: a reading ahead moves the physical part forward, one behind is ignored, and the
//! logical part carries on.

use std::fmt;

/// Logical parts per millisecond.
pub const LOGICAL_MAX: u32 = 1 << 18;
/// How far ahead of the present a window is saved.
const WINDOW_MS: u64 = 3_000;
/// A reading that is ahead by no more than this does not move the physical part, so that it is not moved for every call.
const GUARD_MS: u64 = 1;

/// A point in the cluster's order of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Milliseconds, near the wall clock of the scheduler's leader.
    pub physical_ms: u64,
    /// Counter within the millisecond, below [`LOGICAL_MAX`].
    pub logical: u32,
}

impl Timestamp {
    /// The form in which transactions carry it.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        (self.physical_ms << 18) | self.logical as u64
    }

    /// The timestamp of that form.
    #[must_use]
    pub const fn from_u64(bits: u64) -> Self {
        Self { physical_ms: bits >> 18, logical: (bits & (LOGICAL_MAX as u64 - 1)) as u32 }
    }
}

/// Hands out timestamps while its window lasts. Lives on the scheduler's leader; soft but for the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oracle {
    window_end_ms: u64,
    physical_ms: u64,
    logical: u32,
}

impl Oracle {
    /// An oracle for a new leader, which finds this saved bound and this wall clock. It can hand out nothing until a
    /// window of its own is saved.
    #[must_use]
    pub fn new(saved_end_ms: u64, wall_ms: u64) -> Self {
        Self { window_end_ms: saved_end_ms, physical_ms: wall_ms.max(saved_end_ms), logical: 0 }
    }

    /// The bound that should be saved next, if the present window is used up by half.
    #[must_use]
    pub fn window_wanted(&self, wall_ms: u64) -> Option<u64> {
        let present = self.physical_ms.max(wall_ms);
        let left = self.window_end_ms.saturating_sub(present);
        (left < WINDOW_MS / 2).then(|| present.saturating_add(WINDOW_MS))
    }

    /// The bound that is saved, in milliseconds.
    #[must_use]
    pub const fn window_end_ms(&self) -> u64 {
        self.window_end_ms
    }

    /// Takes note that this bound is saved for good.
    pub fn window_saved(&mut self, end_ms: u64) {
        self.window_end_ms = self.window_end_ms.max(end_ms);
    }

    /// Hands out `count` timestamps, and answers the last one; the others have the same physical part and the
    /// `count - 1` logical parts below.
    ///
    /// # Errors
    /// [`TsoRefusal`] where the count is zero or too large, or a window must be saved first.
    pub fn take(&mut self, count: u32, wall_ms: u64) -> Result<Timestamp, TsoRefusal> {
        if count == 0 || count >= LOGICAL_MAX {
            return Err(TsoRefusal::Count { count });
        }
        let (mut physical_ms, mut logical) = (self.physical_ms, self.logical);
        if wall_ms > physical_ms.saturating_add(GUARD_MS) {
            (physical_ms, logical) = (wall_ms, 0);
        }
        if logical + count >= LOGICAL_MAX {
            (physical_ms, logical) = (physical_ms.saturating_add(1), 0);
        }
        // Strictly below: the next leader may begin with the bound itself.
        if physical_ms >= self.window_end_ms {
            return Err(TsoRefusal::Window { wanted_end_ms: physical_ms.saturating_add(WINDOW_MS) });
        }
        self.physical_ms = physical_ms;
        self.logical = logical + count;
        Ok(Timestamp { physical_ms, logical: self.logical })
    }
}

/// Why no timestamp is handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TsoRefusal {
    /// Zero, or more than a millisecond has.
    Count {
        /// How many were asked for.
        count: u32,
    },
    /// The window is used up; retry once this bound is saved.
    Window {
        /// The bound to save.
        wanted_end_ms: u64,
    },
}

impl fmt::Display for TsoRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { count } => {
                write!(f, "{count} timestamps asked for; ask for 1 to {}", LOGICAL_MAX - 1)
            }
            Self::Window { wanted_end_ms } => {
                write!(f, "the timestamp window is used up; retry once it reaches {wanted_end_ms} ms")
            }
        }
    }
}

impl std::error::Error for TsoRefusal {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn the_64_bit_form_keeps_the_order_and_comes_back() {
        let early = Timestamp { physical_ms: 7, logical: LOGICAL_MAX - 1 };
        let late = Timestamp { physical_ms: 8, logical: 0 };
        assert!(early.to_u64() < late.to_u64());
        assert_eq!(Timestamp::from_u64(early.to_u64()), early);
    }

    #[test]
    fn nothing_is_handed_out_before_a_window_is_saved() {
        let mut oracle = Oracle::new(1_000, 5_000);
        assert_eq!(oracle.take(1, 5_000), Err(TsoRefusal::Window { wanted_end_ms: 8_000 }));
        assert_eq!(oracle.window_wanted(5_000), Some(8_000));
        oracle.window_saved(8_000);
        assert_eq!(oracle.take(3, 5_000), Ok(Timestamp { physical_ms: 5_000, logical: 3 }));
        assert!(oracle.take(0, 5_000).is_err());
        assert!(oracle.take(LOGICAL_MAX, 5_000).is_err());
    }

    /// The physical part, the clock and the leader change at random; what is handed out only ever rises, and every batch
    /// lies above the one before it.
    #[test]
    fn timestamps_rise_over_crashes_and_clock_jumps() {
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut wall_ms: u64 = 1 << 40;
            let mut saved_ms = 0;
            let mut oracle = Oracle::new(saved_ms, wall_ms);
            let mut last = Timestamp::default();
            let mut handed_out = 0;
            for _ in 0..5_000 {
                match rng.below(100) {
                    Some(0) => wall_ms = wall_ms.saturating_sub(rng.next() % 100_000),
                    Some(1) => wall_ms += rng.next() % 100_000,
                    // A new leader knows the saved bound and its own clock, nothing else.
                    Some(2) => oracle = Oracle::new(saved_ms, wall_ms - rng.next() % 5_000),
                    Some(3..=30) => wall_ms += 1,
                    _ => {}
                }
                if let Some(end_ms) = oracle.window_wanted(wall_ms)
                    && rng.one_in(3)
                {
                    saved_ms = end_ms.max(saved_ms);
                    // The answer to the save may be lost; the bound is saved all the same.
                    if !rng.one_in(10) {
                        oracle.window_saved(end_ms);
                    }
                }
                let count = 1 + (rng.next() % u64::from(LOGICAL_MAX / 3)) as u32;
                if let Ok(newest) = oracle.take(count, wall_ms) {
                    let oldest = Timestamp { logical: newest.logical - (count - 1), ..newest };
                    assert!(oldest > last, "seed {seed}: {oldest:?} after {last:?}");
                    assert!(newest.logical < LOGICAL_MAX && newest.physical_ms < saved_ms);
                    last = newest;
                    handed_out += 1;
                }
            }
            assert!(handed_out > 1_000, "seed {seed} handed out {handed_out} batches only");
        }
    }
}

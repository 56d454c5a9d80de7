//! Who holds memory that others wait for, and is too slow to keep it.
//!
//! A client holds memory while it sends a request and while it reads an answer. As long as no client waits for that memory it may
//! take its time. While others wait it has to move [`BYTES_PER_S_MIN`]; what it moves less than that puts it behind, and whoever
//! is further behind than [`patience`] allows is ended, the slowest first, until half the bound is free.
//!
//! Pure: the servers say who holds what and how much has moved so far; they end those that are named. Whoever the server itself keeps
//! waiting must not be named as a holder.
//!
//! Invariants: who moves as fast as asked is never named; time without a look at it (the core was busy) is not held against a client.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Pool;

/// How often holders are looked at while others wait.
pub const LOOK: Duration = Duration::from_millis(250);
/// How often it is looked whether anybody waits.
pub const REST: Duration = Duration::from_secs(1);
/// What a holder has to move while others wait, bytes per second.
pub const BYTES_PER_S_MIN: u64 = 64 << 10;
/// How far behind a client may be while the server stops, before its connection is closed. There any byte counts as enough.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

/// How far behind a holder may be while one other waits.
const PATIENCE_MAX: Duration = Duration::from_secs(5);
/// The same however many wait: less than this happens to anybody on a bad line.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
/// What those who wait should have to wait for stalled holders, one after the other.
const PATIENCE_OF_ALL: Duration = Duration::from_secs(10);

/// A client that could go on and holds memory until it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name.
    pub id: u64,
    /// What it holds.
    pub bytes: usize,
    /// What it has moved since it came.
    pub moved_bytes: u64,
}

/// How fast holders have to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// What they have to move, bytes per second.
    pub bytes_per_s: u64,
    /// How far behind they may be.
    pub patience: Duration,
    /// What is to be freed, bytes.
    pub wanted_bytes: usize,
}

/// The holders that are watched.
#[derive(Debug, Default)]
pub struct Stalls {
    watched: BTreeMap<u64, Watched>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    moved_bytes: u64,
    behind: Duration,
}

/// How far behind a holder may be while this many wait.
fn patience(waiting: usize) -> Duration {
    let share = PATIENCE_OF_ALL / u32::try_from(waiting.max(1)).unwrap_or(u32::MAX);
    share.clamp(PATIENCE_MIN, PATIENCE_MAX)
}

impl Pace {
    /// What holders of `pool` have to keep up with; `None` while none waits.
    pub fn of(pool: &Pool) -> Option<Self> {
        let waiting = pool.waiting();
        (waiting > 0).then(|| Self {
            bytes_per_s: BYTES_PER_S_MIN,
            patience: patience(waiting),
            wanted_bytes: pool.used().saturating_sub(pool.bytes_max() / 2),
        })
    }

    /// The same while the server stops: whoever takes nothing at all is ended.
    pub fn of_drain() -> Self {
        Self { bytes_per_s: 1, patience: DRAIN_PATIENCE, wanted_bytes: usize::MAX }
    }
}

impl Stalls {
    /// Judges the holders of this moment, [`LOOK`] after the last look, and forgets all others. Returns who is to be ended.
    pub fn look(&mut self, holders: impl IntoIterator<Item = Holder>, pace: Pace) -> Vec<u64> {
        let mut slow = Vec::new();
        let mut watched = BTreeMap::new();
        for Holder { id, bytes, moved_bytes } in holders {
            let behind = match self.watched.get(&id) {
                None => Duration::ZERO,
                Some(before) => {
                    let moved = moved_bytes.saturating_sub(before.moved_bytes);
                    let worth =
                        Duration::from_nanos(moved.saturating_mul(1_000_000_000) / pace.bytes_per_s.max(1));
                    (before.behind + LOOK).saturating_sub(worth)
                }
            };
            if behind >= pace.patience {
                slow.push((behind, bytes, id));
            }
            watched.insert(id, Watched { moved_bytes, behind });
        }
        self.watched = watched;
        slow.sort_unstable_by(|one, other| other.cmp(one));
        let mut freed = 0usize;
        let ended = slow.into_iter().take_while(|(_, bytes, _)| {
            let goes_on = freed < pace.wanted_bytes.max(1);
            freed = freed.saturating_add(*bytes);
            goes_on
        });
        ended.map(|(_, _, id)| id).collect()
    }

    /// None waits: what was held against any holder is forgotten.
    pub fn forget(&mut self) {
        self.watched.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace =
        Pace { bytes_per_s: BYTES_PER_S_MIN, patience: PATIENCE_MAX, wanted_bytes: usize::MAX };

    fn holder(id: u64, moved_bytes: u64) -> Holder {
        Holder { id, bytes: 1 << 20, moved_bytes }
    }

    /// After how many looks one that moves so much per look is ended; at most 1000.
    fn looks(moved_per_look: u64, pace: Pace) -> Option<u64> {
        let mut stalls = Stalls::default();
        (0..1000).find(|n| !stalls.look([holder(7, n * moved_per_look)], pace).is_empty())
    }

    #[test]
    fn who_keeps_up_stays_and_who_drips_goes_as_soon_as_who_stands() {
        let enough = BYTES_PER_S_MIN / 4;
        assert_eq!(looks(enough, PACE), None);
        assert_eq!(looks(0, PACE), Some(20), "five seconds");
        assert_eq!(looks(1, PACE), Some(21), "a byte is next to nothing");
        assert_eq!(looks(enough / 2, PACE), Some(40), "half as fast as asked, twice as long");
        assert_eq!(looks(1, Pace::of_drain()), None, "any byte counts in a drain");
        assert_eq!(looks(0, Pace::of_drain()), Some(12));
    }

    #[test]
    fn the_slowest_go_first_and_no_more_than_needed() {
        let mut stalls = Stalls::default();
        let pace = Pace { wanted_bytes: 2 << 20, ..PACE };
        for n in 0..20 {
            let holders = [holder(1, n * 4096), holder(2, 0), holder(3, n * 100), holder(4, n << 20)];
            assert!(stalls.look(holders, pace).is_empty());
        }
        let mut ended = Vec::new();
        for n in 20..40 {
            let holders = [holder(1, n * 4096), holder(2, 0), holder(3, n * 100), holder(4, n << 20)];
            ended = stalls.look(holders, pace);
            if ended.len() > 1 {
                break;
            }
        }
        assert_eq!(ended, [2, 3], "the slowest first, and two of them are enough");
    }

    #[test]
    fn the_more_wait_the_less_patience_there_is() {
        let of = |waiting| patience(waiting);
        assert_eq!((of(1), of(2), of(5)), (PATIENCE_MAX, PATIENCE_MAX, Duration::from_secs(2)));
        assert_eq!((of(20), of(10_000)), (PATIENCE_MIN, PATIENCE_MIN));
    }

    #[test]
    fn what_happened_while_nobody_waited_is_not_held_against_anybody() {
        let mut stalls = Stalls::default();
        for _ in 0..19 {
            assert!(stalls.look([holder(1, 0)], PACE).is_empty());
        }
        stalls.forget();
        for _ in 0..19 {
            assert!(stalls.look([holder(1, 0)], PACE).is_empty());
        }
    }
}

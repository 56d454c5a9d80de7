//! Who holds memory that others wait for, and is too slow to keep it.
//!
//! A client holds memory while it sends a request and while it reads an answer. As long as no client waits for that memory it may
//! take its time. While others wait it has to move [`BYTES_PER_S_MIN`]; what it moves less than that puts it behind, and whoever
//! is further behind than [`lag_max`] allows is ended, the slowest first, until half the bound is free.
//!
//! Of the requests that wait for room to go on one at a time is let through ([`Intake`](super::Intake)). The others hold what they have sent
//! so far, and before one is let through it is not known what it is: the kernel may have the rest of its request already. Where one
//! after the other of those let through has to be ended and none completes its request, the next ones have less and less time to
//! show that they go on, down to [`LAG_MAX_JAMMED`]; each still has its turn before it is ended. The first that completes its
//! request ends this.
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
/// The same where one after the other had to be ended.
const LOOK_JAMMED: Duration = Duration::from_millis(25);
/// How often it is looked whether anybody waits.
pub const REST: Duration = Duration::from_secs(1);
/// What a holder has to move while others wait, bytes per second.
pub const BYTES_PER_S_MIN: u64 = 64 << 10;
/// How far behind a client may be while the server stops, before its connection is closed. There any byte counts as enough.
pub const DRAIN_LAG_MAX: Duration = Duration::from_secs(2);

/// How far behind a holder may be while one other waits.
const LAG_MAX: Duration = Duration::from_secs(5);
/// The same however many wait: less than this happens to anybody on a bad line.
const LAG_MAX_LEAST: Duration = Duration::from_millis(500);
/// The same where one after the other had to be ended: less than this happens between two packets.
const LAG_MAX_JAMMED: Duration = Duration::from_millis(100);
/// How many in a row are ended before the next may lag less.
const IN_A_ROW: u32 = 2;
/// What those who wait should have to wait for stalled holders, one after the other.
const LAG_OF_ALL: Duration = Duration::from_secs(10);

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
    pub lag_max: Duration,
    /// What is to be freed, bytes.
    pub wanted_bytes: usize,
    /// How many requests were completed so far by those let through, where holders are let through one after the other.
    pub completed: Option<u64>,
}

/// The holders that are watched.
#[derive(Debug, Default)]
pub struct Stalls {
    watched: BTreeMap<u64, Watched>,
    /// In how many looks holders were ended since one that was let through has completed its request.
    in_a_row: u32,
    /// How many had been completed at the latest look.
    completed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    moved_bytes: u64,
    behind: Duration,
}

/// How far behind a holder may be while this many wait.
fn lag_max(waiting: usize) -> Duration {
    let share = LAG_OF_ALL / u32::try_from(waiting.max(1)).unwrap_or(u32::MAX);
    share.clamp(LAG_MAX_LEAST, LAG_MAX)
}

impl Pace {
    /// What holders of parts of requests have to keep up with; `None` while none waits for `pool`.
    pub fn of_requests(pool: &Pool) -> Option<Self> {
        Self::of_answers(pool).map(|pace| Self { completed: Some(pool.completed()), ..pace })
    }

    /// What holders of answers have to keep up with; `None` while none waits for `pool`.
    pub fn of_answers(pool: &Pool) -> Option<Self> {
        let waiting = pool.waiting();
        (waiting > 0).then(|| Self {
            bytes_per_s: BYTES_PER_S_MIN,
            lag_max: lag_max(waiting),
            wanted_bytes: pool.used().saturating_sub(pool.bytes_max() / 2),
            completed: None,
        })
    }

    /// The same while the server stops: whoever takes nothing at all is ended.
    pub fn of_drain() -> Self {
        Self { bytes_per_s: 1, lag_max: DRAIN_LAG_MAX, wanted_bytes: usize::MAX, completed: None }
    }
}

impl Stalls {
    /// How long to wait before the next look while others wait.
    pub fn rest(&self) -> Duration {
        if self.in_a_row > IN_A_ROW { LOOK_JAMMED } else { LOOK }
    }

    /// How far behind a holder may be.
    fn lag_max(&self, pace: Pace) -> Duration {
        match self.in_a_row.checked_sub(IN_A_ROW) {
            None | Some(0) => pace.lag_max,
            Some(more) => (pace.lag_max / 2u32.saturating_pow(more)).max(LAG_MAX_JAMMED),
        }
    }

    /// Judges the holders of this moment, `elapsed` after the last look, and forgets all others. Returns who is to be ended.
    pub fn look(
        &mut self,
        holders: impl IntoIterator<Item = Holder>,
        pace: Pace,
        elapsed: Duration,
    ) -> Vec<u64> {
        if let Some(completed) = pace.completed
            && std::mem::replace(&mut self.completed, completed) != completed
        {
            self.in_a_row = 0;
        }
        let lag_max = self.lag_max(pace);
        let mut slow = Vec::new();
        let mut watched = BTreeMap::new();
        for Holder { id, bytes, moved_bytes } in holders {
            let behind = match self.watched.get(&id) {
                None => Duration::ZERO,
                Some(before) => {
                    let moved = moved_bytes.saturating_sub(before.moved_bytes);
                    let worth =
                        Duration::from_nanos(moved.saturating_mul(1_000_000_000) / pace.bytes_per_s.max(1));
                    (before.behind + elapsed).saturating_sub(worth)
                }
            };
            if behind >= lag_max {
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
        let ended: Vec<u64> = ended.map(|(_, _, id)| id).collect();
        if pace.completed.is_some() && !ended.is_empty() {
            self.in_a_row = self.in_a_row.saturating_add(1);
        }
        ended
    }

    /// None waits: what was held against any holder is forgotten.
    pub fn forget(&mut self) {
        self.watched.clear();
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::super::Intake;
    use super::*;

    const PACE: Pace =
        Pace { bytes_per_s: BYTES_PER_S_MIN, lag_max: LAG_MAX, wanted_bytes: usize::MAX, completed: None };

    fn holder(id: u64, moved_bytes: u64) -> Holder {
        Holder { id, bytes: 1 << 20, moved_bytes }
    }

    /// After how many looks one that moves so much per look is ended; at most 1000.
    fn looks(moved_per_look: u64, pace: Pace) -> Option<u64> {
        let mut stalls = Stalls::default();
        (0..1000).find(|n| !stalls.look([holder(7, n * moved_per_look)], pace, LOOK).is_empty())
    }

    #[test]
    fn who_keeps_up_stays_and_who_drips_goes_as_soon_as_who_stands() {
        let enough = BYTES_PER_S_MIN / 4;
        assert_eq!(looks(enough, PACE), None);
        assert_eq!(looks(0, PACE), Some(20), "five seconds");
        assert_eq!(looks(1, PACE), Some(21), "a byte is next to nothing");
        assert_eq!(looks(enough / 2, PACE), Some(40), "half as fast as asked, twice as long");
        assert_eq!(looks(1, Pace::of_drain()), None, "any byte counts in a drain");
        assert_eq!(looks(0, Pace::of_drain()), Some(8));
    }

    #[test]
    fn the_slowest_go_first_and_no_more_than_needed() {
        let mut stalls = Stalls::default();
        let pace = Pace { wanted_bytes: 2 << 20, ..PACE };
        for n in 0..20 {
            let holders = [holder(1, n * 4096), holder(2, 0), holder(3, n * 100), holder(4, n << 20)];
            assert!(stalls.look(holders, pace, LOOK).is_empty());
        }
        let mut ended = Vec::new();
        for n in 20..40 {
            let holders = [holder(1, n * 4096), holder(2, 0), holder(3, n * 100), holder(4, n << 20)];
            ended = stalls.look(holders, pace, LOOK);
            if ended.len() > 1 {
                break;
            }
        }
        assert_eq!(ended, [2, 3], "the slowest first, and two of them are enough");
    }

    #[test]
    fn the_more_wait_the_less_lag_is_allowed() {
        let of = |waiting| lag_max(waiting);
        assert_eq!((of(1), of(2), of(5)), (LAG_MAX, LAG_MAX, Duration::from_secs(2)));
        assert_eq!((of(20), of(10_000)), (LAG_MAX_LEAST, LAG_MAX_LEAST));
    }

    #[test]
    fn what_happened_while_no_client_waited_is_not_held_against_any() {
        let mut stalls = Stalls::default();
        for _ in 0..19 {
            assert!(stalls.look([holder(1, 0)], PACE, LOOK).is_empty());
        }
        stalls.forget();
        for _ in 0..19 {
            assert!(stalls.look([holder(1, 0)], PACE, LOOK).is_empty());
        }
    }

    /// How long each of those that are let through, one after the other, and do nothing has until it is ended.
    fn turns(count: u64, completed: impl Fn(u64) -> Option<u64>) -> Vec<Duration> {
        let mut stalls = Stalls::default();
        let turn = |id| {
            let (pace, mut took) = (Pace { completed: completed(id), ..PACE }, Duration::ZERO);
            while stalls
                .look([holder(id, 0)], pace, if took.is_zero() { LOOK } else { stalls.rest() })
                .is_empty()
            {
                took += stalls.rest();
            }
            took
        };
        (1..=count).map(turn).collect()
    }

    #[test]
    fn where_one_after_the_other_stalls_the_next_has_less_time_and_never_none() {
        let jammed: Vec<_> = turns(9, |_| Some(7)).iter().map(Duration::as_millis).collect();
        assert_eq!(jammed, [5000, 5000, 5000, 2500, 1250, 625, 325, 175, 100]);
        let between = turns(9, |id| Some(id / 3));
        assert!(between.iter().all(|took| *took == LAG_MAX), "others complete: {between:?}");
        let answers = turns(9, |_| None);
        assert!(answers.iter().all(|took| *took == LAG_MAX), "none is let through: {answers:?}");
    }

    /// How much is to be freed comes from the bound.
    #[test]
    fn holders_are_ended_until_half_the_bound_is_free() {
        let (pool, mut cx) = (Pool::new(100 << 20), Context::from_waker(Waker::noop()));
        assert_eq!(Pace::of_requests(&pool), None, "none waits");
        let _held = pool.charge(120 << 20);
        let mut waiting = [Intake::new(&pool), Intake::new(&pool)];
        let rooms = waiting.each_mut().map(|intake| {
            intake.keep(5 << 20);
            intake.poll_room(&mut cx).is_ready()
        });
        assert_eq!(rooms, [true, false], "the first is let through");
        let pace = Pace::of_requests(&pool).expect("one waits");
        assert_eq!((pace.wanted_bytes, pace.completed, pace.lag_max), (80 << 20, Some(0), LAG_MAX));
        let mut stalls = Stalls::default();
        let holders = || (1..=10).map(|id| Holder { id, bytes: 15 << 20, moved_bytes: 0 });
        let ended = (0..).map(|_| stalls.look(holders(), pace, LOOK)).find(|ended| !ended.is_empty());
        assert_eq!(ended.map(|ended| ended.len()), Some(6), "six of 15 MiB are 80 MiB, five are not");
    }
}

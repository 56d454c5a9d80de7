//! The kicker: one plain thread that keeps the executors of a process awake and watches them.
//!
//! An executor can park although tasks are runnable, and then sleeps for ever. The kicker looks at every core each [`KICK_EVERY`] and wakes
//! those that nothing has waked since the look before, so a wrong park lasts two periods at most. It wakes a raw waker: a channel
//! message would not do, because once its receiver is runnable, further messages cause no wake-up.
//!
//! Each wake-up lets the core's beat task count one, and each timer of the core that expires counts as well. A count that does not
//! change after a kick is a core that computes for too long, or hangs.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Half of how long a wrongly parked core can sleep that has no timers of its own; a core with a store has one every 100 ms, and is not
/// kicked at all then. A kick costs an idle core one or two passes of the reactor, 80 to 100 microseconds each, and each look some for the
/// thread: with 50 ms the kicks and the looks were a fifth of what an idle node costs, 0.15 % of a CPU (virtual machine).
pub(crate) const KICK_EVERY: Duration = Duration::from_millis(100);

/// Called once per stall, on the kicker's thread: which core, and for how long it has stood still.
pub type OnStall = Box<dyn FnMut(usize, Duration) + Send>;

/// When a core counts as stalled and who hears of it.
pub struct StallWatch {
    /// How long a core may run no other task.
    pub limit: Duration,
    /// Called when it has.
    pub on_stall: OnStall,
}

impl std::fmt::Debug for StallWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StallWatch").field("limit", &self.limit).finish_non_exhaustive()
    }
}

/// The kicker thread and what it holds.
#[derive(Debug)]
pub(crate) struct Kicker {
    beats: Arc<Beats>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The pulses of the running cores.
#[derive(Debug, Default)]
pub(crate) struct Beats(Mutex<Vec<Beat>>);

#[derive(Debug)]
struct Beat {
    core: usize,
    waker: Waker,
    count: Arc<AtomicU64>,
    seen: u64,
    /// Whether it was kicked and has not counted since.
    kicked: bool,
    /// Time that passed while the kicker ran and the core did not.
    still_for: Duration,
    reported: bool,
}

impl Beats {
    fn lock(&self) -> MutexGuard<'_, Vec<Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A core comes to life.
    pub(crate) fn add(&self, core: usize, waker: Waker, count: Arc<AtomicU64>) {
        let still_for = Duration::ZERO;
        self.lock().push(Beat { core, waker, count, seen: 0, kicked: false, still_for, reported: false });
    }

    /// A core is about to end; its waker must not outlive it.
    pub(crate) fn remove(&self, core: usize) {
        self.lock().retain(|beat| beat.core != core);
    }

    /// (core, count) of every running core.
    pub(crate) fn counts(&self) -> Vec<(usize, u64)> {
        self.lock().iter().map(|beat| (beat.core, beat.count.load(Ordering::Relaxed))).collect()
    }

    /// (core, how long it has stood still) of every running core.
    pub(crate) fn stillness(&self) -> Vec<(usize, Duration)> {
        self.lock().iter().map(|beat| (beat.core, beat.still_for)).collect()
    }

    /// Wakes every core that has not counted since the last call, and names those that have just been still for `limit`.
    fn kick(&self, passed: Duration, limit: Duration) -> Vec<(usize, Duration)> {
        let mut stalled = Vec::new();
        for beat in self.lock().iter_mut() {
            let count = beat.count.load(Ordering::Relaxed);
            if count != beat.seen {
                (beat.seen, beat.kicked) = (count, false);
                (beat.still_for, beat.reported) = (Duration::ZERO, false);
                continue;
            }
            beat.waker.wake_by_ref();
            if !std::mem::replace(&mut beat.kicked, true) {
                continue;
            }
            beat.still_for += passed;
            if beat.still_for >= limit && !beat.reported {
                beat.reported = true;
                stalled.push((beat.core, beat.still_for));
            }
        }
        stalled
    }
}

impl Kicker {
    pub(crate) fn start(watch: Option<StallWatch>) -> io::Result<Self> {
        let beats: Arc<Beats> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (watched, stopping) = (beats.clone(), stop.clone());
        let run = move || kick_until(&stopping, &watched, watch);
        let thread = std::thread::Builder::new().name("rk-kicker".into()).spawn(run)?;
        Ok(Self { beats, stop, thread: Some(thread) })
    }

    pub(crate) fn beats(&self) -> &Arc<Beats> {
        &self.beats
    }
}

impl Drop for Kicker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panicked kicker has nothing left to clean up.
            let _ = thread.join();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a plain thread that measures and makes its own pauses")]
fn kick_until(stopping: &AtomicBool, beats: &Beats, watch: Option<StallWatch>) {
    let (limit, mut on_stall) = match watch {
        Some(watch) => (watch.limit, watch.on_stall),
        None => (Duration::MAX, Box::new(|_, _| {}) as OnStall),
    };
    let mut last = Instant::now();
    while !stopping.load(Ordering::Acquire) {
        std::thread::sleep(KICK_EVERY);
        let now = Instant::now();
        // A process that was stopped, or a machine that was, has not stalled: its cores had no chance either.
        let passed = now.duration_since(last).min(2 * KICK_EVERY);
        last = now;
        for (core, still_for) in beats.kick(passed, limit) {
            on_stall(core, still_for);
        }
    }
    beats.lock().clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts how often it is waked.
    struct Waked(AtomicU64);

    impl std::task::Wake for Waked {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn only_a_core_that_nothing_has_waked_is_kicked() {
        let beats = Beats::default();
        let waked: [Arc<Waked>; 2] = std::array::from_fn(|_| Arc::new(Waked(AtomicU64::new(0))));
        let counts: [Arc<AtomicU64>; 2] = Default::default();
        for (core, count) in counts.iter().enumerate() {
            beats.add(core, waked[core].clone().into(), count.clone());
        }
        for _ in 0..20 {
            // Core 0 has timers. Core 1 has none, and answers every kick.
            counts[0].fetch_add(1, Ordering::Relaxed);
            counts[1].store(waked[1].0.load(Ordering::Relaxed), Ordering::Relaxed);
            assert_eq!(beats.kick(KICK_EVERY, 2 * KICK_EVERY), []);
        }
        let kicks = waked.each_ref().map(|core| core.0.load(Ordering::Relaxed));
        assert_eq!(kicks, [0, 10], "every second look");
        assert_eq!(beats.stillness(), [(0, Duration::ZERO), (1, Duration::ZERO)]);
    }

    #[test]
    fn a_stalled_core_is_reported_once_until_it_moves() {
        let beats = Beats::default();
        let counts: [Arc<AtomicU64>; 2] = Default::default();
        for (core, count) in counts.iter().enumerate() {
            beats.add(core, Waker::noop().clone(), count.clone());
        }
        let (period, limit) = (Duration::from_millis(10), Duration::from_millis(30));
        let mut reports = Vec::new();
        for turn in 1..=20u64 {
            counts[0].store(turn, Ordering::Relaxed);
            // Core 1 moves once, in the middle.
            counts[1].store(turn / 10, Ordering::Relaxed);
            reports.extend(
                beats.kick(period, limit).into_iter().map(|(core, still_for)| (turn, core, still_for)),
            );
        }
        // The first look of each stillness kicks, and the others count.
        assert_eq!(reports, [(4, 1, limit), (14, 1, limit)]);
        assert_eq!(beats.stillness(), [(0, Duration::ZERO), (1, Duration::ZERO)]);
        beats.remove(1);
        assert_eq!(beats.counts(), [(0, 20)]);
    }
}

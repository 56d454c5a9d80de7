//! A core's timers: all deadlines in one heap, and one timer of the runtime for the earliest of them.
//!
//! The runtime looks at each of its timers in every pass of the reactor, and enters one again whenever its future is polled
//! again. A connection that watches its keepalive while it serves requests left a timer behind with each of them, and after
//! seconds of load the core did nothing but look at those. So the runtime knows one timer, which is set anew only for an
//! earlier deadline; one that was set for a deadline that was cancelled meanwhile goes off in vain, once.
//!
//! What holds: a sleeper is woken after its deadline and after a pass of the reactor, never before; a sleeper that is dropped
//! leaves nothing behind; nothing is borrowed while anything is woken or dropped.

use std::cell::{Cell, OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::timer::Timer;

use super::Core;
use super::deadlines::{Deadlines, Key};
use crate::rt::Mono;

/// A timer that has expired when it is armed completes without a pass of the reactor, so none is shorter. Shorter than any
/// latency that a client sees.
const SHORTEST: Duration = Duration::from_micros(20);

/// Sleepers woken before other tasks get a turn.
const WOKEN_MAX: usize = 512;

/// The timers of a core.
#[derive(Debug, Default)]
pub(super) struct Timers {
    deadlines: RefCell<Deadlines>,
    /// The runtime's timer and what it is set for.
    armed: RefCell<Option<(Mono, Timer)>>,
    /// Wakes the task that the runtime's timer wakes, once that task has begun.
    watcher: RefCell<Option<Waker>>,
    begun: Cell<bool>,
    ended: Cell<bool>,
    /// Grows with every expiry, for the kicker: a core that is waked by its own timers needs no kick.
    beats: OnceCell<Arc<AtomicU64>>,
}

/// Waits for a moment.
#[derive(Debug)]
struct Sleeper {
    core: Core,
    at: Mono,
    key: Option<Key>,
}

impl Core {
    pub(crate) async fn sleep(&self, duration: Duration) {
        let at = self.now() + duration.max(SHORTEST);
        Sleeper { core: self.clone(), at, key: None }.await;
    }

    /// Lets the reactor have a pass.
    pub(crate) async fn yield_to_reactor(&self) {
        self.sleep(SHORTEST).await;
    }
}

impl Future for Sleeper {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let timers = this.core.timers();
        if timers.ended.get() {
            return Poll::Pending;
        }
        let waits = match this.key {
            Some(key) => timers.deadlines.borrow_mut().renew(key, cx.waker()),
            None => {
                this.key = Some(timers.enter(&this.core, this.at, cx.waker()));
                true
            }
        };
        if waits {
            return Poll::Pending;
        }
        this.key = None;
        Poll::Ready(())
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let waker = self.core.timers().deadlines.borrow_mut().leave(key);
            // The last waker of a task may take the task along, which must find nothing borrowed.
            drop(waker);
        }
    }
}

impl Timers {
    fn enter(&self, core: &Core, at: Mono, waker: &Waker) -> Key {
        if !self.begun.replace(true) {
            let watched = core.clone();
            core.spawn(Box::pin(async move { poll_fn(|cx| watched.timers().watch(&watched, cx)).await }));
        }
        let key = self.deadlines.borrow_mut().enter(at, waker.clone());
        let watcher = self.watcher.borrow().clone();
        // Without a watcher its task is about to begin and arms the timer itself.
        if let Some(watcher) = watcher {
            self.arm(core, &mut Context::from_waker(&watcher));
        }
        key
    }

    /// Where expiries are counted from now on.
    pub(super) fn count_in(&self, beats: Arc<AtomicU64>) {
        let counted_already = self.beats.set(beats).is_err();
        debug_assert!(!counted_already, "a core has one pulse");
    }

    /// What the runtime's timer wakes: lets sleepers go and arms the timer for the next.
    fn watch(&self, core: &Core, cx: &mut Context<'_>) -> Poll<()> {
        if self.ended.get() {
            return Poll::Ready(());
        }
        if self.watcher.borrow().is_none() {
            *self.watcher.borrow_mut() = Some(cx.waker().clone());
        }
        if let Some(beats) = self.beats.get() {
            beats.fetch_add(1, Ordering::Relaxed);
        }
        self.wake_expired(core.now());
        self.armed.borrow_mut().take();
        self.arm(core, cx);
        Poll::Pending
    }

    /// Wakes whoever's time had come by `now`, a few at a time. Called after a pass of the reactor.
    pub(super) fn wake_expired(&self, now: Mono) {
        for _ in 0..WOKEN_MAX {
            let expired = self.deadlines.borrow_mut().expire(now);
            match expired {
                Some(waker) => waker.wake(),
                None => break,
            }
        }
    }

    /// Sets the runtime's timer for the earliest deadline, unless it is set for that or an earlier one.
    fn arm(&self, core: &Core, cx: &mut Context<'_>) {
        let Some(at) = self.deadlines.borrow().earliest() else { return };
        let mut armed = self.armed.borrow_mut();
        if armed.as_ref().is_some_and(|(until, _)| *until <= at) {
            return;
        }
        let mut timer = Timer::new(at.since(core.now()).max(SHORTEST));
        // It cannot be over yet, unless the core was stopped here; then the watcher looks again.
        if Pin::new(&mut timer).poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        *armed = Some((at, timer));
    }

    /// Ends all waiting: no task is woken any more, and no waker outlives the executor.
    pub(super) fn end(&self) {
        self.ended.set(true);
        let armed = self.armed.take();
        let watcher = self.watcher.take();
        let deadlines = self.deadlines.take();
        if let Some(watcher) = &watcher {
            watcher.wake_by_ref();
        }
        drop((armed, watcher, deadlines));
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.deadlines.borrow().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::World;
    use crate::rt::{CoreOptions, start_core};

    const MILLI: Duration = Duration::from_millis(1);

    fn waiting(rt: &crate::rt::Rt) -> usize {
        let World::Native(core) = &rt.world else { unreachable!("this is a real core") };
        core.timers().waiting()
    }

    #[test]
    fn a_deadline_is_entered_once_however_often_it_is_looked_at() {
        let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
        let left = start_core(&options, |rt| async move {
            let before = waiting(&rt);
            let mut sleepers: Vec<_> =
                (0..100).map(|n| Box::pin(rt.sleep(Duration::from_secs(3600) + n * MILLI))).collect();
            for _ in 0..1000 {
                poll_fn(|cx| {
                    sleepers.iter_mut().for_each(|sleeper| assert!(sleeper.as_mut().poll(cx).is_pending()));
                    Poll::Ready(())
                })
                .await;
            }
            let held = waiting(&rt) - before;
            drop(sleepers);
            (held, waiting(&rt) - before)
        });
        assert_eq!(left.unwrap(), (100, 0));
    }

    #[test]
    fn a_core_that_ends_lets_its_sleepers_go() {
        struct OnDrop(std::sync::mpsc::Sender<()>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.send(()).expect("the test waits");
            }
        }
        let (dropped_to, dropped) = std::sync::mpsc::channel();
        let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
        start_core(&options, |rt| async move {
            let (sleeping, dropped) = (rt.clone(), OnDrop(dropped_to));
            drop(rt.spawn(async move {
                sleeping.sleep(Duration::from_secs(3600)).await;
                drop(dropped);
            }));
            rt.sleep(MILLI).await;
        })
        .unwrap();
        assert_eq!(dropped.recv(), Ok(()), "the sleeper was dropped with its core");
    }
}

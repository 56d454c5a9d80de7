//! A bound in bytes, what is charged to it, and those who wait for room.
//!
//! The count is atomic and the queue has a lock, because a value may be dropped on another core than the one that read it.
//! The lock is taken only by those who wait, and by those who release while another waits.
//!
//! Invariants: `used` is the sum of all living charges; a waiter has a place in the queue until it is served or gives up; with
//! a place in front of it a large charge is never taken.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use engine::rt::{Mono, Rt};

use super::{SMALL_BYTES, WAIT_MAX};
use crate::refusal::Refusal;

/// A bound. A clone is the same bound.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_max: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
    /// Places in the queue, so that a release finds out without the lock.
    waiting: AtomicUsize,
    /// The same of this bound and those that [`Pool::fresh`] has made of it.
    waiting_anywhere: Arc<AtomicUsize>,
    /// Requests that were completed by those who were let through.
    completed: AtomicU64,
    queue: Mutex<Queue>,
    /// From when on none waits for room, on the clock of cores, nanoseconds.
    waits_end: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    next: u64,
    places: VecDeque<Waiter>,
    /// The intake that may exceed the bound to complete its request.
    pub(super) through: Option<u64>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    small: bool,
    waker: Waker,
}

/// Bytes taken from a [`Pool`] until this is dropped.
#[derive(Debug, Default)]
pub struct Charge {
    pool: Option<Pool>,
    bytes: usize,
}

impl Pool {
    /// A bound of `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self::with(bytes_max, Arc::new(AtomicU64::new(u64::MAX)), Arc::default())
    }

    /// A bound of its own whose waits end together with those of this one.
    pub(super) fn fresh(&self) -> Self {
        Self::with(self.0.bytes_max, self.0.waits_end.clone(), self.0.waiting_anywhere.clone())
    }

    fn with(bytes_max: usize, waits_end: Arc<AtomicU64>, waiting_anywhere: Arc<AtomicUsize>) -> Self {
        Self(Arc::new(Inner {
            bytes_max,
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            waiting_anywhere,
            completed: AtomicU64::new(0),
            queue: Mutex::default(),
            waits_end,
        }))
    }

    /// From then on nothing waits for room here, nor where [`Pool::fresh`] has led: what finds none is refused at once. The earliest such
    /// moment is in force.
    pub(super) fn end_waits(&self, at: Mono) {
        self.0.waits_end.fetch_min(at.0, SeqCst);
    }

    /// How long one that finds no room at `now` waits for some.
    fn wait_max(&self, now: Mono) -> Duration {
        WAIT_MAX.min(Mono(self.0.waits_end.load(SeqCst)).since(now))
    }

    /// Bytes charged now.
    pub fn used(&self) -> usize {
        self.0.used.load(SeqCst)
    }

    /// The most bytes that were ever charged at a time.
    pub fn peak(&self) -> usize {
        self.0.peak.load(SeqCst)
    }

    /// The bound, bytes.
    pub fn bytes_max(&self) -> usize {
        self.0.bytes_max
    }

    /// How many wait for room.
    pub fn waiting(&self) -> usize {
        self.0.waiting.load(SeqCst)
    }

    /// Whether anything waits for room here or where [`Pool::fresh`] has led.
    pub fn waits_anywhere(&self) -> bool {
        self.0.waiting_anywhere.load(SeqCst) > 0
    }

    /// How many requests were completed by an intake that was let through beyond the bound.
    pub fn completed(&self) -> u64 {
        self.0.completed.load(SeqCst)
    }

    pub(super) fn count_completed(&self) {
        self.0.completed.fetch_add(1, SeqCst);
    }

    /// Whether large charges are near their bound, so that nothing should be read ahead.
    pub fn is_tight(&self) -> bool {
        self.waiting() > 0 || self.used() > self.0.bytes_max / 2
    }

    /// Whether [`Pool::try_charge`] would take `bytes` now.
    pub fn has_room(&self, bytes: usize) -> bool {
        (bytes <= SMALL_BYTES || self.waiting() == 0) && self.fits(self.used(), bytes)
    }

    /// Charges `bytes` that exist already, whatever the bound.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.add(bytes);
        Charge { pool: Some(self.clone()), bytes }
    }

    /// Charges `bytes` if there is room and, for large charges, nothing waits.
    pub fn try_charge(&self, bytes: usize) -> Option<Charge> {
        if bytes > SMALL_BYTES && self.waiting() > 0 {
            return None;
        }
        self.take(bytes).then(|| Charge { pool: Some(self.clone()), bytes })
    }

    /// Charges `bytes` as soon as there is room, in the order of these calls.
    ///
    /// # Errors
    /// Busy after [`WAIT_MAX`], or when waits end.
    pub async fn wait(&self, rt: &Rt, bytes: usize) -> Result<Charge, Refusal> {
        if let Some(charge) = self.try_charge(bytes) {
            return Ok(charge);
        }
        let mut place = Place { pool: self, bytes, id: None };
        let mut alarm = pin!(rt.sleep(self.wait_max(rt.now())));
        poll_fn(|cx| {
            if place.poll(cx).is_ready() {
                return Poll::Ready(Ok(Charge { pool: Some(self.clone()), bytes }));
            }
            let busy =
                Refusal::Busy { reason: "answers that are not sent yet hold all memory", backoff_ms: 100 };
            alarm.as_mut().poll(cx).map(|()| Err(busy))
        })
        .await
    }

    /// Takes `bytes` if the bound allows it. Large charges leave a quarter to small ones. Where nothing is charged at all
    /// anything is allowed, or it could never be.
    fn take(&self, bytes: usize) -> bool {
        let fits = |used: usize| self.fits(used, bytes).then(|| used + bytes);
        match self.0.used.fetch_update(SeqCst, SeqCst, fits) {
            Ok(before) => {
                self.0.peak.fetch_max(before + bytes, SeqCst);
                true
            }
            Err(_full) => false,
        }
    }

    fn fits(&self, used: usize, bytes: usize) -> bool {
        let bytes_max = self.0.bytes_max;
        let limit = if bytes <= SMALL_BYTES { bytes_max } else { bytes_max - bytes_max / 4 };
        used == 0 || used.saturating_add(bytes) <= limit
    }

    fn add(&self, bytes: usize) {
        let before = self.0.used.fetch_add(bytes, SeqCst);
        self.0.peak.fetch_max(before + bytes, SeqCst);
    }

    fn release(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, SeqCst);
        if self.waiting() > 0 {
            self.wake_first(&self.queue());
        }
    }

    /// Nothing panics while the lock is held, and a count that is slightly wrong is better than a core that is gone.
    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wake_first(&self, queue: &Queue) {
        if let Some(first) = queue.places.front() {
            first.waker.wake_by_ref();
        }
    }

    /// Puts a waiter into the queue, small ones before large ones, or renews the waker of one that is in it. Returns its place,
    /// counted from the front.
    pub(super) fn stand(
        &self,
        queue: &mut Queue,
        id: &mut Option<u64>,
        small: bool,
        cx: &Context<'_>,
    ) -> usize {
        if let Some(at) = id.and_then(|id| queue.place_of(id)) {
            queue.places[at].waker.clone_from(cx.waker());
            return at;
        }
        let at = if small { queue.places.partition_point(|waiter| waiter.small) } else { queue.places.len() };
        queue.places.insert(at, Waiter { id: queue.next, small, waker: cx.waker().clone() });
        *id = Some(queue.next);
        queue.next += 1;
        self.0.waiting.fetch_add(1, SeqCst);
        self.0.waiting_anywhere.fetch_add(1, SeqCst);
        at
    }

    /// Takes a waiter out of the queue and lets the next one look.
    pub(super) fn leave(&self, queue: &mut Queue, id: &mut Option<u64>) {
        let Some(at) = id.take().and_then(|id| queue.place_of(id)) else { return };
        queue.places.remove(at);
        self.0.waiting.fetch_sub(1, SeqCst);
        self.0.waiting_anywhere.fetch_sub(1, SeqCst);
        self.wake_first(queue);
    }
}

impl Queue {
    fn place_of(&self, id: u64) -> Option<usize> {
        self.places.iter().position(|waiter| waiter.id == id)
    }
}

/// A place in the queue, given up when dropped.
struct Place<'a> {
    pool: &'a Pool,
    bytes: usize,
    id: Option<u64>,
}

impl Place<'_> {
    /// Ready once this place is the first one and there is room, which is taken.
    fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let mut queue = self.pool.queue();
        // In the queue before the look, so that no release is missed between the two.
        let at = self.pool.stand(&mut queue, &mut self.id, self.bytes <= SMALL_BYTES, cx);
        if at > 0 || !self.pool.take(self.bytes) {
            return Poll::Pending;
        }
        self.pool.leave(&mut queue, &mut self.id);
        Poll::Ready(())
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.pool.leave(&mut self.pool.queue(), &mut self.id);
    }
}

impl Charge {
    /// Bytes charged.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Makes this a charge of `bytes`, whatever the bound: what it stands for has grown or shrunk already.
    pub fn set(&mut self, bytes: usize) {
        let Some(pool) = &self.pool else { return };
        if bytes > self.bytes {
            pool.add(bytes - self.bytes);
        } else if bytes < self.bytes {
            pool.release(self.bytes - bytes);
        }
        self.bytes = bytes;
    }

    /// Makes this a charge of `bytes` at least, if there is room; who has all that is charged may have as much as it needs.
    #[must_use]
    pub fn grow(&mut self, bytes: usize) -> bool {
        let Some(pool) = self.pool.as_ref().filter(|_| bytes > self.bytes) else { return true };
        let more = bytes - self.bytes;
        if pool.used() == self.bytes {
            pool.add(more);
        } else if !pool.take(more) {
            return false;
        }
        self.bytes = bytes;
        true
    }

    /// Moves `bytes` of this charge, or all of it if there are fewer, into one of its own.
    #[must_use]
    pub fn split_off(&mut self, bytes: usize) -> Charge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Charge { pool: self.pool.clone(), bytes }
    }

    /// Takes in another charge of the same pool.
    pub fn join(&mut self, mut other: Charge) {
        match (&self.pool, &other.pool) {
            (Some(mine), Some(others)) => {
                assert!(Arc::ptr_eq(&mine.0, &others.0), "charges of two pools do not add up");
                self.bytes += std::mem::take(&mut other.bytes);
            }
            (None, Some(_)) => *self = other,
            (_, None) => {}
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.as_ref().filter(|_| self.bytes > 0) {
            pool.release(self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use bytes::Bytes;
    use engine::rt::Mono;
    use engine::rt::sim::{Options, World};

    use super::super::{Memory, MemoryLimits};
    use super::*;

    const LARGE: usize = 1 << 20;

    fn in_world<F: Future<Output = ()> + 'static>(work: impl FnOnce(Rt) -> F + 'static) {
        let world = World::new(3, Options::default());
        world.block_on(world.node(0).start(0, work)).expect("nothing crashes the node");
    }

    #[test]
    fn a_charge_lasts_as_long_as_the_last_copy_of_its_value() {
        let pool = Pool::new(4 * LARGE);
        let value = pool.try_charge(LARGE).expect("there is room").wrap(Bytes::from(vec![7; LARGE]));
        let part = value.slice(10..20);
        drop(value);
        assert_eq!((pool.used(), &part[..]), (LARGE, &[7; 10][..]));
        drop(part);
        assert_eq!((pool.used(), pool.peak()), (0, LARGE));
    }

    #[test]
    fn once_waits_have_ended_what_finds_no_room_is_refused_at_once() {
        in_world(|rt| async move {
            let pool = Pool::new(4 * LARGE);
            let (other, apart) = (pool.fresh(), Pool::new(4 * LARGE));
            let _held =
                [&pool, &other, &apart].map(|pool| pool.try_charge(3 * LARGE).expect("there is room"));
            let took = async |pool: &Pool| {
                let began = rt.now();
                assert!(pool.wait(&rt, 2 * LARGE).await.is_err());
                rt.now().since(began)
            };
            assert!(took(&pool).await >= WAIT_MAX);
            let half = WAIT_MAX / 2;
            pool.end_waits(rt.now() + half);
            // A later end changes nothing.
            pool.end_waits(rt.now() + 10 * WAIT_MAX);
            let before = took(&other).await;
            assert!(before >= half && before < WAIT_MAX, "{before:?}");
            for (pool, waits) in [(&pool, false), (&other, false), (&apart, true)] {
                assert_eq!(took(pool).await >= half, waits);
            }
            assert!(pool.try_charge(10).is_some(), "what finds room has it");
        });
    }

    #[test]
    fn a_jam_on_one_core_is_one_on_all() {
        in_world(|rt| async move {
            let one = Memory::new(MemoryLimits { input_bytes: LARGE, output_bytes: 4 * LARGE });
            let (other, pd) = (one.fresh(), one.of_pd_port());
            let _held = [&other, &pd].map(|memory| memory.output.charge(4 * LARGE));
            one.is_jammed_in_drain(rt.now());
            rt.sleep(WAIT_MAX).await;
            for (memory, waits) in [(&other, false), (&pd, true)] {
                let began = rt.now();
                assert!(memory.output.wait(&rt, LARGE).await.is_err());
                assert_eq!(rt.now().since(began) >= WAIT_MAX, waits);
            }
        });
    }

    #[test]
    fn large_charges_leave_a_reserve_to_small_ones_and_one_alone_may_exceed_the_bound() {
        let pool = Pool::new(4 * LARGE);
        let three: Vec<_> = (0..3).map(|_| pool.try_charge(LARGE).expect("there is room")).collect();
        assert!(pool.try_charge(LARGE).is_none(), "the last quarter is for small ones");
        let small: Vec<_> = (0..LARGE / SMALL_BYTES).map(|_| pool.try_charge(SMALL_BYTES)).collect();
        assert!(small.iter().all(Option::is_some));
        assert!(pool.try_charge(1).is_none(), "nothing is left");
        drop((three, small));
        let whole = pool.try_charge(9 * LARGE).expect("alone, it may");
        assert!(pool.try_charge(1).is_none());
        drop(whole);
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn those_who_wait_are_served_in_order_and_nothing_large_overtakes_them() {
        in_world(|rt| async move {
            let pool = Pool::new(4 * LARGE);
            let held = pool.try_charge(3 * LARGE).expect("there is room");
            let tasks: Vec<_> = [2 * LARGE, LARGE]
                .into_iter()
                .map(|bytes| {
                    let (rt, pool) = (rt.clone(), pool.clone());
                    rt.clone().spawn(async move {
                        let charge = pool.wait(&rt, bytes).await.expect("room comes in time");
                        let since = rt.now();
                        rt.sleep(Duration::from_millis(10)).await;
                        (charge.bytes(), since)
                    })
                })
                .collect();
            rt.sleep(Duration::from_millis(1)).await;
            assert_eq!(pool.waiting(), 2);
            drop(held);
            assert!(pool.try_charge(SMALL_BYTES + 1).is_none(), "two have come before");
            let mut served: Vec<(usize, Mono)> = Vec::new();
            for task in tasks {
                served.push(task.await);
            }
            assert_eq!((served[0].0, served[1].0), (2 * LARGE, LARGE));
            assert_eq!((pool.used(), pool.waiting()), (0, 0));
        });
    }

    /// Small ones go before large ones, whenever they came, and among themselves in order.
    #[test]
    fn small_ones_that_wait_go_before_large_ones_and_each_kind_in_its_order() {
        in_world(|rt| async move {
            let pool = Pool::new(4 * LARGE);
            let mut held = pool.charge(4 * LARGE);
            let served = Rc::new(RefCell::new(Vec::new()));
            for (name, bytes) in [('A', LARGE), ('b', SMALL_BYTES), ('C', LARGE), ('d', SMALL_BYTES)] {
                let (own, pool, served) = (rt.clone(), pool.clone(), served.clone());
                rt.spawn(async move {
                    let charge = pool.wait(&own, bytes).await.expect("room comes in time");
                    served.borrow_mut().push(name);
                    own.sleep(Duration::from_secs(1)).await;
                    drop(charge);
                });
                rt.sleep(Duration::from_millis(1)).await;
            }
            let order = |served: &RefCell<Vec<char>>| served.borrow().iter().collect::<String>();
            for (freed, expected) in
                [(SMALL_BYTES, "b"), (SMALL_BYTES, "bd"), (2 * LARGE, "bdA"), (2 * LARGE, "bdAC")]
            {
                drop(held.split_off(freed));
                rt.sleep(Duration::from_millis(1)).await;
                assert_eq!(order(&served), expected);
            }
        });
    }

    #[test]
    fn a_charge_grows_where_there_is_room_and_alone_as_far_as_it_needs() {
        let pool = Pool::new(100 << 20);
        let (mut one, mut other) = (pool.charge(1 << 20), pool.charge(1 << 20));
        assert!(one.grow(60 << 20) && one.grow(5), "up to three quarters");
        assert_eq!((one.bytes(), pool.used()), (60 << 20, 61 << 20));
        assert!(!other.grow(60 << 20));
        assert_eq!((other.bytes(), pool.used()), (1 << 20, 61 << 20));
        drop(other);
        assert!(one.grow(300 << 20), "no other charge has any");
        drop(one);
        assert_eq!((pool.used(), Charge::default().grow(7)), (0, true));
    }

    #[test]
    fn what_waits_too_long_is_refused_and_leaves_its_place_to_the_next() {
        in_world(|rt| async move {
            let pool = Pool::new(4 * LARGE);
            let held = pool.try_charge(3 * LARGE).expect("there is room");
            let began = rt.now();
            let refused = pool.wait(&rt, LARGE).await;
            assert!(matches!(refused, Err(Refusal::Busy { .. })), "{refused:?}");
            assert!(rt.now().since(began) >= WAIT_MAX);
            assert_eq!(pool.waiting(), 0);
            drop(held);
            assert!(pool.try_charge(LARGE).is_some());
        });
    }
}

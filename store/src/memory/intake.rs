//! How much of a connection's requests is kept, and whether it may be read from.
//!
//! What is kept is charged as it is. Above the bound a connection is read from only as long as it keeps little, or as the one
//! that is let through: the first that came to wait, until it keeps next to nothing any more. So of all the connections
//! with a part of a request each there is always one that can complete it, and the others wait for it.
//!
//! Invariants: at most one intake of a pool is let through; an intake that waits has a place in the pool's queue; one that is
//! dropped gives both back.

use std::task::{Context, Poll};

use super::INTAKE_BYTES_MIN;
use super::pool::{Charge, Pool};

/// One connection's, or one call's, share of the input.
#[derive(Debug)]
pub struct Intake {
    pool: Pool,
    charge: Charge,
    /// The place in the queue while it waits, and what it is called while it is let through.
    place: Option<u64>,
    through: bool,
    /// That it was let through has led to a complete request.
    completed: bool,
}

impl Intake {
    /// An intake that keeps nothing yet.
    pub fn new(pool: &Pool) -> Self {
        Self { pool: pool.clone(), charge: pool.charge(0), place: None, through: false, completed: false }
    }

    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.charge.bytes()
    }

    /// Whether it waits for room.
    pub fn waits(&self) -> bool {
        self.place.is_some() && !self.through
    }

    /// Whether it is the one that may exceed the bound.
    pub fn is_through(&self) -> bool {
        self.through
    }

    /// Says how many bytes are kept now.
    pub fn keep(&mut self, bytes: usize) {
        if bytes != self.charge.bytes() {
            self.charge.set(bytes);
        }
        if bytes <= INTAKE_BYTES_MIN {
            self.complete();
            self.step_back();
        }
    }

    /// Its request is complete, although it may be kept for some time. Others see that those who are let through get on.
    pub fn complete(&mut self) {
        if self.through && !self.completed {
            self.completed = true;
            self.pool.count_completed();
        }
    }

    /// Moves `bytes` of what is kept into a charge of their own, which goes on with the request.
    #[must_use]
    pub fn hand_on(&mut self, bytes: usize) -> Charge {
        let charge = self.charge.split_off(bytes);
        if self.charge.bytes() <= INTAKE_BYTES_MIN {
            self.complete();
            self.step_back();
        }
        charge
    }

    /// Ready when more may be read; the task is woken when it is worth another look.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.bytes() <= INTAKE_BYTES_MIN || self.through {
            return Poll::Ready(());
        }
        if self.place.is_none() && self.pool.used() <= self.pool.bytes_max() {
            return Poll::Ready(());
        }
        let pool = self.pool.clone();
        let mut queue = pool.queue();
        let at = pool.stand(&mut queue, &mut self.place, false, cx);
        if pool.used() <= pool.bytes_max() {
            pool.leave(&mut queue, &mut self.place);
            return Poll::Ready(());
        }
        if at == 0 && queue.through.is_none() {
            queue.through = self.place;
            self.through = true;
            self.completed = false;
            let mut place = self.place;
            pool.leave(&mut queue, &mut place);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Gives back a place in the queue, or the right to be let through.
    fn step_back(&mut self) {
        if self.place.is_none() {
            return;
        }
        let mut queue = self.pool.queue();
        if std::mem::take(&mut self.through) {
            queue.through = None;
            self.place = None;
            self.pool.wake_first(&queue);
        } else {
            self.pool.leave(&mut queue, &mut self.place);
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.step_back();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn may_read(intake: &mut Intake) -> bool {
        intake.poll_room(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn above_the_bound_one_after_the_other_is_let_through() {
        let pool = Pool::new(100 << 10);
        let mut intakes: Vec<_> = (0..4).map(|_| Intake::new(&pool)).collect();
        for intake in &mut intakes {
            assert!(may_read(intake));
            intake.keep(30 << 10);
        }
        let allowed: Vec<bool> = intakes.iter_mut().map(may_read).collect();
        assert_eq!(allowed, [true, false, false, false], "the first that asks");
        intakes[0].keep(90 << 10);
        assert!(may_read(&mut intakes[0]), "until its request is complete");
        assert!(!may_read(&mut intakes[1]));
        intakes[0].keep(0);
        assert!(may_read(&mut intakes[1]), "there is room again");
        assert_eq!(pool.waiting(), 2);
        drop(intakes);
        assert_eq!((pool.used(), pool.waiting()), (0, 0));
    }

    #[test]
    fn one_that_ends_lets_the_next_through() {
        let pool = Pool::new(50 << 10);
        let mut others = [Intake::new(&pool), Intake::new(&pool)];
        others.iter_mut().for_each(|intake| intake.keep(30 << 10));
        let mut first = Intake::new(&pool);
        first.keep(30 << 10);
        assert!(may_read(&mut first) && first.is_through());
        assert!(!may_read(&mut others[0]) && others[0].waits());
        drop(first);
        assert!(may_read(&mut others[0]) && others[0].is_through());
        assert!(!may_read(&mut others[1]));
    }

    #[test]
    fn one_that_keeps_little_is_never_held_up() {
        let pool = Pool::new(1);
        let mut little = Intake::new(&pool);
        little.keep(INTAKE_BYTES_MIN);
        assert!(may_read(&mut little) && !little.is_through());
        let charge = little.hand_on(INTAKE_BYTES_MIN);
        assert_eq!((little.bytes(), charge.bytes(), pool.used()), (0, INTAKE_BYTES_MIN, INTAKE_BYTES_MIN));
    }
}

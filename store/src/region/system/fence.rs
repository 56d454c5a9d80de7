//! Until when a leader of the system group is certain that no other leads, for the core on which it gives out what the state allows.
//!
//! The replica lives on one core and timestamps are given out on another. Whoever gives one out asks the fence, in that moment, whether
//! the term in which it leads still holds; a leader that was deposed and has not heard of it gives out nothing that falls behind what its
//! successor has given out.
//!
//! ```text
//! core of the replica   every turn, before its messages leave:  term, end of the lease
//! root core             every timestamp:                        is it my term, and is the lease not over?
//! ```
//!
//! What holds: `until` belongs to `term`. It is zero while the term changes, and whoever reads it reads the term before and after.

use std::sync::atomic::{AtomicU64, Ordering};

/// The fence. Nanoseconds are those of the clock that runs during suspend.
#[derive(Debug, Default)]
pub struct Fence {
    term: AtomicU64,
    until_nanos: AtomicU64,
}

impl Fence {
    /// No other replica leads before `until_nanos` while this one leads in `term`; 0 if it does not lead or cannot say.
    pub fn set(&self, term: u64, until_nanos: u64) {
        if self.term.load(Ordering::SeqCst) != term {
            self.until_nanos.store(0, Ordering::SeqCst);
            self.term.store(term, Ordering::SeqCst);
        }
        self.until_nanos.store(until_nanos, Ordering::SeqCst);
    }

    /// Whether the leader of `term` is certain at `now_nanos` that it leads alone.
    pub fn holds(&self, term: u64, now_nanos: u64) -> bool {
        let same = || self.term.load(Ordering::SeqCst) == term;
        same() && now_nanos < self.until_nanos.load(Ordering::SeqCst) && same()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_in_its_term_and_before_its_end() {
        let fence = Fence::default();
        assert!(!fence.holds(0, 0), "nothing was said yet");
        fence.set(3, 100);
        assert!(fence.holds(3, 99) && !fence.holds(3, 100) && !fence.holds(2, 1) && !fence.holds(4, 1));
        fence.set(3, 0);
        assert!(!fence.holds(3, 0), "it leads no more");
        fence.set(5, 200);
        assert!(!fence.holds(3, 150), "a later term of the same replica is another office");
        assert!(fence.holds(5, 150));
    }
}

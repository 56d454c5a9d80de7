//! Warnings that others could repeat as often as they like, said at a bounded rate.

use std::cell::Cell;
use std::time::Duration;

use engine::rt::Mono;

/// The shortest time between two warnings of one place.
const EVERY: Duration = Duration::from_secs(5);

/// When something was last said, and how often it was not.
#[derive(Debug, Default)]
pub(in crate::wire) struct Notice {
    said: Cell<Option<Mono>>,
    unsaid: Cell<u64>,
}

impl Notice {
    /// Whether it may be said now; then how often it was not since the last time.
    pub(in crate::wire) fn may_say(&self, now: Mono) -> Option<u64> {
        if self.said.get().is_some_and(|said| now.since(said) < EVERY) {
            self.unsaid.set(self.unsaid.get() + 1);
            return None;
        }
        self.said.set(Some(now));
        Some(self.unsaid.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_repeated_is_said_now_and_then_with_its_number() {
        let notice = Notice::default();
        let at = |seconds: u64| Mono(seconds * 1_000_000_000);
        assert_eq!(notice.may_say(at(1)), Some(0));
        assert_eq!((notice.may_say(at(2)), notice.may_say(at(5))), (None, None));
        assert_eq!(notice.may_say(at(6)), Some(2));
        assert_eq!((notice.may_say(at(7)), notice.may_say(at(11))), (None, Some(1)));
    }
}

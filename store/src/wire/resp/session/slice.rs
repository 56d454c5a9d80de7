//! How long a session computes before others have their turn.
//!
//! A client decides how many commands it sends at once and what each of them costs, so neither their number nor that of its bytes bounds the
//! time that they take: a thousand one-byte additions to a large value fit into one read. The clock is looked at now and then while
//! commands are started, and where the slice is used up what is left waits as it does for any other bound.

use std::cell::Cell;
use std::time::Duration;

use engine::rt::{Mono, Rt};

/// How long a session may start commands without a pause; one command is always allowed.
const SLICE: Duration = Duration::from_micros(250);
/// Commands between two looks at the clock, at most.
const COMMANDS_PER_LOOK: usize = 8;
/// Bytes of commands between two looks, beside the last command: many keys cost more than few.
const BYTES_PER_LOOK: usize = 2 << 10;

/// What one poll of a session may still do.
#[derive(Clone, Debug)]
pub(super) struct Slice {
    length: Cell<Duration>,
    began: Mono,
    /// Since the latest look.
    commands: usize,
    bytes: usize,
    used_up: bool,
}

impl Default for Slice {
    fn default() -> Self {
        Self { length: Cell::new(SLICE), began: Mono(0), commands: 0, bytes: 0, used_up: false }
    }
}

impl Slice {
    /// Begins another one.
    pub(super) fn begin(&mut self, rt: &Rt) {
        self.began = rt.now();
        (self.commands, self.bytes) = (0, 0);
        self.used_up = false;
    }

    /// A command of `bytes` has been started.
    pub(super) fn count(&mut self, rt: &Rt, bytes: usize) {
        self.commands += 1;
        self.bytes += bytes;
        if self.commands >= COMMANDS_PER_LOOK || self.bytes >= BYTES_PER_LOOK {
            (self.commands, self.bytes) = (0, 0);
            self.look(rt);
        }
    }

    /// Something that may have taken long has been done.
    pub(super) fn look(&mut self, rt: &Rt) {
        self.used_up |= rt.now().since(self.began) >= self.length.get();
    }

    /// Whether others have their turn now.
    pub(super) fn is_used_up(&self) -> bool {
        self.used_up
    }

    /// From now on every look finds it used up.
    #[cfg(test)]
    pub(super) fn shorten(&self) {
        self.length.set(Duration::ZERO);
    }
}

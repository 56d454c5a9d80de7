//! CPU budgets: the visible form of the rule that no task computes for long without letting the reactor run.

use std::cell::Cell;
use std::time::Duration;

use super::{Mono, Rt};

/// How long a task computes before it yields: long enough to amortise the yield, short enough that a 1 ms timer stays one.
const SLICE: Duration = Duration::from_micros(500);

/// Counts the time that one long piece of work has held its core.
#[derive(Debug)]
pub struct Budget {
    rt: Rt,
    slice_began: Cell<Mono>,
}

impl Budget {
    pub(crate) fn new(rt: Rt) -> Self {
        let slice_began = Cell::new(rt.now());
        Self { rt, slice_began }
    }

    /// Call in every turn of a long loop; yields to the reactor when the slice is used up.
    pub async fn tick(&self) {
        if self.spent() {
            self.rt.yield_to_reactor().await;
            self.slice_began.set(self.rt.now());
        }
    }

    /// Whether the slice is used up, for loops that prefer to stop rather than to wait.
    pub fn spent(&self) -> bool {
        self.rt.now().since(self.slice_began.get()) >= SLICE
    }
}

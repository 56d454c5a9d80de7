//! How fast background work may write.

use std::cell::Cell;
use std::time::Duration;

use crate::rt::{Mono, Rt};

/// A byte-rate budget: whoever has written waits until the rate allows for it.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_second: Option<u64>,
    free_at: Cell<Mono>,
}

impl Pace {
    /// No rate means no limit.
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Cell::default() }
    }

    /// Accounts for `bytes` and waits as long as they cost.
    pub(crate) async fn spend(&self, rt: &Rt, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let now = rt.now();
        let cost = Duration::from_nanos((u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1))) as u64);
        let free_at = self.free_at.get().max(now) + cost;
        self.free_at.set(free_at);
        rt.sleep(free_at.since(now)).await;
    }
}

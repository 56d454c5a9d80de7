//! Append messages to one member that it has not answered yet, within bounds on their number and their bytes.

use std::collections::VecDeque;

use crate::config::Config;
use crate::id::Index;

/// Unanswered append messages: the last index and the bytes of each.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inflight {
    queue: VecDeque<(Index, u64)>,
    bytes: u64,
}

impl Inflight {
    pub(crate) fn push(&mut self, last: Index, bytes: u64) {
        self.queue.push_back((last, bytes));
        self.bytes += bytes;
    }

    /// Everything up to `index` has been answered.
    pub(crate) fn free_to(&mut self, index: Index) {
        while let Some((_, bytes)) = self.queue.pop_front_if(|(last, _)| *last <= index) {
            self.bytes -= bytes;
        }
    }

    pub(crate) fn free_oldest(&mut self) {
        if let Some((_, bytes)) = self.queue.pop_front() {
            self.bytes -= bytes;
        }
    }

    pub(crate) fn is_full(&self, config: &Config) -> bool {
        self.queue.len() >= config.inflight_messages_max || self.bytes >= config.inflight_bytes_max
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

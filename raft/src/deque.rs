//! Two queue verbs that the standard library has only in compilers newer than our minimum.

use std::collections::VecDeque;

/// Takes the first element if it satisfies `wanted`.
pub(crate) fn pop_front_if<T>(queue: &mut VecDeque<T>, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
    if wanted(queue.front()?) { queue.pop_front() } else { None }
}

/// Takes the last element if it satisfies `wanted`.
pub(crate) fn pop_back_if<T>(queue: &mut VecDeque<T>, wanted: impl FnOnce(&T) -> bool) -> Option<T> {
    if wanted(queue.back()?) { queue.pop_back() } else { None }
}

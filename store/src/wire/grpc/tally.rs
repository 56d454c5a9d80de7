//! Counters of calls: how many run, and how each ended.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::rc::Rc;

use super::status::Code;

/// Calls that run now, under one bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Running(Rc<Cell<usize>>);

/// A call that runs. Dropping it counts it as ended.
#[derive(Debug)]
pub(super) struct Entered(Rc<Cell<usize>>);

impl Running {
    /// Counts one more, unless there are `max`.
    pub(super) fn enter(&self, max: usize) -> Option<Entered> {
        if self.0.get() >= max {
            return None;
        }
        self.0.set(self.0.get() + 1);
        Some(Entered(self.0.clone()))
    }

    pub(super) fn count(&self) -> usize {
        self.0.get()
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// How many requests of one method ended with one status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The method's name; `unknown` for one that is not served.
    pub method: String,
    /// How they ended.
    pub code: Code,
    /// How many.
    pub count: u64,
}

impl Ended {
    /// The sums over several servers, one row per method and status.
    pub fn merge(all: impl Iterator<Item = Self>) -> Vec<Self> {
        let mut sums = BTreeMap::<(String, Code), u64>::new();
        all.for_each(|ended| *sums.entry((ended.method, ended.code)).or_default() += ended.count);
        sums.into_iter().map(|((method, code), count)| Ended { method, code, count }).collect()
    }
}

/// Counts ended requests by method and status.
#[derive(Debug)]
pub struct Tally<M>(RefCell<HashMap<(M, Code), u64, foldhash::fast::FixedState>>);

impl<M> Default for Tally<M> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<M: Eq + Hash> Tally<M> {
    /// Counts one.
    pub fn count(&self, method: M, code: Code) {
        *self.0.borrow_mut().entry((method, code)).or_default() += 1;
    }

    /// All that was counted, by name.
    pub fn ended(&self, name: impl Fn(&M) -> String) -> Vec<Ended> {
        let counts = self.0.borrow();
        counts
            .iter()
            .map(|((method, code), count)| Ended { method: name(method), code: *code, count: *count })
            .collect()
    }
}

/// Reads the counts of a server whose type is not known any more.
#[derive(Clone)]
pub(super) struct Read(pub(super) Rc<dyn Fn() -> Vec<Ended>>);

impl fmt::Debug for Read {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Read").finish_non_exhaustive()
    }
}

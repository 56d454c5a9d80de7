//! The open table files of one tree: a bounded number, those that were read last.
//!
//! A file that gives way is closed once its reads have ended, and opened again when it is read again. Descriptors are a thing of
//! the whole process, so a tree may have to do with fewer than it was promised; then it closes what it can spare and waits.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::error::{Fault, Shortage};
use crate::rt::{File, FileId};

/// The files, by number, and the order in which they were used.
#[derive(Debug)]
pub(crate) struct Files {
    open_max: usize,
    open: RefCell<BTreeMap<u64, Open>>,
    /// Number of the file by the moment of its last use.
    order: RefCell<BTreeMap<u64, u64>>,
    uses: Cell<u64>,
    closed_early: Cell<u64>,
    discarded: RefCell<Vec<Discarded>>,
}

#[derive(Debug)]
struct Open {
    file: Rc<File>,
    used: u64,
}

/// A file without users, waiting to be closed and perhaps removed.
#[derive(Debug)]
pub(crate) struct Discarded {
    pub(crate) file: Option<File>,
    /// The number of the file if it is to be removed.
    pub(crate) remove: Option<u64>,
}

impl Files {
    /// At most `open_max` files, but at least one.
    pub(crate) fn new(open_max: usize) -> Self {
        Self {
            open_max: open_max.max(1),
            open: RefCell::default(),
            order: RefCell::default(),
            uses: Cell::new(0),
            closed_early: Cell::new(0),
            discarded: RefCell::default(),
        }
    }

    /// How many may be open.
    pub(crate) fn open_max(&self) -> usize {
        self.open_max
    }

    /// File `number`, if it is open.
    pub(crate) fn used(&self, number: u64) -> Option<Rc<File>> {
        let mut open = self.open.borrow_mut();
        let found = open.get_mut(&number)?;
        let mut order = self.order.borrow_mut();
        order.remove(&found.used);
        found.used = self.next_use();
        order.insert(found.used, number);
        Some(found.file.clone())
    }

    /// Which file `number` is, if it is open. It does not count as use.
    pub(crate) fn id(&self, number: u64) -> Option<FileId> {
        self.open.borrow().get(&number).map(|open| open.file.id())
    }

    /// Takes in a file that was opened, unless another task was faster; others give way to it.
    pub(crate) fn keep(&self, number: u64, file: File) -> Rc<File> {
        if let Some(open) = self.used(number) {
            return open;
        }
        while self.open_count() >= self.open_max {
            self.let_go();
        }
        let (file, used) = (Rc::new(file), self.next_use());
        self.open.borrow_mut().insert(number, Open { file: file.clone(), used });
        self.order.borrow_mut().insert(used, number);
        file
    }

    /// Closes the file that was used least recently, once its reads have ended; `false` if none is open.
    pub(crate) fn let_go(&self) -> bool {
        let Some((_, number)) = self.order.borrow_mut().pop_first() else { return false };
        self.closed_early.set(self.closed_early.get() + 1);
        let gone = self.open.borrow_mut().remove(&number);
        self.close_later(gone, None);
        true
    }

    /// Whether it is worth trying again what failed with `fault`: it lacked a descriptor, and a file has given way. Files that are
    /// only open in case they are read again give way to the work of the tree.
    pub(crate) fn make_room_after(&self, fault: &Fault) -> bool {
        fault.shortage() == Some(Shortage::Descriptors) && self.let_go()
    }

    /// No table shows file `number` any more; `remove` says whether no later one will.
    pub(crate) fn discard(&self, number: u64, remove: bool) {
        let open = self.open.borrow_mut().remove(&number);
        if let Some(open) = &open {
            self.order.borrow_mut().remove(&open.used);
        }
        self.close_later(open, remove.then_some(number));
    }

    /// A file that is to be closed and removed.
    pub(crate) fn pop_discarded(&self) -> Option<Discarded> {
        self.discarded.borrow_mut().pop()
    }

    /// Files that are open for reading.
    pub(crate) fn open_count(&self) -> usize {
        self.open.borrow().len()
    }

    /// How often a file was closed for another.
    pub(crate) fn closed_early(&self) -> u64 {
        self.closed_early.get()
    }

    fn close_later(&self, open: Option<Open>, remove: Option<u64>) {
        // A file that is being read is closed with its last read; one that only gives way need not wait for the background task.
        let file = match remove {
            Some(_) => open.and_then(|open| Rc::try_unwrap(open.file).ok()),
            None => None,
        };
        if file.is_some() || remove.is_some() {
            self.discarded.borrow_mut().push(Discarded { file, remove });
        }
    }

    fn next_use(&self) -> u64 {
        self.uses.set(self.uses.get() + 1);
        self.uses.get()
    }
}

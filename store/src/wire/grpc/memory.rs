//! What the requests in flight may hold together, so that many callers cannot do what one may not.

use std::cell::Cell;
use std::rc::Rc;

use super::status::{Code, Status};

/// A bound in bytes, shared by the connections of a listener.
#[derive(Clone, Debug)]
pub struct Memory(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    used: Cell<usize>,
    bytes_max: usize,
}

/// Bytes taken from a [`Memory`], given back when dropped.
#[derive(Debug)]
pub struct Charge {
    memory: Memory,
    bytes: usize,
}

impl Memory {
    /// A bound of `bytes_max`.
    pub fn new(bytes_max: usize) -> Self {
        Self(Rc::new(Inner { used: Cell::new(0), bytes_max }))
    }

    /// A charge of nothing, to grow.
    pub fn charge(&self) -> Charge {
        Charge { memory: self.clone(), bytes: 0 }
    }

    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.0.used.get()
    }
}

impl Charge {
    /// Takes `bytes` more.
    ///
    /// # Errors
    /// When the bound would be passed; nothing is taken then.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Status> {
        let inner = &self.memory.0;
        let used = inner.used.get() + bytes;
        if used > inner.bytes_max {
            let max = inner.bytes_max;
            let message = format!(
                "requests in flight hold all {max} bytes that they may; try again, or send less at once"
            );
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        inner.used.set(used);
        self.bytes += bytes;
        Ok(())
    }

    /// Moves `bytes` of this charge into one of its own.
    pub fn split_off(&mut self, bytes: usize) -> Charge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Charge { memory: self.memory.clone(), bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let used = &self.memory.0.used;
        used.set(used.get() - self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_add_up_to_the_bound_and_are_given_back() {
        let memory = Memory::new(100);
        let mut one = memory.charge();
        one.grow(60).unwrap();
        let mut two = memory.charge();
        assert_eq!(two.grow(41).unwrap_err().code, Code::ResourceExhausted);
        two.grow(40).unwrap();
        let part = one.split_off(50);
        drop(one);
        assert_eq!(memory.used(), 90);
        drop((two, part));
        assert_eq!(memory.used(), 0);
    }
}

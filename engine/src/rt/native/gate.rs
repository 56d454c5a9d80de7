//! The gate through which every disk operation of a core passes, so that the core can end only when all of them have.
//!
//! An executor that goes away while the kernel still works for it leaves the kernel writing from, and into, freed memory. So:
//!
//! * An operation whose caller lost interest is not cancelled; it moves to a task of its own and ends there.
//! * [`Core::drain`] closes the gate, ends the sockets and waits until nothing is on its way.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Core;
use crate::rt::local::Bell;

/// Passes that a closing core makes after its last operation: queued closes and cancellations are submitted in one and
/// collected in the next.
const LAST_PASSES: usize = 3;

#[derive(Debug, Default)]
pub(crate) struct Gate {
    in_flight: Cell<u64>,
    closed: Cell<bool>,
    /// The executor is about to go; nothing may be spawned on it any more.
    ended: Cell<bool>,
    /// Rings when the last operation in flight ends.
    idle: Bell,
}

/// One operation; while it lives, the gate counts it.
struct Counted(Core);

impl Drop for Counted {
    fn drop(&mut self) {
        let gate = self.0.gate();
        gate.in_flight.set(gate.in_flight.get() - 1);
        if gate.in_flight.get() == 0 {
            gate.idle.ring();
        }
    }
}

/// An operation that completes even if no task waits for it.
struct Operation<T: 'static> {
    future: Option<Pin<Box<dyn Future<Output = io::Result<T>>>>>,
    core: Core,
}

impl<T> Future for Operation<T> {
    type Output = io::Result<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        let Some(future) = self.future.as_mut() else { return Poll::Pending };
        let result = future.as_mut().poll(cx);
        if result.is_ready() {
            self.future = None;
        }
        result
    }
}

impl<T: 'static> Drop for Operation<T> {
    fn drop(&mut self) {
        // A core that unwinds has no executor left to finish anything on.
        if let Some(future) =
            self.future.take().filter(|_| !std::thread::panicking() && !self.core.has_ended())
        {
            self.core.spawn(Box::pin(async move {
                // Whoever asked is gone, and has heard that the outcome is unknown.
                let _ = future.await;
            }));
        }
    }
}

impl Core {
    /// Runs an operation to its end, whatever becomes of the caller.
    ///
    /// # Errors
    /// Those of the operation; `BrokenPipe` once the core is ending.
    pub(crate) async fn operate<T: 'static>(
        &self,
        operation: impl Future<Output = io::Result<T>> + 'static,
    ) -> io::Result<T> {
        self.refuse_if_closing()?;
        self.finish(operation).await
    }

    pub(crate) fn refuse_if_closing(&self) -> io::Result<()> {
        if self.gate().closed.get() {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "this core is shutting down"));
        }
        Ok(())
    }

    /// As [`Core::operate`], and allowed while the core is ending.
    pub(crate) async fn finish<T: 'static>(
        &self,
        operation: impl Future<Output = io::Result<T>> + 'static,
    ) -> io::Result<T> {
        let gate = self.gate();
        gate.in_flight.set(gate.in_flight.get() + 1);
        let counted = Counted(self.clone());
        let future = Box::pin(async move {
            let _counted = counted;
            operation.await
        });
        Operation { future: Some(future), core: self.clone() }.await
    }

    /// Refuses new operations, ends every connection and listener, and waits until the kernel has no operation of this core in flight.
    pub(crate) async fn drain(&self) {
        let gate = self.gate();
        gate.closed.set(true);
        self.sockets().shut_down();
        while gate.in_flight.get() > 0 {
            gate.idle.wait().await;
        }
        for _ in 0..LAST_PASSES {
            self.sleep(Duration::from_micros(100)).await;
        }
        self.sockets().end();
        gate.ended.set(true);
        self.timers().end();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.gate().ended.get()
    }
}

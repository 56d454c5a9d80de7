//! When the reactor gets its turn.
//!
//! It has one whenever no task is runnable, and otherwise only every 100 ms. A pass is not free: it renews timers and enters
//! the kernel several times. So what keeps tasks runnable without it (sockets that have news again and again, log writes during
//! which the core blocks) goes on for [`PASS`] and then waits here until the reactor has looked after timers, files and
//! the messages of other cores.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use glommio::io::{PollState, PollableFd};
use rustix::event::{EventfdFlags, eventfd};

use super::Core;
use super::file::io_error;
use crate::rt::Mono;

/// How long tasks may keep the reactor waiting.
const PASS: Duration = Duration::from_micros(200);

/// A descriptor that is always readable, so that asking the reactor about it takes exactly one pass.
type Readable = PollableFd<OwnedFd>;

/// The passes of a core's reactor.
#[derive(Debug, Default)]
pub(super) struct Passes {
    last: Cell<Mono>,
    readable: RefCell<Option<Rc<Readable>>>,
}

impl Core {
    /// The reactor has just had its turn, so sleepers may go on.
    pub(super) fn passed(&self) {
        let now = self.now();
        self.passes().last.set(now);
        self.timers().wake_expired(now);
    }

    /// Whether it should have one.
    pub(super) fn pass_is_due(&self) -> bool {
        self.now().since(self.passes().last.get()) > PASS
    }

    /// Gives the reactor its turn, if it is due.
    pub(crate) async fn yield_if_due(&self) {
        if self.pass_is_due() && self.pass().await.is_err() {
            // There is no descriptor left for it. A timer takes longer, and needs none.
            self.yield_to_reactor().await;
            self.passed();
        }
    }

    async fn pass(&self) -> io::Result<()> {
        let readable = self.passes().readable()?;
        let mut state = PollState::new();
        poll_fn(|cx| readable.poll_readable(cx, &mut state)).await.map_err(io_error)?;
        self.passed();
        Ok(())
    }
}

impl Passes {
    fn readable(&self) -> io::Result<Rc<Readable>> {
        if let Some(readable) = &*self.readable.borrow() {
            return Ok(readable.clone());
        }
        let readable = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let readable = Rc::new(PollableFd::new(readable).map_err(io_error)?);
        *self.readable.borrow_mut() = Some(readable.clone());
        Ok(readable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::World;
    use crate::rt::{CoreOptions, start_core};

    #[test]
    fn who_never_waits_still_lets_timers_run() {
        let rang = start_core(&CoreOptions::default(), |rt| async move {
            let World::Native(core) = &rt.world else { unreachable!("this is a real core") };
            let rang = Rc::new(Cell::new(0));
            let (ringing, sleeping) = (rang.clone(), rt.clone());
            rt.spawn(async move {
                loop {
                    sleeping.sleep(PASS).await;
                    ringing.set(ringing.get() + 1);
                }
            });
            // Each time the timer is armed by then, and has expired before the next pass.
            let mut seen = Vec::new();
            for _ in 0..5 {
                core.gather_input().await;
                seen.push(rang.get());
                let began = rt.now();
                while rt.now().since(began) < 2 * PASS {
                    std::hint::spin_loop();
                }
            }
            seen
        });
        let rang = rang.unwrap();
        assert!(rang.is_sorted_by(|before, after| before < after), "{rang:?}");
    }
}

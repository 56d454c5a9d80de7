//! Cores that a simulated process starts by itself.
//!
//! The main future of such a core is watched: a panic in it ends the core and is reported to whoever started it, as in the native world.
//! A panic in any other task goes on to fail the run.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use super::core::SimCore;
use super::node::{Node, Running};
use crate::rt::local::oneshot;
use crate::rt::{CoreError, Rt};

impl SimCore {
    /// Starts a further core of this process. A handle on a life that has ended starts nothing.
    pub(crate) fn add_core<T, F, M>(
        &self,
        index: usize,
        cpu: Option<usize>,
        main: M,
    ) -> Running<Result<T, CoreError>>
    where
        T: 'static,
        F: Future<Output = T> + 'static,
        M: FnOnce(Rt) -> F + 'static,
    {
        let missing = cpu.is_some_and(|cpu| cpu >= self.node().cpus.get());
        if missing || self.is_dead() {
            let (answer, refused) = oneshot();
            if missing {
                let why = "there is no such CPU".to_owned();
                answer.send(Err(CoreError::NotStarted { core: index, cpu, why }));
            }
            return refused;
        }
        let node = Node { sim: self.sim().clone(), state: self.node().clone() };
        node.start(index, move |rt| watched(index, async move { main(rt).await }))
    }
}

async fn watched<T>(core: usize, main: impl Future<Output = T>) -> Result<T, CoreError> {
    let mut main = pin!(main);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| main.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(panic) => Poll::Ready(Err(CoreError::Panicked { core, why: words_of(&*panic) })),
    })
    .await
}

/// What a panic said, as far as it said something.
fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say why").to_owned()
}

//! Where an outcome goes: to a task of this core, or back to the core that forwarded the operation. A command of the system group is
//! answered by what it came to, always here.
//!
//! Invariant: every reply sends one outcome and no second one. One that is dropped (a fault in the middle of an apply, a store that is
//! torn down) sends [`Refusal::Unknown`], so no client waits for an answer that cannot come.

use std::rc::Rc;

use engine::rt::local::Answer;

use super::links::CoreLinks;
use crate::refusal::Refusal;
use crate::region::system::Decided;
use crate::request::Outcome;

/// One operation's way back.
#[derive(Debug)]
pub struct Reply(Option<Way>);

#[derive(Debug)]
enum Way {
    /// A task of this core waits.
    Local(Answer<Outcome>),
    /// Another core waits.
    Remote {
        /// The core that asked.
        core: usize,
        /// Its number for the request.
        id: u64,
        /// This core's links.
        links: Rc<CoreLinks>,
    },
    /// A task of this core waits for a command of the system group.
    System(Answer<Result<Decided, Refusal>>),
}

impl Reply {
    /// To a task of this core.
    pub fn local(answer: Answer<Outcome>) -> Self {
        Self(Some(Way::Local(answer)))
    }

    /// To `core`, which asked over `links` and has the number `id` for the request.
    pub fn remote(core: usize, id: u64, links: Rc<CoreLinks>) -> Self {
        Self(Some(Way::Remote { core, id, links }))
    }

    /// To a task of this core that waits for a command of the system group.
    pub(super) fn system(answer: Answer<Result<Decided, Refusal>>) -> Self {
        Self(Some(Way::System(answer)))
    }

    /// Says what a command of the system group came to.
    pub(super) fn decided(mut self, decided: Decided) {
        match self.0.take() {
            Some(Way::System(answer)) => answer.send(Ok(decided)),
            Some(Way::Local(_) | Way::Remote { .. }) | None => {
                unreachable!("only a command of the system group is decided")
            }
        }
    }

    /// Goes on with `work` while the answer is waited for, as far as that is known here: other cores do not report it.
    pub async fn unless_left<W>(&self, work: impl Future<Output = W>) -> Option<W> {
        match &self.0 {
            Some(Way::Local(answer)) => answer.unless_left(work).await,
            Some(Way::Remote { .. } | Way::System(_)) | None => Some(work.await),
        }
    }

    /// The way back, for an answer before the operation is through; `None` if it has been answered. What is sent later goes nowhere.
    pub(super) fn answered_early(&mut self) -> Option<Self> {
        self.0.take().map(|way| Self(Some(way)))
    }

    /// Sends the outcome on its way. The caller may be gone, which is fine.
    pub fn send(mut self, outcome: Outcome) {
        if let Some(way) = self.0.take() {
            way.send(outcome);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(way) = self.0.take() {
            way.send(Err(Refusal::Unknown));
        }
    }
}

impl Way {
    fn send(self, outcome: Outcome) {
        match self {
            Way::Local(answer) => answer.send(outcome),
            Way::Remote { core, id, links } => links.answer(core, id, outcome),
            Way::System(answer) => match outcome {
                Err(refusal) => answer.send(Err(refusal)),
                Ok(out) => unreachable!("a command of the system group came to {out:?}"),
            },
        }
    }
}

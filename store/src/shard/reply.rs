//! Where an outcome goes: to a task of this core, or back to the core that forwarded the operation.

use std::rc::Rc;

use engine::rt::local::Answer;

use super::links::Links;
use crate::gateway::Outcome;

/// One operation's way back.
#[derive(Debug)]
pub enum Reply {
    /// A task of this core waits.
    Local(Answer<Outcome>),
    /// Another core waits.
    Remote {
        /// The core that asked.
        core: usize,
        /// Its number for the request.
        id: u64,
        /// This core's links.
        links: Rc<Links>,
    },
}

impl Reply {
    /// Goes on with `work` while somebody waits, as far as that is known here: other cores do not tell.
    pub async fn unless_left<W>(&self, work: impl Future<Output = W>) -> Option<W> {
        match self {
            Reply::Local(answer) => answer.unless_left(work).await,
            Reply::Remote { .. } => Some(work.await),
        }
    }

    /// Sends the outcome on its way. Nobody may be waiting any more, which is fine.
    pub fn send(self, outcome: Outcome) {
        match self {
            Reply::Local(answer) => answer.send(outcome),
            Reply::Remote { core, id, links } => links.answer(core, id, outcome),
        }
    }
}

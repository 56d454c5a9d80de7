//! The scheduler shard's way to its state, which lies in the system group of a store on another core.
//!
//! ```text
//!   scheduler shard ── Ask { command, where to answer } ──▶ core of the store ──▶ entry ──▶ log ──▶ applied
//!                   ◀────────────── Decided { answer, the state after it } ─────────────────────────┘
//! ```
//!
//! What holds: whoever asks hears what the applied entry came to, or that it is refused, or that its outcome is unknown; nothing else counts
//! as done. What this core knows of the state is never older than the latest answer that it has heard. A core that ends drops what it
//! was asked, which the asker hears as unknown. Where the group has several members, whoever asks names the term in which it leads, and
//! a command of another term is refused.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use engine::rt::Rt;
use engine::rt::chan::{self, Receiver, Sender};
use scheduler::{Instruction, State, StateAnswer, StateCommand, StateImage};

use super::denied::Denied;
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::region::system::fence::Fence;
use crate::region::system::{Decided, Members, StateStanding, SystemCommand};

/// Questions on their way to the core of the store; more wait for room.
const ASKS_MAX: usize = 64;

/// Where an answer from another core arrives.
pub type AnswerTo<T> = Sender<Result<T, Refusal>>;

/// What the scheduler shard asks of the store that has its state.
#[derive(Debug)]
pub enum Ask {
    /// The state, once the store can vouch that nothing acknowledged is missing; none if it has not begun.
    Read(AnswerTo<Option<StateImage>>),
    /// To carry a command out, if the replica there leads in this term.
    Command(SystemCommand, Option<u64>, AnswerTo<Decided>),
    /// The members of the group as their leader knows them.
    Members(AnswerTo<Members>),
    /// To begin a change of the members, or of their leader.
    Step(Instruction, AnswerTo<()>),
}

/// What the core of the store says of its replica of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// How it stands.
    Standing(StateStanding),
    /// The store does not take part: why, and whether it is the only voter, if that is known.
    Closed(String, Option<bool>),
    /// The store has no replica.
    Absent,
}

/// News that may wait; what comes later says more.
const NEWS_MAX: usize = 4;

/// A queue for what the core of the store says.
pub fn news() -> (Sender<News>, Receiver<News>) {
    chan::queue(NEWS_MAX)
}

/// The term in which a member leads the group, and until when that holds.
#[derive(Clone, Debug)]
pub struct Office {
    /// The term.
    pub term: u64,
    /// Until when.
    pub fence: Arc<Fence>,
}

impl Office {
    /// Whether no other member can lead now.
    pub(super) fn holds(&self, rt: &Rt) -> bool {
        self.fence.holds(self.term, rt.boot_time().0)
    }
}

/// The two ends of a link between the scheduler shard and the core of the store.
pub fn link() -> (Sender<Ask>, Receiver<Ask>) {
    chan::queue(ASKS_MAX)
}

/// The asking end, and what it knows.
pub(super) struct StateLink {
    asks: Sender<Ask>,
    /// In which commands are given, if the group may have other members.
    term: Option<u64>,
    known: RefCell<Known>,
}

/// The newest state that was heard of.
#[derive(Debug, Default)]
struct Known {
    index: u64,
    state: Option<StateImage>,
}

impl fmt::Debug for StateLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateLink").field("known", &self.known).finish_non_exhaustive()
    }
}

impl StateLink {
    pub(super) fn new(asks: Sender<Ask>, term: Option<u64>) -> Self {
        Self { asks, term, known: RefCell::default() }
    }

    /// The members of the group.
    pub(super) async fn members(&self) -> Result<Members, Denied> {
        self.ask(Ask::Members).await.map_err(|refusal| Denied::unavailable(&refusal))
    }

    /// Begins a change of the members, or of their leader.
    pub(super) async fn step(&self, step: Instruction) -> Result<(), Denied> {
        self.ask(|to| Ask::Step(step, to)).await.map_err(|refusal| Denied::unavailable(&refusal))
    }

    async fn ask<T>(&self, ask: impl FnOnce(AnswerTo<T>) -> Ask) -> Result<T, Refusal> {
        let (answer_to, answer) = chan::queue(1);
        let ended = || Refusal::Stopped("its core has ended".to_owned());
        self.asks.send(ask(answer_to)).await.map_err(|_| ended())?;
        answer.recv().await.unwrap_or(Err(Refusal::Unknown))
    }

    /// Reads the state. Whether it has begun.
    pub(super) async fn read(&self) -> Result<bool, Denied> {
        let state = self.ask(Ask::Read).await.map_err(|refusal| Denied::unavailable(&refusal))?;
        let begun = state.is_some();
        self.learn(0, state);
        Ok(begun)
    }

    /// Begins the state.
    pub(super) async fn begin(&self, state: StateImage) -> Result<(), Denied> {
        self.command(SystemCommand::Begin(Box::new(state))).await.map(|_| ())
    }

    /// Carries a command out and returns its answer once it is durable and applied.
    pub(super) async fn apply(&self, command: StateCommand) -> Result<StateAnswer, Denied> {
        if planted(Bug::DecidedEarly)
            && let Some(answer) = self.guess(&command)
        {
            // The entry is on its way, and nothing waits for it.
            let ask = Ask::Command(SystemCommand::Change(command), self.term, chan::queue(1).0);
            return self
                .asks
                .send(ask)
                .await
                .map(|()| answer)
                .map_err(|_| Denied::unavailable(&Refusal::Unknown));
        }
        self.command(SystemCommand::Change(command)).await
    }

    async fn command(&self, command: SystemCommand) -> Result<StateAnswer, Denied> {
        let decided = self.ask(|answer_to| Ask::Command(command, self.term, answer_to)).await;
        let Decided { index, answer, state } = decided.map_err(|refusal| Denied::unavailable(&refusal))?;
        self.learn(index, state);
        answer.map_err(Denied::from)
    }

    fn learn(&self, index: u64, state: Option<StateImage>) {
        let mut known = self.known.borrow_mut();
        if known.state.is_none() || index > known.index {
            *known = Known { index, state };
        }
    }

    /// A planted bug: what the command will come to, if no other is on its way.
    fn guess(&self, command: &StateCommand) -> Option<StateAnswer> {
        let mut known = self.known.borrow_mut();
        let mut state = State::restore(known.state.clone()?).ok()?;
        let answer = state.apply(command.clone()).ok()?;
        known.state = Some(state.image().clone());
        Some(answer)
    }

    /// Asks the newest known state, if one is known.
    pub(super) fn known<T>(&self, ask: impl FnOnce(&StateImage) -> T) -> Option<T> {
        self.known.borrow().state.as_ref().map(ask)
    }
}

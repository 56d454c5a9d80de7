//! The system group: the scheduler's state as a region's machine keeps any other, and out of reach of users.
//!
//! What the scheduler must not forget (ids, stores, configuration, timestamp window, safe points) is a [`State`] that changes only by
//! entries of this group's log. The group is a replica like those of regions: the same core of consensus, the same turns, the same log and
//! tree. Only what its entries are applied to differs. Pure.
//!
//! ```text
//! submit_command ──► entry ──► committed ──► SystemState::apply ──► rows of the family `system`, in the batch that has the mark
//!                                                    └────────────► Decided, to whoever waits
//! ```
//!
//! What holds:
//! * nothing is answered before its entry is applied, and an entry is applied only after it is durable, so no id and no part of a window
//!   is handed out twice, whatever crashes;
//! * the state begins once ([`SystemCommand::Begin`]) and never anew: a second beginning is refused;
//! * the rows lie in a family that no command of a user can name, and the group's id leads no request here
//!   ([`Replica::is_system`](super::replica::Replica::is_system)).

pub mod codec;
pub mod fence;
pub mod image;

use std::fmt;

use engine::lsm::{Cf, WriteBatch};
use scheduler::{
    Epoch, KeyRange, Peer, PeerId, Region, RegionId, State, StateAnswer, StateCommand, StateImage,
    StateRefusal, StoreId,
};

use super::replica::Replica;
use crate::plant::{Bug, planted};

/// How a group is named in a log line: a region by its number, the system group, whose number means nothing to a reader, by its name.
pub fn named(region: RegionId) -> (Option<u64>, Option<&'static str>) {
    if region == GROUP { (None, Some("system")) } else { (Some(region.0), None) }
}

/// The group's id. Ids are handed out from below and never reach it.
pub const GROUP: RegionId = RegionId(u64::MAX);

/// Commands that may wait to be proposed or applied.
pub const COMMANDS_MAX: usize = 256;

/// The group as it begins, with one member. Its first peer bears the number of its store, which names no other peer; later ones get
/// ids from the state.
pub fn first_region(store: StoreId) -> Region {
    // It has no keys of a user; the range counts for nothing.
    let peers = vec![Peer::voter(PeerId(store.0), store)];
    Region { id: GROUP, range: KeyRange::full(), epoch: Epoch::FIRST, peers }
}

/// What a replica of the group says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateStanding {
    /// Its term.
    pub term: u64,
    /// Whether it leads and its state has everything that was acknowledged before.
    pub leads: bool,
    /// Whether it is the only voter.
    pub alone: bool,
    /// The members as it knows them; none while it waits for its first snapshot.
    pub region: Region,
    /// Who leads, if that is known.
    pub leader: Option<Peer>,
}

/// What the leader of the group knows of its members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The members.
    pub region: Region,
    /// Who leads.
    pub leader: Peer,
    /// Those that lag.
    pub pending: Vec<PeerId>,
    /// Those that are silent.
    pub down: Vec<PeerId>,
}

/// A command of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemCommand {
    /// Begins the state, with what it is at first.
    Begin(Box<StateImage>),
    /// Changes it.
    Change(StateCommand),
}

/// Why an applied command has changed nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SystemRefusal {
    /// There is no state yet.
    NotBegun,
    /// There is one already.
    Begun,
    /// The state refuses the command, or what it was to begin with contradicts itself.
    State(StateRefusal),
}

impl fmt::Display for SystemRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBegun => {
                f.write_str("the scheduler's state has not begun; wait until the node has started")
            }
            Self::Begun => f.write_str("the scheduler's state has begun already; it is begun once"),
            Self::State(refusal) => write!(f, "{refusal}"),
        }
    }
}

/// What an applied command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The index of its entry: of two states the one of the higher index is the newer.
    pub index: u64,
    /// Its answer, or why it changed nothing.
    pub answer: Result<StateAnswer, SystemRefusal>,
    /// The state after it, once there is one.
    pub state: Option<StateImage>,
}

/// The state machine of the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemState {
    state: Option<State>,
}

impl SystemState {
    /// The state that the tree had at the group's applied index.
    pub const fn new(state: Option<State>) -> Self {
        Self { state }
    }

    /// The state, once it has begun.
    pub fn image(&self) -> Option<&StateImage> {
        self.state.as_ref().map(State::image)
    }

    /// Carries a command out and adds the rows that it changes to `batch`.
    pub(super) fn apply(
        &mut self,
        command: SystemCommand,
        batch: &mut WriteBatch,
    ) -> Result<StateAnswer, SystemRefusal> {
        let (answer, rows) = match (&mut self.state, command) {
            (Some(_), SystemCommand::Begin(_)) if !planted(Bug::StateBegunTwice) => {
                return Err(SystemRefusal::Begun);
            }
            (state, SystemCommand::Begin(image)) => {
                let begun = State::restore(*image).map_err(SystemRefusal::State)?;
                let rows = codec::rows(begun.image());
                *state = Some(begun);
                (StateAnswer::Done, rows)
            }
            (None, SystemCommand::Change(_)) => return Err(SystemRefusal::NotBegun),
            (Some(state), SystemCommand::Change(command)) => {
                let answer = state.apply(command.clone()).map_err(SystemRefusal::State)?;
                let rows = match planted(Bug::WindowLost) {
                    true => {
                        codec::changed(&command, &StateImage { timestamp_end_ms: 0, ..state.image().clone() })
                    }
                    false => codec::changed(&command, state.image()),
                };
                (answer, rows)
            }
        };
        rows.iter().for_each(|(key, value)| batch.put(Cf::System, key, value));
        Ok(answer)
    }
}

/// The keys of the rows, in the family `system`.
pub fn rows() -> KeyRange {
    KeyRange::new("", &codec::ROWS_END[..]).expect("every row lies between the two")
}

/// Deletes every row.
pub(super) fn erase(batch: &mut WriteBatch) {
    batch.delete_range(Cf::System, b"", &codec::ROWS_END);
}

impl<W, R> Replica<W, R> {
    /// What this replica says of itself.
    pub fn standing(&self) -> StateStanding {
        StateStanding {
            term: self.term().0,
            leads: self.is_leader() && self.is_current(),
            alone: self.is_sole_voter(),
            region: self.region().clone(),
            leader: self.here().leader,
        }
    }

    /// Until when no other replica leads, on the clock that the core is given, nanoseconds: for ever where there is no other voter, and
    /// 0 if this one does not lead or cannot say.
    pub fn leads_until(&self) -> u64 {
        if self.is_sole_voter() && self.is_leader() {
            return u64::MAX;
        }
        self.raft.lease_until().map_or(0, |until| until.0)
    }
}

#[cfg(test)]
mod tests {
    use super::image::sample;
    use super::*;
    use engine::lsm::BatchOp as Op;
    use scheduler::ConfigChange;

    fn rows_of(batch: &WriteBatch, rows: &mut codec::Rows) {
        for op in batch.ops() {
            let Op::Put { cf: Cf::System, key, value } = op else { panic!("{op:?} is no row of the group") };
            rows.insert(key.to_vec(), value.to_vec());
        }
    }

    fn restored(rows: &codec::Rows) -> Option<State> {
        let pairs: Vec<(&[u8], &[u8])> = rows.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        codec::restore(pairs.into_iter()).expect("rows that were written here")
    }

    #[test]
    fn the_rows_are_the_state_after_every_command() {
        let (mut state, mut rows) = (SystemState::default(), codec::Rows::new());
        let mut step = |command: SystemCommand| {
            let mut batch = WriteBatch::new();
            let answer = state.apply(command, &mut batch);
            rows_of(&batch, &mut rows);
            assert_eq!(SystemState::new(restored(&rows)), state);
            assert!(answer.is_ok() || batch.is_empty(), "a refusal changed rows");
            answer
        };
        let change = SystemCommand::Change;
        assert_eq!(step(change(StateCommand::AllocateIds { count: 1 })), Err(SystemRefusal::NotBegun));
        let begin = SystemCommand::Begin(Box::new(sample()));
        assert_eq!(step(begin.clone()), Ok(StateAnswer::Done));
        assert_eq!(step(change(StateCommand::AllocateIds { count: 5 })), Ok(StateAnswer::Ids(41..46)));
        assert_eq!(step(begin), Err(SystemRefusal::Begun));
        let window = StateCommand::SaveTimestampWindow { end_ms: 1_800_000_000_000 };
        assert_eq!(step(change(window)), Ok(StateAnswer::TimestampWindow(1_800_000_000_000)));
        for command in [
            StateCommand::SetEvicting { store: StoreId(1), evicting: false },
            StateCommand::SetLifecycle { store: StoreId(2), lifecycle: scheduler::Lifecycle::Tombstone },
            StateCommand::SetConfig(Box::default()),
            StateCommand::ChangeConfig { config: Box::default(), changes: vec![ConfigChange::default()] },
            StateCommand::AdvanceGcSafePoint { timestamp: 9 },
        ] {
            step(change(command)).expect("the state allows it");
        }
        let refused = step(change(StateCommand::Bootstrap { cluster: 8 }));
        assert_eq!(refused, Err(SystemRefusal::State(StateRefusal::Bootstrapped { cluster: 7 })));
    }
}

//! What the data cores report to the scheduler shard: one beat per core and second, as plain values.
//!
//! ```text
//!   data core ── Beat { stores: [ StoreBeat { descriptor, report, regions } ], wanted } ──▶ control
//!             ◀── BeatAnswer { instructions, addresses, unknown, gone } ────────────────────┘
//! ```
//!
//! A beat says everything that its core knows now, so a newer one makes an older one superfluous. The sender waits for room in
//! the queue instead of dropping its message: a scheduler shard that is behind hears later, never less. An answer may be dropped:
//! every step is repeated with every report until it is seen to be done, and what is wanted is asked for again.
//!
//! Stores of this node enter the map by their beats. Those of other nodes are entered when they join ([`members`](super::members)), and
//! a beat of one that has not joined as it describes itself is refused.

use std::collections::BTreeMap;
use std::fmt;

use engine::rt::chan::{self, Receiver, Sender, TrySend};
use scheduler::{
    Instruction, Lifecycle, NodeId, RegionReport, StateCommand, StoreDescriptor, StoreId, StoreReport,
};

use super::denied::Denied;
use super::{Control, time};
use crate::plant::{Bug, planted};

/// Beats that may wait. A core has one in flight at a time, so more cores than this only wait for each other.
const INBOX_BOUND: usize = 64;

/// Answers that a core may not have taken yet; one more is dropped.
const ANSWERS_MAX: usize = 4;

/// Everything that one core reports at one moment.
#[derive(Clone, Debug, Default)]
pub struct Beat {
    /// The core, by number on its node.
    pub core: usize,
    /// The core's stores.
    pub stores: Vec<StoreBeat>,
    /// Stores whose addresses the core asks for.
    pub wanted: Vec<StoreId>,
}

/// What the scheduler answers to a beat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BeatAnswer {
    /// The next steps of regions that the core leads.
    pub instructions: Vec<Instruction>,
    /// Where the wanted stores are reached, as far as that is known.
    pub addresses: Vec<(StoreId, String)>,
    /// Where the members of the system group serve the PD API, this one first; nothing in an answer to a core of this node.
    pub members: Vec<(NodeId, String)>,
    /// Wanted stores that have not joined.
    pub unknown: Vec<StoreId>,
    /// Stores of the beat that were taken out of use for good; nothing that they report counts. It is said to their node, and to no core.
    pub gone: Vec<StoreId>,
}

impl BeatAnswer {
    /// Whether it says nothing to a core.
    pub fn is_empty(&self) -> bool {
        let Self { instructions, addresses, members: _, unknown, gone: _ } = self;
        instructions.is_empty() && addresses.is_empty() && unknown.is_empty()
    }
}

/// A store that beats has not joined as it describes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJoined {
    /// The store.
    pub store: StoreId,
    /// The node that it says it is of.
    pub node: NodeId,
}

impl fmt::Display for NotJoined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, node } = self;
        write!(f, "{store} of {node} has not joined from that address; let it register with PutStore first")
    }
}

/// What one store reports.
#[derive(Clone, Debug)]
pub struct StoreBeat {
    /// Who it is and where clients reach it.
    pub descriptor: StoreDescriptor,
    /// How full and how busy it is.
    pub report: StoreReport,
    /// The regions that it leads.
    pub regions: Vec<RegionReport>,
}

/// A queue for the beats of all data cores.
pub fn beats() -> (Sender<Beat>, Receiver<Beat>) {
    chan::queue(INBOX_BOUND)
}

/// A queue for the answers to one core's beats.
pub fn answers() -> (Sender<BeatAnswer>, Receiver<BeatAnswer>) {
    chan::queue(ANSWERS_MAX)
}

/// Hands an answer to the core whose beat it answers, by number. One that does not fit is dropped: the next beat brings it again.
pub fn hand_out(answers: &[Sender<BeatAnswer>], core: usize, answer: BeatAnswer) {
    let Some(to) = answers.get(core).filter(|_| !answer.is_empty()) else { return };
    match to.try_send(answer) {
        Ok(()) => {}
        Err(TrySend::Full(_)) => {
            tracing::warn!(core, "a core takes no answers of the scheduler: its disk may hang")
        }
        Err(TrySend::Closed(_)) => {
            tracing::debug!(core, "a core has ended before an answer of the scheduler")
        }
    }
}

impl Control {
    /// Takes the beat of a core of this node in: its stores first, so that its regions find them.
    pub async fn take(&self, beat: Beat) -> BeatAnswer {
        beat.stores.iter().for_each(|store| self.enter_store(&store.descriptor));
        self.take_reports(beat).await
    }

    /// Takes the beat of a core of another node in.
    ///
    /// # Errors
    /// If a store of it has not joined; nothing of the beat counts then.
    pub async fn take_remote(&self, beat: Beat) -> Result<BeatAnswer, NotJoined> {
        for StoreBeat { descriptor, report, regions: _ } in &beat.stores {
            let joined = self.0.state.known(|image| {
                image.stores.get(&descriptor.id).is_some_and(|known| is_as_described(known, descriptor))
            });
            let own = descriptor.node.0 == self.0.member.member_id;
            let stranger = joined != Some(true) || own || report.store != descriptor.id;
            if stranger && !planted(Bug::StrangersBelieved) {
                return Err(NotJoined { store: descriptor.id, node: descriptor.node });
            }
        }
        let mut answer = self.take_reports(beat).await;
        let urls = self.0.member.client_urls.iter();
        let own = NodeId(self.0.member.member_id);
        answer.members = urls.map(|url| (own, url.trim_start_matches("http://").to_owned())).collect();
        answer.members.extend(self.others());
        Ok(answer)
    }

    async fn take_reports(&self, Beat { core: _, stores, wanted }: Beat) -> BeatAnswer {
        let budget = self.0.rt.budget();
        let mut answer = BeatAnswer::default();
        for StoreBeat { descriptor, report, regions } in stores {
            if self.is_gone(descriptor.id) {
                answer.gone.extend((!planted(Bug::GoneNotSaid)).then_some(descriptor.id));
                continue;
            }
            self.report_store(report);
            for region in regions {
                let instruction = self.report_region(region);
                // A region may be led by another store meanwhile, which hears of the step with a report of its own.
                answer.instructions.extend(instruction.filter(|it| it.leader.store == descriptor.id));
                budget.tick().await;
            }
        }
        for id in wanted {
            let address = self.map(|map| map.store(id).map(|known| known.descriptor.address.clone()));
            match address {
                Some(address) => answer.addresses.push((id, address)),
                // The map may be behind the state, and as long as that is not read nothing is known.
                None if self.0.state.known(|image| image.stores.contains_key(&id)) == Some(false) => {
                    answer.unknown.push(id);
                }
                None => {}
            }
            budget.tick().await;
        }
        self.hurry();
        answer
    }

    /// Enters a store or changes what is known of it: in the map at once, because what a store says of itself is true, and in the state in
    /// the background, because beats do not wait for a disk. What the state has already is not saved again.
    fn enter_store(&self, descriptor: &StoreDescriptor) {
        let inner = &*self.0;
        let known = inner.state.known(|image| {
            image.stores.get(&descriptor.id).is_some_and(|known| is_as_described(known, descriptor))
        });
        if known == Some(true) {
            return;
        }
        let entered = inner.scheduler.borrow_mut().put_store(descriptor.clone(), time(&inner.rt));
        let is_entered = self.count(entered.map_err(|refusal| refusal.to_string())).is_some();
        if !is_entered || !inner.entering.borrow_mut().insert(descriptor.id) {
            return;
        }
        let (control, descriptor) = (self.clone(), descriptor.clone());
        drop(inner.rt.spawn(async move {
            let store = descriptor.id;
            let entered = control.0.state.apply(StateCommand::PutStore(descriptor)).await;
            control.note_entered(store, entered.err());
            control.0.entering.borrow_mut().remove(&store);
        }));
    }

    /// Says why a store could not be entered: once, because every beat tries it again, and how often it was tried once it has been.
    fn note_entered(&self, store: StoreId, denied: Option<Denied>) {
        let mut not_entered = self.0.not_entered.borrow_mut();
        match denied {
            Some(why) if not_entered.failed(store) => {
                tracing::warn!(store = store.0, %why, "a store could not be entered into the state; that is tried on without further lines");
            }
            Some(_) => {}
            None => {
                if let Some(tries) = not_entered.entered(store) {
                    tracing::info!(
                        store = store.0,
                        tries,
                        "a store is entered into the state that could not be before"
                    );
                }
            }
        }
    }

    /// Whether a store was taken out of use for good, as far as the state is known.
    fn is_gone(&self, store: StoreId) -> bool {
        let lifecycle =
            self.0.state.known(|image| image.stores.get(&store).map(|known| known.lifecycle)).flatten();
        lifecycle == Some(Lifecycle::Tombstone)
    }

    fn report_store(&self, report: StoreReport) {
        let taken = self.0.scheduler.borrow_mut().report_store(report, time(&self.0.rt));
        self.count(taken.map_err(|refusal| refusal.to_string()));
    }

    /// Takes a region's report and returns the next step of its operator, if there is one.
    fn report_region(&self, report: RegionReport) -> Option<Instruction> {
        let taken = self.0.scheduler.borrow_mut().report_region(report, time(&self.0.rt));
        self.count(taken.map_err(|refusal| refusal.to_string())).flatten()
    }

    /// A refused report is stale or broken. It is counted, and its sender reports again.
    pub(super) fn count<T>(&self, taken: Result<T, String>) -> Option<T> {
        taken
            .inspect_err(|why| {
                let before = self.0.refused_reports.replace(self.0.refused_reports.get() + 1);
                if before == 0 {
                    tracing::warn!(why, "the scheduler refused a report; further ones are only counted");
                }
            })
            .ok()
    }
}

/// Stores that could not be entered, and how often in a row that was tried. No more than a node has.
#[derive(Debug, Default)]
pub(super) struct NotEntered(BTreeMap<StoreId, u64>);

impl NotEntered {
    /// Whether it is the first time.
    fn failed(&mut self, store: StoreId) -> bool {
        let tries = self.0.entry(store).or_default();
        *tries += 1;
        *tries == 1
    }

    /// How often it was tried in vain before, if it was.
    fn entered(&mut self, store: StoreId) -> Option<u64> {
        self.0.remove(&store)
    }
}

/// Whether a store is known as it describes itself. Its lifecycle is the cluster's decision.
fn is_as_described(known: &StoreDescriptor, described: &StoreDescriptor) -> bool {
    let StoreDescriptor { id, node, address, labels, lifecycle: _ } = known;
    (id, node, address, labels) == (&described.id, &described.node, &described.address, &described.labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_cannot_be_entered_is_said_once_and_counted() {
        let mut stores = NotEntered::default();
        assert_eq!([1, 2, 1, 1].map(|store| stores.failed(StoreId(store))), [true, true, false, false]);
        assert_eq!((stores.entered(StoreId(1)), stores.entered(StoreId(1))), (Some(3), None));
        assert!(stores.failed(StoreId(1)), "it begins anew");
    }
}

//! What the data cores report to the scheduler shard: one beat per core and second, as plain values.
//!
//! ```text
//!   data core ── Beat { stores: [ StoreBeat { descriptor, report, regions } ] } ──▶ control
//! ```
//!
//! A beat says everything that its core knows now, so a newer one makes an older one superfluous. The sender waits for room in
//! the queue instead of dropping its message: a scheduler shard that is behind hears later, never less.

use engine::rt::chan::{self, Receiver, Sender};
use scheduler::{RegionReport, StateCommand, StoreDescriptor, StoreReport};

use super::{Control, time};

/// Beats that may wait. A core has one in flight at a time, so more cores than this only wait for each other.
const INBOX_BOUND: usize = 64;

/// Everything that one core reports at one moment.
#[derive(Clone, Debug, Default)]
pub struct Beat {
    /// The core's stores.
    pub stores: Vec<StoreBeat>,
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

impl Control {
    /// Takes beats in until every sender is gone.
    pub fn receive(&self, beats: Receiver<Beat>) {
        let control = self.clone();
        drop(self.0.rt.spawn(async move {
            while let Some(beat) = beats.recv().await {
                control.take(beat).await;
            }
        }));
    }

    /// Takes a core's beat in: its stores first, so that its regions find them.
    pub async fn take(&self, beat: Beat) {
        let budget = self.0.rt.budget();
        for StoreBeat { descriptor, report, regions } in beat.stores {
            self.enter_store(descriptor);
            self.report_store(report);
            for region in regions {
                self.report_region(region);
                budget.tick().await;
            }
        }
    }

    /// Enters a store or changes what is known of it: in the map at once, because what a store says of itself is true, and in the state in
    /// the background, because beats do not wait for a disk. What the state has already is not saved again.
    fn enter_store(&self, descriptor: StoreDescriptor) {
        let inner = &*self.0;
        let known = inner.state.known(|image| {
            image.stores.get(&descriptor.id).is_some_and(|known| {
                (known.node, &known.address, &known.labels)
                    == (descriptor.node, &descriptor.address, &descriptor.labels)
            })
        });
        if known == Some(true) {
            return;
        }
        let entered = inner.scheduler.borrow_mut().put_store(descriptor.clone(), time(&inner.rt));
        let is_entered = self.count(entered.map_err(|refusal| refusal.to_string())).is_some();
        if !is_entered || !inner.entering.borrow_mut().insert(descriptor.id) {
            return;
        }
        let control = self.clone();
        drop(inner.rt.spawn(async move {
            let store = descriptor.id;
            if let Err(denied) = control.0.state.apply(StateCommand::PutStore(descriptor)).await {
                // The next beat tries again.
                tracing::warn!(store = store.0, why = %denied, "a store could not be entered into the state");
            }
            control.0.entering.borrow_mut().remove(&store);
        }));
    }

    fn report_store(&self, report: StoreReport) {
        let taken = self.0.scheduler.borrow_mut().report_store(report, time(&self.0.rt));
        self.count(taken.map_err(|refusal| refusal.to_string()));
    }

    fn report_region(&self, report: RegionReport) {
        let taken = self.0.scheduler.borrow_mut().report_region(report, time(&self.0.rt));
        if let Some(instruction) = self.count(taken.map_err(|refusal| refusal.to_string())).flatten() {
            self.refuse_step(&instruction);
        }
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

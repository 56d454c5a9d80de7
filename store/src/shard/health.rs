//! What a store can do for clients right now, and why not more: one truth for requests, probes, metrics and the log.
//!
//! The parts combine (a store can refuse writes and hold a damaged file), so they are flags; [`Standing`] is the worst of them.
//! Everything that changes them goes through [`Health::enter`], which logs each change once.
//!
//! | standing | what clients get | how it ends |
//! |---|---|---|
//! | starting | reads and read-modify-writes are refused | what was acknowledged is applied |
//! | serving | everything | |
//! | refusing writes | reads, and deletes as long as there is room and the start is counted | the cause passes |
//! | damaged | everything but the keys that a damaged file may hold; where a replica is incomplete, what its leader serves | the file is gone, see `remembered`; the replica is, see `incomplete` |
//! | stopped | nothing | a restart |
//!
//! What the log's opening had to cut without knowing whether it had been acknowledged is no standing, because all that is there is
//! served: it is reported beside it until the next start. Neither is what log and tree wait for, because everything is served, later.
//!
//! Damage that stops the store is a damaged file, too, so that it is remembered and the next start fences the store.
//!
//! Invariants: a stopped store stays stopped and keeps its first reason; a damaged file stays named as long as the store runs; no
//! more than [`FILES_MAX`] files are kept, and the one that stopped the store; whoever waits for a change hears of each.

use std::cell::RefCell;
use std::fmt;
use std::path::PathBuf;

use engine::error::{Fault, FaultKind};
use engine::log::Cut;
use engine::rt::local::Bell;
use scheduler::StoreId;

use crate::refusal::Refusal;

/// Maximum number of damaged files that are kept by name; one more would change nothing for an operator.
const FILES_MAX: usize = 64;

/// What a store says to everything that is asked of it once it closes in peace.
pub(super) const CLOSING: &str = "the node is stopping";

/// The health of one store. Stays on its core.
pub struct Health {
    store: StoreId,
    flags: RefCell<Flags>,
    /// Who must hear at once that the store has stopped.
    on_stop: RefCell<Vec<Box<dyn Fn()>>>,
    /// Rings for whoever publishes the health.
    changed: Bell,
    /// Rings for whoever remembers damage.
    damaged: Bell,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("store", &self.store)
            .field("flags", &self.flags)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Flags {
    started: bool,
    refuses_writes: Option<String>,
    /// What the log and the tree wait for.
    waits: [Option<String>; 2],
    damaged: Vec<DamagedFile>,
    in_doubt: Option<String>,
    /// Replicas that lack what was acknowledged, and a sentence on one of them.
    incomplete: (u64, String),
    stopped: Option<Stopped>,
    /// The node stops.
    closed: bool,
}

/// A file that is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DamagedFile {
    /// Which one.
    pub(super) path: PathBuf,
    /// What is wrong with it, one sentence.
    pub(super) what: String,
    /// Whether the store has stopped because of it: work that it cannot do without has met the damage, not a client's read.
    pub(super) stops: bool,
}

#[derive(Debug)]
struct Stopped {
    why: String,
    /// After a fault, not because the node stops.
    by_fault: bool,
}

/// What happens to a store's health.
#[derive(Debug)]
pub enum Event<'a> {
    /// Everything that was acknowledged before the start is applied.
    Started,
    /// Writes are refused from now on; one sentence says why.
    RefusesWrites(String),
    /// A part of the store waits for something that is short and comes back, or for nothing.
    Waits(Waits, Option<&'a Fault>),
    /// Writes are taken again.
    TakesWrites,
    /// A file could not be read, or not as it was written.
    Damaged(&'a Fault),
    /// The end of the log was cut, and what was cut may have been acknowledged.
    InDoubt(&'a Cut),
    /// The number of replicas that lack what was acknowledged; one sentence is on one of them.
    Incomplete(u64, String),
    /// Nothing is served any more, because of this fault.
    Failed(&'a Fault),
    /// Nothing is served any more, because the node stops.
    Closed,
}

/// The parts of a store that wait for what is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// The log: a write that needs a new segment waits, too.
    Log,
    /// The tree: flushes and compactions do, and writes as soon as they have filled its memory.
    Tree,
}

impl Waits {
    fn name(self) -> &'static str {
        match self {
            Waits::Log => "log",
            Waits::Tree => "tree",
        }
    }
}

/// How a store stands: the worst of what holds for it, from best to worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It serves everything.
    Serving,
    /// It applies what was acknowledged before the start.
    #[default]
    Starting,
    /// It takes no writes.
    RefusingWrites,
    /// It serves what is not in a damaged file, and not missing.
    Damaged,
    /// It serves nothing.
    Stopped,
}

/// A copy of the health that may leave the core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthReport {
    /// The worst that holds.
    pub standing: Standing,
    /// Everything that keeps it from serving all, one sentence each; empty if nothing does.
    pub reasons: Vec<String>,
    /// Files that are damaged.
    pub damaged_files: u64,
    /// Whether it stopped after a fault.
    pub failed: bool,
    /// Whether it takes no writes.
    pub refuses_writes: bool,
    /// Replicas that lack what was acknowledged.
    pub incomplete_replicas: u64,
    /// What may be missing although it was acknowledged, one sentence.
    pub in_doubt: Option<String>,
    /// What its log or its tree waits for, with the file and the remedy, one sentence.
    pub waits: Option<String>,
}

impl Standing {
    /// Its name as a label and on status pages.
    pub fn name(self) -> &'static str {
        match self {
            Standing::Serving => "serving",
            Standing::Starting => "starting",
            Standing::RefusingWrites => "refusing_writes",
            Standing::Damaged => "damaged",
            Standing::Stopped => "stopped",
        }
    }
}

impl HealthReport {
    /// Why the store is not ready, if it is not: all reasons in one line.
    pub fn problem(&self) -> Option<String> {
        (self.standing != Standing::Serving).then(|| match self.reasons.is_empty() {
            true => self.standing.name().to_owned(),
            false => self.reasons.join("; "),
        })
    }

    /// What does not keep the store from serving but has to be known: all of it in one line.
    pub fn note(&self) -> Option<String> {
        let parts: Vec<&str> =
            [&self.in_doubt, &self.waits].into_iter().flatten().map(String::as_str).collect();
        (!parts.is_empty()).then(|| parts.join("; "))
    }

    /// The report of a store that could not be opened.
    pub fn fenced(why: String) -> Self {
        Self { standing: Standing::Stopped, reasons: vec![why], failed: true, ..Self::default() }
    }
}

impl Health {
    /// That of a store that starts.
    pub fn new(store: StoreId) -> Self {
        Self {
            store,
            flags: RefCell::default(),
            on_stop: RefCell::default(),
            changed: Bell::default(),
            damaged: Bell::default(),
        }
    }

    /// Takes note of what happens, and logs what it changes.
    pub fn enter(&self, event: Event<'_>) {
        let changes = self.flags.borrow_mut().take(self.store.0, event);
        if changes {
            self.changed.ring();
            self.damaged.ring();
        }
        if self.has_stopped() {
            // Taken out first, because a hook may ask for the health.
            let hooks = self.on_stop.take();
            hooks.iter().for_each(|hook| hook());
        }
    }

    /// Calls `hook` as soon as nothing is served any more; at once if that is so.
    pub fn on_stop(&self, hook: Box<dyn Fn()>) {
        if self.has_stopped() {
            return hook();
        }
        self.on_stop.borrow_mut().push(hook);
    }

    /// Waits for a change since the last call. One task calls it.
    pub async fn changed(&self) {
        self.changed.wait().await;
    }

    /// Waits for a change, as [`Health::changed`] does, for the task that remembers damage.
    pub(super) async fn changed_damage(&self) {
        self.damaged.wait().await;
    }

    /// The files that are damaged.
    pub(super) fn damaged(&self) -> Vec<DamagedFile> {
        self.flags.borrow().damaged.clone()
    }

    /// Whether the store has ended because the node stops, perhaps after a fault.
    pub(super) fn has_closed(&self) -> bool {
        self.flags.borrow().closed
    }

    /// Why nothing is served any more, if that is so.
    pub fn stopped(&self) -> Option<String> {
        self.flags.borrow().stopped.as_ref().map(|stopped| stopped.why.clone())
    }

    /// Whether nothing is served any more.
    pub fn has_stopped(&self) -> bool {
        self.flags.borrow().stopped.is_some()
    }

    /// The refusal of a store that has stopped.
    pub fn check_running(&self) -> Result<(), Refusal> {
        self.stopped().map_or(Ok(()), |why| Err(Refusal::Stopped(why)))
    }

    /// Whether writes are refused.
    pub fn refuses_writes(&self) -> bool {
        self.flags.borrow().refuses_writes.is_some()
    }

    /// A copy.
    pub fn report(&self) -> HealthReport {
        let flags = self.flags.borrow();
        let mut report = HealthReport {
            standing: if flags.started { Standing::Serving } else { Standing::Starting },
            reasons: Vec::new(),
            damaged_files: flags.damaged.len() as u64,
            failed: flags.stopped.as_ref().is_some_and(|stopped| stopped.by_fault),
            refuses_writes: flags.refuses_writes.is_some(),
            incomplete_replicas: flags.incomplete.0,
            in_doubt: flags.in_doubt.clone(),
            waits: flags.waits(),
        };
        let mut add = |standing: Standing, reason: String| {
            report.standing = report.standing.max(standing);
            report.reasons.push(reason);
        };
        if let Some(stopped) = &flags.stopped {
            add(Standing::Stopped, format!("it has stopped: {}", stopped.why));
        }
        // The reason of the stop names the file already.
        for DamagedFile { path, what, .. } in flags.damaged.iter().filter(|file| !file.stops) {
            add(Standing::Damaged, format!("{} is damaged: {what}", path.display()));
        }
        if flags.incomplete.0 > 0 {
            add(Standing::Damaged, flags.incomplete.1.clone());
        }
        if let Some(reason) = &flags.refuses_writes {
            add(Standing::RefusingWrites, format!("it refuses writes: {reason}"));
        }
        report
    }
}

impl DamagedFile {
    fn new(fault: &Fault, stops: bool) -> Self {
        Self { path: fault.path.clone(), what: fault.what.clone(), stops }
    }
}

impl Flags {
    /// Takes note of what happens to `store`, and says whether that changes anything.
    fn take(&mut self, store: u64, event: Event<'_>) -> bool {
        match event {
            Event::Started => {
                let changes = !std::mem::replace(&mut self.started, true);
                if changes {
                    tracing::info!(store, "the store serves");
                }
                changes
            }
            Event::RefusesWrites(reason) => {
                let changes = self.refuses_writes.is_none();
                if changes {
                    tracing::error!(store, reason, "the store refuses writes");
                }
                // The numbers in it change all the time, and are published with the next regular report.
                self.refuses_writes = Some(reason);
                changes
            }
            Event::TakesWrites => {
                let changes = self.refuses_writes.take().is_some();
                if changes {
                    tracing::info!(store, "the store takes writes again");
                }
                changes
            }
            Event::Waits(part, fault) => self.wait(store, part, fault),
            Event::Damaged(fault) => {
                let known = self.damaged.iter().any(|file| file.path == fault.path);
                let changes = !known && self.damaged.len() < FILES_MAX;
                if changes {
                    self.damaged.push(DamagedFile::new(fault, false));
                    let file = fault.path.display();
                    tracing::error!(store, %file, what = fault.what, "a file is damaged; the store serves what is not in it");
                }
                changes
            }
            // The log has said so itself.
            Event::InDoubt(cut) => self.in_doubt.replace(cut.to_string()).is_none(),
            // It is said where it is seen, because it is said again.
            Event::Incomplete(count, what) => {
                let changes = self.incomplete.0 != count;
                if changes && count == 0 {
                    tracing::info!(store, "no replica lacks what was acknowledged any more");
                }
                self.incomplete = (count, what);
                changes
            }
            Event::Failed(fault) => {
                let before = self.stop(fault.to_string(), true);
                if !before {
                    let file = fault.path.display();
                    tracing::error!(store, %file, what = fault.what, "the store stops after a fault");
                    self.remember_stop(fault);
                }
                !before
            }
            Event::Closed => {
                let before = self.stop(CLOSING.to_owned(), false);
                if !before {
                    tracing::info!(store, "the store closes");
                }
                !std::mem::replace(&mut self.closed, true)
            }
        }
    }

    /// Keeps the file because of which the store stops, if it is damaged: a start would open the store again and meet it some time.
    fn remember_stop(&mut self, fault: &Fault) {
        match fault.kind {
            FaultKind::Corruption | FaultKind::Foreign => {
                self.damaged.retain(|file| file.path != fault.path);
                self.damaged.push(DamagedFile::new(fault, true));
            }
            // The disk refused something, and a start finds out whether it still does.
            FaultKind::Io
            | FaultKind::Denied
            | FaultKind::Short(_)
            | FaultKind::Locked
            | FaultKind::Poisoned
            | FaultKind::TooLarge => {}
        }
    }

    /// Whether a part of the store begins to wait, or ends.
    fn wait(&mut self, store: u64, part: Waits, fault: Option<&Fault>) -> bool {
        let known = &mut self.waits[part as usize];
        let (waited, part) = (known.is_some(), part.name());
        *known = fault.map(|fault| format!("its {part} waits for what is short: {fault}"));
        match fault {
            Some(fault) if !waited => {
                let file = fault.path.display();
                tracing::warn!(store, part, %file, what = fault.what, "a part of the store waits for what is short");
            }
            None if waited => tracing::info!(store, part, "the part waits no longer"),
            Some(_) | None => {}
        }
        waited != fault.is_some()
    }

    /// What the parts of the store wait for.
    fn waits(&self) -> Option<String> {
        let all: Vec<&str> = self.waits.iter().flatten().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// Whether it had stopped before.
    fn stop(&mut self, why: String, by_fault: bool) -> bool {
        let before = self.stopped.is_some();
        self.stopped.get_or_insert(Stopped { why, by_fault });
        before
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::path::Path;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_stop_is_reported_once_and_at_once() {
        let fault = Fault::corruption(Path::new("log-1"), "bad record");
        for event in [Event::Closed, Event::Failed(&fault)] {
            let (health, calls) = (Health::new(StoreId(3)), Rc::new(Cell::new(0)));
            let count = calls.clone();
            health.on_stop(Box::new(move || count.set(count.get() + 1)));
            health.enter(Event::Started);
            health.enter(Event::RefusesWrites("no space".to_owned()));
            assert_eq!(calls.get(), 0);
            health.enter(event);
            health.enter(Event::Closed);
            assert_eq!(calls.get(), 1);
            let count = calls.clone();
            health.on_stop(Box::new(move || count.set(count.get() + 1)));
            assert_eq!(calls.get(), 2, "one that asks later hears it, too");
        }
    }

    #[test]
    fn the_worst_decides_and_every_reason_is_kept() {
        let health = Health::new(StoreId(3));
        assert_eq!(health.report().standing, Standing::Starting);
        assert_eq!(health.report().problem().as_deref(), Some("starting"));
        health.enter(Event::Started);
        assert_eq!(health.report().problem(), None);
        health.enter(Event::RefusesWrites("no space".to_owned()));
        assert_eq!(health.report().standing, Standing::RefusingWrites);
        let table = Fault::corruption(Path::new("t-1"), "bad block");
        health.enter(Event::Damaged(&table));
        health.enter(Event::Damaged(&table));
        let report = health.report();
        assert_eq!((report.standing, report.damaged_files), (Standing::Damaged, 1));
        assert_eq!(
            report.problem().as_deref(),
            Some("t-1 is damaged: bad block; it refuses writes: no space")
        );
        health.enter(Event::TakesWrites);
        assert_eq!(health.report().problem().as_deref(), Some("t-1 is damaged: bad block"));
        health.enter(Event::Failed(&Fault::corruption(Path::new("log"), "gone")));
        health.enter(Event::Closed);
        let stopped = health.stopped().expect("it has");
        assert!(stopped.starts_with("log: gone"), "the first reason stays: {stopped}");
        assert!(health.report().failed && health.report().standing == Standing::Stopped);
    }

    #[test]
    fn damage_is_bounded() {
        let health = Health::new(StoreId(1));
        for n in 0..2 * FILES_MAX {
            health.enter(Event::Damaged(&Fault::corruption(Path::new(&n.to_string()), "bad")));
        }
        assert_eq!(health.report().damaged_files, FILES_MAX as u64);
    }
}

//! A passing shortage: what the background task does when there is no space for a flush or a compaction, or no descriptor.
//!
//! Nothing is lost by it. What was to be flushed is in memory and in the log, what was to be compacted is in its old tables, and
//! the manifest reserves its space before it writes. So the half-written tables are removed and the step is taken again once
//! there is room, for as long as that takes. Meanwhile reads go on, and [`Tree::shortage`](super::Tree::shortage) informs the
//! writers. A failed sync is another matter: then what is on disk is unknown, and that poisons the tree as ever.

use std::time::Duration;

use super::maintain::Maintenance;
use super::table::read::file_name;
use crate::error::{Fault, Result, Shortage};

/// How often the free space is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// This many files that are only open in case they are read again give way before the step is taken once more.
const GIVE_WAY_FILES: u32 = 4;
/// After this many looks the step is taken even if the space does not seem to be there: what it needs is only an estimate.
const LOOKS_MAX: u32 = 40;

impl Maintenance {
    /// Works until nothing is due, waiting for what is short.
    ///
    /// # Errors
    /// Any fault but a passing shortage.
    pub(super) async fn turn_through_shortages(&mut self) -> Result<()> {
        loop {
            match self.turn().await {
                Err(fault) => {
                    let Some(shortage) = fault.shortage() else { return Err(fault) };
                    *self.shared.short_of.borrow_mut() = Some(fault);
                    match self.remove_leftovers().await {
                        // What is left is found at the next opening.
                        Err(fault) if fault.is_passing() => {}
                        removed => removed?,
                    }
                    match shortage {
                        Shortage::Space => self.wait_for_space().await,
                        Shortage::FileLength => self.wait_for_longer_files().await,
                        Shortage::Descriptors | Shortage::Memory | Shortage::Attempt => {
                            for _ in 0..GIVE_WAY_FILES {
                                self.shared.files.let_go();
                            }
                            self.shared.rt.sleep(LOOK_EVERY).await;
                        }
                    }
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    /// Removes the tables that the step has left: only this task makes any, and what no version shows was never installed.
    /// Their numbers are not used again.
    pub(super) async fn remove_leftovers(&self) -> Result<()> {
        let shared = &self.shared;
        let version = shared.version.borrow().clone();
        let made = self.first_number..shared.numbers.get();
        for number in made.filter(|number| !version.shows_file(*number)) {
            let path = shared.dir.join(file_name(number));
            if shared.rt.exists(&path).await.map_err(|e| Fault::io(&path, "looking it up", &e))? {
                shared.rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing", &e))?;
            }
        }
        Ok(())
    }

    /// Waits for a higher limit on the length of files, which shows only when the step is taken again.
    async fn wait_for_longer_files(&self) {
        for _ in 0..LOOKS_MAX {
            self.shared.rt.sleep(LOOK_EVERY).await;
            if self.shared.stopping.get() {
                break;
            }
        }
    }

    /// Waits until the step that failed seems to fit, or there is something else to flush, or it has looked often enough.
    async fn wait_for_space(&self) {
        let shared = self.shared.clone();
        let closed = shared.closed.borrow().len();
        for _ in 0..LOOKS_MAX {
            shared.rt.sleep(LOOK_EVERY).await;
            if shared.stopping.get() || (closed == 0 && !shared.closed.borrow().is_empty()) {
                break;
            }
            // Not knowing how much is free, it is only left to try.
            let seen = shared.rt.look_at_dir(&shared.dir).await.ok();
            let free = seen.and_then(|seen| seen.free_bytes()).unwrap_or(u64::MAX);
            if free > self.wanted_bytes {
                break;
            }
        }
    }
}

//! What a store's disk lacks, and what that means for its writes.
//!
//! A store looks before it serves and then once a second, so that a disk that is full at the start is known before the first probe. It
//! refuses writes while less than the reserve is free, and the reason names both numbers: on a file system that is smaller than the
//! reserve nothing else would explain why it never takes any. It refuses all of them, deletes included, until this start is counted
//! ([`openings`](super::openings)). What its log or its tree waits for, space or descriptors or memory of the kernel, stands beside that
//! in its health: it ends by itself, but as long as it lasts writes may have to wait. After two seconds those that wait are answered, and
//! what comes is refused as busy, until nothing is short any more.
//!
//! It looks, too, whether its directory is still the one that it was opened in. One that was moved or removed takes what is acknowledged on with
//! it, because open files stay open; and no process has locked a copy in its place. The same goes for its files one by one, as where an older copy is brought back into the directories under a running
//! node. So a store stops as soon as it sees that.

use std::path::PathBuf;

use engine::error::{Fault, FaultKind, Shortage};
use engine::in_place::look_at_lock;
use engine::log::Batch;
use engine::rt::{DirSeen, Mono};

use super::Inner;
use super::Shard;
use super::health::{Event, Waits};
use super::reply::Reply;
use super::turn::SHORT_ANSWERED_AFTER;
use crate::refusal::Refusal;
use crate::region::replica::Replica;

impl Shard {
    /// Looks at the space on its disk and at what log and tree wait for, and takes note of it.
    pub async fn look_at_disk(&self) {
        let inner = &*self.inner;
        // Not knowing how much is left is no reason to stop; the write itself will show it.
        let seen = inner.rt.look_at_dir(&inner.log_dir()).await.ok();
        if inner.health.has_stopped() {
            return;
        }
        if let Some(fault) = seen.as_ref().and_then(|seen| inner.displaced(seen)) {
            return self.stop(&fault);
        }
        if let Err(fault) = inner.look_at_files().await {
            return self.stop_after(&fault).await;
        }
        if inner.health.has_stopped() {
            return;
        }
        let free = seen.and_then(|seen| seen.free_bytes());
        inner.disk_free.set(free);
        if let Some(free) = free {
            inner.counters.disk_free_bytes.set(free);
        }
        for (part, fault) in [(Waits::Log, inner.log.lacks()), (Waits::Tree, inner.tree.lacks())] {
            inner.health.enter(Event::Waits(part, fault.as_ref()));
        }
        let log_waits = inner.log_waits.get() || inner.log.append_waits();
        if !log_waits && !inner.tree_is_short() {
            inner.waits_long.set(false);
        }
        let full = inner.tree.disk_full() || (log_waits && inner.log.stats().disk_full);
        let counted = inner.openings.is_counted();
        if full || !counted || free.is_some_and(|free| free < inner.limits.reserve_bytes) {
            inner.health.enter(Event::RefusesWrites(inner.why_refused()));
        } else {
            inner.health.enter(Event::TakesWrites);
        }
    }

    /// Stops the store after a fault. Where its directory is not at its place, that is what is said: the fault is a part of it.
    pub(super) async fn stop_after(&self, fault: &Fault) {
        let inner = &*self.inner;
        let seen = match fault.kind {
            FaultKind::Denied | FaultKind::Poisoned => inner.rt.look_at_dir(&inner.log_dir()).await.ok(),
            FaultKind::Io
            | FaultKind::Short(_)
            | FaultKind::Corruption
            | FaultKind::Foreign
            | FaultKind::Locked
            | FaultKind::TooLarge => None,
        };
        let displaced = seen.and_then(|seen| inner.displaced(&seen));
        self.stop(displaced.as_ref().unwrap_or(fault));
    }

    /// Has the log count this opening, if it had no room for that when it was opened.
    ///
    /// # Errors
    /// Those of the log, but for a shortage.
    pub(super) async fn count_opening(&self) -> Result<(), Fault> {
        let inner = &*self.inner;
        if inner.openings.is_counted() {
            return Ok(());
        }
        if !inner.log.counts_opening() {
            match inner.log.write(Batch::new()).await {
                Err(fault) if !fault.is_passing() => return Err(fault),
                Ok(()) | Err(_) => {}
            }
        }
        inner.say_opened();
        Ok(())
    }
}

impl Inner {
    /// Lets the directory know how often the log has been opened.
    pub(super) fn say_opened(&self) {
        let now = self.log.opening();
        let in_log = if self.log.counts_opening() { now } else { now - 1 };
        self.openings.opened(now, in_log);
    }

    /// Looks whether the files that a start would read are the ones that this store writes, and whether no other process can write them.
    async fn look_at_files(&self) -> Result<(), Fault> {
        if let Some(lock) = &self.lock {
            look_at_lock(&self.rt, lock).await?;
        }
        self.log.look_at_files().await?;
        self.tree.look_at_files().await
    }

    /// Where everything goes first that is acknowledged.
    fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The fault of a store whose log is no longer in the directory that was seen first, or that is gone: what is acknowledged from then on
    /// would be found by no start.
    fn displaced(&self, seen: &DirSeen) -> Option<Fault> {
        if let (DirSeen::There { id, free_bytes: _ }, None) = (seen, self.dir_id.get()) {
            self.dir_id.set(Some(*id));
        }
        Fault::moved(&self.log_dir(), self.dir_id.get()?, seen)
    }

    /// Refuses writes from now on, because one has found no space.
    pub(super) fn refuse_writes(&self) {
        if !self.health.refuses_writes() {
            self.health.enter(Event::RefusesWrites(self.why_refused()));
        }
    }

    /// Answers the writes that wait, because the log has waited for so long, and takes no more until it has what is short. Where that is
    /// room, writes are refused for it already, and deletes are taken as soon as the log has some.
    pub(super) fn answer_as_short(&self, fault: &Fault) {
        if !fault.is_of_room() {
            self.waits_long.set(true);
        }
        self.answer_unknown();
    }

    /// Whether the tree waits for something that is no room.
    fn tree_is_short(&self) -> bool {
        self.tree.shortage().is_some_and(|shortage| !shortage.is_of_room())
    }

    /// The log has written what waited.
    pub(super) fn log_goes_on(&self) {
        self.log_waits.set(false);
        if self.waits_long.get() && !self.tree_is_short() {
            self.waits_long.set(false);
        }
    }

    /// Whether writers have waited long enough for a tree that lacks something, and does so `since` a moment that is noted: then no more are
    /// admitted, and those that were are finished.
    pub(super) fn has_waited_long(&self, since: &mut Option<Mono>) -> bool {
        if !self.tree_is_short() {
            *since = None;
            return false;
        }
        let now = self.rt.now();
        let is_long = now.since(*since.get_or_insert(now)) >= SHORT_ANSWERED_AFTER;
        self.waits_long.set(self.waits_long.get() || is_long);
        is_long
    }

    /// Whether log or tree wait for a higher limit on the length of files.
    fn meets_file_length(&self) -> bool {
        let short = [self.log.lacks(), self.tree.lacks()];
        short.into_iter().flatten().any(|fault| fault.shortage() == Some(Shortage::FileLength))
    }

    /// Answers the clients whose writes wait, because the log waits for what is short, which may last for days. The writes stay: what was
    /// proposed may happen, and nothing but the log can say when.
    pub(super) fn answer_unknown(&self) {
        let mut state = self.state.borrow_mut();
        let waiting = state.table.iter_mut().flat_map(Replica::waiting_mut);
        let unanswered: Vec<Reply> = waiting.filter_map(|due| due.reply.answered_early()).collect();
        drop(state);
        for reply in unanswered {
            self.refuse(reply, Refusal::Unknown);
        }
    }

    /// The refusal of a write for which there is no space.
    pub(super) fn no_space(&self) -> Refusal {
        Refusal::DiskFull { store_ids: vec![self.store.0], reason: self.why_refused() }
    }

    /// Why writes are refused, with the remedy, and what goes on.
    fn why_refused(&self) -> String {
        let counted = self.openings.is_counted();
        let goes_on = match counted && !self.is_out_of_room() {
            true => "reads and deletes go on",
            false => "reads go on",
        };
        let reserve = self.limits.reserve_bytes;
        let why = match self.disk_free.get() {
            Some(free) if free < reserve => format!(
                "{} are free on its disk and writes are taken while there are {}, a reserve for what frees space: free space on this \
                 file system or enlarge it",
                size(free),
                size(reserve)
            ),
            _ if !counted => {
                let short = self.openings.short().unwrap_or("its log had no room");
                format!("this start could not be counted yet, which is tried each second ({short})")
            }
            _ if self.meets_file_length() => {
                "its files may not become longer: raise the limit (LimitFSIZE=, ulimit -f; \
                 prlimit --fsize for a process that runs)"
                    .to_owned()
            }
            _ => "there is not enough space on its disk: free space on this file system or enlarge it"
                .to_owned(),
        };
        format!("{why}; {goes_on}")
    }
}

/// A number of bytes as operators read it.
fn size(bytes: u64) -> String {
    match bytes {
        ..1024 => format!("{bytes} bytes"),
        1024..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn a_size_is_never_more_than_there_is() {
        assert_eq!(
            [0, 1023, 4096, (2 << 20) - 1, 256 << 20].map(size),
            ["0 bytes", "1023 bytes", "4 KiB", "1 MiB", "256 MiB"]
        );
    }
}

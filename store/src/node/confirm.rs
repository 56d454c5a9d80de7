//! A start is counted in `IDENT`, at once or as soon as there is room.
//!
//! The logs count first: `IDENT` must never count more than they do, or a store would be taken for an older copy of itself. Only who holds
//! the directory's lock writes there. Which store may acknowledge what meanwhile is decided in [`openings`](crate::shard::openings).

use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::time::Duration;

use engine::error::Fault;
use engine::rt::{DirLock, Rt};

use super::StartError;
use super::identity::{self, Confirmed, Ident};
use super::setup::Opened;
use crate::shard::openings::Openings;

/// When it is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Remembers what the start has found, before anything is served. Where a full disk keeps that from being written, or kept a log from
/// counting its opening, it is tried again for as long as the node has its directory, and the stores acknowledge nothing meanwhile.
pub(super) async fn confirm(
    rt: &Rt,
    opened: &Opened,
    stores: Vec<(usize, u64)>,
    ids: u64,
    openings: &Openings,
) -> Result<(), StartError> {
    let mut again = Confirming {
        ident: opened.ident.clone(),
        dir: opened.dir.clone(),
        ids,
        openings: openings.clone(),
        said: false,
    };
    // As it is without what the stores vouch for.
    if let Some(alone) = Ident::read_alone(rt, &opened.dir).await? {
        again.report_behind(&alone, &stores);
    }
    again.confirm(rt, &stores).await?;
    if !openings.all_counted() {
        let file = again.dir.join(identity::FILE);
        let what = openings.short().unwrap_or("a log had no room");
        tracing::warn!(file = %file.display(), what, "no write is taken before this start is counted, which is tried each second");
        let (rt, lock) = (rt.clone(), Rc::downgrade(&opened.lock));
        rt.clone().spawn(async move { again.until_counted(&rt, lock).await });
    }
    Ok(())
}

/// What counts the openings in `IDENT`.
struct Confirming {
    ident: Ident,
    dir: PathBuf,
    ids: u64,
    openings: Openings,
    /// Whether the log has said why it is not possible.
    said: bool,
}

impl Confirming {
    /// Each start leaves at most one opening that `IDENT` does not have. More of them are starts that were cut short, or an `IDENT` that
    /// is older than its stores. Those have everything; only an older copy of them could not have been recognised before.
    fn report_behind(&self, alone: &Ident, stores: &[(usize, u64)]) {
        for (store, opened) in stores {
            let counted = alone.holdings[*store].opened;
            if counted + 1 < *opened {
                let (file, store) = (self.dir.join(identity::FILE), self.ident.identity.store_id(*store).0);
                tracing::warn!(
                    file = %file.display(),
                    store,
                    opened,
                    counted,
                    "the log was opened more often than IDENT counts: starts were cut short, or IDENT is an older copy; it is renewed"
                );
            }
        }
    }

    async fn confirm(&mut self, rt: &Rt, stores: &[(usize, u64)]) -> Result<(), Fault> {
        if let Confirmed::Later(short) = self.ident.confirm(rt, &self.dir, stores, self.ids).await? {
            self.openings.lacks(short.to_string());
        }
        self.openings.confirmed(self.ident.holdings.iter().map(|holding| holding.opened));
        Ok(())
    }

    /// Tries again until every store is counted, or the directory is closed. Whatever fails meanwhile: nothing is acknowledged.
    async fn until_counted(mut self, rt: &Rt, lock: Weak<DirLock>) {
        while !self.openings.all_counted() {
            rt.sleep(AGAIN).await;
            // Another process may write there as soon as the lock is gone.
            let Some(_held) = lock.upgrade() else { return };
            let stores = self.openings.in_logs();
            if let Err(fault) = self.confirm(rt, &stores).await {
                self.openings.lacks(fault.to_string());
                if !std::mem::replace(&mut self.said, true) {
                    let file = fault.path.display();
                    tracing::error!(%file, what = fault.what, "this start cannot be counted");
                }
            }
        }
        tracing::info!("this start is counted, and writes are taken");
    }
}

//! Files of snapshots beside a store's log and tree: those that are about to be sent, and those that have arrived and are not taken in yet.
//!
//! ```text
//! store-N/outgoing/REGION-TERM-INDEX-SHIPMENT-PIECE      one per shipment: the piece that is being sent
//! store-N/incoming/REGION-TERM-INDEX-CONNECTION-PIECE    until the snapshot is in the tree, which has names of its own for them
//! ```
//! Nothing here outlives a start: what a crash leaves is removed before the store opens, because an interrupted snapshot is asked for
//! again. What cannot be removed now is removed then.

use std::path::{Path, PathBuf};

use engine::error::{Fault, Result};
use engine::rt::Rt;
use raft::LogId;
use scheduler::RegionId;

/// Where the files of snapshots lie that are being sent.
const OUTGOING: &str = "outgoing";
/// Where those lie that arrive.
const INCOMING: &str = "incoming";

/// Which of the two directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    In,
}

impl Way {
    fn dir(self, store: &Path) -> PathBuf {
        store.join(match self {
            Self::Out => OUTGOING,
            Self::In => INCOMING,
        })
    }
}

/// Removes what an earlier life has left.
///
/// # Errors
/// A directory that cannot be read, a file that cannot be removed.
pub(super) async fn clear(rt: &Rt, store: &Path) -> Result<()> {
    for way in [Way::Out, Way::In] {
        let dir = way.dir(store);
        if !rt.exists(&dir).await.map_err(|e| Fault::io(&dir, "looking it up", &e))? {
            continue;
        }
        for name in rt.read_dir(&dir).await.map_err(|e| Fault::io(&dir, "reading the directory", &e))? {
            let path = dir.join(name);
            rt.remove(&path).await.map_err(|e| Fault::io(&path, "removing", &e))?;
        }
    }
    Ok(())
}

/// Sees to it that the directory is there.
///
/// # Errors
/// If it cannot be made.
pub(super) async fn prepare(rt: &Rt, store: &Path, way: Way) -> Result<()> {
    let dir = way.dir(store);
    rt.create_dir_all(&dir).await.map_err(|e| Fault::io(&dir, "creating", &e))
}

/// The name of a piece of the snapshot of `region` that ends at `last`; `number` distinguishes one attempt from the next.
pub(super) fn piece_path(
    store: &Path,
    way: Way,
    region: RegionId,
    last: LogId,
    number: u64,
    piece: u64,
) -> PathBuf {
    way.dir(store).join(format!("{}-{}-{}-{number}-{piece:05}", region.0, last.term.0, last.index.0))
}

/// Removes files that have served. One that cannot be removed is left for the next start.
pub(super) async fn remove(rt: &Rt, paths: Vec<PathBuf>) {
    for path in paths {
        match rt.remove(&path).await {
            Ok(()) => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "a file of a snapshot stays until the next start");
            }
        }
    }
}

//! The log and the tree of a store vouch for each other, before either is written to.
//!
//! The log of a region is cut only where a durable edit of the tree's manifest says that the tables have everything. So tables that
//! have less than what was cut off have lost an edit. And the tables have only what had been durable in the log before. So a log that
//! ends below what they have has lost its end, unless they have it by a snapshot: the tree takes that in before the log is reset to it,
//! and the next start does what is left of it. `ringkeep inspect` asks the same questions.

use std::collections::BTreeSet;
use std::path::Path;

use engine::error::{Fault, Result};
use engine::{log, lsm};

use super::installing::reset_of;
use super::open::{TAG_BASE, TAG_HARD_STATE, TAG_RECORD, decode_base, decode_hard_state, record_in_force};
use crate::region::record::{InForce, Kept};
use crate::region::split::FIRST_BASE;

/// Refuses a log and a tree of which one has lost what the other vouches for.
///
/// # Errors
/// Corruption that names the manifest or the log.
pub fn vouch(dir: &Path, log: &log::Recovery, tree: &lsm::Recovery) -> Result<()> {
    let groups = log.groups();
    // What the tables contain of these was never in their logs.
    let mut of_others = BTreeSet::new();
    for group in &groups {
        let missing =
            |what: &str| Fault::corruption(&dir.join("log"), format!("metadata of region {group}: {what}"));
        let record = log.state(*group, TAG_RECORD).ok_or_else(|| missing("there is no region record"))?;
        let InForce { record, kept } =
            record_in_force(&record, tree.state(*group).as_deref()).map_err(|what| missing(&what))?;
        // Nothing is read from the log of a tombstone; what earlier versions say that the tables have of it may be of a peer before it.
        if kept == Kept::Other || record.tombstone {
            of_others.insert(*group);
        }
        if record.tombstone {
            continue;
        }
        let hard_state = log.state(*group, TAG_HARD_STATE).and_then(|bytes| decode_hard_state(&bytes));
        hard_state.ok_or_else(|| missing("there is no hard state"))?;
        let base = log.state(*group, TAG_BASE).and_then(|bytes| decode_base(&bytes));
        let base = base.ok_or_else(|| missing("there is no base"))?;
        let (flushed, base) = (tree.flushed_index(*group), base.index.0);
        if base > FIRST_BASE.index.0 && flushed < base {
            return Err(lost_edit(tree, *group, flushed, base));
        }
    }
    for (group, flushed) in tree.flushed_indexes().into_iter().filter(|(group, _)| !of_others.contains(group))
    {
        let last = log.last_index(group).unwrap_or(0);
        // A crash between the tree and the log of a snapshot: the start resets the log to where the tree is.
        let by_snapshot = reset_of(tree.state(group).as_deref(), Some(last), |_| None);
        if last < flushed && by_snapshot.is_none_or(|at| at.index.0 != flushed) {
            let what = format!(
                "the log of region {group} ends at entry {last}, but the tables of this store contain entry {flushed}: \
                 the log has lost its end"
            );
            return Err(Fault::corruption(&log.end(), what));
        }
    }
    Ok(())
}

fn lost_edit(tree: &lsm::Recovery, group: u64, flushed: u64, base: u64) -> Fault {
    let edit = match tree.torn() {
        Some(torn) => format!("its edit at byte {} is damaged", torn.pos),
        None => "it is damaged, or an older copy".to_owned(),
    };
    let what = format!(
        "according to it the tables contain region {group} up to entry {flushed}, but the log was cut at entry {base}: {edit}"
    );
    Fault::corruption(&tree.manifest(), what)
}

//! Whose log or tree lies in a directory, and how much of it there was.
//!
//! Absence is never newness: what its owner has opened before is not created again, files of another log or tree are not taken
//! for it, and neither is a copy from before the last opening. The owner keeps the ids and the counts where none of these files
//! is; `engine` draws nothing of it and remembers nothing.

use std::path::Path;

use crate::error::{Fault, Result};

/// What the owner of a log or of a tree knows about it. The default knows nothing: anything is opened, and created if absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The id that is in its files, if it is known.
    pub id: Option<u64>,
    /// How often it has been opened, at least. Zero: it may be absent.
    pub opened_min: u64,
}

impl Origin {
    /// Refuses that nothing is there, unless it may be new. `noun` is "log" or "tree".
    pub(crate) fn may_be_absent(&self, dir: &Path, noun: &str) -> Result<()> {
        if self.opened_min == 0 {
            return Ok(());
        }
        let times = self.opened_min;
        Err(Fault::corruption(dir, format!("the {noun} is gone, which was opened {times} times before")))
    }

    /// Refuses the files of another log or tree.
    pub(crate) fn is_its_own(&self, dir: &Path, noun: &str, found: u64) -> Result<()> {
        match self.id {
            Some(id) if id != found => {
                let what = format!(
                    "this is the {noun} {found:016x}, where the {noun} {id:016x} belongs; \
                     put the store directories back to where they were (IDENT lists who belongs where)"
                );
                Err(Fault::foreign(dir, what))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Refuses what has been opened less often than its owner remembers.
    pub(crate) fn is_no_older_copy(&self, dir: &Path, noun: &str, opened: u64) -> Result<()> {
        if opened >= self.opened_min {
            return Ok(());
        }
        let times = self.opened_min;
        let what = format!(
            "this is an older copy of the {noun}: it was opened {opened} times, the one that belongs here {times} times; \
             put that one back, or restore the whole data directory from one backup"
        );
        Err(Fault::foreign(dir, what))
    }
}

//! Whether the files that a log or a tree works with are still those at their paths.
//!
//! A file that is open stays open, whatever becomes of its name. Where it was removed, or another one was put in its place, as by a copy
//! that is brought back under a running process, everything that is written to it is acknowledged and found by no start. So the owner looks
//! now and then, and stops.
//!
//! A log and a tree rename and remove files of their own. So what a look has found is judged by what the owner works with after it: only
//! what it had before the look and has still is missed. Numbers of files are never used twice, so that is known for certain.

use std::path::{Path, PathBuf};

use crate::error::{Fault, FaultKind, Result};
use crate::rt::{FileId, FileSeen, LockFile, Rt};

/// What belongs to a removed file that is open.
const STILL_OPEN: &str = "; as long as this process runs, /proc/PID/fd leads to the one that was there";

/// What has to be at a path.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// The file that is open.
    Open(FileId),
    /// A file of this length; the one that is open, if it is.
    Table(u64, Option<FileId>),
    /// A file that says this.
    Text(Vec<u8>),
}

/// Looks whether a directory is still locked for others: whether the file that is locked is the one that they would lock.
///
/// # Errors
/// The fault of a lock that keeps no process out.
pub async fn look_at_lock(rt: &Rt, lock: &LockFile) -> Result<()> {
    let Ok(seen) = rt.look_at_files(vec![lock.path.clone()]).await else { return Ok(()) };
    match seen.first() {
        Some(Some(seen)) if seen.id == lock.id => Ok(()),
        Some(_) | None => Err(fault(&lock.path, UNLOCKED)),
    }
}

/// What a lock without its file means.
const UNLOCKED: &str = "the lock was removed or replaced, so another process may write here, too: see that none does, then start again";

/// Looks at the path of each part of a log or a tree, and at what has to be there. `has_still` is asked afterwards whether it has a part still.
///
/// # Errors
/// The fault of a file that is gone or is another one.
pub(crate) async fn look<P>(
    rt: &Rt,
    parts: Vec<(P, PathBuf, Wanted)>,
    has_still: impl Fn(&P) -> bool,
) -> Result<()> {
    let paths = parts.iter().map(|(_, path, _)| path.clone()).collect();
    // Not knowing what is there is no reason to stop.
    let Ok(seen) = rt.look_at_files(paths).await else { return Ok(()) };
    for ((part, path, wanted), seen) in parts.iter().zip(seen) {
        if let Some(what) = wanted.misses(seen.as_ref())
            && has_still(part)
        {
            return Err(fault(path, &what));
        }
    }
    Ok(())
}

fn fault(path: &Path, what: &str) -> Fault {
    Fault { kind: FaultKind::Denied, path: path.to_owned(), what: what.to_owned() }
}

impl Wanted {
    /// What is wrong with what was seen, and what to do.
    fn misses(&self, seen: Option<&FileSeen>) -> Option<String> {
        let is_open = matches!(self, Self::Open(_) | Self::Table(_, Some(_)));
        let hint = if is_open { STILL_OPEN } else { "" };
        let Some(seen) = seen else {
            let gone = "the file is no longer there, so it was moved or removed: bring it back to this path, then start again";
            return Some(format!("{gone}{hint}"));
        };
        let what = match self {
            Self::Open(id) | Self::Table(_, Some(id)) if *id != seen.id => {
                "another file is in its place".to_owned()
            }
            Self::Table(bytes, _) if *bytes != seen.bytes => {
                format!("what is there has {} bytes and not {bytes}", seen.bytes)
            }
            Self::Text(text) if *text != seen.text => {
                let (found, was) = (String::from_utf8_lossy(&seen.text), String::from_utf8_lossy(text));
                format!("it says {:?} and not {:?}", found.trim_end(), was.trim_end())
            }
            Self::Open(_) | Self::Table(_, _) | Self::Text(_) => return None,
        };
        let remedy =
            "so a copy was put there while this process runs: bring back what was there, then start again";
        Some(format!("{what}, {remedy}{hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_the_same_or_said_not_to_be() {
        let id = |number| FileId { device: 1, number };
        let seen = |number, bytes, text: &str| FileSeen { id: id(number), bytes, text: text.into() };
        let cases = [
            (Wanted::Open(id(7)), Some(seen(7, 9, "")), None),
            (Wanted::Open(id(7)), Some(seen(8, 9, "")), Some("another file")),
            (Wanted::Open(id(7)), None, Some("no longer there")),
            (Wanted::Table(9, None), Some(seen(3, 9, "")), None),
            (Wanted::Table(9, None), Some(seen(3, 8, "")), Some("8 bytes and not 9")),
            (Wanted::Table(9, None), None, Some("no longer there")),
            (Wanted::Table(9, Some(id(7))), Some(seen(7, 9, "")), None),
            (Wanted::Table(9, Some(id(7))), Some(seen(8, 9, "")), Some("another file")),
            (Wanted::Table(9, Some(id(7))), Some(seen(7, 8, "")), Some("8 bytes and not 9")),
            (Wanted::Text("one".into()), Some(seen(8, 3, "one")), None),
            (Wanted::Text("one".into()), Some(seen(8, 3, "two")), Some("\"two\" and not \"one\"")),
        ];
        for (wanted, seen, said) in cases {
            let misses = wanted.misses(seen.as_ref());
            let right = match (&misses, said) {
                (Some(misses), Some(said)) => misses.contains(said) && misses.contains("then start again"),
                (misses, said) => misses.is_none() && said.is_none(),
            };
            assert!(right, "{wanted:?} {seen:?} {misses:?}");
            let hint = misses.as_ref().is_some_and(|misses| misses.contains("/proc/PID/fd"));
            assert!(!hint || !matches!(wanted, Wanted::Text(_) | Wanted::Table(_, None)), "it is not open");
        }
    }
}

//! The first place after the last record: clean, torn, or damaged. What may be concluded, and what stays in doubt.
//!
//! The record that would be next (call it n) was written in one piece and answered once that was durable. What lies in its place
//! can be:
//!
//! | found | it was | then |
//! |---|---|---|
//! | nothing that claims to be n | never begun | the log ends here |
//! | a bad n, and a later record that says that n was durable | answered, damaged since | a fault, nothing is changed |
//! | a bad n, one flipped bit away from a whole one | written whole, damaged since | a fault, nothing is changed |
//! | any other bad n, and n changed nothing | perhaps answered, no loss either way | it is cut |
//! | any other bad n | never answered, or answered and damaged since | it is cut, and [`Cut`] says what is in doubt |
//!
//! Why the last row cannot be decided. Until its sync returns, a disk may keep any of the sectors of a write and lose any others,
//! so after a loss of power the end of n can be there and its middle not, although n was never answered. Refusing to start then
//! would make an outage of every loss of power during a write. A mark at the end of a record, or a checksum per block, would not
//! change that: it says which sectors are there, and n may lack some of them for either reason. A segment that was reused makes it
//! no easier: a sector that was not written holds old bytes, which look like damaged ones. What only damage leaves behind is a record
//! that is all there but for a bit, because a sector is written whole or not at all ([`super::super::flip`] has the odds).
//!
//! What narrows the doubt: a record is written only when the one before it is durable, and says so, hence only the very last one
//! can be in doubt; a log that was idle for a moment or was closed ends in a record that changes nothing.
//!
//! Who hears of it: the owner. A replica with peers must not vote on what it may have acknowledged until they have sent it; a sole
//! replica has no one to ask, so it serves, and says what is in doubt for as long as it runs.
//!
//! Limit: if the first sector of n is gone altogether, nothing is left that claims to be n. In a reused segment old bytes lie after the
//! last record in any case, so this cannot be distinguished from a log that ends there, unless n was there when the log was last idle,
//! closed or opened, or a second before it ended ([`super::witnessed`]).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::found::Found;
use super::replay::Replay;
use crate::error::{Fault, Result};
use crate::log::flip::flipped_byte;
use crate::log::format::{Item, RECORD_HEADER_BYTES, SegmentNo, Sequence, items};
use crate::log::plant::{Bug, planted};
use crate::log::scan::{Remains, Scanner};
use crate::rt::{Budget, Rt};

/// A write at the end of the log that is not whole: it was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The segment file.
    pub path: PathBuf,
    /// Where in it the log now ends, bytes.
    pub pos: u64,
    /// The sequence that the write would have had.
    pub sequence: Sequence,
    /// What was cut, bytes, as far as its header can be believed.
    pub bytes: u64,
    /// Whether it says that it changes nothing, so that its loss is none.
    pub empty: bool,
    /// The groups whose entries it would have held, as far as they can be made out.
    pub claims: BTreeMap<u64, Claim>,
}

/// Entries of one group that a cut write would have held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Index of the first.
    pub first: u64,
    /// Index of the last.
    pub last: u64,
}

/// A write at the end that is not whole.
#[derive(Debug)]
pub(super) struct Torn {
    pub(super) segment: SegmentNo,
    pub(super) pos: u64,
    pub(super) bytes: u64,
    pub(super) empty: bool,
    pub(super) claims: BTreeMap<u64, Claim>,
}

impl Cut {
    /// Whether something may be missing that had been acknowledged.
    pub fn is_in_doubt(&self) -> bool {
        !self.empty
    }

    /// Entries that it would have held, as far as they can be made out.
    pub fn entries(&self) -> u64 {
        self.claims.values().map(|claim| claim.last - claim.first + 1).sum()
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, pos, sequence, bytes, empty, claims } = self;
        write!(f, "log tail cut: {bytes} bytes at byte {pos} of {}, record {}", path.display(), sequence.0)?;
        if *empty {
            return write!(f, "; it changed nothing");
        }
        if claims.is_empty() {
            return write!(f, "; what it held cannot be made out, nor whether it had been acknowledged");
        }
        write!(f, ", claims")?;
        for (place, (group, Claim { first, last })) in claims.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma} entries {first}..={last} of group {group}")?;
        }
        write!(f, "; whether they had been acknowledged is not known")
    }
}

/// Judges the place after the last record.
///
/// # Errors
/// Corruption if a record there is known to have been written whole.
pub(super) async fn classify_end(
    rt: &Rt,
    needed: &[&Found],
    replay: &Replay,
    budget: &Budget,
) -> Result<Option<Torn>> {
    let mut torn = None;
    let candidates = needed.iter().filter(|found| found.number >= replay.tail).take(2);
    for found in candidates {
        let segment = found.open(rt).await?.expect("its header was checked");
        let mut scanner = Scanner::new(&segment, budget).await?;
        if found.number == replay.tail {
            scanner.seek(replay.end);
        }
        let proof = scanner.proof_of(replay.next).await?;
        if let Some(proof) = proof.filter(|_| !planted(Bug::SilentTruncation)) {
            let what = format!(
                "record {} is damaged at byte {} or in the segment before: record {} at byte {} was written after \
                 it had become durable",
                replay.next.0,
                scanner.pos(),
                proof.header.sequence.0,
                proof.pos
            );
            return Err(Fault::corruption(&found.path, what));
        }
        if torn.is_none()
            && let Some(remains) = scanner.remains_of(replay.next).await?
        {
            let pos = scanner.pos();
            if let Some(byte) = flipped_byte(segment.incarnation, &remains.bytes, replay.next)
                && !planted(Bug::FlipTakenForTorn)
            {
                return Err(Fault::corruption(&found.path, flipped(replay.next, pos, byte)));
            }
            torn = Some(Torn::new(found.number, pos, &remains));
        }
        segment.close().await?;
    }
    Ok(torn)
}

fn flipped(sequence: Sequence, pos: u64, byte: usize) -> String {
    format!(
        "record {} at byte {pos}, the last one, is damaged: it had been written whole, and a bit of byte {} is wrong",
        sequence.0,
        pos + byte as u64
    )
}

impl Torn {
    fn new(segment: SegmentNo, pos: u64, remains: &Remains) -> Self {
        let end = RECORD_HEADER_BYTES + remains.header.body_bytes as usize;
        let body = remains.bytes.get(RECORD_HEADER_BYTES..end.min(remains.bytes.len())).unwrap_or_default();
        let (bytes, empty) = (remains.header.record_bytes(), remains.header.body_bytes == 0);
        Self { segment, pos, bytes, empty, claims: claims(body) }
    }
}

/// What the rest of a torn record says that it would have appended. Nothing of it is certain.
fn claims(body: &[u8]) -> BTreeMap<u64, Claim> {
    let mut claims = BTreeMap::<u64, Claim>::new();
    for item in items(body).map_while(|item| item.ok()) {
        if let Item::Append { group, run } = item {
            let (first, count) = (run.first, u64::from(run.count).max(1));
            let last = first.saturating_add(count - 1);
            let claim = claims.entry(group).or_insert(Claim { first, last });
            *claim = Claim { first: claim.first.min(first), last: claim.last.max(last) };
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_says_what_is_in_doubt() {
        let claims = BTreeMap::from([(3, Claim { first: 5, last: 7 }), (9, Claim { first: 2, last: 2 })]);
        let path = PathBuf::from("/d/0000000000000001.seg");
        let cut = Cut { path, pos: 8192, sequence: Sequence(4), bytes: 4096, empty: false, claims };
        assert_eq!((cut.entries(), cut.is_in_doubt()), (4, true));
        assert_eq!(
            cut.to_string(),
            "log tail cut: 4096 bytes at byte 8192 of /d/0000000000000001.seg, record 4, claims entries 5..=7 of group 3, \
             entries 2..=2 of group 9; whether they had been acknowledged is not known"
        );
        let nothing = Cut { empty: true, claims: BTreeMap::new(), ..cut };
        assert!(!nothing.is_in_doubt() && nothing.to_string().ends_with("it changed nothing"));
    }
}

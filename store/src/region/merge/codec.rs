//! The bytes of merges: in entries, and in records.
//!
//! ```text
//! payload   kind u8 = 5, format u8 = 1, step u8, region u64, conf_ver u64, version u64, ...             little-endian
//! step 1    prepare    target u64, conf_ver u64, version u64
//! step 2    commit     term u64, index u64, record of the source (to the end)
//! step 3    rollback   term u64, index u64
//! step 4    refuse
//!
//! merges    format u8 = 1, flags u8 (1 waits, 2 into),
//!           [target u64, conf_ver u64, version u64, term u64, index u64], [into u64], count u16, (region u64, version u64) ...
//! ```

use raft::LogId;
use scheduler::{Epoch, RegionId};

use super::{AwaitsMerge, Commit, FORMAT, KIND, MergeStep, MergeWhat, Merges, Taken};
use crate::region::command::NotACommand;
use crate::region::record::RegionRecord;

const PREPARE: u8 = 1;
const COMMIT: u8 = 2;
const ROLLBACK: u8 = 3;
const REFUSE: u8 = 4;

const WAITS: u8 = 1;
const INTO: u8 = 2;

impl MergeStep {
    /// As an entry's payload.
    pub fn encode(&self) -> Vec<u8> {
        let Self { region, epoch, what } = self;
        let step = match what {
            MergeWhat::Prepare { .. } => PREPARE,
            MergeWhat::Commit(_) => COMMIT,
            MergeWhat::Rollback { .. } => ROLLBACK,
            MergeWhat::Refuse => REFUSE,
        };
        let mut bytes = vec![KIND, FORMAT, step];
        put(&mut bytes, &[region.0, epoch.conf_ver, epoch.version]);
        match what {
            MergeWhat::Prepare { target, epoch } => {
                put(&mut bytes, &[target.0, epoch.conf_ver, epoch.version]);
            }
            MergeWhat::Commit(Commit { source, prepare }) => {
                put(&mut bytes, &[prepare.term.0, prepare.index.0]);
                bytes.extend_from_slice(&source.encode());
            }
            MergeWhat::Rollback { prepare } => put(&mut bytes, &[prepare.term.0, prepare.index.0]),
            MergeWhat::Refuse => {}
        }
        bytes
    }

    /// The inverse of [`MergeStep::encode`], of the payload behind its kind.
    ///
    /// # Errors
    /// [`NotACommand`] for anything else.
    pub fn decode(body: &[u8]) -> Result<Self, NotACommand> {
        let broken = NotACommand("a merge whose lengths do not add up");
        let (head, mut rest) = body.split_first_chunk::<2>().ok_or(broken)?;
        let [format, step] = *head;
        if format != FORMAT {
            return Err(NotACommand("a merge of an unknown format; was it written by a newer version?"));
        }
        let region = RegionId(long(&mut rest).ok_or(broken)?);
        let epoch = epoch(&mut rest).ok_or(broken)?;
        let what = match step {
            PREPARE => {
                let target = RegionId(long(&mut rest).ok_or(broken)?);
                MergeWhat::Prepare { target, epoch: self::epoch(&mut rest).ok_or(broken)? }
            }
            COMMIT => {
                let prepare = log_id(&mut rest).ok_or(broken)?;
                let source = RegionRecord::decode(std::mem::take(&mut rest))
                    .map_err(|_| NotACommand("a merge whose source cannot be read"))?;
                MergeWhat::Commit(Commit { source, prepare })
            }
            ROLLBACK => MergeWhat::Rollback { prepare: log_id(&mut rest).ok_or(broken)? },
            REFUSE => MergeWhat::Refuse,
            _unknown => {
                return Err(NotACommand("a merge's step is none; was it written by a newer version?"));
            }
        };
        if rest.is_empty() { Ok(Self { region, epoch, what }) } else { Err(broken) }
    }
}

impl Merges {
    /// As bytes.
    pub fn encode(&self) -> Vec<u8> {
        let Self { waits, taken, into } = self;
        let flags = if waits.is_some() { WAITS } else { 0 } | if into.is_some() { INTO } else { 0 };
        let mut bytes = vec![FORMAT, flags];
        if let Some(AwaitsMerge { target, epoch, prepare }) = waits {
            put(&mut bytes, &[target.0, epoch.conf_ver, epoch.version, prepare.term.0, prepare.index.0]);
        }
        if let Some(into) = into {
            put(&mut bytes, &[into.0]);
        }
        let count = u16::try_from(taken.len()).expect("few are remembered");
        bytes.extend_from_slice(&count.to_le_bytes());
        taken.iter().for_each(|Taken { region, version }| put(&mut bytes, &[region.0, *version]));
        bytes
    }

    /// The inverse of [`Merges::encode`]; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, mut rest) = bytes.split_first_chunk::<2>()?;
        let [FORMAT, flags] = *head else { return None };
        if flags & !(WAITS | INTO) != 0 {
            return None;
        }
        let rest = &mut rest;
        let waits = match flags & WAITS {
            0 => None,
            _set => Some(AwaitsMerge {
                target: RegionId(long(rest)?),
                epoch: epoch(rest)?,
                prepare: log_id(rest)?,
            }),
        };
        let into = match flags & INTO {
            0 => None,
            _set => Some(RegionId(long(rest)?)),
        };
        let (count, behind) = rest.split_first_chunk::<2>()?;
        *rest = behind;
        let taken = (0..u16::from_le_bytes(*count))
            .map(|_| Some(Taken { region: RegionId(long(rest)?), version: long(rest)? }))
            .collect::<Option<_>>()?;
        rest.is_empty().then_some(Self { waits, taken, into })
    }
}

fn put(bytes: &mut Vec<u8>, numbers: &[u64]) {
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
}

fn long(rest: &mut &[u8]) -> Option<u64> {
    let (head, behind) = rest.split_first_chunk::<8>()?;
    *rest = behind;
    Some(u64::from_le_bytes(*head))
}

fn epoch(rest: &mut &[u8]) -> Option<Epoch> {
    Some(Epoch::new(long(rest)?, long(rest)?))
}

fn log_id(rest: &mut &[u8]) -> Option<LogId> {
    Some(LogId::new(long(rest)?, long(rest)?))
}

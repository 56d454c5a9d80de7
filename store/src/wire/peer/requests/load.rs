//! From the [stored](super::codec) form back to requests and answers. Nothing that was stored is believed: lengths that do not add up
//! to the bytes, texts that are none and roles that no version has are refused.

use bytes::Bytes;
use scheduler::{Peer, PeerId, StoreId};

use super::codec::{
    ArchivedStoredOp, ArchivedStoredOut, ArchivedStoredOutcome, ArchivedStoredRefusal, ArchivedStoredStep,
    ArchivedStoredStepOutcome, ArchivedStoredWhen, BadRequests, EXPIRY_BYTES, NO_SPACE_THERE,
};
use crate::refusal::Refusal;
use crate::request::{Atomic, Change, ExpireWhen, Expiry, KeyExpiry, Op, Out, Outcome, Scan, Seen, When};
use crate::wire::peer::messages::role_of;

/// What a leader that is busy says, when it says so from another node.
const BUSY: &str = "the store that leads the region is busy";

type Length = rkyv::rend::unaligned::u32_ule;
type Option32 = rkyv::option::ArchivedOption<Length>;

/// Keys and values that are taken apart again.
pub(super) struct Cut<'a>(pub(super) &'a [u8]);

impl Cut<'_> {
    fn take(&mut self, length: &Length) -> Result<Bytes, BadRequests> {
        let length = length.to_native() as usize;
        let (taken, rest) =
            self.0.split_at_checked(length).ok_or(BadRequests("a length is above the bytes there are"))?;
        self.0 = rest;
        // A copy of its own: what is kept longer must not keep the whole frame.
        Ok(Bytes::copy_from_slice(taken))
    }

    fn text(&mut self, length: &Length) -> Result<String, BadRequests> {
        String::from_utf8(self.take(length)?.into()).map_err(|_| BadRequests("a text is not UTF-8"))
    }

    /// An expiry, and what stands behind it.
    fn timed(&mut self, length: &Length) -> Result<(Expiry, Bytes), BadRequests> {
        let length = length.to_native() as usize;
        let rest = length.checked_sub(EXPIRY_BYTES).filter(|_| length <= self.0.len());
        let rest = rest.ok_or(BadRequests("an expiry is cut short"))?;
        let (expiry, behind) = self.0.split_at(EXPIRY_BYTES);
        let (value, behind) = behind.split_at(rest);
        self.0 = behind;
        let ms = expiry.last_chunk().map_or(0, |ms| u64::from_le_bytes(*ms));
        let expiry = match expiry.first() {
            Some(0) => Expiry::Never,
            Some(1) => Expiry::Keep,
            Some(2) => Expiry::After(ms),
            Some(3) => Expiry::At(ms),
            Some(_) | None => return Err(BadRequests("an expiry is of an unknown kind")),
        };
        Ok((expiry, Bytes::copy_from_slice(value)))
    }

    pub(super) fn end(&self) -> Result<(), BadRequests> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(BadRequests("the lengths do not add up to the bytes")),
        }
    }

    fn all(&mut self, lengths: &[Length]) -> Result<Vec<Bytes>, BadRequests> {
        lengths.iter().map(|length| self.take(length)).collect()
    }

    fn optional(&mut self, length: &Option32) -> Result<Option<Bytes>, BadRequests> {
        length.as_ref().map(|length| self.take(length)).transpose()
    }

    fn pairs(
        &mut self,
        pairs: &[rkyv::tuple::ArchivedTuple2<Length, Length>],
    ) -> Result<Vec<(Bytes, Bytes)>, BadRequests> {
        pairs.iter().map(|pair| Ok((self.take(&pair.0)?, self.take(&pair.1)?))).collect()
    }

    pub(super) fn op(&mut self, stored: &ArchivedStoredOp) -> Result<Op, BadRequests> {
        Ok(match stored {
            ArchivedStoredOp::Step(step) => self.step(step)?,
            ArchivedStoredOp::DeleteRange { start, end } => {
                Op::DeleteRange { start: self.take(start)?, end: self.take(end)? }
            }
            ArchivedStoredOp::Scan { start, end, limit, reverse, key_only, held_bytes, at_once } => {
                Op::Scan(Scan {
                    start: self.take(start)?,
                    end: self.take(end)?,
                    limit: count(limit.to_native())?,
                    reverse: *reverse,
                    key_only: *key_only,
                    held_bytes: count(held_bytes.to_native())?,
                    at_once: *at_once,
                })
            }
            ArchivedStoredOp::Atomic { watched, steps } => {
                let watched = watched
                    .iter()
                    .map(|seen| {
                        let key = self.take(&seen.0)?;
                        Ok((key, Seen { term: seen.1.to_native(), number: seen.2.to_native() }))
                    })
                    .collect::<Result<_, BadRequests>>()?;
                let steps = steps.iter().map(|step| self.step(step)).collect::<Result<_, BadRequests>>()?;
                Op::Atomic(Atomic { watched, steps })
            }
        })
    }

    fn step(&mut self, stored: &ArchivedStoredStep) -> Result<Op, BadRequests> {
        Ok(match stored {
            ArchivedStoredStep::Get { key } => Op::Get { key: self.take(key)? },
            ArchivedStoredStep::BatchGet { keys, at_once } => {
                Op::BatchGet { keys: self.all(keys)?, at_once: *at_once }
            }
            ArchivedStoredStep::Lengths { keys } => Op::Lengths { keys: self.all(keys)?, ahead: false },
            ArchivedStoredStep::Put { key, value } => {
                Op::Put { key: self.take(key)?, value: self.take(value)? }
            }
            ArchivedStoredStep::BatchPut { pairs } => Op::BatchPut { pairs: self.pairs(pairs)? },
            ArchivedStoredStep::Delete { key, count } => Op::Delete { key: self.take(key)?, count: *count },
            ArchivedStoredStep::BatchDelete { keys } => Op::BatchDelete { keys: self.all(keys)? },
            ArchivedStoredStep::Watch { keys } => Op::Watch { keys: self.all(keys)? },
            ArchivedStoredStep::Set { key, value, when } => {
                let (key, value) = (self.take(key)?, self.take(value)?);
                let when = self.when(when)?;
                Op::Modify { key, change: Change::SetIf { value, when } }
            }
            ArchivedStoredStep::Expiry { key } => Op::Expiry { key: self.take(key)? },
            ArchivedStoredStep::PutTimed { puts } => {
                let put = |put: &rkyv::tuple::ArchivedTuple2<Length, Length>| {
                    let (key, (expiry, value)) = (self.take(&put.0)?, self.timed(&put.1)?);
                    Ok((key, value, expiry))
                };
                Op::PutTimed { puts: puts.iter().map(put).collect::<Result<_, BadRequests>>()? }
            }
            ArchivedStoredStep::SetTimed { key, value, when } => {
                let (key, (expiry, value)) = (self.take(key)?, self.timed(value)?);
                let when = self.when(when)?;
                Op::Modify { key, change: Change::SetTimed { value, when, expiry } }
            }
            ArchivedStoredStep::Expire { key, expiry, when } => {
                let when = match when {
                    0 => ExpireWhen::Always,
                    1 => ExpireWhen::Stays,
                    2 => ExpireWhen::Expires,
                    3 => ExpireWhen::Later,
                    4 => ExpireWhen::Earlier,
                    5 => ExpireWhen::ExpiresEarlier,
                    _ => return Err(BadRequests("an expiry has an unknown condition")),
                };
                let (key, (expiry, _)) = (self.take(key)?, self.timed(expiry)?);
                Op::Modify { key, change: Change::Expire { expiry, when } }
            }
            ArchivedStoredStep::GetTimed { key, expiry } => {
                let (key, (expiry, _)) = (self.take(key)?, self.timed(expiry)?);
                Op::Modify { key, change: Change::GetTimed { expiry } }
            }
            ArchivedStoredStep::Take { key } => Op::Modify { key: self.take(key)?, change: Change::Take },
            ArchivedStoredStep::Remove { key } => Op::Modify { key: self.take(key)?, change: Change::Remove },
            ArchivedStoredStep::Append { key, suffix } => {
                let (key, suffix) = (self.take(key)?, self.take(suffix)?);
                Op::Modify { key, change: Change::Append { suffix } }
            }
            ArchivedStoredStep::Add { key, delta } => {
                Op::Modify { key: self.take(key)?, change: Change::Add { delta: delta.to_native() } }
            }
            ArchivedStoredStep::PutAbsent { pairs } => Op::PutAbsent { pairs: self.pairs(pairs)? },
            ArchivedStoredStep::Copy { from, to, remove, replace } => {
                Op::Copy { from: self.take(from)?, to: self.take(to)?, remove: *remove, replace: *replace }
            }
            ArchivedStoredStep::SetRange { key, offset, value } => {
                let (key, value) = (self.take(key)?, self.take(value)?);
                Op::Modify { key, change: Change::SetRange { offset: offset.to_native() as usize, value } }
            }
            ArchivedStoredStep::SetBit { key, offset, on } => {
                let change = Change::SetBit { offset: offset.to_native() as usize, on: *on };
                Op::Modify { key: self.take(key)?, change }
            }
            ArchivedStoredStep::AddFloat { key, delta } => {
                let (key, delta) = (self.take(key)?, self.take(delta)?);
                Op::Modify { key, change: Change::AddFloat { delta } }
            }
        })
    }

    fn when(&mut self, when: &ArchivedStoredWhen) -> Result<When, BadRequests> {
        Ok(match when {
            ArchivedStoredWhen::Always => When::Always,
            ArchivedStoredWhen::Absent => When::Absent,
            ArchivedStoredWhen::Present => When::Present,
            ArchivedStoredWhen::EqualsAbsent => When::Equals(None),
            ArchivedStoredWhen::Equals(expected) => When::Equals(Some(self.take(expected)?)),
        })
    }

    pub(super) fn outcome(&mut self, stored: &ArchivedStoredOutcome) -> Result<Outcome, BadRequests> {
        Ok(match stored {
            ArchivedStoredOutcome::Out(out) => Ok(self.out(out)?),
            ArchivedStoredOutcome::Refused(refusal) => Err(self.refusal(refusal)?),
            ArchivedStoredOutcome::Atomic(steps) => {
                let step = |step: &ArchivedStoredStepOutcome| {
                    Ok(match step {
                        ArchivedStoredStepOutcome::Out(out) => Ok(self.out(out)?),
                        ArchivedStoredStepOutcome::Refused(refusal) => Err(self.refusal(refusal)?),
                    })
                };
                let steps = steps.as_ref().map(|steps| steps.iter().map(step).collect()).transpose()?;
                Ok(Out::Atomic(steps))
            }
        })
    }

    fn out(&mut self, stored: &ArchivedStoredOut) -> Result<Out, BadRequests> {
        Ok(match stored {
            ArchivedStoredOut::Done => Out::Done,
            ArchivedStoredOut::Value(value) => Out::Value(self.optional(value)?),
            ArchivedStoredOut::Values(values) => {
                Out::Values(values.iter().map(|value| self.optional(value)).collect::<Result<_, _>>()?)
            }
            ArchivedStoredOut::Lengths(lengths) => {
                let length = |length: &rkyv::option::ArchivedOption<rkyv::rend::unaligned::u64_ule>| {
                    length.as_ref().map(|length| count(length.to_native())).transpose()
                };
                Out::Lengths(lengths.iter().map(length).collect::<Result<_, _>>()?)
            }
            ArchivedStoredOut::Existed(existed) => Out::Existed(*existed),
            ArchivedStoredOut::Swapped { swapped, previous } => {
                Out::Swapped { swapped: *swapped, previous: self.optional(previous)? }
            }
            ArchivedStoredOut::Length(length) => Out::Length(count(length.to_native())?),
            ArchivedStoredOut::Integer(integer) => Out::Integer(integer.to_native()),
            ArchivedStoredOut::Pairs(pairs) => Out::Pairs(self.pairs(pairs)?),
            ArchivedStoredOut::NoRoom => Out::NoRoom,
            ArchivedStoredOut::Expiry(length) if length.to_native() == 0 => Out::Expiry(KeyExpiry::Absent),
            ArchivedStoredOut::Expiry(length) => Out::Expiry(match self.timed(length)? {
                (Expiry::At(until_ms), left) => {
                    let left =
                        left.first_chunk().ok_or(BadRequests("an expiry does not say what is left"))?;
                    KeyExpiry::At { until_ms, left_ms: u64::from_le_bytes(*left) }
                }
                (Expiry::Never | Expiry::Keep | Expiry::After(_), _) => KeyExpiry::Never,
            }),
            ArchivedStoredOut::Seen(seen) => Out::Seen(
                seen.iter()
                    .map(|seen| Seen { term: seen.0.to_native(), number: seen.1.to_native() })
                    .collect(),
            ),
        })
    }

    fn refusal(&mut self, stored: &ArchivedStoredRefusal) -> Result<Refusal, BadRequests> {
        Ok(match stored {
            ArchivedStoredRefusal::NotLeader { region, leader } => Refusal::NotLeader {
                region_id: region.to_native(),
                leader: match leader.as_ref() {
                    None => None,
                    Some(leader) => Some(Peer {
                        id: PeerId(leader.0.to_native()),
                        store: StoreId(leader.1.to_native()),
                        role: role_of(leader.2).ok_or(BadRequests("a peer has an unknown role"))?,
                    }),
                },
            },
            ArchivedStoredRefusal::RegionNotFound { region } => {
                Refusal::RegionNotFound { region_id: region.to_native() }
            }
            ArchivedStoredRefusal::Moved => Refusal::EpochNotMatch { current: Vec::new() },
            ArchivedStoredRefusal::StoreNotMatch { asked, actual } => {
                Refusal::StoreNotMatch { asked: asked.to_native(), actual: actual.to_native() }
            }
            ArchivedStoredRefusal::PeerNotMatch { asked, actual } => {
                Refusal::PeerNotMatch { asked: asked.to_native(), actual: actual.to_native() }
            }
            ArchivedStoredRefusal::StaleCommand => Refusal::StaleCommand,
            ArchivedStoredRefusal::Busy { backoff_ms } => {
                Refusal::Busy { reason: BUSY, backoff_ms: backoff_ms.to_native() }
            }
            ArchivedStoredRefusal::DiskFull { stores } => {
                let store_ids = stores.iter().map(|store| store.to_native()).collect();
                Refusal::DiskFull { store_ids, reason: NO_SPACE_THERE.to_owned() }
            }
            ArchivedStoredRefusal::SpansRegions { one, other } => {
                Refusal::SpansRegions { one: self.take(one)?, other: self.take(other)? }
            }
            ArchivedStoredRefusal::TooLarge { region, bytes, bytes_max } => Refusal::TooLarge {
                region_id: region.to_native(),
                bytes: count(bytes.to_native())?,
                bytes_max: count(bytes_max.to_native())?,
            },
            ArchivedStoredRefusal::Damaged { file, what } => {
                Refusal::Damaged { file: self.text(file)?, what: self.text(what)? }
            }
            ArchivedStoredRefusal::Invalid(why) => Refusal::Invalid(self.text(why)?),
            ArchivedStoredRefusal::AnswerTooLarge { bytes_max } => {
                Refusal::AnswerTooLarge { bytes_max: count(bytes_max.to_native())? }
            }
            ArchivedStoredRefusal::NotAnInteger => Refusal::NotAnInteger,
            ArchivedStoredRefusal::Overflow => Refusal::Overflow,
            ArchivedStoredRefusal::Stopped(why) => Refusal::Stopped(self.text(why)?),
            ArchivedStoredRefusal::Unknown => Refusal::Unknown,
        })
    }
}

fn count(number: u64) -> Result<usize, BadRequests> {
    usize::try_from(number).map_err(|_| BadRequests("a number is above what this machine can count"))
}

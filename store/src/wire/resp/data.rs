//! Commands that name their keys, as operations on the store, and the operations' answers as replies.
//!
//! Pure: bytes in, [`Work`] and a [`ReplyShape`] out; later an outcome in, bytes out.

use bytes::Bytes;

use super::command::RespCommand;
use super::expiry::{self, TimeForm};
use super::frame::integer;
use super::part::{BitSearch, Unit, ValuePart, bit};
use super::reply::Writer;
use super::request::{CommandLine, Error};
use crate::memory::{Appended, items_bytes, key_hash};
use crate::refusal::Refusal;
use crate::request::{Atomic, Change, KeyExpiry, Op, Out, Outcome, VALUE_BYTES_MAX, When};
use crate::shard::modify::{NO_BIT_OFFSET, TOO_LONG};

/// Maximum bytes of values in one reply.
pub const REPLY_BYTES_MAX: usize = 64 << 20;

/// What a command asks of the store.
#[derive(Debug)]
pub enum Work {
    /// One operation.
    One(Op),
    /// Deletes, each by itself, whose answers are counted together.
    Each(Vec<Op>),
}

impl Work {
    /// What it costs beside the bytes of its request, bytes.
    pub fn items_bytes(&self) -> usize {
        items_bytes(match self {
            Work::One(op) => op.items(),
            Work::Each(ops) => ops.len(),
        })
    }
}

/// How an operation's answer is said in RESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyShape {
    /// `OK`.
    Ok,
    /// The value, or null.
    Value,
    /// An array of values and nulls.
    Values,
    /// The number of values that are there.
    Present,
    /// The length of the value, 0 if there is none.
    Length,
    /// An integer as it is.
    Integer,
    /// `OK` if the value was set, null if not.
    SetOrNull,
    /// 1 if the value was set, 0 if not.
    SetOrNot,
    /// The previous value, or null.
    Previous,
    /// What a write has made of the value.
    Made,
    /// A part of the value; nothing of one that is not there.
    Part(ValuePart),
    /// One bit of the value, by its place.
    Bit(u32),
    /// How many bits of a part of the value are set.
    BitCount(ValuePart, Unit),
    /// The first bit of a kind.
    BitPlace(BitSearch),
    /// `string` or `none`.
    Type,
    /// When the key goes, -1 for one that stays and -2 for one that is not there.
    Expiry(TimeForm),
    /// Null, or this error if there is a value.
    ValueRefused(&'static str),
    /// The encoding that Redis would have chosen for the value of the key with this hash, or null.
    Encoding {
        /// See [`key_hash`].
        key_hash: u32,
    },
}

/// What `command` asks of the store and how the answer is said. The arity has been checked.
pub fn plan(command: RespCommand, request: &CommandLine<'_>) -> Result<(Work, ReplyShape), Error> {
    let (op, shape) = match command {
        RespCommand::Get => (Op::Get { key: request.key(1)? }, ReplyShape::Value),
        RespCommand::Set => return set(request),
        RespCommand::Setnx => (set_if(request, 2, When::Absent)?, ReplyShape::SetOrNot),
        RespCommand::Getset => (set_if(request, 2, When::Always)?, ReplyShape::Previous),
        RespCommand::Getdel => (modify(request, Change::Take)?, ReplyShape::Value),
        RespCommand::Mget => (Op::BatchGet { keys: keys(request)?, at_once: false }, ReplyShape::Values),
        RespCommand::Mset => (mset(request)?, ReplyShape::Ok),
        RespCommand::Del | RespCommand::Unlink => return delete(request),
        RespCommand::Exists => (Op::Lengths { keys: keys(request)?, ahead: false }, ReplyShape::Present),
        RespCommand::Strlen => (lengths(request)?, ReplyShape::Length),
        RespCommand::Touch => (Op::Lengths { keys: keys(request)?, ahead: false }, ReplyShape::Present),
        RespCommand::Msetnx => (msetnx(request)?, ReplyShape::SetOrNot),
        RespCommand::Rename => (copy(request, true, true)?, ReplyShape::Ok),
        RespCommand::Renamenx => (copy(request, true, false)?, ReplyShape::SetOrNot),
        RespCommand::Copy => (copy_command(request)?, ReplyShape::SetOrNot),
        RespCommand::Setrange => (modify(request, set_range(request)?)?, ReplyShape::Integer),
        RespCommand::Setbit => (modify(request, set_bit(request)?)?, ReplyShape::Integer),
        RespCommand::Incrbyfloat => {
            (modify(request, Change::AddFloat { delta: request.value(2)? })?, ReplyShape::Made)
        }
        RespCommand::Getrange | RespCommand::Substr => {
            let part = ValuePart::new(request.integer(2)?, request.integer(3)?);
            (Op::Get { key: request.key(1)? }, ReplyShape::Part(part))
        }
        RespCommand::Getbit => {
            let place = bit_offset(request)? as u32;
            (Op::Get { key: request.key(1)? }, ReplyShape::Bit(place))
        }
        RespCommand::Bitcount => {
            let (part, unit) = ValuePart::to_count(request)?;
            (Op::Get { key: request.key(1)? }, ReplyShape::BitCount(part, unit))
        }
        RespCommand::Bitpos => {
            (Op::Get { key: request.key(1)? }, ReplyShape::BitPlace(BitSearch::read(request)?))
        }
        RespCommand::Append => {
            (modify(request, Change::Append { suffix: request.value(2)? })?, ReplyShape::Integer)
        }
        RespCommand::Incr => (add(request, 1)?, ReplyShape::Integer),
        RespCommand::Decr => (add(request, -1)?, ReplyShape::Integer),
        RespCommand::Incrby => (add(request, request.integer(2)?)?, ReplyShape::Integer),
        RespCommand::Decrby => (add(request, negated(request.integer(2)?)?)?, ReplyShape::Integer),
        RespCommand::Type => (lengths(request)?, ReplyShape::Type),
        RespCommand::Getex => expiry::getex(request)?,
        RespCommand::Ttl => expiry::told(request, expiry::SECONDS)?,
        RespCommand::Pttl => expiry::told(request, expiry::MILLISECONDS)?,
        RespCommand::Expiretime => expiry::told(request, expiry::AT_SECOND)?,
        RespCommand::Pexpiretime => expiry::told(request, expiry::AT_MILLISECOND)?,
        RespCommand::Setex => return expiry::setex(request, expiry::SECONDS),
        RespCommand::Psetex => return expiry::setex(request, expiry::MILLISECONDS),
        RespCommand::Expire => expiry::expire(request, expiry::SECONDS, "expire")?,
        RespCommand::Pexpire => expiry::expire(request, expiry::MILLISECONDS, "pexpire")?,
        RespCommand::Expireat => expiry::expire(request, expiry::AT_SECOND, "expireat")?,
        RespCommand::Pexpireat => expiry::expire(request, expiry::AT_MILLISECOND, "pexpireat")?,
        RespCommand::Persist => expiry::persist(request)?,
        RespCommand::Object => object(request)?,
        // What is no command about keys is answered elsewhere.
        other => return Err(Error::arity(other)),
    };
    Ok((Work::One(op), shape))
}

fn keys(request: &CommandLine<'_>) -> Result<Vec<Bytes>, Error> {
    (1..request.count()).map(|index| request.key(index)).collect()
}

/// What needs to know of a key only whether it is there, or how long its value is.
fn lengths(request: &CommandLine<'_>) -> Result<Op, Error> {
    Ok(Op::Lengths { keys: vec![request.key(1)?], ahead: false })
}

fn modify(request: &CommandLine<'_>, change: Change) -> Result<Op, Error> {
    Ok(Op::Modify { key: request.key(1)?, change })
}

fn add(request: &CommandLine<'_>, delta: i64) -> Result<Op, Error> {
    modify(request, Change::Add { delta })
}

fn negated(delta: i64) -> Result<i64, Error> {
    delta.checked_neg().ok_or(Error::constant("ERR decrement would overflow"))
}

fn set_if(request: &CommandLine<'_>, value: usize, when: When) -> Result<Op, Error> {
    modify(request, Change::SetIf { value: request.value(value)?, when })
}

fn set(request: &CommandLine<'_>) -> Result<(Work, ReplyShape), Error> {
    if request.count() == 3 {
        let (key, value) = request.pair(1, 2)?;
        return Ok((Work::One(Op::Put { key, value }), ReplyShape::Ok));
    }
    expiry::set(request)
}

fn mset(request: &CommandLine<'_>) -> Result<Op, Error> {
    Ok(Op::BatchPut { pairs: pairs(RespCommand::Mset, request)? })
}

fn msetnx(request: &CommandLine<'_>) -> Result<Op, Error> {
    Ok(together(Op::PutAbsent { pairs: pairs(RespCommand::Msetnx, request)? }))
}

fn pairs(command: RespCommand, request: &CommandLine<'_>) -> Result<Vec<(Bytes, Bytes)>, Error> {
    if request.count().is_multiple_of(2) {
        return Err(Error::arity(command));
    }
    let pair = |index| Ok((request.key(index)?, request.value(index + 1)?));
    (1..request.count()).step_by(2).map(pair).collect()
}

/// What depends on several keys, as a transaction of one step. Its outcome is said as that of the step, and
/// inside of a transaction it is a step of that one.
fn together(step: Op) -> Op {
    Op::Atomic(Atomic { watched: Vec::new(), steps: vec![step] })
}

fn copy(request: &CommandLine<'_>, remove: bool, replace: bool) -> Result<Op, Error> {
    Ok(together(Op::Copy { from: request.key(1)?, to: request.key(2)?, remove, replace }))
}

/// `COPY from to [DB 0] [REPLACE]`.
fn copy_command(request: &CommandLine<'_>) -> Result<Op, Error> {
    // More options than there are only repeat themselves.
    if request.count() > 16 {
        return Err(Error::SYNTAX);
    }
    let (mut index, mut replace) = (3, false);
    while index < request.count() {
        match () {
            () if request.is(index, "REPLACE") => replace = true,
            () if request.is(index, "DB") && index + 1 < request.count() => {
                index += 1;
                if request.integer(index)? != 0 {
                    return Err(Error::NO_SUCH_DATABASE);
                }
            }
            () => return Err(Error::SYNTAX),
        }
        index += 1;
    }
    if request.arg(1) == request.arg(2) {
        return Err(Error::constant("ERR source and destination objects are the same"));
    }
    copy(request, false, replace)
}

fn set_range(request: &CommandLine<'_>) -> Result<Change, Error> {
    let (offset, value) = (request.integer(2)?, request.value(3)?);
    let Ok(offset) = usize::try_from(offset) else {
        return Err(Error::constant("ERR offset is out of range"));
    };
    if !value.is_empty() && offset.saturating_add(value.len()) > VALUE_BYTES_MAX {
        return Err(Error::new(format!("ERR {TOO_LONG}")));
    }
    Ok(Change::SetRange { offset, value })
}

fn set_bit(request: &CommandLine<'_>) -> Result<Change, Error> {
    let offset = bit_offset(request)?;
    match integer(request.arg(3)) {
        Some(bit @ (0 | 1)) => Ok(Change::SetBit { offset, on: bit == 1 }),
        Some(_) | None => Err(Error::constant("ERR bit is not an integer or out of range")),
    }
}

/// The place of a bit in a value, the second argument.
fn bit_offset(request: &CommandLine<'_>) -> Result<usize, Error> {
    let offset = integer(request.arg(2)).and_then(|offset| usize::try_from(offset).ok());
    let offset = offset.filter(|offset| offset / 8 < VALUE_BYTES_MAX);
    offset.ok_or_else(|| Error::new(format!("ERR {NO_BIT_OFFSET}")))
}

fn delete(request: &CommandLine<'_>) -> Result<(Work, ReplyShape), Error> {
    if request.count() == 2 {
        return Ok((Work::One(Op::Delete { key: request.key(1)?, count: true }), ReplyShape::Integer));
    }
    let delete = |key| Op::Delete { key, count: true };
    Ok((Work::Each(keys(request)?.into_iter().map(delete).collect()), ReplyShape::Integer))
}

fn object(request: &CommandLine<'_>) -> Result<(Op, ReplyShape), Error> {
    let sub = request.arg(1);
    if !request.is(1, "ENCODING") {
        return Err(Error::unknown_subcommand(RespCommand::Object, sub));
    }
    if request.count() != 3 {
        return Err(Error::subcommand_arity(RespCommand::Object, sub));
    }
    let key = request.key(2)?;
    let key_hash = key_hash(&key);
    Ok((Op::Get { key }, ReplyShape::Encoding { key_hash }))
}

/// Keys that a read found and did not find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// Found.
    pub hits: u64,
    /// Not found.
    pub misses: u64,
}

impl Lookups {
    fn of(hits: usize, all: usize) -> Self {
        Self { hits: hits as u64, misses: (all - hits) as u64 }
    }

    /// Adds others.
    pub fn add(&mut self, others: Self) {
        self.hits += others.hits;
        self.misses += others.misses;
    }
}

impl ReplyShape {
    /// What the keyspace hits and misses of a command with this outcome are. What writes see of their keys is not counted.
    pub fn lookups(self, outcome: &Outcome) -> Lookups {
        match (self, outcome) {
            (
                ReplyShape::Value
                | ReplyShape::Encoding { .. }
                | ReplyShape::Part(_)
                | ReplyShape::Bit(_)
                | ReplyShape::BitCount(..)
                | ReplyShape::BitPlace(_),
                Ok(Out::Value(value)),
            ) => Lookups::of(value.iter().count(), 1),
            (ReplyShape::Values, Ok(Out::Values(values))) => {
                Lookups::of(values.iter().flatten().count(), values.len())
            }
            (ReplyShape::ValueRefused(_), Ok(Out::Value(value))) => Lookups::of(value.iter().count(), 1),
            (_, Ok(Out::Expiry(expiry))) => Lookups::of(usize::from(*expiry != KeyExpiry::Absent), 1),
            (_, Ok(Out::Lengths(lengths))) => Lookups::of(lengths.iter().flatten().count(), lengths.len()),
            (_, Ok(_) | Err(_)) => Lookups::default(),
        }
    }

    /// Says `outcome`. What was `appended` to has another encoding.
    pub fn write(self, outcome: Outcome, appended: &Appended, reply: &mut Writer<'_>) {
        match outcome {
            Ok(Out::Atomic(Some(mut steps))) if steps.len() == 1 => {
                let outcome = steps.pop().expect("there is one");
                self.write(outcome, appended, reply);
            }
            Ok(out) => self.write_out(out, appended, reply),
            Err(refusal) => reply.error(&refused(&refusal)),
        }
    }

    fn write_out(self, out: Out, appended: &Appended, reply: &mut Writer<'_>) {
        match (self, out) {
            (ReplyShape::Ok, _) => reply.ok(),
            (ReplyShape::Value, Out::Value(value)) => reply.bulk_or_null(value.as_deref()),
            (ReplyShape::Made, Out::Value(value)) => reply.bulk_or_null(value.as_deref()),
            (ReplyShape::Part(part), Out::Value(value)) => {
                reply.bulk(part.of(value.as_deref().unwrap_or_default()));
            }
            (ReplyShape::Bit(place), Out::Value(value)) => {
                reply.integer(bit(value.as_deref().unwrap_or_default(), place as usize).into());
            }
            (ReplyShape::BitCount(part, unit), Out::Value(value)) => {
                reply.integer(size(part.count_bits(value.as_deref().unwrap_or_default(), unit)));
            }
            (ReplyShape::BitPlace(search), Out::Value(value)) => {
                reply.integer(search.run(value.as_deref()));
            }
            (ReplyShape::Values, Out::Values(values)) => write_values(&values, reply),
            (ReplyShape::Present, Out::Lengths(lengths)) => {
                reply.integer(size(lengths.iter().flatten().count()))
            }
            (ReplyShape::Length, Out::Lengths(lengths)) => reply.integer(only(&lengths).map_or(0, size)),
            (ReplyShape::Integer, Out::Integer(value)) => reply.integer(value),
            (ReplyShape::Integer, Out::Length(length)) => reply.integer(size(length)),
            (ReplyShape::Integer, Out::Existed(existed)) => reply.integer(existed.into()),
            (ReplyShape::SetOrNull, Out::Swapped { swapped: true, .. }) => reply.ok(),
            (ReplyShape::SetOrNull, Out::Swapped { swapped: false, .. }) => reply.null(),
            (ReplyShape::SetOrNot, Out::Swapped { swapped, .. }) => reply.integer(swapped.into()),
            (ReplyShape::Previous, Out::Swapped { previous, .. }) => reply.bulk_or_null(previous.as_deref()),
            (ReplyShape::Type, Out::Lengths(lengths)) => {
                reply.status(if only(&lengths).is_some() { "string" } else { "none" });
            }
            (ReplyShape::Expiry(form), Out::Expiry(when)) => reply.integer(expiry::say(when, form)),
            (ReplyShape::ValueRefused(error), Out::Value(Some(_))) => reply.error(error),
            (ReplyShape::ValueRefused(_), Out::Value(None)) => reply.null(),
            (ReplyShape::Encoding { key_hash }, Out::Value(value)) => {
                let encoding = |value: &[u8]| encoding(value, appended.has(key_hash, value));
                reply.bulk_or_null(value.as_deref().map(encoding));
            }
            (shape, out) => {
                debug_assert!(false, "{out:?} is no answer for {shape:?}");
                reply.error("ERR internal error: the store returned an answer of another kind");
            }
        }
    }
}

fn write_values(values: &[Option<Bytes>], reply: &mut Writer<'_>) {
    let bytes: usize = values.iter().flatten().map(Bytes::len).sum();
    if bytes > REPLY_BYTES_MAX {
        return reply.error(Error::REPLY_TOO_BIG.text());
    }
    reply.array(values.len());
    for value in values {
        reply.bulk_or_null(value.as_deref());
    }
}

/// The length of the value of a command's only key.
fn only(lengths: &[Option<usize>]) -> Option<usize> {
    lengths.first().copied().flatten()
}

/// A length or a count as RESP has it.
pub fn size(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// What Redis would answer for this value, because tools ask.
fn encoding(value: &[u8], appended: bool) -> &'static [u8] {
    match value {
        _ if appended => b"raw",
        value if integer(value).is_some() => b"int",
        value if value.len() <= 44 => b"embstr",
        _ => b"raw",
    }
}

/// The beginning of a key, for people.
fn shown(key: &[u8]) -> impl std::fmt::Display {
    const SHOWN_BYTES: usize = 64;
    key[..key.len().min(SHOWN_BYTES)].escape_ascii()
}

/// A refusal in the words of RESP. The codes are those on which Redis' client libraries act: `TRYAGAIN` and `CLUSTERDOWN`
/// are worth a retry, `MISCONF` and `ERR` are not.
pub fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotLeader { region_id, leader: None } => {
            format!("CLUSTERDOWN region {region_id} has no leader that this node can reach, try again")
        }
        Refusal::NotLeader { region_id, leader: Some(leader) } => format!(
            "CLUSTERDOWN region {region_id} is led by {}, which could not be asked in time, try again",
            leader.store
        ),
        Refusal::RegionNotFound { .. }
        | Refusal::KeyNotInRegion { .. }
        | Refusal::EpochNotMatch { .. }
        | Refusal::StoreNotMatch { .. }
        | Refusal::PeerNotMatch { .. }
        | Refusal::StaleCommand => "TRYAGAIN the key's region is moving, try again".to_owned(),
        Refusal::Busy { reason, backoff_ms } => format!("TRYAGAIN {reason}, try again in {backoff_ms} ms"),
        Refusal::DiskFull { store_ids, reason } => {
            format!("MISCONF writes are refused on stores {store_ids:?}: {reason}")
        }
        Refusal::SpansRegions { one, other } => format!(
            "CROSSSLOT the keys '{}' and '{}' lie in two regions, and what takes effect together lies in one; nothing was done",
            shown(one),
            shown(other)
        ),
        Refusal::TooLarge { bytes, bytes_max, .. } => {
            format!(
                "ERR the command's writes have {bytes} bytes, which exceeds the {bytes_max} that one command may have"
            )
        }
        Refusal::Damaged { file, what } => {
            format!("ERR the value cannot be read, because {file} is damaged ({what}); other keys are served")
        }
        Refusal::Invalid(why) => format!("ERR {why}"),
        Refusal::AnswerTooLarge { bytes_max } => {
            format!("ERR the answer would be over the bound of {bytes_max} bytes; ask for less at once")
        }
        Refusal::NotAnInteger => Error::NOT_AN_INTEGER.text().to_owned(),
        Refusal::Overflow => "ERR increment or decrement would overflow".to_owned(),
        Refusal::Stopped(why) => format!("ERR the store has stopped: {why}"),
        Refusal::Unknown => {
            "ERR the outcome is unknown: the write may have happened or not, read the key".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use scheduler::{Peer, PeerId, StoreId};

    use super::*;

    #[test]
    fn whoever_asks_a_follower_hears_who_leads() {
        let refusal = |leader| refused(&Refusal::NotLeader { region_id: 7, leader });
        let text = refusal(Some(Peer::voter(PeerId(12), StoreId(3))));
        assert!(text.starts_with("CLUSTERDOWN region 7 is led by store 3,"), "{text}");
        assert!(refusal(None).contains("no leader"));
    }
}

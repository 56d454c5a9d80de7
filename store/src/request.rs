//! What a client can ask of the raw key space, as plain types.
//!
//! Both wire protocols turn their bytes into an [`Op`] and an [`Out`] back into bytes; nothing below them knows a protocol.
//! An operation is atomic when it touches one key or, for batches, the keys of one region.

use bytes::Bytes;
use engine::lsm::{Until, WallMs};

use crate::refusal::Refusal;

/// Maximum length of a key, bytes.
pub const KEY_BYTES_MAX: usize = 8 << 10;
/// Maximum length of a value, bytes.
pub const VALUE_BYTES_MAX: usize = 8 << 20;

/// Where the client believes that its key lives. Absent for clients without a map (RESP), which are routed by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The region.
    pub region_id: u64,
    /// Its epoch, membership part.
    pub conf_ver: u64,
    /// Its epoch, range part.
    pub version: u64,
    /// The peer that the client believes to lead; 0 when it does not say.
    pub peer_id: u64,
    /// The store of that peer; 0 when it does not say.
    pub store_id: u64,
    /// The term that the client knows; 0 when it does not say.
    pub term: u64,
    /// Whether a read may be answered by a replica that does not lead, after it has asked the leader. Writes take no notice of it.
    pub replica_read: bool,
}

/// One request to the raw key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// The value of a key: [`Out::Value`].
    Get {
        /// The key.
        key: Bytes,
    },
    /// When the value of a key goes: [`Out::Expiry`].
    Expiry {
        /// The key.
        key: Bytes,
    },
    /// The values of many keys, in order: [`Out::Values`].
    BatchGet {
        /// The keys.
        keys: Vec<Bytes>,
        /// Whether [`Out::NoRoom`] is an answer while memory has no room for the values; else they wait for it.
        at_once: bool,
    },
    /// The lengths of the values of many keys, in order: [`Out::Lengths`]. Costs no copy of any value.
    Lengths {
        /// The keys.
        keys: Vec<Bytes>,
        /// Whether it is asked ahead of a read of the values, which counts by itself.
        ahead: bool,
    },
    /// Sets a key: [`Out::Done`].
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
    },
    /// Sets many keys: [`Out::Done`].
    BatchPut {
        /// The pairs; of two pairs with one key the later wins.
        pairs: Vec<(Bytes, Bytes)>,
    },
    /// Sets many keys, each of which has its own expiry: [`Out::Done`].
    PutTimed {
        /// Of two with one key the later wins. Nothing is known of what was there, so [`Expiry::Keep`] is as [`Expiry::Never`].
        puts: Vec<(Bytes, Bytes, Expiry)>,
    },
    /// Sets many keys unless one of them is there: [`Out::Swapped`] without a previous value. A step of an [`Op::Atomic`] alone.
    PutAbsent {
        /// The pairs; of two pairs with one key the later wins.
        pairs: Vec<(Bytes, Bytes)>,
    },
    /// Gives a key the value of another one: [`Out::Swapped`] without a previous value. A step of an [`Op::Atomic`] alone.
    Copy {
        /// The key that has the value. One that is to be removed and is not there refuses the step.
        from: Bytes,
        /// The key that gets it.
        to: Bytes,
        /// Whether `from` is gone afterwards.
        remove: bool,
        /// Whether `to` may be there before.
        replace: bool,
    },
    /// Deletes a key: [`Out::Done`], or [`Out::Existed`] if the answer matters.
    Delete {
        /// The key.
        key: Bytes,
        /// Whether to find out if there was something to delete, which costs a read.
        count: bool,
    },
    /// Deletes many keys: [`Out::Done`].
    BatchDelete {
        /// The keys.
        keys: Vec<Bytes>,
    },
    /// Deletes every key in `[start, end)`; an empty `end` means unbounded: [`Out::Done`].
    DeleteRange {
        /// First key.
        start: Bytes,
        /// Exclusive end key.
        end: Bytes,
    },
    /// Reads a key and writes it depending on what was there, as one step.
    Modify {
        /// The key.
        key: Bytes,
        /// What to do.
        change: Change,
    },
    /// Pairs of `[start, end)` in order, at most `limit`: [`Out::Pairs`].
    Scan(Scan),
    /// Runs operations on keys of one region as one step: [`Out::Atomic`].
    Atomic(Atomic),
    /// Begins to watch keys of one region for an [`Op::Atomic`]: [`Out::Seen`].
    Watch {
        /// The keys.
        keys: Vec<Bytes>,
    },
}

impl Op {
    /// Keys or pairs that it names, as far as a client decides how many they are; nothing where their number is fixed.
    pub fn items(&self) -> usize {
        match self {
            Op::BatchGet { keys, at_once: _ }
            | Op::Lengths { keys, ahead: _ }
            | Op::BatchDelete { keys }
            | Op::Watch { keys } => keys.len(),
            Op::BatchPut { pairs } | Op::PutAbsent { pairs } => pairs.len(),
            Op::PutTimed { puts } => puts.len(),
            Op::Atomic(Atomic { watched, steps }) => {
                watched.len() + steps.len() + steps.iter().map(Op::items).sum::<usize>()
            }
            Op::Get { .. }
            | Op::Expiry { .. }
            | Op::Put { .. }
            | Op::Delete { .. }
            | Op::DeleteRange { .. }
            | Op::Modify { .. }
            | Op::Copy { .. }
            | Op::Scan(_) => 0,
        }
    }
}

/// A transaction. Its keys, the watched ones included, lie in one region, or it is refused whole.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Atomic {
    /// Nothing is done if one of these keys was written since.
    pub watched: Vec<(Bytes, Seen)>,
    /// What to do, in order; no ranges, nothing nested.
    pub steps: Vec<Op>,
}

/// The writes of a key that whoever watches it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The term of the leader.
    pub term: u64,
    /// Given to this key at this moment and to no other.
    pub number: u64,
}

impl Atomic {
    /// All keys, as often as they are named.
    pub fn keys(&self) -> Vec<Bytes> {
        let mut keys: Vec<Bytes> = self.watched.iter().map(|(key, _)| key.clone()).collect();
        for step in &self.steps {
            match step {
                Op::Get { key }
                | Op::Expiry { key }
                | Op::Put { key, .. }
                | Op::Delete { key, .. }
                | Op::Modify { key, .. } => keys.push(key.clone()),
                Op::BatchGet { keys: named, .. }
                | Op::Lengths { keys: named, ahead: _ }
                | Op::BatchDelete { keys: named }
                | Op::Watch { keys: named } => keys.extend(named.iter().cloned()),
                Op::BatchPut { pairs } | Op::PutAbsent { pairs } => {
                    keys.extend(pairs.iter().map(|(key, _)| key.clone()))
                }
                Op::PutTimed { puts } => keys.extend(puts.iter().map(|(key, ..)| key.clone())),
                Op::Copy { from, to, remove: _, replace: _ } => keys.extend([from.clone(), to.clone()]),
                // No step of a transaction.
                Op::DeleteRange { .. } | Op::Scan(_) | Op::Atomic(_) => {}
            }
        }
        keys
    }

    /// Whether no step sets anything, so that it may run where space is short.
    pub fn only_deletes(&self) -> bool {
        let deletes = |step: &Op| match step {
            Op::Lengths { .. } | Op::Expiry { .. } => true,
            Op::Get { .. } | Op::BatchGet { .. } | Op::Delete { .. } | Op::BatchDelete { .. } => true,
            Op::Modify { change: Change::Take | Change::Remove, .. } => true,
            Op::Modify {
                change:
                    Change::SetIf { .. }
                    | Change::SetTimed { .. }
                    | Change::Expire { .. }
                    | Change::GetTimed { .. }
                    | Change::Append { .. }
                    | Change::SetRange { .. }
                    | Change::SetBit { .. }
                    | Change::Add { .. }
                    | Change::AddFloat { .. },
                ..
            } => false,
            Op::Put { .. } | Op::BatchPut { .. } | Op::PutTimed { .. } => false,
            Op::PutAbsent { .. } | Op::Copy { .. } => false,
            Op::DeleteRange { .. } | Op::Scan(_) | Op::Atomic(_) | Op::Watch { .. } => false,
        };
        self.steps.iter().all(deletes)
    }
}

/// When a value that is written goes. The leader that takes the write makes a moment of it, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Expiry {
    /// Never.
    #[default]
    Never,
    /// When the value before it would have gone; never if there is none.
    Keep,
    /// This many milliseconds after the write was taken.
    After(u64),
    /// At this moment, milliseconds since the Unix epoch. One that has passed leaves nothing.
    At(u64),
}

impl Expiry {
    /// The moment, for a write that is taken `now` where a value goes at `before`.
    pub fn until(self, before: Until, now: WallMs) -> Until {
        // Later than any clock will ever say, and not never.
        let moment = |ms: u64| Until(ms.min(u64::MAX - 1));
        match self {
            Expiry::Never => Until::NEVER,
            Expiry::Keep => before,
            Expiry::After(ms) => moment(now.0.saturating_add(ms)),
            Expiry::At(ms) => moment(ms),
        }
    }
}

/// On what a change of an expiry depends, beside the key being there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpireWhen {
    /// On nothing.
    Always,
    /// The value does not expire.
    Stays,
    /// The value expires.
    Expires,
    /// It would expire later than it does. A value that does not expire has no later moment.
    Later,
    /// It would expire earlier than it does, if it does.
    Earlier,
    /// It expires, and would earlier.
    ExpiresEarlier,
}

impl ExpireWhen {
    /// Whether a value that goes at `before` may go at `after` instead.
    pub fn holds(self, before: Until, after: Until) -> bool {
        let expires = before != Until::NEVER;
        match self {
            ExpireWhen::Always => true,
            ExpireWhen::Stays => !expires,
            ExpireWhen::Expires => expires,
            ExpireWhen::Later => after > before,
            ExpireWhen::Earlier => after < before,
            ExpireWhen::ExpiresEarlier => expires && after < before,
        }
    }
}

/// When the value of a key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyExpiry {
    /// There is no value.
    Absent,
    /// It stays.
    Never,
    /// It expires.
    At {
        /// At this moment, milliseconds since the Unix epoch.
        until_ms: u64,
        /// After this number of milliseconds, by the clock of whoever has the value.
        left_ms: u64,
    },
}

impl KeyExpiry {
    /// Of a value that goes at `until`, as of `now`.
    pub fn of(until: Option<Until>, now: WallMs) -> Self {
        match until.filter(|until| !until.is_over(now)) {
            None => Self::Absent,
            Some(Until::NEVER) => Self::Never,
            Some(Until(until_ms)) => Self::At { until_ms, left_ms: until_ms - now.0 },
        }
    }
}

/// A read-modify-write of one key. What is made of a value goes when the value did, unless it is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets the key, for good, if the condition holds: [`Out::Swapped`].
    SetIf {
        /// The new value.
        value: Bytes,
        /// When to set it.
        when: When,
    },
    /// The same with an expiry: [`Out::Swapped`].
    SetTimed {
        /// The new value.
        value: Bytes,
        /// When to set it.
        when: When,
        /// When it goes.
        expiry: Expiry,
    },
    /// Changes when the value goes: [`Out::Integer`], 1 if that was done. Writes the value again.
    Expire {
        /// When it is to go; at a moment that has passed it goes at once.
        expiry: Expiry,
        /// When to change it.
        when: ExpireWhen,
    },
    /// Returns the value and changes when it goes: [`Out::Value`].
    GetTimed {
        /// When it is to go.
        expiry: Expiry,
    },
    /// Deletes the key and returns its value: [`Out::Value`].
    Take,
    /// Deletes the key and says whether it was there: [`Out::Existed`].
    Remove,
    /// Appends to the value: [`Out::Length`].
    Append {
        /// What to append.
        suffix: Bytes,
    },
    /// Overwrites a part of the value, filling what is missing before it with zero bytes: [`Out::Length`]. Nothing to write changes
    /// nothing.
    SetRange {
        /// Where the part begins.
        offset: usize,
        /// What to put there.
        value: Bytes,
    },
    /// Sets one bit of the value, filling what is missing before it with zeros: [`Out::Integer`] with the bit that was there.
    SetBit {
        /// Which bit; the highest one of the first byte is the first.
        offset: usize,
        /// What it becomes.
        on: bool,
    },
    /// Adds to the value read as a number, as Redis does it, an absent key counting as 0: [`Out::Value`] with the sum.
    AddFloat {
        /// What to add, as the client wrote it.
        delta: Bytes,
    },
    /// Adds to the value read as a decimal integer, an absent key counting as 0: [`Out::Integer`].
    Add {
        /// What to add.
        delta: i64,
    },
}

/// The condition of a conditional set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Always; the previous value is what the caller wants.
    Always,
    /// Only if the key is absent.
    Absent,
    /// Only if the key is present.
    Present,
    /// Only if the value equals this one; `None` means absent.
    Equals(Option<Bytes>),
}

/// A range read.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Scan {
    /// First key of the range.
    pub start: Bytes,
    /// Exclusive end key; empty means unbounded.
    pub end: Bytes,
    /// Maximum number of pairs to return.
    pub limit: usize,
    /// From the end of the range downwards.
    pub reverse: bool,
    /// Leave the values out.
    pub key_only: bool,
    /// What whoever asks has already of the same answer, bytes: it counts towards the bound of an answer.
    pub held_bytes: usize,
    /// Whether [`Out::NoRoom`] is an answer while memory has no room for the pairs; else they wait for it.
    pub at_once: bool,
}

/// What an operation comes to.
pub type Outcome = Result<Out, Refusal>;

/// The answer to an [`Op`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out {
    /// It is done and durable.
    Done,
    /// A value, or none.
    Value(Option<Bytes>),
    /// When a value goes.
    Expiry(KeyExpiry),
    /// Values in the order of the keys asked for.
    Values(Vec<Option<Bytes>>),
    /// The lengths of values in the order of the keys asked for, bytes; nothing where there is no value.
    Lengths(Vec<Option<usize>>),
    /// Whether the deleted key existed.
    Existed(bool),
    /// The outcome of a conditional set.
    Swapped {
        /// Whether the value was set.
        swapped: bool,
        /// What was there before.
        previous: Option<Bytes>,
    },
    /// The length of a value after an append or an overwrite, bytes.
    Length(usize),
    /// The value after an addition, or a bit.
    Integer(i64),
    /// Pairs in the order of the scan.
    Pairs(Vec<(Bytes, Bytes)>),
    /// Nothing was read, because memory has no room for it now and the read asked not to wait.
    NoRoom,
    /// What came of each step, or nothing if a watched key was written meanwhile. A step that is refused fails alone.
    Atomic(Option<Vec<Result<Out, Refusal>>>),
    /// What was seen of each watched key.
    Seen(Vec<Seen>),
}

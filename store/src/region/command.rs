//! What a log entry carries, and its codec.
//!
//! ```text
//! entry payload   [kind u8] [rkyv archive of that kind, unaligned little-endian]
//! kind 2          a command of the system group, see region/system/codec
//! kind 3          a split of the region, see region/split
//! kind 5          a step of a merge, see region/merge
//! kind 1, writes  { version u64, ops: [OpHeader], bytes: [u8] }
//! kind 4, the same; among them are values that expire. Earlier versions do not know them, and refuse the kind by its number
//! OpHeader        { kind u8, cf u8, key_len u32, value_len u32 }
//! bytes           key value key value ...   in the order of the headers; before a value that expires stands when, u64 little-endian
//!                                           milliseconds since the Unix epoch, and the length counts it
//! ```
//!
//! The writes of one region that are waiting when a turn begins travel as one command, so that a hundred small writes cost
//! one entry. A command is applied whole or refused whole. The archive is validated once, here; afterwards it is read in
//! place.

use std::fmt;

use engine::lsm::{UNTIL_BYTES, Until};
use rkyv::rancor;
use rkyv::{Archive, Serialize};

/// A column family, as the engine counts them.
pub use engine::lsm::Cf;

const KIND_WRITES: u8 = 1;
const KIND_EXPIRING: u8 = 4;

const OP_PUT: u8 = 1;
const OP_DELETE: u8 = 2;
const OP_DELETE_RANGE: u8 = 3;
const OP_PUT_UNTIL: u8 = 4;

#[derive(Archive, Serialize, Clone, Copy)]
struct OpHeader {
    kind: u8,
    cf: u8,
    key_len: u32,
    value_len: u32,
}

#[derive(Archive, Serialize, Default)]
struct WritesRecord {
    version: u64,
    ops: Vec<OpHeader>,
    bytes: Vec<u8>,
}

/// One write of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// Sets a key.
    Put {
        /// The column family.
        cf: Cf,
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
    },
    /// Sets a key to a value that expires.
    PutUntil {
        /// The column family.
        cf: Cf,
        /// The key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// When it expires.
        until: Until,
    },
    /// Deletes a key.
    Delete {
        /// The column family.
        cf: Cf,
        /// The key.
        key: &'a [u8],
    },
    /// Deletes every key in `[start, end)`; an empty `end` means no bound.
    DeleteRange {
        /// The column family.
        cf: Cf,
        /// The first key.
        start: &'a [u8],
        /// The first key that stays.
        end: &'a [u8],
    },
}

/// Writes being gathered into one command.
#[derive(Default)]
pub struct Writes {
    record: WritesRecord,
    /// Whether a value among them expires.
    expires: bool,
}

impl fmt::Debug for Writes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} writes, {} bytes", self.record.ops.len(), self.record.bytes.len())
    }
}

impl Writes {
    /// An empty gathering, for a region whose epoch has this version.
    pub fn new(version: u64) -> Self {
        Self { record: WritesRecord { version, ..WritesRecord::default() }, expires: false }
    }

    /// Adds a write.
    pub fn push(&mut self, write: Write<'_>) {
        let (kind, cf, key, until, value) = match write {
            Write::Put { cf, key, value } => (OP_PUT, cf, key, None, value),
            Write::PutUntil { cf, key, value, until } => (OP_PUT_UNTIL, cf, key, Some(until), value),
            Write::Delete { cf, key } => (OP_DELETE, cf, key, None, &[][..]),
            Write::DeleteRange { cf, start, end } => (OP_DELETE_RANGE, cf, start, None, end),
        };
        let until_bytes = if until.is_some() { UNTIL_BYTES as u32 } else { 0 };
        self.record.ops.push(OpHeader {
            kind,
            cf: cf.index() as u8,
            key_len: len(key),
            value_len: until_bytes + len(value),
        });
        self.record.bytes.extend_from_slice(key);
        if let Some(Until(until)) = until {
            self.record.bytes.extend_from_slice(&until.to_le_bytes());
            self.expires = true;
        }
        self.record.bytes.extend_from_slice(value);
    }

    /// How many writes have been gathered.
    pub fn len(&self) -> usize {
        self.record.ops.len()
    }

    /// Whether nothing has been gathered.
    pub fn is_empty(&self) -> bool {
        self.record.ops.is_empty()
    }

    /// The keys and values gathered, bytes.
    pub fn bytes(&self) -> usize {
        self.record.bytes.len()
    }

    /// The version of the region's epoch that the writes were admitted under.
    pub fn version(&self) -> u64 {
        self.record.version
    }

    /// At most this long is the command as an entry's payload, bytes.
    pub fn encoded_bytes(&self) -> usize {
        encoded_bytes(self.len(), self.bytes())
    }

    /// The command as an entry's payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.encoded_bytes());
        payload.push(if self.expires { KIND_EXPIRING } else { KIND_WRITES });
        rkyv::api::high::to_bytes_in::<_, rancor::Error>(&self.record, payload)
            .expect("writing an archive into memory has no way to fail")
    }
}

/// At most this long is a command of `writes` writes whose keys and values have `bytes` bytes, as an entry's payload.
pub fn encoded_bytes(writes: usize, bytes: usize) -> usize {
    const HEADER_BYTES: usize = 12;
    const REST_BYTES: usize = 64;
    bytes + HEADER_BYTES * writes + REST_BYTES
}

fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("keys and values are bounded far below 4 GiB when they are admitted")
}

/// A command read in place from an entry's payload.
#[derive(Clone, Copy)]
pub enum Command<'a> {
    /// Writes of keys.
    Writes(WritesView<'a>),
    /// A command of the system group: what [`codec::decode`](super::system::codec::decode) reads.
    System(&'a [u8]),
    /// A split: what [`Split::decode`](super::split::Split::decode) reads.
    Split(&'a [u8]),
    /// A step of a merge: what [`MergeStep::decode`](super::merge::MergeStep::decode) reads.
    Merge(&'a [u8]),
}

/// Validated writes.
#[derive(Clone, Copy)]
pub struct WritesView<'a> {
    record: &'a ArchivedWritesRecord,
}

/// The payload is not a command: damage, or a newer version's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotACommand(pub &'static str);

impl fmt::Display for NotACommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log entry is not a command: {}", self.0)
    }
}

impl std::error::Error for NotACommand {}

impl Write<'_> {
    /// Of its key and value, or of its bounds.
    pub fn bytes(&self) -> usize {
        match self {
            Write::Put { cf: _, key, value } => key.len() + value.len(),
            Write::PutUntil { cf: _, key, value, until: _ } => key.len() + UNTIL_BYTES + value.len(),
            Write::Delete { cf: _, key } => key.len(),
            Write::DeleteRange { cf: _, start, end } => start.len() + end.len(),
        }
    }
}

impl<'a> Command<'a> {
    /// Validates a payload.
    ///
    /// # Errors
    /// [`NotACommand`] for anything that [`Writes::encode`] cannot have produced.
    pub fn decode(payload: &'a [u8]) -> Result<Self, NotACommand> {
        match payload.split_first() {
            Some((&KIND_WRITES, archive)) => {
                WritesView::decode(archive, OP_DELETE_RANGE).map(Command::Writes)
            }
            Some((&KIND_EXPIRING, archive)) => WritesView::decode(archive, OP_PUT_UNTIL).map(Command::Writes),
            Some((&super::system::codec::KIND, body)) => Ok(Command::System(body)),
            Some((&super::split::KIND, body)) => Ok(Command::Split(body)),
            Some((&super::merge::KIND, body)) => Ok(Command::Merge(body)),
            Some(_) => Err(NotACommand("unknown kind; was it written by a newer version?")),
            None => Err(NotACommand("empty payload")),
        }
    }
}

impl<'a> WritesView<'a> {
    /// `last` is the last operation that a command of this kind may have.
    fn decode(archive: &'a [u8], last: u8) -> Result<Self, NotACommand> {
        let record = rkyv::access::<ArchivedWritesRecord, rancor::Failure>(archive)
            .map_err(|_| NotACommand("the archive does not validate"))?;
        let mut wanted = 0u64;
        for op in record.ops.iter() {
            // The system family is written by its own commands alone.
            let of_users = Cf::from_byte(op.cf).is_some_and(|cf| cf != Cf::System);
            if !(OP_PUT..=last).contains(&op.kind) || !of_users {
                return Err(NotACommand("unknown operation or column family"));
            }
            if op.kind == OP_PUT_UNTIL && (op.value_len.to_native() as usize) < UNTIL_BYTES {
                return Err(NotACommand("a value that expires does not say when"));
            }
            wanted += u64::from(op.key_len.to_native()) + u64::from(op.value_len.to_native());
        }
        if wanted != record.bytes.len() as u64 {
            return Err(NotACommand("the lengths do not add up to the bytes"));
        }
        Ok(Self { record })
    }

    /// The version of the region's epoch that the writes were admitted under.
    pub fn version(&self) -> u64 {
        self.record.version.to_native()
    }

    /// The writes, in order.
    pub fn iter(&self) -> impl Iterator<Item = Write<'a>> + use<'a> {
        let mut rest = self.record.bytes.as_slice();
        self.record.ops.iter().map(move |op| {
            let (key, behind) = rest.split_at(op.key_len.to_native() as usize);
            let (value, behind) = behind.split_at(op.value_len.to_native() as usize);
            rest = behind;
            let cf = Cf::from_byte(op.cf).expect("decode has checked every column family");
            match op.kind {
                OP_PUT => Write::Put { cf, key, value },
                OP_DELETE => Write::Delete { cf, key },
                OP_PUT_UNTIL => {
                    let (until, value) = value.split_first_chunk().expect("decode has checked the length");
                    Write::PutUntil { cf, key, value, until: Until(u64::from_le_bytes(*until)) }
                }
                _ => Write::DeleteRange { cf, start: key, end: value },
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITES: [Write<'static>; 4] = [
        Write::Put { cf: Cf::Default, key: b"key", value: b"value" },
        Write::Delete { cf: Cf::Lock, key: b"gone" },
        Write::DeleteRange { cf: Cf::Write, start: b"a", end: b"" },
        Write::Put { cf: Cf::Default, key: b"", value: b"" },
    ];

    fn sample() -> Vec<u8> {
        encoded(&WRITES)
    }

    fn encoded(all: &[Write<'_>]) -> Vec<u8> {
        let mut writes = Writes::new(7);
        all.iter().for_each(|write| writes.push(*write));
        let bytes: usize = all.iter().map(Write::bytes).sum();
        assert_eq!((writes.len(), writes.bytes()), (all.len(), bytes));
        let payload = writes.encode();
        assert!(payload.len() <= writes.encoded_bytes());
        payload
    }

    fn expiring() -> Vec<Write<'static>> {
        let until = |value, until| Write::PutUntil { cf: Cf::Default, key: b"k", value, until: Until(until) };
        WRITES.into_iter().chain([until(b"v", 0x0102_0304), until(b"", 7)]).collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_command_reads_back_as_it_was_gathered() {
        let payload = sample();
        let Command::Writes(view) = Command::decode(&payload).unwrap() else { panic!("another kind") };
        assert_eq!(view.version(), 7);
        assert_eq!(view.iter().collect::<Vec<_>>(), WRITES);
    }

    #[test]
    fn values_that_expire_make_a_command_of_another_kind() {
        let payload = encoded(&expiring());
        let Command::Writes(view) = Command::decode(&payload).unwrap() else { panic!("another kind") };
        assert_eq!(view.iter().collect::<Vec<_>>(), expiring());
        assert_eq!((payload[0], sample()[0]), (KIND_EXPIRING, KIND_WRITES));
        // A version that does not know them does not know the kind; one that does takes the kind at its word.
        let mut bad = payload;
        bad[0] = KIND_WRITES;
        assert!(Command::decode(&bad).is_err());
    }

    /// The bytes of version 0.1 with expiry, which must stay readable.
    #[test]
    fn the_bytes_of_values_that_expire_are_still_written_and_read() {
        let until = Until(0x0807_0605_0403_0201);
        let put = Write::PutUntil { cf: Cf::Default, key: b"key", value: b"value", until };
        let fixture = concat!(
            "040400030000000d0000006b6579010203040506070876616c756507000000",
            "00000000deffffff01000000e0ffffff10000000",
        );
        assert_eq!(hex(&encoded(&[put])), fixture);
    }

    /// Logs outlive versions: these bytes were written by version 0.1 and must stay readable.
    #[test]
    fn the_bytes_of_version_0_1_are_still_written_and_read() {
        let fixture = concat!(
            "01010003000000050000000201040000000000000003020100000000000000010000000000000000",
            "006b657976616c7565676f6e65610700000000000000c3ffffff04000000e3ffffff0d000000",
        );
        assert_eq!(hex(&sample()), fixture);
    }

    #[test]
    fn no_writes_reach_the_family_of_the_system_group() {
        let mut writes = Writes::new(7);
        writes.push(Write::Put { cf: Cf::System, key: b"\x01", value: b"" });
        assert!(Command::decode(&writes.encode()).is_err());
    }

    #[test]
    fn damage_is_refused_or_harmless() {
        for good in [sample(), encoded(&expiring())] {
            damaged_is_refused_or_harmless(&good);
        }
    }

    fn damaged_is_refused_or_harmless(good: &[u8]) {
        for place in 0..good.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut bad = good.to_vec();
                bad[place] ^= flip;
                if let Ok(Command::Writes(view)) = Command::decode(&bad) {
                    // Reading it must stay inside the bytes, whatever it says.
                    assert!(view.iter().count() <= bad.len());
                }
            }
            assert!(Command::decode(&good[..place]).is_err(), "cut at {place} went unnoticed");
        }
    }

    #[test]
    fn noise_never_panics() {
        let rng = engine::rt::rng::Rng::new(9);
        for length in 0..2000usize {
            let mut noise: Vec<u8> = (0..length % 97).map(|_| rng.next() as u8).collect();
            if let Some(first) = noise.first_mut() {
                *first = if length % 2 == 0 { KIND_WRITES } else { KIND_EXPIRING };
            }
            if let Ok(Command::Writes(view)) = Command::decode(&noise) {
                assert!(view.iter().count() <= noise.len());
            }
        }
    }
}

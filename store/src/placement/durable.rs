//! The few numbers that placement must never forget, in one small file that is replaced as a whole.
//!
//! ```text
//! 0          8            16          24             32               40        44
//! +----------+------------+-----------+--------------+----------------+---------+
//! | RKPLACE1 | cluster id | id bound  | tso bound ms | gc safe point  | crc32   |
//! +----------+------------+-----------+--------------+----------------+---------+
//!              all numbers little-endian; the checksum covers everything before it
//! ```
//!
//! A bound is saved before anything below it is given out. Changes that come while a save is under way share the next one.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use engine::rt::Rt;
use engine::rt::local::{Answer, oneshot};

const MAGIC: &[u8; 8] = b"RKPLACE1";
const BYTES: usize = 44;
const NAME: &str = "placement";

/// The numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Numbers {
    /// Never zero once it is chosen.
    pub(crate) cluster_id: u64,
    /// Ids below this one may have been given out.
    pub(crate) id_bound: u64,
    /// Timestamps below this one may have been given out.
    pub(crate) tso_bound_ms: u64,
    /// Versions below this one may be forgotten.
    pub(crate) gc_safe_point: u64,
}

impl Numbers {
    pub(crate) fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        let numbers = [self.cluster_id, self.id_bound, self.tso_bound_ms, self.gc_safe_point];
        for (slot, number) in bytes[8..40].chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..40]);
        bytes[40..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// What is wrong with the file is said in a sentence.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let bytes: &[u8; BYTES] =
            bytes.try_into().map_err(|_| "it does not have the length of a placement file")?;
        if &bytes[..8] != MAGIC {
            return Err("it is not a placement file of this version");
        }
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let crc = u32::from_le_bytes(std::array::from_fn(|index| bytes[40 + index]));
        if crc != crc32fast::hash(&bytes[..40]) {
            return Err("its checksum is wrong");
        }
        Ok(Self {
            cluster_id: number(8),
            id_bound: number(16),
            tso_bound_ms: number(24),
            gc_safe_point: number(32),
        })
    }

    /// Each number at its larger value; none of them ever falls.
    fn raised_by(self, other: Self) -> Self {
        Self {
            cluster_id: self.cluster_id,
            id_bound: self.id_bound.max(other.id_bound),
            tso_bound_ms: self.tso_bound_ms.max(other.tso_bound_ms),
            gc_safe_point: self.gc_safe_point.max(other.gc_safe_point),
        }
    }
}

type Verdict = Result<(), String>;

/// The file, and what is known to be in it.
#[derive(Debug)]
pub(crate) struct Durable {
    rt: Rt,
    path: PathBuf,
    saved: Cell<Numbers>,
    wanted: Cell<Numbers>,
    waiting: RefCell<Vec<Answer<Verdict>>>,
    saving: Cell<bool>,
}

impl Durable {
    /// Reads the file in `dir`, or begins one for `cluster_id` in which ids below `first_free_id` are taken.
    pub(crate) async fn open(
        rt: &Rt,
        dir: &Path,
        cluster_id: u64,
        first_free_id: u64,
    ) -> io::Result<Rc<Self>> {
        rt.create_dir_all(dir).await?;
        let path = dir.join(NAME);
        let numbers = if rt.exists(&path).await? {
            let bytes = rt.read_small(&path).await?;
            Numbers::decode(&bytes).map_err(|why| {
                let message = format!(
                    "{}: {why}; restore the file or the whole directory from a backup",
                    path.display()
                );
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?
        } else {
            let fresh = Numbers { cluster_id, id_bound: first_free_id, ..Numbers::default() };
            rt.replace_small(&path, &fresh.encode()).await?;
            fresh
        };
        if numbers.cluster_id != cluster_id {
            let message = format!(
                "{}: it belongs to cluster {:016x}, the directory to {cluster_id:016x}; restore both from one backup",
                path.display(),
                numbers.cluster_id
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(Rc::new(Self {
            rt: rt.clone(),
            path,
            saved: Cell::new(numbers),
            wanted: Cell::new(numbers),
            waiting: RefCell::default(),
            saving: Cell::new(false),
        }))
    }

    /// What is in the file.
    pub(crate) fn saved(&self) -> Numbers {
        self.saved.get()
    }

    /// Raises numbers; returns once they are in the file.
    pub(crate) async fn raise(self: &Rc<Self>, to: Numbers) -> Verdict {
        self.wanted.set(self.wanted.get().raised_by(to));
        let (answer, verdict) = oneshot();
        self.waiting.borrow_mut().push(answer);
        if !self.saving.replace(true) {
            drop(self.rt.spawn(self.clone().save()));
        }
        verdict.await.unwrap_or_else(|| Err("the save was given up".to_owned()))
    }

    async fn save(self: Rc<Self>) {
        loop {
            let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
            if waiting.is_empty() {
                self.saving.set(false);
                return;
            }
            let numbers = self.wanted.get();
            let verdict = self.rt.replace_small(&self.path, &numbers.encode()).await;
            let verdict = verdict.map_err(|error| format!("{}: {error}", self.path.display()));
            if verdict.is_ok() {
                self.saved.set(numbers);
            }
            for answer in waiting {
                answer.send(verdict.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURE: Numbers =
        Numbers { cluster_id: 7, id_bound: 1001, tso_bound_ms: 1_700_000_003_000, gc_safe_point: 5 };
    /// `FIXTURE` as a released version wrote it.
    const FIXTURE_BYTES: &str =
        "524b504c414345310700000000000000e903000000000000b873e5cf8b0100000500000000000000d5bb4490";

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_format_stays_as_it_was_released() {
        assert_eq!(hex(&FIXTURE.encode()), FIXTURE_BYTES);
        assert_eq!(Numbers::decode(&FIXTURE.encode()), Ok(FIXTURE));
    }

    #[test]
    fn no_flipped_bit_and_no_other_length_is_taken() {
        let bytes = FIXTURE.encode();
        for bit in 0..BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Numbers::decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..BYTES {
            assert!(Numbers::decode(&bytes[..length]).is_err(), "length {length}");
        }
        assert!(Numbers::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
}

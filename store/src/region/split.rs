//! A split as the log carries it, and what it comes to.
//!
//! All replicas of the region decide alike when they apply the entry, by four questions: does it name this region; was it thought out
//! against the epoch that the region has, both parts of it; does every key lie strictly inside, behind the one before; does every new
//! region bring one peer id per peer, by position? Then the region keeps its id and what lies below the first key, and every new
//! region begins at its key. All of them have the version raised by one, and the members where they are.
//!
//! ```text
//! payload   kind u8 = 3, format u8 = 1, region u64, conf_ver u64, version u64, cuts u16, cut ...            little-endian
//! cut       region u64, peers u16, peer u64 ..., key length u32, key
//! ```
//!
//! A new region begins like one of a fresh store: its log starts behind [`FIRST_BASE`], and every replica of the parent makes its own
//! replica of it from what it has. The tree takes the new descriptors in the batch that has the parent's; the log learns of a new region
//! with the first that its replica has to write, together with the [`SplitOrigin`], which says where the parent's log leads to it. So a
//! start that finds the one without the other knows what to do: a descriptor without a log begins as at the split, and a log without a
//! descriptor waits until the parent has applied the split once more.

use raft::LogId;
use scheduler::ask::presplit;
use scheduler::change::ChangeError;
use scheduler::{Command, Epoch, Key, NewRegion, PeerId, Region, RegionId, StoreId};

use super::command::NotACommand;
use super::merge::Merges;
use super::record::RegionRecord;
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::request::KEY_BYTES_MAX;

/// The first byte of the payload, see [`command`](super::command).
pub const KIND: u8 = 3;
const FORMAT: u8 = 1;

/// Maximum number of cuts of one entry.
pub const CUTS_MAX: usize = presplit::KEYS_MAX;

/// Every actively created group starts after an imaginary entry at this term and index, so that zero stays the mark of a
/// replica that knows nothing.
pub const FIRST_BASE: LogId = LogId::new(5, 5);

/// A split, and the epoch it was thought out against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The region.
    pub region: RegionId,
    /// Its epoch.
    pub epoch: Epoch,
    /// Where to cut, rising.
    pub cuts: Vec<Cut>,
}

/// One cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The first key of the new region.
    pub key: Key,
    /// The ids of the new region.
    pub new: NewRegion,
}

/// Where a replica comes from that a split brought into being.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitOrigin {
    /// The region that was split.
    pub parent: RegionId,
    /// The entry of its log that did it.
    pub at: LogId,
}

/// A replica that a split brings into being on this store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Half {
    /// What it begins with.
    pub record: RegionRecord,
    /// Where it comes from.
    pub origin: SplitOrigin,
}

impl Split {
    /// As an entry's payload.
    ///
    /// # Panics
    /// If there are more than [`CUTS_MAX`] cuts: [`Split::judge`] refuses them before.
    pub fn encode(&self) -> Vec<u8> {
        let Self { region, epoch, cuts } = self;
        let mut bytes = vec![KIND, FORMAT];
        for number in [region.0, epoch.conf_ver, epoch.version] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&short(cuts.len()));
        for Cut { key, new: NewRegion { region, peers } } in cuts {
            let key = key.as_bytes();
            bytes.extend_from_slice(&region.0.to_le_bytes());
            bytes.extend_from_slice(&short(peers.len()));
            peers.iter().for_each(|peer| bytes.extend_from_slice(&peer.0.to_le_bytes()));
            let length = u32::try_from(key.len()).expect("keys are bounded far below 4 GiB");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(key);
        }
        bytes
    }

    /// The inverse of [`Split::encode`], of the payload behind its kind.
    ///
    /// # Errors
    /// [`NotACommand`] for anything else.
    pub fn decode(body: &[u8]) -> Result<Self, NotACommand> {
        let mut rest = body;
        let broken = NotACommand("a split whose lengths do not add up");
        let [format] = take(&mut rest).ok_or(broken)?;
        if format != FORMAT {
            return Err(NotACommand("a split of an unknown format; was it written by a newer version?"));
        }
        let split = Self::take(&mut rest).ok_or(broken)?;
        if rest.is_empty() { Ok(split) } else { Err(broken) }
    }

    fn take(rest: &mut &[u8]) -> Option<Self> {
        let region = RegionId(long(rest)?);
        let epoch = Epoch::new(long(rest)?, long(rest)?);
        let count = u16::from_le_bytes(take(rest)?);
        let mut cuts = Vec::new();
        for _ in 0..count {
            let region = RegionId(long(rest)?);
            let peers = (0..u16::from_le_bytes(take(rest)?)).map(|_| long(rest).map(PeerId));
            let peers = peers.collect::<Option<_>>()?;
            let length = usize::try_from(u32::from_le_bytes(take(rest)?)).ok()?;
            let (key, behind) = rest.split_at_checked(length)?;
            *rest = behind;
            cuts.push(Cut { key: Key::from(key), new: NewRegion { region, peers } });
        }
        Some(Self { region, epoch, cuts })
    }

    /// What the split makes of `region`: the part that keeps the id, and the new regions in the order of their keys.
    ///
    /// # Errors
    /// Why it makes nothing of it.
    pub fn judge(&self, region: &Region) -> Result<(Region, Vec<Region>), Refusal> {
        let Self { region: id, epoch, cuts } = self;
        if *id != region.id {
            return Err(Refusal::Invalid(format!("a split of {id} is none of {region}")));
        }
        if region.epoch.admit(Command::Split, *epoch).is_err() {
            return Err(Refusal::EpochNotMatch { current: vec![region.clone()] });
        }
        let mut ids: Vec<RegionId> = cuts.iter().map(|cut| cut.new.region).chain([region.id]).collect();
        ids.sort_unstable();
        ids.dedup();
        if cuts.is_empty() || cuts.len() > CUTS_MAX || ids.len() != cuts.len() + 1 {
            let what = "a split has between 1 and 256 keys, and a new id for each";
            return Err(Refusal::Invalid(what.to_owned()));
        }
        if let Some(cut) = cuts.iter().find(|cut| cut.key.as_bytes().len() > KEY_BYTES_MAX) {
            let bytes = cut.key.as_bytes().len();
            return Err(Refusal::Invalid(format!("no key has {bytes} bytes, so no region begins there")));
        }
        let (mut left, mut halves) = (region.clone(), Vec::with_capacity(cuts.len()));
        // From behind, so that a key that is not above the one before it lies outside of what is left.
        for Cut { key, new } in cuts.iter().rev() {
            let (rest, half) = scheduler::change::split(&left, key, new.region, &new.peers)
                .map_err(|error| refusal(key, region, &error))?;
            left.range = rest.range;
            halves.push(half);
        }
        halves.reverse();
        if !planted(Bug::VersionNotRaised) {
            left.epoch = region.epoch.after(Command::Split);
        }
        match halves.iter().find_map(|half| half.check().err()) {
            None => Ok((left, halves)),
            Some(error) => Err(Refusal::Invalid(format!("a split of {region} makes no region: {error}"))),
        }
    }
}

impl Half {
    /// What of a new region belongs to `store`; nothing if it has no peer there.
    pub(super) fn of(
        region: Region,
        store: StoreId,
        (origin, merges): (SplitOrigin, &Merges),
    ) -> Option<Self> {
        let me = region.peer_on(store)?.id;
        let merges = merges.of_half();
        Some(Self { record: RegionRecord { region, me, tombstone: false, merges }, origin })
    }
}

fn refusal(key: &Key, region: &Region, error: &ChangeError) -> Refusal {
    match error {
        ChangeError::Range(_) => {
            Refusal::KeyNotInRegion { key: key.as_bytes().to_vec().into(), region: Box::new(region.clone()) }
        }
        other => Refusal::Invalid(other.to_string()),
    }
}

impl SplitOrigin {
    /// As the log keeps it: `parent u64, term u64, index u64`, little-endian.
    pub fn encode(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let numbers = [self.parent.0, self.at.term.0, self.at.index.0];
        bytes.chunks_exact_mut(8).zip(numbers).for_each(|(place, number)| {
            place.copy_from_slice(&number.to_le_bytes());
        });
        bytes
    }

    /// The inverse of [`SplitOrigin::encode`]; `None` for anything else.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let (parent, term, index) = (long(&mut rest)?, long(&mut rest)?, long(&mut rest)?);
        rest.is_empty().then_some(Self { parent: RegionId(parent), at: LogId::new(term, index) })
    }
}

fn short(count: usize) -> [u8; 2] {
    u16::try_from(count).expect("a split has few cuts and a region few peers").to_le_bytes()
}

fn long(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::{KeyRange, Peer};

    fn region() -> Region {
        Region {
            id: RegionId(9),
            range: KeyRange::new("b", "x").unwrap(),
            epoch: Epoch::new(2, 3),
            peers: vec![Peer::voter(PeerId(11), StoreId(1)), Peer::learner(PeerId(12), StoreId(2))],
        }
    }

    fn split(keys: &[&str]) -> Split {
        let cut = |(place, key): (usize, &&str)| {
            let first = 100 + 10 * place as u64;
            let new =
                NewRegion { region: RegionId(first), peers: vec![PeerId(first + 1), PeerId(first + 2)] };
            Cut { key: Key::from(*key), new }
        };
        let cuts = keys.iter().enumerate().map(cut).collect();
        Split { region: RegionId(9), epoch: Epoch::new(2, 3), cuts }
    }

    #[test]
    fn a_split_reads_back_and_a_cut_one_does_not() {
        let split = split(&["g", "mm"]);
        let bytes = split.encode();
        assert_eq!((bytes[0], Split::decode(&bytes[1..])), (KIND, Ok(split)));
        (1..bytes.len()).for_each(|cut| assert!(Split::decode(&bytes[1..cut]).is_err(), "cut at {cut}"));
        assert!(Split::decode(&[&bytes[1..], &[0]].concat()).is_err());
        let origin = SplitOrigin { parent: RegionId(9), at: LogId::new(6, 70) };
        assert_eq!(SplitOrigin::decode(&origin.encode()), Some(origin));
        assert_eq!(SplitOrigin::decode(&[0; 23]), None);
    }

    /// Logs outlive versions: these bytes were written by the first version that had splits.
    #[test]
    fn the_bytes_of_a_split_stay_as_they_are() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(
            hex(&split(&["g"]).encode()),
            concat!(
                "0301090000000000000002000000000000000300000000000000",
                "0100640000000000000002006500000000000000660000000000000001000000",
                "67"
            )
        );
        let origin = SplitOrigin { parent: RegionId(9), at: LogId::new(6, 70) };
        assert_eq!(hex(&origin.encode()), "090000000000000006000000000000004600000000000000");
    }

    #[test]
    fn the_parts_cover_the_region_and_have_its_members_and_the_raised_version() {
        let (left, halves) = split(&["g", "mm"]).judge(&region()).unwrap();
        let raised = Epoch::new(2, 4);
        let shown = |region: &Region| {
            let peers: Vec<u64> = region.peers.iter().map(|peer| peer.id.0).collect();
            (region.id.0, region.range.to_string(), region.epoch, peers)
        };
        assert_eq!(shown(&left), (9, "[\"b\", \"g\")".to_owned(), raised, vec![11, 12]));
        let halves: Vec<_> = halves.iter().map(shown).collect();
        assert_eq!(halves[0], (100, "[\"g\", \"mm\")".to_owned(), raised, vec![101, 102]));
        assert_eq!(halves[1], (110, "[\"mm\", \"x\")".to_owned(), raised, vec![111, 112]));
    }

    #[test]
    fn each_thing_that_is_wrong_with_a_split_has_its_refusal() {
        let judge = |change: fn(&mut Split)| {
            let mut split = split(&["g", "mm"]);
            change(&mut split);
            split.judge(&region()).map(|_| ())
        };
        assert_eq!(judge(|_| {}), Ok(()));
        let stale = Err(Refusal::EpochNotMatch { current: vec![region()] });
        assert_eq!(judge(|split| split.epoch.version -= 1), stale);
        assert_eq!(judge(|split| split.epoch.conf_ver += 1), stale);
        for (at, key) in [(0, "b"), (0, "a"), (0, ""), (1, "x"), (1, "g"), (1, "d")] {
            let mut split = split(&["g", "mm"]);
            split.cuts[at].key = Key::from(key);
            let refused = split.judge(&region());
            assert!(matches!(refused, Err(Refusal::KeyNotInRegion { .. })), "{key} at {at}: {refused:?}");
        }
        let invalid: [fn(&mut Split); 6] = [
            |split| split.region = RegionId(8),
            |split| split.cuts.clear(),
            |split| split.cuts[0].new.region = RegionId(9),
            |split| split.cuts[0].new.region = RegionId(110),
            |split| split.cuts[0].new.peers.truncate(1),
            |split| split.cuts[0].new.peers[1] = PeerId(101),
        ];
        for (place, change) in invalid.into_iter().enumerate() {
            let refused = judge(change);
            assert!(matches!(refused, Err(Refusal::Invalid(_))), "{place}: {refused:?}");
        }
    }
}

//! What a store keeps about a region besides its keys: the descriptor and whether the peer still lives.
//!
//! The record in force lies in the tree, in the state of the region's group, which travels in the same batch as the applied index.
//! The log keeps the record that the replica began with; it counts until the tree has one.
//!
//! ```text
//! state in the tree   format u8 = 1, by_snapshot u8, term u64, index u64, record     little-endian
//! record              an rkyv archive, and where there is something to be known of merges: merges, u32 their length, the mark
//! ```
//!
//! The mark is no end of an archive, whose last four bytes are a length.
//!
//! `term` and `index` name the entry that made the record what it is; after a snapshot they are its last entry, and a log that
//! ends below it was to be replaced.

use std::fmt;

use raft::LogId;
use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, Role, StoreId};

use super::merge::Merges;

/// The metadata record of one region on one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionRecord {
    /// The descriptor.
    pub region: Region,
    /// Which of its peers lives here.
    pub me: PeerId,
    /// Whether the peer has been removed; its id must never come back.
    pub tombstone: bool,
    /// What is to be known of merges.
    pub merges: Merges,
}

/// A record as the tree keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The record.
    pub record: RegionRecord,
    /// The entry that made it so.
    pub at: LogId,
    /// Whether it came with a snapshot.
    pub by_snapshot: bool,
}

/// What counts for a replica when its store starts, of what log and tree say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The record as of the applied index.
    pub record: RegionRecord,
    /// Whose record the tree has.
    pub kept: Kept,
}

/// Whose record the tree has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It has none.
    Nothing,
    /// The one in force is the tree's.
    Own,
    /// One that is out of date: the tombstone of a peer that was removed before this one came, so that the applied index beside it is
    /// not this one's either, or what this peer was before its store heard that it is removed.
    Other,
}

const DESCRIPTOR_FORMAT: u8 = 1;
/// Ends a record that has something of merges.
const MERGES_MARK: [u8; 8] = *b"mrg1\xff\xff\xff\xff";
const DESCRIPTOR_HEAD_BYTES: usize = 18;

impl Descriptor {
    /// The descriptor as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let record = self.record.encode();
        let mut bytes = Vec::with_capacity(DESCRIPTOR_HEAD_BYTES + record.len());
        bytes.extend_from_slice(&[DESCRIPTOR_FORMAT, u8::from(self.by_snapshot)]);
        bytes.extend_from_slice(&self.at.term.0.to_le_bytes());
        bytes.extend_from_slice(&self.at.index.0.to_le_bytes());
        bytes.extend_from_slice(&record);
        bytes
    }

    /// The inverse of [`Descriptor::encode`].
    ///
    /// # Errors
    /// [`NotARecord`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotARecord> {
        let (head, record) =
            bytes.split_at_checked(DESCRIPTOR_HEAD_BYTES).ok_or(NotARecord("it is too short"))?;
        let long = |at: usize| {
            let bytes: [u8; 8] = head[at..at + 8].try_into().expect("eight bytes are eight bytes");
            u64::from_le_bytes(bytes)
        };
        let by_snapshot = match (head[0], head[1]) {
            (DESCRIPTOR_FORMAT, 0) => false,
            (DESCRIPTOR_FORMAT, 1) => true,
            (DESCRIPTOR_FORMAT, _) => return Err(NotARecord("its flag is neither 0 nor 1")),
            (_, _) => return Err(NotARecord("unknown format; was it written by a newer version?")),
        };
        let record = RegionRecord::decode(record)?;
        Ok(Self { record, at: LogId::new(long(2), long(10)), by_snapshot })
    }
}

#[derive(Archive, Serialize, Deserialize)]
struct Stored {
    id: u64,
    me: u64,
    tombstone: bool,
    start: Vec<u8>,
    end: Vec<u8>,
    conf_ver: u64,
    version: u64,
    peers: Vec<StoredPeer>,
}

#[derive(Archive, Serialize, Deserialize)]
struct StoredPeer {
    id: u64,
    store: u64,
    role: u8,
}

/// The bytes are not a region record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotARecord(&'static str);

impl fmt::Display for NotARecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a region record: {}", self.0)
    }
}

impl std::error::Error for NotARecord {}

impl InForce {
    /// The record in force, where the log has `first` and the tree has `kept`.
    ///
    /// # Errors
    /// If they contradict each other.
    pub fn of(first: RegionRecord, kept: Option<RegionRecord>) -> Result<Self, String> {
        let Some(kept) = kept else { return Ok(Self { record: first, kept: Kept::Nothing }) };
        let contradicts = || format!("the tree has {} and the log has {}", kept.region, first.region);
        // The log forgot an older peer, which was dead, with the first that this one wrote.
        let is_older = kept.me < first.me && kept.tombstone;
        if kept.region.id != first.region.id || (kept.me != first.me && !is_older) {
            return Err(contradicts());
        }
        // It may have been removed at the word of another store, which the log knows first.
        match is_older || (first.tombstone && !kept.tombstone) {
            true => Ok(Self { record: first, kept: Kept::Other }),
            false => Ok(Self { record: kept, kept: Kept::Own }),
        }
    }
}

impl RegionRecord {
    /// Whether this replica decides alone: no other has a vote. Learners have none, so they make no difference.
    pub fn is_sole_voter(&self) -> bool {
        let mut voters = self.region.voters();
        voters.next().is_some_and(|voter| voter.id == self.me) && voters.next().is_none()
    }

    /// The record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let region = &self.region;
        let stored = Stored {
            id: region.id.0,
            me: self.me.0,
            tombstone: self.tombstone,
            start: region.range.start().as_bytes().to_vec(),
            end: region.range.end().as_bytes().to_vec(),
            conf_ver: region.epoch.conf_ver,
            version: region.epoch.version,
            peers: region.peers.iter().map(StoredPeer::from).collect(),
        };
        let mut bytes = rkyv::to_bytes::<rancor::Error>(&stored)
            .expect("writing an archive into memory has no way to fail")
            .to_vec();
        if !self.merges.is_none() {
            let merges = self.merges.encode();
            bytes.extend_from_slice(&merges);
            let length = u32::try_from(merges.len()).expect("what is kept of merges is small");
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&MERGES_MARK);
        }
        bytes
    }

    /// The inverse of [`RegionRecord::encode`].
    ///
    /// # Errors
    /// [`NotARecord`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotARecord> {
        let (bytes, merges) = without_merges(bytes)?;
        let stored: Stored = rkyv::from_bytes::<Stored, rancor::Failure>(bytes)
            .map_err(|_| NotARecord("the archive does not validate"))?;
        let range =
            KeyRange::new(stored.start, stored.end).map_err(|_| NotARecord("its range is inverted"))?;
        let peers: Option<Vec<Peer>> = stored.peers.iter().map(StoredPeer::to_peer).collect();
        let region = Region {
            id: RegionId(stored.id),
            range,
            epoch: Epoch::new(stored.conf_ver, stored.version),
            peers: peers.ok_or(NotARecord("a peer has an unknown role"))?,
        };
        region.check().map_err(|_| NotARecord("it lists a peer or a store twice"))?;
        Ok(Self { region, me: PeerId(stored.me), tombstone: stored.tombstone, merges })
    }
}

/// The archive, and what stands behind it of merges.
fn without_merges(bytes: &[u8]) -> Result<(&[u8], Merges), NotARecord> {
    let Some(marked) = bytes.strip_suffix(&MERGES_MARK) else { return Ok((bytes, Merges::default())) };
    let broken = NotARecord("what it says of merges cannot be read; was it written by a newer version?");
    let (rest, length) = marked.split_last_chunk::<4>().ok_or_else(|| broken.clone())?;
    let length = u32::from_le_bytes(*length) as usize;
    let place = rest.len().checked_sub(length).ok_or_else(|| broken.clone())?;
    let (archive, merges) = rest.split_at(place);
    Ok((archive, Merges::decode(merges).ok_or(broken)?))
}

impl From<&Peer> for StoredPeer {
    fn from(peer: &Peer) -> Self {
        let role = match peer.role {
            Role::Voter => 0,
            Role::Learner => 1,
            Role::Incoming => 2,
            Role::Outgoing => 3,
        };
        Self { id: peer.id.0, store: peer.store.0, role }
    }
}

impl StoredPeer {
    fn to_peer(&self) -> Option<Peer> {
        let role = match self.role {
            0 => Role::Voter,
            1 => Role::Learner,
            2 => Role::Incoming,
            3 => Role::Outgoing,
            _ => return None,
        };
        Some(Peer { id: PeerId(self.id), store: StoreId(self.store), role })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> RegionRecord {
        RegionRecord {
            region: Region {
                id: RegionId(7),
                range: KeyRange::new("b", "m").unwrap(),
                epoch: Epoch::new(3, 4),
                peers: vec![
                    Peer::voter(PeerId(11), StoreId(1)),
                    Peer { id: PeerId(12), store: StoreId(2), role: Role::Incoming },
                ],
            },
            me: PeerId(11),
            tombstone: false,
            merges: Merges::default(),
        }
    }

    #[test]
    fn a_record_survives_its_codec() {
        assert_eq!(RegionRecord::decode(&record().encode()), Ok(record()));
    }

    #[test]
    fn what_is_known_of_merges_survives_the_codec_and_damage_to_it_is_refused_or_differs() {
        use crate::region::merge::{AwaitsMerge, Taken};
        let waits = AwaitsMerge { target: RegionId(8), epoch: Epoch::new(5, 6), prepare: LogId::new(7, 70) };
        let taken =
            vec![Taken { region: RegionId(3), version: 2 }, Taken { region: RegionId(4), version: 9 }];
        for merges in [
            Merges { waits: Some(waits), taken: Vec::new(), into: None },
            Merges { waits: None, taken: taken.clone(), into: None },
            Merges { waits: Some(waits), taken, into: Some(RegionId(8)) },
        ] {
            let whole = RegionRecord { merges, ..record() };
            let bytes = whole.encode();
            assert_eq!(RegionRecord::decode(&bytes), Ok(whole.clone()));
            for cut in 0..bytes.len() {
                assert!(
                    RegionRecord::decode(&bytes[..cut]) != Ok(whole.clone()),
                    "cut at {cut} went unnoticed"
                );
                let mut bad = bytes.clone();
                bad[cut] ^= 0x80;
                assert!(RegionRecord::decode(&bad) != Ok(whole.clone()), "a flip at {cut} went unnoticed");
            }
        }
    }

    #[test]
    fn a_record_is_in_force_for_the_newest_peer_and_an_older_one_must_be_dead() {
        let of = |me: u64, tombstone| RegionRecord { me: PeerId(me), tombstone, ..record() };
        let in_force = |first: &RegionRecord, kept: Option<RegionRecord>| InForce::of(first.clone(), kept);
        let found = |record: &RegionRecord, kept| Ok(InForce { record: record.clone(), kept });
        let (alive, dead) = (of(11, false), of(11, true));
        assert_eq!(in_force(&alive, None), found(&alive, Kept::Nothing));
        assert_eq!(in_force(&dead, None), found(&dead, Kept::Nothing));
        assert_eq!(in_force(&alive, Some(dead.clone())), found(&dead, Kept::Own), "it applied its removal");
        assert_eq!(in_force(&dead, Some(alive.clone())), found(&dead, Kept::Other), "a message named it");
        assert_eq!(in_force(&dead, Some(dead.clone())), found(&dead, Kept::Own));
        for newer in [of(12, false), of(12, true)] {
            assert_eq!(in_force(&newer, Some(dead.clone())), found(&newer, Kept::Other), "one before it");
            assert!(in_force(&alive, Some(newer.clone())).is_err() && in_force(&dead, Some(newer)).is_err());
        }
        for newer in [of(12, false), of(12, true)] {
            assert!(in_force(&newer, Some(alive.clone())).is_err(), "no peer comes while another lives");
        }
        let elsewhere = Region { id: RegionId(8), ..dead.region.clone() };
        assert!(in_force(&dead, Some(RegionRecord { region: elsewhere, ..dead.clone() })).is_err());
    }

    #[test]
    fn a_descriptor_survives_its_codec_and_a_cut_one_does_not() {
        for by_snapshot in [false, true] {
            let descriptor = Descriptor { record: record(), at: LogId::new(7, 99), by_snapshot };
            let bytes = descriptor.encode();
            assert_eq!(Descriptor::decode(&bytes), Ok(descriptor.clone()));
            for cut in 0..bytes.len() {
                assert!(
                    Descriptor::decode(&bytes[..cut]) != Ok(descriptor.clone()),
                    "cut at {cut} went unnoticed"
                );
            }
        }
    }

    /// Trees outlive versions: these bytes were written by the first version that kept descriptors in the tree.
    #[test]
    fn the_bytes_of_a_descriptor_stay_as_they_are() {
        let bytes = Descriptor { record: record(), at: LogId::new(7, 99), by_snapshot: true }.encode();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../../tests/fixtures/descriptor-v1.hex").trim_end());
    }

    /// What versions before merges take a record for, they read to its last byte: they refuse one that has something of merges, and read any
    /// other as ever. What is behind the archive stays as it is.
    #[test]
    fn earlier_versions_refuse_a_record_that_has_something_of_merges() {
        use crate::region::merge::{AwaitsMerge, Taken};
        let waits = AwaitsMerge { target: RegionId(8), epoch: Epoch::new(5, 6), prepare: LogId::new(7, 70) };
        let taken = vec![Taken { region: RegionId(3), version: 2 }];
        let merges = Merges { waits: Some(waits), taken, into: Some(RegionId(8)) };
        let (plain, merging) = (record().encode(), RegionRecord { merges, ..record() }.encode());
        assert!(rkyv::from_bytes::<Stored, rancor::Failure>(&plain).is_ok());
        assert!(rkyv::from_bytes::<Stored, rancor::Failure>(&merging).is_err());
        let behind = merging.strip_prefix(&plain[..]).expect("the archive comes first");
        let hex: String = behind.iter().map(|byte| format!("{byte:02x}")).collect();
        let long = |number: u8| format!("{number:02x}00000000000000");
        let waits: String = [8, 5, 6, 7, 70].map(long).concat();
        let (into, taken) = (long(8), [3, 2].map(long).concat());
        assert_eq!(hex, format!("0103{waits}{into}0100{taken}440000006d726731ffffffff"));
    }

    #[test]
    fn every_truncation_and_every_flipped_length_is_refused_or_differs() {
        let bytes = record().encode();
        for cut in 0..bytes.len() {
            assert!(RegionRecord::decode(&bytes[..cut]) != Ok(record()), "cut at {cut} went unnoticed");
        }
    }
}

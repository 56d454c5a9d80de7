//! What a store keeps about a region besides its keys: the descriptor and whether the peer still lives.
//!
//! The record in force lies in the tree, in the state of the region's group, which travels in the same batch as the applied index.
//! The log keeps the record that the replica began with; it counts until the tree has one.
//!
//! ```text
//! state in the tree   format u8 = 1, by_snapshot u8, term u64, index u64, record     little-endian
//! record              an rkyv archive
//! ```
//!
//! `term` and `index` name the entry that made the record what it is; after a snapshot they are its last entry, and a log that
//! ends below it was to be replaced.

use std::fmt;

use raft::LogId;
use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};
use scheduler::{Epoch, KeyRange, Peer, PeerId, Region, RegionId, Role, StoreId};

/// The metadata record of one region on one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionRecord {
    /// The descriptor.
    pub region: Region,
    /// Which of its peers lives here.
    pub me: PeerId,
    /// Whether the peer has been removed; its id must never come back.
    pub tombstone: bool,
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
        rkyv::to_bytes::<rancor::Error>(&stored)
            .expect("writing an archive into memory has no way to fail")
            .to_vec()
    }

    /// The inverse of [`RegionRecord::encode`].
    ///
    /// # Errors
    /// [`NotARecord`] for anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotARecord> {
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
        Ok(Self { region, me: PeerId(stored.me), tombstone: stored.tombstone })
    }
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
        }
    }

    #[test]
    fn a_record_survives_its_codec() {
        assert_eq!(RegionRecord::decode(&record().encode()), Ok(record()));
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

    #[test]
    fn every_truncation_and_every_flipped_length_is_refused_or_differs() {
        let bytes = record().encode();
        for cut in 0..bytes.len() {
            assert!(RegionRecord::decode(&bytes[..cut]) != Ok(record()), "cut at {cut} went unnoticed");
        }
    }
}

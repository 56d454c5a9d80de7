//! Which store leads which keys, as a TiKV client remembers it: asked of PD once, and then kept true by what stores answer.
//!
//! A region may be split, moved or led by another store at any moment. Whoever asks by what was true a moment ago hears that by a region
//! error, which mostly says what is true now:
//!
//! | a store answers | what is done before the request is sent again |
//! |---|---|
//! | the epoch is another one, with the regions as they are now | these take the place of what they overlap; the store that was asked is taken for their leader |
//! | it does not lead, and names who does | that peer is the leader from now on |
//! | it does not lead, has no such region or peer, or the key is not in it | PD is asked for all regions |
//! | the leader has just been elected, or the term is an older one | nothing: what was known is right soon |
//! | anything else | it is not sent again: the answer stands |
//!
//! Pure but for [`Regions::ask`]. What an answer says of an older epoch than the one that is known here changes nothing.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use store::wire::grpc::Status;
use store::wire::grpc::client::Client;
use store::wire::proto::{errorpb, kvrpcpb, metapb, pdpb};

/// The regions of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Regions {
    by_start: BTreeMap<Bytes, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    region: metapb::Region,
    leader: Option<metapb::Peer>,
}

/// What an answer means for the request that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lesson {
    /// It is to be sent again, by what is known now.
    Again,
    /// It is to be sent again once PD was asked.
    AskPd,
    /// It is no matter of regions.
    Stands,
}

impl Regions {
    /// What PD knows now.
    ///
    /// # Errors
    /// It is not reached, or refuses.
    pub(crate) async fn ask(pd: &Client) -> Result<Self, Status> {
        let ask = pdpb::ScanRegionsRequest::default();
        let map: pdpb::ScanRegionsResponse = pd.unary("/pdpb.PD/ScanRegions", &ask).await?;
        let mut regions = Self::default();
        for found in map.regions {
            if let Some(region) = found.region {
                regions.insert(region, found.leader);
            }
        }
        Ok(regions)
    }

    /// Whether nothing is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// How many are known.
    pub(crate) fn len(&self) -> usize {
        self.by_start.len()
    }

    /// The stores that lead some.
    pub(crate) fn stores(&self) -> impl Iterator<Item = u64> {
        self.by_start.values().filter_map(|known| known.leader).map(|leader| leader.store_id)
    }

    /// As whose request one for this key goes out; its peer names the store. None if that is not known.
    pub(crate) fn context(&self, key: &[u8]) -> Option<kvrpcpb::Context> {
        let (_, known) =
            self.by_start.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        if !known.region.end_key.is_empty() && known.region.end_key[..] <= *key {
            return None;
        }
        Some(kvrpcpb::Context {
            region_id: known.region.id,
            region_epoch: known.region.region_epoch,
            peer: Some(known.leader?),
            ..Default::default()
        })
    }

    /// Learns from a region error that a request with this context was answered with.
    pub(crate) fn learn(&mut self, error: &errorpb::Error, asked: &kvrpcpb::Context) -> Lesson {
        if let Some(changed) = &error.epoch_not_match {
            let store = asked.peer.map(|peer| peer.store_id);
            for region in &changed.current_regions {
                let leader = region.peers.iter().copied().find(|peer| Some(peer.store_id) == store);
                self.insert(region.clone(), leader);
            }
            return if changed.current_regions.is_empty() { Lesson::AskPd } else { Lesson::Again };
        }
        if let Some(not_leader) = &error.not_leader {
            let known = self.by_start.values_mut().find(|known| known.region.id == not_leader.region_id);
            return match (known, not_leader.leader) {
                (Some(known), Some(leader)) => {
                    known.leader = Some(leader);
                    Lesson::Again
                }
                (Some(_) | None, Some(_) | None) => Lesson::AskPd,
            };
        }
        let elsewhere = error.region_not_found.is_some()
            || error.key_not_in_region.is_some()
            || error.store_not_match.is_some()
            || error.mismatch_peer_id.is_some();
        match (elsewhere, &error.stale_command) {
            (true, _) => Lesson::AskPd,
            (false, Some(_)) => Lesson::Again,
            (false, None) => Lesson::Stands,
        }
    }

    /// Takes in a region, in the place of those that it overlaps, unless one of them is newer.
    fn insert(&mut self, region: metapb::Region, leader: Option<metapb::Peer>) {
        let overlapping: Vec<Bytes> = self
            .by_start
            .iter()
            .filter(|(_, known)| overlap(&known.region, &region))
            .map(|(start, _)| start.clone())
            .collect();
        let newer = |start: &Bytes| epoch(&self.by_start[start].region) > epoch(&region);
        if overlapping.iter().any(newer) {
            return;
        }
        for start in overlapping {
            self.by_start.remove(&start);
        }
        self.by_start.insert(region.start_key.clone(), Known { region, leader });
    }
}

/// Of two regions that overlap, the newer one has the higher version, or has changed its members since.
fn epoch(region: &metapb::Region) -> (u64, u64) {
    region.region_epoch.as_ref().map_or((0, 0), |epoch| (epoch.version, epoch.conf_ver))
}

fn overlap(one: &metapb::Region, other: &metapb::Region) -> bool {
    let begins_inside = |start: &Bytes, end: &Bytes| end.is_empty() || start < end;
    begins_inside(&one.start_key, &other.end_key) && begins_inside(&other.start_key, &one.end_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: u64 = 4;

    fn region(id: u64, version: u64, start: &'static str, end: &'static str) -> metapb::Region {
        metapb::Region {
            id,
            start_key: start.into(),
            end_key: end.into(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version }),
            peers: vec![peer(id * 10, STORE), peer(id * 10 + 1, STORE + 1)],
        }
    }

    fn peer(id: u64, store_id: u64) -> metapb::Peer {
        metapb::Peer { id, store_id, ..Default::default() }
    }

    /// Two regions with the border `m`, led from the store.
    fn two() -> Regions {
        let mut regions = Regions::default();
        regions.insert(region(1, 1, "", "m"), Some(peer(10, STORE)));
        regions.insert(region(2, 1, "m", ""), Some(peer(20, STORE)));
        regions
    }

    fn asked(regions: &Regions, key: &str) -> (u64, u64, u64) {
        let context = regions.context(key.as_bytes()).expect("the key is known");
        let version = context.region_epoch.expect("it names an epoch").version;
        (context.region_id, version, context.peer.expect("it names a peer").store_id)
    }

    #[test]
    fn keys_go_to_the_region_that_holds_them() {
        let regions = two();
        for (key, id) in [("", 1), ("f", 1), ("m", 2), ("zz", 2)] {
            assert_eq!(asked(&regions, key), (id, 1, STORE), "{key}");
        }
        assert_eq!(Regions::default().context(b"f"), None);
    }

    #[test]
    fn a_split_is_learned_from_the_answer() {
        let mut regions = two();
        let current_regions = vec![region(3, 2, "f", "m"), region(1, 2, "", "f")];
        let error = errorpb::Error {
            epoch_not_match: Some(errorpb::EpochNotMatch { current_regions }),
            ..Default::default()
        };
        let context = regions.context(b"g").expect("it is known");
        assert_eq!(regions.learn(&error, &context), Lesson::Again);
        for (key, expected) in [("e", (1, 2, STORE)), ("g", (3, 2, STORE)), ("n", (2, 1, STORE))] {
            assert_eq!(asked(&regions, key), expected, "{key}");
        }
        // What a store says that has not heard of the split yet is older.
        let late = errorpb::EpochNotMatch { current_regions: vec![region(1, 1, "", "m")] };
        let error = errorpb::Error { epoch_not_match: Some(late), ..Default::default() };
        regions.learn(&error, &context);
        assert_eq!(asked(&regions, "g"), (3, 2, STORE), "it went back");
        assert_eq!(regions.len(), 3);
    }

    #[test]
    fn another_leader_is_learned_and_one_that_no_store_names_is_asked_of_pd() {
        let mut regions = two();
        let context = regions.context(b"n").expect("it is known");
        let error = |region_id, leader| errorpb::Error {
            not_leader: Some(errorpb::NotLeader { region_id, leader }),
            ..Default::default()
        };
        assert_eq!(regions.learn(&error(2, None), &context), Lesson::AskPd);
        assert_eq!(regions.learn(&error(9, Some(peer(91, 5))), &context), Lesson::AskPd);
        assert_eq!(regions.learn(&error(2, Some(peer(21, STORE + 1))), &context), Lesson::Again);
        assert_eq!((asked(&regions, "n"), asked(&regions, "a")), ((2, 1, STORE + 1), (1, 1, STORE)));
    }

    #[test]
    fn what_is_no_matter_of_regions_stands() {
        let mut regions = two();
        let context = regions.context(b"n").expect("it is known");
        let busy =
            errorpb::Error { server_is_busy: Some(errorpb::ServerIsBusy::default()), ..Default::default() };
        assert_eq!(regions.learn(&busy, &context), Lesson::Stands);
        assert_eq!(regions.learn(&errorpb::Error::default(), &context), Lesson::Stands);
        let elected = errorpb::Error { stale_command: Some(errorpb::StaleCommand {}), ..Default::default() };
        assert_eq!(regions.learn(&elected, &context), Lesson::Again);
        for error in [
            errorpb::Error { region_not_found: Some(Default::default()), ..Default::default() },
            errorpb::Error { key_not_in_region: Some(Default::default()), ..Default::default() },
            errorpb::Error { store_not_match: Some(Default::default()), ..Default::default() },
            errorpb::Error { mismatch_peer_id: Some(Default::default()), ..Default::default() },
        ] {
            assert_eq!(regions.learn(&error, &context), Lesson::AskPd, "{error:?}");
        }
    }
}

//! Refusals in the protocol's shapes.

use bytes::Bytes;
use scheduler::Region;

use crate::refusal::Refusal;
use crate::wire::proto::errorpb::{self, Error};
use crate::wire::proto::metapb;

use super::failure::Failure;

/// The protocol's form of a refusal: a region error where the client shall look the region up again or wait, a sentence where
/// trying again is pointless.
pub(super) fn failure(refusal: Refusal, region_id: u64, store_id: u64) -> Failure {
    let mut error = Error::default();
    match refusal {
        Refusal::NotLeader { region_id, leader } => {
            error.message = format!("peer is not leader of region {region_id}");
            let leader = leader.as_ref().map(metapb::Peer::from);
            error.not_leader = Some(errorpb::NotLeader { region_id, leader });
        }
        Refusal::RegionNotFound { region_id } => {
            error.message = format!("region {region_id} is not on store {store_id}");
            error.region_not_found = Some(errorpb::RegionNotFound { region_id });
        }
        Refusal::KeyNotInRegion { key, region } => {
            error.message = format!("key {} is not in {}", key.escape_ascii(), region);
            error.key_not_in_region = Some(not_in_region(key, &region));
        }
        Refusal::EpochNotMatch { current } => {
            error.message = format!("region {region_id} has changed; see its current form");
            let current_regions = current.iter().map(metapb::Region::from).collect();
            error.epoch_not_match = Some(errorpb::EpochNotMatch { current_regions });
        }
        Refusal::StoreNotMatch { asked, actual } => {
            error.message = format!("the request is for store {asked}, this is store {actual}");
            error.store_not_match =
                Some(errorpb::StoreNotMatch { request_store_id: asked, actual_store_id: actual });
        }
        Refusal::PeerNotMatch { asked, actual } => {
            error.message = format!("the request is for peer {asked}, the peer here is {actual}");
            error.mismatch_peer_id =
                Some(errorpb::MismatchPeerId { request_peer_id: asked, store_peer_id: actual });
        }
        Refusal::StaleCommand => {
            error.message =
                "the request belongs to an earlier term, or the leader has just been elected".to_owned();
            error.stale_command = Some(errorpb::StaleCommand {});
        }
        Refusal::Busy { reason, backoff_ms } => {
            error.message = format!("server is busy: {reason}");
            let estimated_wait_ms = u32::try_from(backoff_ms).unwrap_or(u32::MAX);
            error.server_is_busy =
                Some(errorpb::ServerIsBusy { reason: reason.to_owned(), backoff_ms, estimated_wait_ms });
        }
        Refusal::DiskFull { store_ids, reason } => {
            let reason = format!("writes are refused: {reason}");
            error.message = format!("disk full on stores {store_ids:?}: {reason}");
            error.disk_full = Some(errorpb::DiskFull { store_id: store_ids, reason });
        }
        Refusal::TooLarge { region_id, bytes, bytes_max } => {
            error.message =
                format!("the writes have {bytes} bytes, more than the {bytes_max} of a log entry");
            error.raft_entry_too_large =
                Some(errorpb::RaftEntryTooLarge { region_id, entry_size: bytes as u64 });
        }
        // No other peer has what the file held, and asking again does not help.
        Refusal::Damaged { file, what } => {
            return Failure::Text(format!("the value cannot be read, because {file} is damaged: {what}"));
        }
        Refusal::Invalid(sentence) => return Failure::Text(sentence),
        Refusal::AnswerTooLarge { bytes_max } => return answer_too_large(bytes_max),
        Refusal::NotAnInteger => return Failure::Text("the value is not an integer".to_owned()),
        Refusal::SpansRegions { .. } => {
            return Failure::Text("the keys of one step lie in more than one region".to_owned());
        }
        Refusal::Overflow => return Failure::Text("the sum does not fit 64 bits".to_owned()),
        Refusal::Stopped(why) => {
            // The client forgets where the region is and asks again, which leads it to whoever took over.
            error.message = format!("store {store_id} has stopped: {why}");
            error.region_not_found = Some(errorpb::RegionNotFound { region_id });
        }
        Refusal::Unknown => {
            let message = "the outcome is unknown: the write may or may not happen".to_owned();
            error.message.clone_from(&message);
            error.undetermined_result = Some(errorpb::UndeterminedResult { message });
        }
    }
    Failure::Region(Box::new(error))
}

fn not_in_region(key: Bytes, region: &Region) -> errorpb::KeyNotInRegion {
    errorpb::KeyNotInRegion {
        key,
        region_id: region.id.get(),
        start_key: Bytes::copy_from_slice(region.range.start()),
        end_key: Bytes::copy_from_slice(region.range.end()),
    }
}

/// The refusal of a request whose answer would be too large.
pub(super) fn answer_too_large(bytes_max: usize) -> Failure {
    Failure::TooLarge(format!(
        "the answer would be over the bound of {bytes_max} bytes; ask for less at once"
    ))
}

#[cfg(test)]
mod tests {
    use scheduler::{Epoch, KeyRange, Peer, PeerId, RegionId, StoreId};

    use super::*;

    fn region() -> Region {
        Region {
            id: RegionId(7),
            range: KeyRange::new(b"b", b"d").unwrap(),
            epoch: Epoch::new(3, 4),
            peers: vec![Peer::voter(PeerId(8), StoreId(2))],
        }
    }

    fn typed_members(error: &Error) -> usize {
        [
            error.not_leader.is_some(),
            error.region_not_found.is_some(),
            error.key_not_in_region.is_some(),
            error.epoch_not_match.is_some(),
            error.server_is_busy.is_some(),
            error.stale_command.is_some(),
            error.store_not_match.is_some(),
            error.raft_entry_too_large.is_some(),
            error.disk_full.is_some(),
            error.mismatch_peer_id.is_some(),
            error.undetermined_result.is_some(),
        ]
        .into_iter()
        .filter(|set| *set)
        .count()
    }

    #[test]
    fn each_region_error_has_one_typed_member_and_a_sentence() {
        let key = Bytes::from_static(b"z");
        for refusal in [
            Refusal::NotLeader { region_id: 7, leader: Some(region().peers[0]) },
            Refusal::NotLeader { region_id: 7, leader: None },
            Refusal::RegionNotFound { region_id: 7 },
            Refusal::KeyNotInRegion { key, region: Box::new(region()) },
            Refusal::EpochNotMatch { current: vec![region()] },
            Refusal::StoreNotMatch { asked: 1, actual: 2 },
            Refusal::PeerNotMatch { asked: 1, actual: 8 },
            Refusal::StaleCommand,
            Refusal::Busy { reason: "queue", backoff_ms: 20 },
            Refusal::DiskFull { store_ids: vec![2], reason: "0 bytes are free".to_owned() },
            Refusal::TooLarge { region_id: 7, bytes: 9, bytes_max: 8 },
            Refusal::Stopped("fsync failed".to_owned()),
            Refusal::Unknown,
        ] {
            let Failure::Region(error) = failure(refusal.clone(), 7, 2) else {
                panic!("{refusal:?} must be a region error")
            };
            assert_eq!(typed_members(&error), 1, "{refusal:?}");
            assert!(!error.message.is_empty(), "{refusal:?}");
        }
        let damaged = Refusal::Damaged { file: "t-1".to_owned(), what: "bad block".to_owned() };
        for refusal in [Refusal::Invalid("no".to_owned()), Refusal::NotAnInteger, damaged] {
            assert!(matches!(failure(refusal, 7, 2), Failure::Text(_)));
        }
    }

    #[test]
    fn an_epoch_error_carries_the_regions_as_they_are() {
        let Failure::Region(error) = failure(Refusal::EpochNotMatch { current: vec![region()] }, 7, 2) else {
            panic!("a region error")
        };
        let current = &error.epoch_not_match.unwrap().current_regions[0];
        assert_eq!(Region::try_from(current).unwrap(), region());
    }
}

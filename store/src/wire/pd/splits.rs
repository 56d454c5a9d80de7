//! Calls of those who cut regions and spread them: ids for the new parts, regions that are cut at keys, and operators that spread a group.
//!
//! What a caller does wrong is an error of the header, of the type that it looks for.
//!
//! Bounds: one call gets ids for [`SPLITS_MAX`] regions, names as many keys to cut at, of [`KEYS_BYTES_MAX`] together, and spreads
//! [`REGIONS_MAX`] regions; it pauses between them. It waits [`CUT_MAX`] for regions to be cut, and says how far that came.

use std::time::Duration;

use bytes::Bytes;

use scheduler::operator::Outcome;
use scheduler::scheduler::AskSplitError;
use scheduler::{Key, NewRegion, Policy, Region, RegionId};

use super::{Pd, denied};
use crate::control::{Cuts, Denied};
use crate::wire::grpc::{Code, Status};
use crate::wire::proto::metapb;
use crate::wire::proto::pdpb::{self, ErrorType, OperatorStatus};

/// Regions that one call may cut off.
const SPLITS_MAX: u32 = 1024;
/// Regions that one call may spread.
const REGIONS_MAX: usize = 1024;
/// Length of all keys of one call, bytes: those inside one region are one entry of its log.
const KEYS_BYTES_MAX: usize = 1 << 20;
/// How long a call waits for regions that are cut: shorter than the shortest timeout of the known clients of such calls, 3 s.
const CUT_MAX: Duration = Duration::from_millis(2500);

impl Pd {
    /// Hands ids out for a right half: one for the region and one for each of its peers.
    pub(super) async fn ask_split(
        &self,
        request: pdpb::AskSplitRequest,
    ) -> Result<pdpb::AskSplitResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(match self.new_parts(request.region, 1).await? {
            Ok(mut parts) => {
                let NewRegion { region, peers } = parts.pop().expect("one was asked for");
                pdpb::AskSplitResponse {
                    header: self.header(),
                    new_region_id: region.get(),
                    new_peer_ids: peers.iter().map(|peer| peer.get()).collect(),
                }
            }
            Err(why) => pdpb::AskSplitResponse {
                header: self.failed(ErrorType::RegionNotFound, why),
                ..pdpb::AskSplitResponse::default()
            },
        })
    }

    /// The same for several parts of one region.
    pub(super) async fn ask_batch_split(
        &self,
        request: pdpb::AskBatchSplitRequest,
    ) -> Result<pdpb::AskBatchSplitResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let count = request.split_count;
        if !(1..=SPLITS_MAX).contains(&count) {
            return Err(Status::invalid(format!("{count} parts asked for; ask for 1 to {SPLITS_MAX}")));
        }
        let part = |NewRegion { region, peers }: NewRegion| pdpb::SplitId {
            new_region_id: region.get(),
            new_peer_ids: peers.iter().map(|peer| peer.get()).collect(),
        };
        let (header, ids) = match self.new_parts(request.region, count).await? {
            Ok(parts) => (self.header(), parts.into_iter().map(part).collect()),
            Err(why) => (self.failed(ErrorType::RegionNotFound, why), Vec::new()),
        };
        Ok(pdpb::AskBatchSplitResponse { header, ids })
    }

    /// Ids for new parts of a region, or why the region is not known so.
    async fn new_parts(
        &self,
        asked: Option<metapb::Region>,
        count: u32,
    ) -> Result<Result<Vec<NewRegion>, String>, Status> {
        let asked = asked.ok_or_else(|| Status::invalid("the request names no region"))?;
        let asked = Region::try_from(&asked).map_err(|error| Status::invalid(error.to_string()))?;
        match self.control.ask_splits(&asked, count).await {
            Ok(parts) => Ok(Ok(parts)),
            Err(refusal @ (AskSplitError::Unknown(_) | AskSplitError::Stale(_))) => {
                Ok(Err(refusal.to_string()))
            }
            Err(refusal @ AskSplitError::OutOfIds) => {
                Err(Status::new(Code::Unavailable, refusal.to_string()))
            }
        }
    }

    /// Spreads regions, those of one group together.
    pub(super) async fn scatter_region(
        &self,
        request: pdpb::ScatterRegionRequest,
    ) -> Result<pdpb::ScatterRegionResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        #[expect(deprecated, reason = "older clients name one region so")]
        let one = request.region_id;
        let named = request.region.map(|region| region.id);
        let mut regions = request.regions_id;
        if regions.is_empty() {
            regions.extend(Some(one).filter(|id| *id != 0).or(named));
        }
        if regions.is_empty() || regions.len() > REGIONS_MAX {
            return Err(Status::invalid(format!("name 1 to {REGIONS_MAX} regions, not {}", regions.len())));
        }
        let ids: Vec<RegionId> = regions.iter().copied().map(RegionId).collect();
        let known = self.control.scatter(&request.group, &ids).await.map_err(denied)?;
        let header = match known {
            0 => self.failed(ErrorType::RegionNotFound, "none of the regions is known"),
            _ => self.header(),
        };
        let finished_percentage = percentage(known, ids.len());
        Ok(pdpb::ScatterRegionResponse { header, finished_percentage })
    }

    /// Cuts regions at keys.
    pub(super) async fn split_regions(
        &self,
        request: pdpb::SplitRegionsRequest,
    ) -> Result<pdpb::SplitRegionsResponse, Status> {
        // How often it is tried follows from the time that there is for it.
        let pdpb::SplitRegionsRequest { header, split_keys, retry_limit: _ } = request;
        self.check_cluster(header.as_ref())?;
        let (header, cuts) = self.cut(&split_keys).await?;
        Ok(pdpb::SplitRegionsResponse {
            header,
            finished_percentage: percentage(cuts.regions.len(), split_keys.len()),
            regions_id: cuts.regions.into_iter().map(RegionId::get).collect(),
        })
    }

    /// Cuts regions at keys, and spreads those that begin there as one group.
    pub(super) async fn split_and_scatter_regions(
        &self,
        request: pdpb::SplitAndScatterRegionsRequest,
    ) -> Result<pdpb::SplitAndScatterRegionsResponse, Status> {
        let pdpb::SplitAndScatterRegionsRequest { header, split_keys, group, retry_limit: _ } = request;
        self.check_cluster(header.as_ref())?;
        let (header, cuts) = self.cut(&split_keys).await?;
        let spread = match cuts.regions.is_empty() {
            true => 0,
            false => self.control.scatter(&group, &cuts.regions).await.map_err(denied)?,
        };
        Ok(pdpb::SplitAndScatterRegionsResponse {
            header,
            split_finished_percentage: percentage(cuts.regions.len(), split_keys.len()),
            scatter_finished_percentage: percentage(spread, cuts.regions.len()),
            regions_id: cuts.regions.into_iter().map(RegionId::get).collect(),
        })
    }

    /// Cuts regions at keys: the header of the answer, and what came of it. Where nothing did, the header says why.
    async fn cut(&self, keys: &[Bytes]) -> Result<(Option<pdpb::ResponseHeader>, Cuts), Status> {
        let failed = |r#type, message: String| Ok((self.failed(r#type, message), Cuts::default()));
        let bytes: usize = keys.iter().map(Bytes::len).sum();
        if keys.is_empty() || keys.len() > SPLITS_MAX as usize || bytes > KEYS_BYTES_MAX {
            let message = format!(
                "name 1 to {SPLITS_MAX} keys of {KEYS_BYTES_MAX} bytes together, not {} of {bytes}",
                keys.len()
            );
            return failed(ErrorType::InvalidValue, message);
        }
        if !self.is_bootstrapped() {
            return Ok((self.not_bootstrapped(), Cuts::default()));
        }
        let keys: Vec<Key> = keys.iter().map(|key| Key::from(&key[..])).collect();
        match self.control.cut(&keys, CUT_MAX).await {
            Ok(Cuts { regions, is_outside: true }) if regions.is_empty() => {
                failed(ErrorType::RegionNotFound, "no key lies in a region that is known".to_owned())
            }
            Ok(cuts) => Ok((self.header(), cuts)),
            Err(why @ Denied::InKeyspace(_)) => failed(ErrorType::InvalidValue, why.to_string()),
            Err(why) => Err(denied(why)),
        }
    }

    /// What runs on a region, or ran last.
    pub(super) fn get_operator(
        &self,
        request: pdpb::GetOperatorRequest,
    ) -> Result<pdpb::GetOperatorResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let Some(last) = self.control.last_operator(RegionId(request.region_id)) else {
            let header = self.failed(ErrorType::RegionNotFound, "nothing was done to the region lately");
            return Ok(pdpb::GetOperatorResponse { header, ..pdpb::GetOperatorResponse::default() });
        };
        let policy = last.operator.policy;
        // Clients wait for an operator of this very name.
        let desc = if policy == Policy::Scatter { "scatter-region".to_owned() } else { policy.to_string() };
        let status = match last.outcome {
            None => OperatorStatus::Running,
            Some(Outcome::Success) => OperatorStatus::Success,
            Some(Outcome::Timeout) => OperatorStatus::Timeout,
            Some(Outcome::Cancelled(_)) => OperatorStatus::Cancel,
            Some(Outcome::Replaced(_)) => OperatorStatus::Replace,
        };
        Ok(pdpb::GetOperatorResponse {
            header: self.header(),
            region_id: request.region_id,
            desc: desc.into(),
            status: status.into(),
            kind: policy.to_string().into(),
        })
    }
}

/// How many of all, in percent; of none, all.
fn percentage(done: usize, all: usize) -> u64 {
    if all == 0 { 100 } else { done as u64 * 100 / all as u64 }
}

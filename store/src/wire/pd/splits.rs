//! Calls of those who cut regions and spread them: ids for the new parts, and operators that spread a group.
//!
//! Bounds: one call gets ids for [`SPLITS_MAX`] regions and spreads [`REGIONS_MAX`], and pauses between them.

use scheduler::operator::Outcome;
use scheduler::scheduler::AskSplitError;
use scheduler::{NewRegion, Policy, Region, RegionId};

use super::{Pd, denied};
use crate::wire::grpc::{Code, Status};
use crate::wire::proto::metapb;
use crate::wire::proto::pdpb::{self, ErrorType, OperatorStatus};

/// Regions that one call may cut off.
const SPLITS_MAX: u32 = 1024;
/// Regions that one call may spread.
const REGIONS_MAX: usize = 1024;

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
        let budget = self.control.budget();
        let mut parts = Vec::new();
        for _ in 0..count {
            match self.control.ask_split(&asked).await {
                Ok(part) => parts.push(part),
                Err(refusal @ (AskSplitError::Unknown(_) | AskSplitError::Stale(_))) => {
                    return Ok(Err(refusal.to_string()));
                }
                Err(refusal @ AskSplitError::OutOfIds) => {
                    return Err(Status::new(Code::Unavailable, refusal.to_string()));
                }
            }
            budget.tick().await;
        }
        Ok(Ok(parts))
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
        let finished_percentage = known as u64 * 100 / ids.len() as u64;
        Ok(pdpb::ScatterRegionResponse { header, finished_percentage })
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

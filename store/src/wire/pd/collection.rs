//! How far garbage collection may go: the safe point, and what services still need.
//!
//! Versions are not kept here, and nothing is collected: what is raised is remembered for those who ask, so that clients and tools that keep
//! to it work. A transaction is safe from where versions are, so both safe points are one.

use scheduler::ServiceSafePoint;
use scheduler::services::{COLLECTOR, NEVER};

use super::{Pd, denied};
use crate::keyspace;
use crate::wire::grpc::Status;
use crate::wire::proto::pdpb::{self, ErrorType};

/// The id of what belongs to no keyspace.
const NO_KEYSPACE: u32 = u32::MAX;

impl Pd {
    pub(super) fn get_gc_safe_point(
        &self,
        request: pdpb::GetGcSafePointRequest,
    ) -> Result<pdpb::GetGcSafePointResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(pdpb::GetGcSafePointResponse { header: self.header(), safe_point: self.control.gc_safe_point() })
    }

    pub(super) async fn update_gc_safe_point(
        &self,
        request: pdpb::UpdateGcSafePointRequest,
    ) -> Result<pdpb::UpdateGcSafePointResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let new_safe_point = self.control.raise_gc_safe_point(request.safe_point).await.map_err(denied)?;
        Ok(pdpb::UpdateGcSafePointResponse { header: self.header(), new_safe_point })
    }

    pub(super) async fn update_service_gc_safe_point(
        &self,
        request: pdpb::UpdateServiceGcSafePointRequest,
    ) -> Result<pdpb::UpdateServiceGcSafePointResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let pdpb::UpdateServiceGcSafePointRequest { header: _, service_id, ttl, safe_point } = request;
        let set = self.control.set_service_safe_point(service_id.to_vec(), safe_point, ttl).await;
        let (least, ttl) = set.map_err(denied)?;
        Ok(pdpb::UpdateServiceGcSafePointResponse {
            header: self.header(),
            service_id: least.service.into(),
            ttl,
            min_safe_point: least.timestamp,
        })
    }

    pub(super) fn get_gc_state(
        &self,
        request: pdpb::GetGcStateRequest,
    ) -> Result<pdpb::GetGcStateResponse, Status> {
        let pdpb::GetGcStateRequest { header, keyspace_scope, exclude_gc_barriers } = request;
        self.check_cluster(header.as_ref())?;
        let asked = keyspace_scope.map_or(NO_KEYSPACE, |scope| scope.keyspace_id);
        if ![NO_KEYSPACE, keyspace::DEFAULT_ID].contains(&asked) {
            let message = format!("there is no keyspace {asked}; {} is the only one", keyspace::DEFAULT_ID);
            let header = self.failed(ErrorType::EntryNotFound, message);
            return Ok(pdpb::GetGcStateResponse { header, gc_state: None });
        }
        let safe_point = self.control.gc_safe_point();
        let gc_barriers = if exclude_gc_barriers { Vec::new() } else { self.barriers() };
        let gc_state = Some(pdpb::GcState {
            // The keyspace has none of its own.
            keyspace_scope: Some(pdpb::KeyspaceScope { keyspace_id: NO_KEYSPACE }),
            is_keyspace_level_gc: false,
            txn_safe_point: safe_point,
            gc_safe_point: safe_point,
            gc_barriers,
        });
        Ok(pdpb::GetGcStateResponse { header: self.header(), gc_state })
    }

    /// What services need beside the collector.
    fn barriers(&self) -> Vec<pdpb::GcBarrierInfo> {
        let (services, now_ms) = self.control.service_safe_points();
        let barrier = |point: ServiceSafePoint| pdpb::GcBarrierInfo {
            barrier_id: String::from_utf8_lossy(&point.service).into_owned(),
            barrier_ts: point.timestamp,
            ttl_seconds: match point.expires_ms {
                NEVER => i64::MAX,
                until => i64::try_from(until.saturating_sub(now_ms) / 1000).unwrap_or(i64::MAX),
            },
        };
        let stands = |point: &ServiceSafePoint| point.service != COLLECTOR && point.expires_ms > now_ms;
        services.into_iter().filter(stands).map(barrier).collect()
    }
}

//! The streams. Each gives one answer per request, in order, except heartbeats, which are answered only when there is something to say.

use super::{Pd, decode, denied, error_type, shape};
use crate::placement::Report;
use crate::wire::grpc::{Inbox, Outbox, Status, frame};
use crate::wire::proto::{metapb, pdpb};

impl Pd {
    pub(super) async fn tso(&self, inbox: &mut Inbox, outbox: &mut Outbox) -> Result<(), Status> {
        while let Some(message) = inbox.next().await? {
            let request = decode::<pdpb::TsoRequest>(message.bytes)?;
            self.check_cluster(request.header.as_ref())?;
            let largest = self.placement.timestamps(request.count).await.map_err(denied)?;
            let timestamp = Some(pdpb::Timestamp {
                physical: i64::try_from(largest.physical_ms).unwrap_or(i64::MAX),
                logical: i64::try_from(largest.logical).unwrap_or(i64::MAX),
                suffix_bits: 0,
            });
            let response = pdpb::TsoResponse { header: self.header(), count: request.count, timestamp };
            outbox.send(frame(&response)).await?;
        }
        Ok(())
    }

    pub(super) async fn query_regions(&self, inbox: &mut Inbox, outbox: &mut Outbox) -> Result<(), Status> {
        while let Some(message) = inbox.next().await? {
            let request = decode::<pdpb::QueryRegionRequest>(message.bytes)?;
            self.check_cluster(request.header.as_ref())?;
            outbox.send(frame(&self.query_region(&request))).await?;
        }
        Ok(())
    }

    /// One id per key that was asked for, in order: clients look answers up by position and check no bounds.
    fn query_region(&self, request: &pdpb::QueryRegionRequest) -> pdpb::QueryRegionResponse {
        let mut response = pdpb::QueryRegionResponse { header: self.header(), ..Default::default() };
        if !self.is_bootstrapped() {
            response.header = self.not_bootstrapped();
        }
        self.placement.map(|map| {
            let regions = &mut response.regions_by_id;
            let mut note = |known: Option<&crate::placement::RegionReport>| {
                let Some(known) = known else { return 0 };
                let id = known.region.id.get();
                regions.entry(id).or_insert_with(|| shape(known));
                id
            };
            response.key_id_map = request.keys.iter().map(|key| note(map.region_at(key))).collect();
            response.prev_key_id_map =
                request.prev_keys.iter().map(|key| note(map.region_before(key))).collect();
            for id in &request.ids {
                note(map.region(*id));
            }
        });
        response
    }

    /// Takes reports of leaders. Only a refused one is answered.
    pub(super) async fn region_heartbeats(
        &self,
        inbox: &mut Inbox,
        outbox: &mut Outbox,
    ) -> Result<(), Status> {
        while let Some(message) = inbox.next().await? {
            let request = decode::<pdpb::RegionHeartbeatRequest>(message.bytes)?;
            self.check_cluster(request.header.as_ref())?;
            let (region, leader) = (request.region.clone().unwrap_or_default(), request.leader);
            let taken = Self::region_report(request)
                .and_then(|report| self.placement.heartbeat(Report::Region(report)));
            if let Err(why) = taken {
                outbox.send(frame(&self.refused_heartbeat(&region, leader, why))).await?;
            }
        }
        Ok(())
    }

    fn refused_heartbeat(
        &self,
        region: &metapb::Region,
        leader: Option<metapb::Peer>,
        why: String,
    ) -> pdpb::RegionHeartbeatResponse {
        pdpb::RegionHeartbeatResponse {
            header: self.failed(error_type::UNKNOWN, why),
            region_id: region.id,
            region_epoch: region.region_epoch,
            target_peer: leader,
        }
    }
}

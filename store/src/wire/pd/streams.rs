//! The streams. Each answers every request once, in order.

use scheduler::{RegionId, RegionInfo};

use super::{Pd, decode, denied, shape};
use crate::wire::grpc::{CallOutbox, Inbox, Status, answer};
use crate::wire::proto::pdpb;

impl Pd {
    pub(super) async fn tso(&self, inbox: &mut Inbox, outbox: &mut CallOutbox) -> Result<(), Status> {
        while let Some(message) = inbox.next().await? {
            outbox.send(answer(&self.tso_once(decode(message.bytes)?).await?)?).await?;
        }
        Ok(())
    }

    pub(super) async fn tso_once(&self, request: pdpb::TsoRequest) -> Result<pdpb::TsoResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let largest = self.control.timestamps(request.count).await.map_err(denied)?;
        let timestamp = Some(pdpb::Timestamp {
            physical: i64::try_from(largest.physical_ms).unwrap_or(i64::MAX),
            logical: i64::from(largest.logical),
            suffix_bits: 0,
        });
        Ok(pdpb::TsoResponse { header: self.header(), count: request.count, timestamp })
    }

    pub(super) async fn query_regions(
        &self,
        inbox: &mut Inbox,
        outbox: &mut CallOutbox,
    ) -> Result<(), Status> {
        while let Some(message) = inbox.next().await? {
            outbox.send(answer(&self.query_region_once(&decode(message.bytes)?)?)?).await?;
        }
        Ok(())
    }

    pub(super) fn query_region_once(
        &self,
        request: &pdpb::QueryRegionRequest,
    ) -> Result<pdpb::QueryRegionResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(self.query_region(request))
    }

    /// One id per key that was asked for, in order: clients look answers up by position and check no bounds.
    fn query_region(&self, request: &pdpb::QueryRegionRequest) -> pdpb::QueryRegionResponse {
        let mut response = pdpb::QueryRegionResponse { header: self.header(), ..Default::default() };
        if !self.is_bootstrapped() {
            response.header = self.not_bootstrapped();
        }
        self.control.map(|map| {
            let regions = &mut response.regions_by_id;
            let mut note = |known: Option<&RegionInfo>| {
                let Some(known) = known else { return 0 };
                let id = known.region.id.get();
                regions.entry(id).or_insert_with(|| shape(known).into());
                id
            };
            response.key_id_map = request.keys.iter().map(|key| note(map.region_at(key))).collect();
            response.prev_key_id_map =
                request.prev_keys.iter().map(|key| note(map.region_before(key))).collect();
            for id in &request.ids {
                note(map.region(RegionId(*id)));
            }
        });
        response
    }
}

//! The unary methods.

use scheduler::Region;

use super::{Pd, denied, error_type, shape};
use crate::placement::{RegionReport, Report, StoreReport, StoreStats};
use crate::wire::grpc::{Code, Status};
use crate::wire::proto::{metapb, pdpb};

/// The service mode that says: everything is served right here.
const PD_SVC_MODE: i32 = 1;

/// Everything in these methods answers at once from the map, unless a bound must be saved first.
impl Pd {
    pub(super) fn get_members(&self) -> pdpb::GetMembersResponse {
        let identity = self.placement.identity();
        let member = pdpb::Member {
            name: identity.name.clone(),
            member_id: identity.member_id,
            peer_urls: identity.client_urls.clone(),
            client_urls: identity.client_urls.clone(),
        };
        pdpb::GetMembersResponse {
            header: self.header(),
            members: vec![member.clone()],
            leader: Some(member.clone()),
            etcd_leader: Some(member),
        }
    }

    pub(super) fn get_cluster_info(&self) -> pdpb::GetClusterInfoResponse {
        pdpb::GetClusterInfoResponse {
            header: self.header(),
            service_modes: vec![PD_SVC_MODE],
            tso_urls: Vec::new(),
        }
    }

    pub(super) fn get_cluster_config(
        &self,
        request: pdpb::HeaderOnlyRequest,
    ) -> Result<pdpb::GetClusterConfigResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let max_peer_count = self.placement.identity().replicas;
        let cluster = Some(metapb::Cluster { id: self.placement.cluster_id(), max_peer_count });
        Ok(pdpb::GetClusterConfigResponse { header: self.header(), cluster })
    }

    pub(super) fn get_region(
        &self,
        request: pdpb::GetRegionRequest,
    ) -> Result<pdpb::GetRegionResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(self.region_answer(self.placement.map(|map| map.region_at(&request.region_key).map(shape))))
    }

    pub(super) fn get_prev_region(
        &self,
        request: pdpb::GetRegionRequest,
    ) -> Result<pdpb::GetRegionResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(self.region_answer(self.placement.map(|map| map.region_before(&request.region_key).map(shape))))
    }

    pub(super) fn get_region_by_id(
        &self,
        request: pdpb::GetRegionByIdRequest,
    ) -> Result<pdpb::GetRegionResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(self.region_answer(self.placement.map(|map| map.region(request.region_id).map(shape))))
    }

    /// A region that is not known is a header and nothing else.
    fn region_answer(&self, found: Option<pdpb::Region>) -> pdpb::GetRegionResponse {
        let header = if self.is_bootstrapped() { self.header() } else { self.not_bootstrapped() };
        let found = found.unwrap_or_default();
        pdpb::GetRegionResponse {
            header,
            region: found.region,
            leader: found.leader,
            down_peers: found.down_peers,
            pending_peers: found.pending_peers,
        }
    }

    pub(super) fn scan_regions(
        &self,
        request: pdpb::ScanRegionsRequest,
    ) -> Result<pdpb::ScanRegionsResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let regions: Vec<pdpb::Region> = self.placement.map(|map| {
            map.scan(&request.start_key, &request.end_key).take(limit(request.limit)).map(shape).collect()
        });
        Ok(pdpb::ScanRegionsResponse {
            header: if self.is_bootstrapped() { self.header() } else { self.not_bootstrapped() },
            region_metas: regions.iter().filter_map(|known| known.region.clone()).collect(),
            leaders: regions.iter().map(|known| known.leader.unwrap_or_default()).collect(),
            regions,
        })
    }

    pub(super) fn batch_scan_regions(
        &self,
        request: pdpb::BatchScanRegionsRequest,
    ) -> Result<pdpb::BatchScanRegionsResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let mut regions: Vec<pdpb::Region> = Vec::new();
        let mut covered = true;
        for range in &request.ranges {
            let found: Vec<pdpb::Region> = self.placement.map(|map| {
                let mut reached = Some(range.start_key.to_vec());
                let found = map.scan(&range.start_key, &range.end_key).inspect(|known| {
                    let known = &known.region.range;
                    // A gap is a region that begins behind the point which the ones before it have reached.
                    covered &= reached.as_ref().is_some_and(|reached| known.start().as_bytes() <= &**reached);
                    reached = known.end_bound().map(<[u8]>::to_vec);
                });
                let found = found.map(shape).collect();
                let open_end = range.end_key.is_empty();
                covered &= reached.is_none_or(|reached| !open_end && reached >= range.end_key);
                found
            });
            for known in found {
                let id = |known: &pdpb::Region| known.region.as_ref().map(|region| region.id);
                // Ranges come in order, so a region that two of them share is the last one of the first.
                if regions.last().is_none_or(|last| id(last) != id(&known)) {
                    regions.push(known);
                }
            }
        }
        let header = match (self.is_bootstrapped(), covered || !request.contain_all_key_range) {
            (false, _) => self.not_bootstrapped(),
            (true, true) => self.header(),
            (true, false) => {
                let message = "the known regions do not cover all that was asked for; ask again";
                self.failed(error_type::REGIONS_NOT_CONTAIN_ALL_KEY_RANGE, message)
            }
        };
        regions.truncate(limit(request.limit));
        Ok(pdpb::BatchScanRegionsResponse { header, regions })
    }

    pub(super) fn get_store(&self, request: pdpb::GetStoreRequest) -> Result<pdpb::GetStoreResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let id = request.store_id;
        let found = self.placement.map(|map| map.store(id).map(|known| (store(known), stats(known))));
        // Clients recognise this very sentence.
        let missing = || Status::new(Code::Unknown, format!("invalid store ID {id}, not found"));
        let (store, stats) = found.ok_or_else(missing)?;
        Ok(pdpb::GetStoreResponse { header: self.header(), store: Some(store), stats })
    }

    pub(super) fn get_all_stores(
        &self,
        request: pdpb::GetAllStoresRequest,
    ) -> Result<pdpb::GetAllStoresResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let stores = self.placement.map(|map| map.stores().map(store).collect());
        Ok(pdpb::GetAllStoresResponse { header: self.header(), stores })
    }

    pub(super) fn is_bootstrapped_answer(
        &self,
        request: pdpb::HeaderOnlyRequest,
    ) -> Result<pdpb::IsBootstrappedResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(pdpb::IsBootstrappedResponse { header: self.header(), bootstrapped: self.is_bootstrapped() })
    }

    /// A node begins its cluster itself, so this can only say that it is too late, or too early.
    pub(super) fn bootstrap(
        &self,
        request: pdpb::BootstrapRequest,
    ) -> Result<pdpb::HeaderOnlyResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        if self.is_bootstrapped() {
            let message = "the cluster is bootstrapped already";
            return Ok(pdpb::HeaderOnlyResponse {
                header: self.failed(error_type::ALREADY_BOOTSTRAPPED, message),
            });
        }
        let message = "a cluster is begun by its first node, not by a client; wait until that node's stores have joined";
        Err(Status::new(Code::FailedPrecondition, message))
    }

    pub(super) async fn alloc_id(
        &self,
        request: pdpb::AllocIdRequest,
    ) -> Result<pdpb::AllocIdResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let count = request.count.max(1);
        let first = self.placement.alloc_ids(u64::from(count)).await.map_err(denied)?;
        Ok(pdpb::AllocIdResponse { header: self.header(), id: first + u64::from(count) - 1, count })
    }

    pub(super) fn put_store(
        &self,
        request: pdpb::PutStoreRequest,
    ) -> Result<pdpb::HeaderOnlyResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let store = request.store.ok_or_else(|| Status::invalid("the request names no store"))?;
        let labels = store.labels.into_iter().map(|label| (label.key, label.value)).collect();
        let report = StoreReport { id: store.id, address: store.address, labels, stats: None };
        self.taken(Report::Store(report))
    }

    pub(super) fn store_heartbeat(
        &self,
        request: pdpb::StoreHeartbeatRequest,
    ) -> Result<pdpb::HeaderOnlyResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let stats = request.stats.ok_or_else(|| Status::invalid("the request carries no stats"))?;
        let Some(known) = self.placement.map(|map| map.store(stats.store_id).cloned()) else {
            let message = format!("invalid store ID {}, not found", stats.store_id);
            return Err(Status::new(Code::Unknown, message));
        };
        let stats = StoreStats {
            capacity_bytes: stats.capacity,
            available_bytes: stats.available,
            used_bytes: stats.used_size,
            regions: stats.region_count,
            started_seconds: stats.start_time,
            heard_ns: 0,
        };
        self.taken(Report::Store(StoreReport { stats: Some(stats), ..known }))
    }

    fn taken(&self, report: Report) -> Result<pdpb::HeaderOnlyResponse, Status> {
        let header = match self.placement.heartbeat(report) {
            Ok(()) => self.header(),
            Err(why) => self.failed(error_type::UNKNOWN, why),
        };
        Ok(pdpb::HeaderOnlyResponse { header })
    }

    /// Hands ids out for a right half: one for the region and one for each of its peers.
    pub(super) async fn ask_split(
        &self,
        request: pdpb::AskSplitRequest,
    ) -> Result<pdpb::AskSplitResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let asked = request.region.ok_or_else(|| Status::invalid("the request names no region"))?;
        let asked = Region::try_from(&asked).map_err(|error| Status::invalid(error.to_string()))?;
        let known = self.placement.map(|map| map.region(asked.id.get()).map(|known| known.region.epoch));
        let refused = |message: String| pdpb::AskSplitResponse {
            header: self.failed(error_type::REGION_NOT_FOUND, message),
            ..pdpb::AskSplitResponse::default()
        };
        match known {
            None => return Ok(refused(format!("{} is not known", asked.id))),
            Some(known) if asked.epoch.is_stale_against(known) => {
                return Ok(refused(format!("{} is at epoch {known}, not {}", asked.id, asked.epoch)));
            }
            Some(_) => {}
        }
        let count = asked.peers.len() as u64 + 1;
        let first = self.placement.alloc_ids(count).await.map_err(denied)?;
        let new_peer_ids = (first + 1..first + count).collect();
        Ok(pdpb::AskSplitResponse { header: self.header(), new_region_id: first, new_peer_ids })
    }

    pub(super) fn get_gc_safe_point(
        &self,
        request: pdpb::HeaderOnlyRequest,
    ) -> Result<pdpb::GetGcSafePointResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(pdpb::GetGcSafePointResponse { header: self.header(), safe_point: self.placement.gc_safe_point() })
    }

    pub(super) async fn update_gc_safe_point(
        &self,
        request: pdpb::UpdateGcSafePointRequest,
    ) -> Result<pdpb::UpdateGcSafePointResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let new_safe_point = self.placement.raise_gc_safe_point(request.safe_point).await.map_err(denied)?;
        Ok(pdpb::UpdateGcSafePointResponse { header: self.header(), new_safe_point })
    }

    /// The report in a region heartbeat.
    pub(super) fn region_report(request: pdpb::RegionHeartbeatRequest) -> Result<RegionReport, String> {
        let region = request.region.ok_or("the heartbeat names no region")?;
        let region = Region::try_from(&region).map_err(|error| error.to_string())?;
        Ok(RegionReport {
            region,
            leader: request.leader.as_ref().map(scheduler::Peer::from),
            term: request.term,
            size_bytes: request.approximate_size,
            keys: request.approximate_keys,
        })
    }
}

fn limit(limit: i32) -> usize {
    usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX)
}

fn store(known: &StoreReport) -> metapb::Store {
    let labels =
        known.labels.iter().map(|(key, value)| metapb::StoreLabel { key: key.clone(), value: value.clone() });
    let stats = known.stats.unwrap_or_default();
    metapb::Store {
        id: known.id,
        address: known.address.clone(),
        labels: labels.collect(),
        // Clients compare this with the features of TiKV releases.
        version: "8.5.0".to_owned(),
        peer_address: known.address.clone(),
        start_timestamp: i64::from(stats.started_seconds),
        last_heartbeat: i64::try_from(stats.heard_ns).unwrap_or(i64::MAX),
        node_state: 1,
        ..metapb::Store::default()
    }
}

fn stats(known: &StoreReport) -> Option<pdpb::StoreStats> {
    let stats = known.stats?;
    Some(pdpb::StoreStats {
        store_id: known.id,
        capacity: stats.capacity_bytes,
        available: stats.available_bytes,
        region_count: stats.regions,
        start_time: stats.started_seconds,
        used_size: stats.used_bytes,
        ..Default::default()
    })
}

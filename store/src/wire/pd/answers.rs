//! The unary methods.

use scheduler::{Lifecycle, NodeId, RegionId, Store, StoreId};

use super::{Pd, denied, shape};
use crate::wire::grpc::{Code, Status};
use crate::wire::proto::metapb::{self, NodeState, StoreState};
use crate::wire::proto::pdpb::{self, ErrorType};

/// Everything in these methods answers at once from the map, unless a bound must be saved first.
impl Pd {
    pub(super) fn get_members(&self) -> pdpb::GetMembersResponse {
        let hosted = self.control.member();
        let leader = pdpb::Member {
            name: hosted.name.clone(),
            member_id: hosted.member_id,
            peer_urls: hosted.client_urls.clone(),
            client_urls: hosted.client_urls.clone(),
        };
        let other = |(node, place): (NodeId, String)| pdpb::Member {
            name: format!("ringkeep-{}", node.0),
            member_id: node.0,
            peer_urls: vec![format!("http://{place}")],
            client_urls: vec![format!("http://{place}")],
        };
        let others = self.control.others().into_iter().map(other);
        pdpb::GetMembersResponse {
            header: self.header(),
            members: std::iter::once(leader.clone()).chain(others).collect(),
            leader: Some(leader.clone()),
            etcd_leader: Some(leader),
        }
    }

    pub(super) fn get_cluster_info(&self) -> pdpb::GetClusterInfoResponse {
        pdpb::GetClusterInfoResponse {
            header: self.header(),
            // Everything is served right here.
            service_modes: vec![pdpb::ServiceMode::PdSvcMode.into()],
            tso_urls: Vec::new(),
        }
    }

    pub(super) fn get_cluster_config(
        &self,
        request: pdpb::GetClusterConfigRequest,
    ) -> Result<pdpb::GetClusterConfigResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let max_peer_count = u32::try_from(self.control.replicas()).unwrap_or(u32::MAX);
        let cluster = Some(metapb::Cluster { id: self.control.cluster_id(), max_peer_count });
        Ok(pdpb::GetClusterConfigResponse { header: self.header(), cluster })
    }

    pub(super) fn get_region(
        &self,
        request: pdpb::GetRegionRequest,
    ) -> Result<pdpb::GetRegionResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(self.region_answer(self.control.map(|map| map.region_at(&request.region_key).map(shape))))
    }

    pub(super) fn get_prev_region(
        &self,
        request: pdpb::GetRegionRequest,
    ) -> Result<pdpb::GetRegionResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(self.region_answer(self.control.map(|map| map.region_before(&request.region_key).map(shape))))
    }

    pub(super) fn get_region_by_id(
        &self,
        request: pdpb::GetRegionByIdRequest,
    ) -> Result<pdpb::GetRegionResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(self.region_answer(self.control.map(|map| map.region(RegionId(request.region_id)).map(shape))))
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

    pub(super) fn get_store(&self, request: pdpb::GetStoreRequest) -> Result<pdpb::GetStoreResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        let id = request.store_id;
        let found =
            self.control.map(|map| map.store(StoreId(id)).map(|known| (self.store(known), stats(known))));
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
        let wanted = |known: &&Store| {
            !request.exclude_tombstone_stores || known.descriptor.lifecycle != Lifecycle::Tombstone
        };
        let stores =
            self.control.map(|map| map.stores().filter(wanted).map(|known| self.store(known)).collect());
        Ok(pdpb::GetAllStoresResponse { header: self.header(), stores })
    }

    pub(super) fn is_bootstrapped_answer(
        &self,
        request: pdpb::IsBootstrappedRequest,
    ) -> Result<pdpb::IsBootstrappedResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        Ok(pdpb::IsBootstrappedResponse { header: self.header(), bootstrapped: self.is_bootstrapped() })
    }

    /// A node begins its cluster itself, so this can only say that it is too late, or too early.
    pub(super) fn bootstrap(
        &self,
        request: pdpb::BootstrapRequest,
    ) -> Result<pdpb::BootstrapResponse, Status> {
        self.check_cluster(request.header.as_ref())?;
        if self.is_bootstrapped() {
            let message = "the cluster is bootstrapped already";
            return Ok(pdpb::BootstrapResponse {
                header: self.failed(ErrorType::AlreadyBootstrapped, message),
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
        let first = self.control.alloc_ids(u64::from(count)).await.map_err(denied)?;
        Ok(pdpb::AllocIdResponse { header: self.header(), id: first + u64::from(count) - 1, count })
    }

    /// What stores and regions report comes from the cluster's own nodes, over their own channels. Whoever can reach this port
    /// could otherwise redirect every client.
    pub(super) fn report_of_a_stranger(&self) -> Status {
        let message =
            "stores and regions report to their scheduler themselves; reports on this port are not accepted";
        Status::new(Code::PermissionDenied, message)
    }

    fn store(&self, known: &Store) -> metapb::Store {
        let Store { descriptor, report, last_heard: _, restarts: _ } = known;
        let label =
            |(key, value): (&String, &String)| metapb::StoreLabel { key: key.clone(), value: value.clone() };
        let node = metapb::StoreLabel { key: "node".to_owned(), value: descriptor.node.get().to_string() };
        let (state, node_state) = match descriptor.lifecycle {
            Lifecycle::Up => (StoreState::Up, NodeState::Serving),
            Lifecycle::Offline => (StoreState::Offline, NodeState::Removing),
            Lifecycle::Tombstone => (StoreState::Tombstone, NodeState::Removed),
        };
        let started = report.as_ref().map_or(0, |report| report.start_time_seconds);
        metapb::Store {
            id: descriptor.id.get(),
            address: descriptor.address.clone(),
            labels: std::iter::once(node).chain(descriptor.labels.iter().map(label)).collect(),
            // Clients compare this with the features of TiKV releases.
            version: "8.5.0".to_owned(),
            peer_address: descriptor.address.clone(),
            start_timestamp: i64::try_from(started).unwrap_or(i64::MAX),
            last_heartbeat: i64::try_from(self.control.heard(known).as_nanos()).unwrap_or(i64::MAX),
            state: state.into(),
            node_state: node_state.into(),
            ..metapb::Store::default()
        }
    }
}

fn stats(known: &Store) -> Option<pdpb::StoreStats> {
    let report = known.report.as_ref()?;
    let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Some(pdpb::StoreStats {
        store_id: report.store.get(),
        capacity: report.capacity_bytes,
        available: report.available_bytes,
        region_count: narrow(report.region_count),
        start_time: narrow(report.start_time_seconds),
        is_busy: report.busy,
        used_size: report.used_bytes,
    })
}

//! What operators are shown, as calls: stores, regions, how the cluster does, and why something is as it is.
//!
//! Bounds: an answer has at most [`PAGE_MAX`] regions, and says where the next ones begin; a picture of all of them has a bounded number
//! of cells, and one of the past of columns, too.

use bytes::Bytes;
use scheduler::heat::{Minute, Sums};
use scheduler::{DownPeer, Key, PeerId, RegionId, RegionInfo, StoreId};

use super::{Pd, beats};
use crate::control::SeenStore;
use crate::control::chart::RegionCell;
use crate::control::overview::{ClusterStanding, PAGE_MAX, RegionCondition, RegionSearch, SeenRegion};
use crate::wire::grpc::{Code, Status};
use crate::wire::proto::ringkeep::HeatOf;
use crate::wire::proto::{metapb, ringkeep};

impl Pd {
    /// The stores as the scheduler sees them.
    pub(super) fn stores(&self, _: ringkeep::StoresRequest) -> Result<ringkeep::StoresResponse, Status> {
        Ok(ringkeep::StoresResponse { stores: self.control.stores().into_iter().map(store_state).collect() })
    }

    /// Regions: one by its id, else those that are looked for.
    pub(super) async fn regions(
        &self,
        request: ringkeep::RegionsRequest,
    ) -> Result<ringkeep::RegionsResponse, Status> {
        let ringkeep::RegionsRequest { region, from, limit, store, condition, hottest } = request;
        if region != 0 {
            let known = self.control.region(RegionId(region)).ok_or_else(|| unknown_region(region))?;
            let regions = vec![region_state(&known)];
            return Ok(ringkeep::RegionsResponse { regions, ..ringkeep::RegionsResponse::default() });
        }
        let condition = match &condition[..] {
            "" => None,
            name => Some(RegionCondition::of(name).ok_or_else(|| no_condition(name))?),
        };
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(PAGE_MAX);
        let store = (store != 0).then_some(StoreId(store));
        let search = RegionSearch { store, condition, from, limit, hottest };
        let (found, next) = self.control.regions(&search).await;
        Ok(ringkeep::RegionsResponse {
            regions: found.iter().map(region_state).collect(),
            more: next.is_some(),
            next: next.unwrap_or_default(),
        })
    }

    /// Why a region or a store is as it is.
    pub(super) fn why(&self, request: ringkeep::WhyRequest) -> Result<ringkeep::WhyResponse, Status> {
        let ringkeep::WhyRequest { region, store } = request;
        if region != 0 {
            let known = self.control.why_region(RegionId(region)).ok_or_else(|| unknown_region(region))?;
            let (verdict, stores) = known;
            let opinion = |(store, says): (StoreId, String)| ringkeep::Opinion { store: store.0, says };
            let opinions = stores.into_iter().map(opinion).collect();
            return Ok(ringkeep::WhyResponse { verdict: verdict.to_string(), opinions });
        }
        let verdict = self.control.why_store(StoreId(store)).ok_or_else(|| {
            let message = format!("store {store} has not joined; list the stores to see those that have");
            Status::new(Code::NotFound, message)
        })?;
        Ok(ringkeep::WhyResponse { verdict: verdict.to_string(), opinions: Vec::new() })
    }

    /// How the cluster does.
    pub(super) async fn cluster(&self) -> ringkeep::ClusterResponse {
        let standing = self.control.standing().await;
        let ClusterStanding {
            prepared,
            regions,
            replicas,
            short,
            leaderless,
            unavailable,
            survives,
            operators,
            lagging,
        } = standing;
        ringkeep::ClusterResponse {
            cluster_id: self.control.cluster_id(),
            prepared,
            regions,
            replicas,
            short,
            leaderless,
            unavailable,
            survives,
            operators,
            lagging,
            stateless: self.control.lacks_state(),
        }
    }

    /// All regions in a bounded number of cells.
    pub(super) async fn region_map(
        &self,
        request: ringkeep::RegionMapRequest,
    ) -> ringkeep::RegionMapResponse {
        let (cells, regions) = self.control.region_map(request.cells as usize).await;
        ringkeep::RegionMapResponse { cells: cells.into_iter().map(cell_state).collect(), regions }
    }

    /// The load of the last hour.
    pub(super) fn heat(&self, request: ringkeep::HeatRequest) -> Result<ringkeep::HeatResponse, Status> {
        let value: fn(&Sums) -> u64 = match request.of() {
            HeatOf::Ops => |sums| sums.read_ops.saturating_add(sums.write_ops),
            HeatOf::Reads => |sums| sums.read_ops,
            HeatOf::Writes => |sums| sums.write_ops,
            HeatOf::ReadBytes => |sums| sums.read_bytes,
            HeatOf::WriteBytes => |sums| sums.write_bytes,
            HeatOf::Unknown => return Err(Status::invalid("what is asked for is not counted per range")),
        };
        let (borders, minutes) = self.control.heat();
        let column = |Minute { ago, means }: Minute| ringkeep::HeatColumn {
            ago_minutes: ago,
            values: means.iter().map(value).collect(),
        };
        Ok(ringkeep::HeatResponse {
            borders: borders.iter().map(|border: &Key| Bytes::copy_from_slice(border)).collect(),
            columns: minutes.into_iter().map(column).collect(),
        })
    }
}

fn cell_state(cell: RegionCell) -> ringkeep::RegionCell {
    let RegionCell {
        start,
        shortened,
        first,
        regions,
        size_bytes,
        keys,
        load,
        leader,
        leaders,
        leaderless,
        short,
        unavailable,
    } = cell;
    let (leader_store, leads) = leader.map_or((0, 0), |(store, leads)| (store.0, leads));
    ringkeep::RegionCell {
        start,
        shortened,
        first_region: first.0,
        regions,
        size_bytes,
        keys,
        load: Some(beats::store_load(&load)),
        leader_store,
        leads,
        leaders,
        leaderless,
        short,
        unavailable,
    }
}

fn unknown_region(region: u64) -> Status {
    let message =
        format!("region {region} is not known; list the regions, or try again once it was reported");
    Status::new(Code::NotFound, message)
}

fn no_condition(name: &str) -> Status {
    let known: Vec<&str> = RegionCondition::ALL.into_iter().map(RegionCondition::name).collect();
    let name: String = name.chars().take(64).collect();
    Status::invalid(format!("{name:?} is nothing that is known of regions; there are {}", known.join(", ")))
}

fn store_state(seen: SeenStore) -> ringkeep::StoreState {
    let SeenStore { descriptor, health, heard, silent_ms, misses_reports, report, counters, evicting } = seen;
    let said = report.as_ref();
    ringkeep::StoreState {
        store: descriptor.id.0,
        node: descriptor.node.0,
        address: descriptor.address,
        health: health.to_string(),
        heard,
        silent_ms,
        misses_reports,
        capacity_bytes: said.map_or(0, |report| report.capacity_bytes),
        used_bytes: said.map_or(0, |report| report.used_bytes),
        available_bytes: said.map_or(0, |report| report.available_bytes),
        regions: counters.regions(),
        leaders: counters.leaders,
        load: said.map(|report| beats::store_load(&report.load)),
        busy: said.is_some_and(|report| report.busy),
        evicting,
    }
}

fn region_state(SeenRegion { info, conditions, operator }: &SeenRegion) -> ringkeep::RegionState {
    let peer = |id: &PeerId| info.region.peer(*id).map(metapb::Peer::from);
    let down = |DownPeer { peer, down_ms }: &DownPeer| ringkeep::DownPeer { peer: peer.0, down_ms: *down_ms };
    let RegionInfo { region, leader, size_bytes, keys, load, .. } = info;
    ringkeep::RegionState {
        region: Some(metapb::Region::from(region)),
        leader: leader.as_ref().and_then(peer),
        size_bytes: *size_bytes,
        keys: *keys,
        load: Some(beats::store_load(load)),
        pending: info.pending().iter().map(|peer| peer.0).collect(),
        down: info.down().iter().map(down).collect(),
        conditions: conditions.iter().map(|condition| condition.name().to_owned()).collect(),
        operator: operator.map_or(0, |operator| operator.0),
    }
}

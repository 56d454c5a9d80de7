//! `ringkeep ctl`: what an operator asks of a running cluster, over the PD port of any member.
//!
//! The member that is named says who hosts the scheduler, and that one is asked. What is asked of a region becomes an operator, whose steps
//! the scheduler takes one by one; the command returns when the operator has begun.

mod cluster;

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use engine::rt::{CoreOptions, Rt, start_core};
use store::wire::pd::client::{CallError, SchedulerClient};
use store::wire::proto::metapb::{PeerRole, StoreState};
use store::wire::proto::pdpb::{
    GetAllStoresRequest, GetAllStoresResponse, ScanRegionsRequest, ScanRegionsResponse,
};
use store::wire::proto::ringkeep::{
    KeepStoreRequest, KeepStoreResponse, OperateRequest, OperateResponse, RegionWish, RemoveStoreRequest,
    RemoveStoreResponse,
};

use self::cluster::{ConfigWish, PolicyWish};
use crate::output::{answer, fail};

/// Arguments of `ringkeep ctl`.
#[derive(Debug, Args)]
pub(crate) struct CtlArguments {
    /// PD port of a member, or of several
    #[arg(long, value_name = "ADDR[,ADDR]", value_delimiter = ',', default_value = "127.0.0.1:20160")]
    pd: Vec<String>,
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// List the stores of all nodes
    Stores,
    /// List the nodes that keep the scheduler's state, and which of them leads
    #[command(alias = "members")]
    Member,
    /// List the regions with their replicas
    Regions,
    /// Change a region: its replicas, its leader, its range
    Region {
        #[command(subcommand)]
        wish: Wish,
    },
    /// Change a store
    Store {
        #[command(subcommand)]
        wish: StoreWish,
    },
    /// Keep leaders off a store, such as `ringkeep ctl evict 3`
    Evict {
        store: u64,
        /// Let it lead again
        #[arg(long)]
        end: bool,
    },
    /// List the scheduler's policies, or switch one on or off
    Scheduler {
        #[command(subcommand)]
        wish: Option<PolicyWish>,
    },
    /// List the scheduler's configuration, or change a value of it
    Config {
        #[command(subcommand)]
        wish: Option<ConfigWish>,
    },
}

#[derive(Clone, Debug, Subcommand)]
enum Wish {
    /// Add a replica on a store
    AddPeer { region: u64, store: u64 },
    /// Remove the replica on a store; a leader hands over first
    RemovePeer { region: u64, store: u64 },
    /// Hand leadership to the replica on a store
    Transfer { region: u64, store: u64 },
    /// Cut the region in two; both parts stay where they are
    Split {
        region: u64,
        /// First key of the new region; without it the middle by size
        #[arg(long)]
        key: Option<String>,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum StoreWish {
    /// Take a store out of use: its replicas are moved away, then it is gone for ever
    Remove { store: u64 },
    /// Take a store that is leaving back into use
    Keep { store: u64 },
}

/// Runs `ringkeep ctl`.
pub(crate) fn run(arguments: &CtlArguments) -> ExitCode {
    let members = match members(&arguments.pd) {
        Ok(members) => members,
        Err(why) => return fail(&why, 2),
    };
    let what = arguments.what.clone();
    let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
    match start_core(&options, move |rt| async move { ask(&rt, members, what).await }) {
        Ok(Ok(text)) => {
            answer(&text);
            ExitCode::SUCCESS
        }
        Ok(Err(why)) => fail(&why, 1),
        Err(error) => fail(&format!("{error}: ringkeep doctor says what the host allows"), 1),
    }
}

fn members(places: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut members = Vec::new();
    for place in places {
        let found = place
            .to_socket_addrs()
            .map_err(|error| format!("--pd {place}: {error}: write HOST:PORT, such as 127.0.0.1:20160"))?;
        members.extend(found);
    }
    Ok(members)
}

async fn ask(rt: &Rt, members: Vec<SocketAddr>, what: What) -> Result<String, CallError> {
    let scheduler = SchedulerClient::by_way_of(rt, members);
    match what {
        What::Stores => stores(&scheduler).await,
        What::Member => cluster::members(&scheduler).await,
        What::Evict { store, end } => cluster::evict(&scheduler, store, end).await,
        What::Scheduler { wish } => cluster::policies(&scheduler, wish).await,
        What::Config { wish } => cluster::settings(&scheduler, wish).await,
        What::Regions => regions(&scheduler).await,
        What::Region { wish } => region(&scheduler, wish).await,
        What::Store { wish: StoreWish::Remove { store } } => {
            let request = RemoveStoreRequest { store };
            scheduler.call::<RemoveStoreResponse>("/ringkeep.Scheduler/RemoveStore", &request).await?;
            Ok(format!(
                "store {store} is taken out of use; once nothing is on it any more it is gone, until then `ringkeep ctl store keep \
                 {store}` takes it back"
            ))
        }
        What::Store { wish: StoreWish::Keep { store } } => {
            let request = KeepStoreRequest { store };
            scheduler.call::<KeepStoreResponse>("/ringkeep.Scheduler/KeepStore", &request).await?;
            Ok(format!("store {store} is in use"))
        }
    }
}

async fn stores(scheduler: &SchedulerClient) -> Result<String, CallError> {
    let all: GetAllStoresResponse =
        scheduler.call("/pdpb.PD/GetAllStores", &GetAllStoresRequest::default()).await?;
    let mut text = format!("{:>8} {:>8} {:10} {}\n", "store", "node", "state", "address");
    for store in all.stores {
        let node = store.labels.iter().find(|label| label.key == "node").map_or("", |label| &label.value);
        let state = match store.state() {
            StoreState::Up => "up",
            StoreState::Offline => "leaving",
            StoreState::Tombstone => "gone",
        };
        writeln!(text, "{:>8} {node:>8} {state:10} {}", store.id, store.address)
            .expect("writing into a string has no way to fail");
    }
    Ok(text)
}

async fn regions(scheduler: &SchedulerClient) -> Result<String, CallError> {
    let all: ScanRegionsResponse =
        scheduler.call("/pdpb.PD/ScanRegions", &ScanRegionsRequest::default()).await?;
    let mut text = format!("{:>8} {:>8} {:>8}  {}\n", "region", "leader", "epoch", "replicas");
    for known in all.regions {
        let region = known.region.unwrap_or_default();
        let epoch = region.region_epoch.unwrap_or_default();
        let leader = known.leader.map_or(0, |leader| leader.store_id);
        let replica = |peer: &store::wire::proto::metapb::Peer| {
            let role = match peer.role() {
                PeerRole::Voter => "",
                PeerRole::Learner => " (learner)",
                PeerRole::IncomingVoter => " (incoming)",
                PeerRole::DemotingVoter => " (outgoing)",
            };
            format!("{}{role}", peer.store_id)
        };
        let replicas: Vec<String> = region.peers.iter().map(replica).collect();
        writeln!(
            text,
            "{:>8} {leader:>8} {:>4},{:<3}  {}",
            region.id,
            epoch.conf_ver,
            epoch.version,
            replicas.join(" ")
        )
        .expect("writing into a string has no way to fail");
    }
    Ok(text)
}

async fn region(scheduler: &SchedulerClient, wish: Wish) -> Result<String, CallError> {
    let (region, wish, store, key) = match wish {
        Wish::AddPeer { region, store } => (region, RegionWish::AddPeer, store, None),
        Wish::RemovePeer { region, store } => (region, RegionWish::RemovePeer, store, None),
        Wish::Transfer { region, store } => (region, RegionWish::TransferLeader, store, None),
        Wish::Split { region, key } => (region, RegionWish::Split, 0, key),
    };
    let key = key.unwrap_or_default().into_bytes().into();
    let request = OperateRequest { region, wish: wish.into(), store, key };
    let begun: OperateResponse = scheduler.call("/ringkeep.Scheduler/Operate", &request).await?;
    Ok(format!("operator {} of region {region}: {}", begun.operator, begun.steps.join(", then ")))
}

//! `ringkeep ctl`: what an operator asks of a running cluster, over the PD port of any member.
//!
//! The member that is named says who hosts the scheduler, and that one is asked. What is asked of a region becomes an operator, whose steps
//! the scheduler takes one by one; the command returns when the operator has begun, and of a split when it is over.

mod cluster;
mod keys;
mod regions;

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use engine::rt::{CoreOptions, Rt, start_core};
use store::secret::ClusterSecret;
use store::wire::grpc::Code;
use store::wire::pd::client::{CallError, SchedulerClient};
use store::wire::proto::ringkeep::{
    KeepStoreRequest, KeepStoreResponse, RemoveStoreRequest, RemoveStoreResponse, StoreState, StoresRequest,
    StoresResponse,
};

use self::cluster::{ConfigWish, PolicyWish};
use self::regions::{OperatorWish, Wish};
use crate::output::{EXIT_CONFIG, answer, fail};
use crate::settings::secret_of_operator;

/// Arguments of `ringkeep ctl`.
#[derive(Debug, Args)]
pub(crate) struct CtlArguments {
    /// PD port (base_port) of a member, or of several
    #[arg(
        long,
        global = true,
        value_name = "ADDR[,ADDR]",
        value_delimiter = ',',
        default_value = "127.0.0.1:20160"
    )]
    pd: Vec<String>,
    /// File with the secret of the cluster, if its nodes have one [env: RINGKEEP_CLUSTER_SECRET_FILE, or RINGKEEP_CLUSTER_SECRET for the
    /// secret itself]
    #[arg(long, global = true, value_name = "FILE")]
    cluster_secret_file: Option<String>,
    /// Configuration file (TOML) of a node, for the secret that it has or names [env: RINGKEEP_CONFIG]
    #[arg(long = "config", global = true, value_name = "FILE")]
    settings: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// List the stores of all nodes: how each does, as the scheduler sees it, and when it was last heard
    Stores,
    /// List the nodes that keep the scheduler's state, and which of them leads
    #[command(alias = "members")]
    Member,
    /// List the regions with their replicas and the keys that they have
    Regions,
    /// Change a region: its replicas, its leader, its range
    Region {
        #[command(subcommand)]
        wish: Wish,
    },
    /// List what is being done to regions and was done last, or end it
    #[command(alias = "operators")]
    Operator {
        #[command(subcommand)]
        wish: Option<OperatorWish>,
    },
    /// Change a store
    Store {
        #[command(subcommand)]
        wish: StoreWish,
    },
    /// Keep leaders off a store, such as `ringkeep ctl evict 3`
    Evict {
        /// Id of the store, as `ringkeep ctl stores` lists it
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
    /// List the scheduler's configuration, or change a value of it. Names end with their unit: _ms, _bytes, _percent; others are counts
    Config {
        #[command(subcommand)]
        wish: Option<ConfigWish>,
    },
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum StoreWish {
    /// Take a store out of use: its replicas are moved away, then it is gone for ever
    Remove {
        /// Id of the store, as `ringkeep ctl stores` lists it
        store: u64,
    },
    /// Take a store that is leaving back into use
    Keep {
        /// Id of the store, as `ringkeep ctl stores` lists it
        store: u64,
    },
}

/// Runs `ringkeep ctl`.
pub(crate) fn run(arguments: &CtlArguments) -> ExitCode {
    let members = match members(&arguments.pd) {
        Ok(members) => members,
        Err(why) => return fail(&why, 2),
    };
    let flag = arguments.cluster_secret_file.as_deref();
    let secret = match secret_of_operator(flag, arguments.settings.as_deref()) {
        Ok(secret) => secret,
        Err(why) => return fail(&why.to_string(), EXIT_CONFIG),
    };
    let what = arguments.what.clone();
    let options = CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() };
    match start_core(&options, move |rt| async move { ask(&rt, (members, secret), what).await }) {
        Ok(Ok(text)) => {
            answer(&text);
            ExitCode::SUCCESS
        }
        Ok(Err(why)) => fail(&said(&why), 1),
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

async fn ask(
    rt: &Rt,
    (members, secret): (Vec<SocketAddr>, Option<ClusterSecret>),
    what: What,
) -> Result<String, CallError> {
    let scheduler = SchedulerClient::by_way_of(rt, members, secret);
    match what {
        What::Stores => stores(&scheduler).await,
        What::Member => cluster::members(&scheduler).await,
        What::Evict { store, end } => cluster::evict(&scheduler, store, end).await,
        What::Scheduler { wish } => cluster::policies(&scheduler, wish).await,
        What::Config { wish } => cluster::settings(&scheduler, wish).await,
        What::Regions => regions::list(&scheduler).await,
        What::Region { wish } => regions::change(rt, &scheduler, wish).await,
        What::Operator { wish } => regions::operators(&scheduler, wish).await,
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
    let all: StoresResponse = scheduler.call("/ringkeep.Scheduler/Stores", &StoresRequest {}).await?;
    let mut text = format!("{:>8} {:>8} {:13} {:>13}  {}\n", "store", "node", "state", "heard", "address");
    for store in all.stores {
        let StoreState { store, node, address, health, heard, silent_ms } = store;
        let state = match health.as_str() {
            "offline" => "leaving",
            "tombstone" => "gone",
            health => health,
        };
        let heard = if heard { format!("{} s ago", silent_ms / 1000) } else { "not yet".to_owned() };
        writeln!(text, "{store:>8} {node:>8} {state:13} {heard:>13}  {address}")
            .expect("writing into a string has no way to fail");
    }
    Ok(text)
}

/// An error as it is shown: where nothing answers as a member would, the address is likely to be the wrong one.
fn said(error: &CallError) -> String {
    match error {
        CallError::Refused(status) if status.code != Code::Unimplemented => error.to_string(),
        CallError::Refused(_) | CallError::Unreachable(_) => {
            format!("{error}: name a member's PD port with --pd, such as --pd 127.0.0.1:20160")
        }
    }
}

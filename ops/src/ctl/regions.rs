//! What `ringkeep ctl` asks of regions: where they are, what is to become of them, and what is being done to them.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Subcommand;
use engine::rt::Rt;
use store::wire::grpc::{Code, Status};
use store::wire::pd::client::{CallError, SchedulerClient};
use store::wire::proto::metapb::{Peer, PeerRole};
use store::wire::proto::pdpb::{ScanRegionsRequest, ScanRegionsResponse};
use store::wire::proto::ringkeep::{
    CancelOperatorRequest, CancelOperatorResponse, OperateRequest, OperateResponse, OperatorState,
    OperatorsRequest, OperatorsResponse, RegionWish,
};

use super::keys;

/// One value, where `Vec` would be as many as are given.
type TypedKey = Vec<u8>;

/// How long a split is waited for, which takes two reports of its region if nothing is in its way.
const SPLIT_SEEN_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What is asked of a region.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Wish {
    /// Add a replica on a store
    AddPeer {
        /// Id of the region, as `ringkeep ctl regions` lists it
        region: u64,
        /// Id of the store, as `ringkeep ctl stores` lists it; on a node that has no replica of the region yet
        store: u64,
    },
    /// Remove the replica on a store; a leader hands over first. As long as there are fewer than max_replicas
    /// (`ringkeep ctl config`), the scheduler makes up for it
    RemovePeer {
        /// Id of the region, as `ringkeep ctl regions` lists it
        region: u64,
        /// Id of the store that has the replica
        store: u64,
    },
    /// Hand leadership to the replica on a store
    Transfer {
        /// Id of the region, as `ringkeep ctl regions` lists it
        region: u64,
        /// Id of the store that has the replica which is to lead
        store: u64,
    },
    /// Cut the region in two; both parts stay where they are. Without --key the region needs some MiB of data, whose middle is looked for
    Split {
        /// Id of the region, as `ringkeep ctl regions` lists it
        region: u64,
        /// First key of the new region, with \xNN for a byte that cannot be typed; without it the middle by size
        #[arg(long, value_parser = keys::read)]
        key: Option<TypedKey>,
    },
}

/// What is asked of operators.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum OperatorWish {
    /// End what is being done to a region; a step that has begun is finished all the same
    Cancel {
        /// Id of the region
        region: u64,
    },
}

/// The regions with their replicas and their keys.
pub(super) async fn list(scheduler: &SchedulerClient) -> Result<String, CallError> {
    let all: ScanRegionsResponse =
        scheduler.call("/pdpb.PD/ScanRegions", &ScanRegionsRequest::default()).await?;
    let replica = |peer: &Peer| {
        let role = match peer.role() {
            PeerRole::Voter => "",
            PeerRole::Learner => " (learner)",
            PeerRole::IncomingVoter => " (incoming)",
            PeerRole::DemotingVoter => " (outgoing)",
        };
        format!("{}{role}", peer.store_id)
    };
    let mut rows = Vec::new();
    for known in all.regions {
        let region = known.region.unwrap_or_default();
        let replicas: Vec<String> = region.peers.iter().map(replica).collect();
        rows.push((region, known.leader.map_or(0, |leader| leader.store_id), replicas.join(" ")));
    }
    let width = rows.iter().map(|(_, _, replicas)| replicas.len()).max().unwrap_or(0).max("replicas".len());
    let mut text =
        format!("{:>8} {:>8} {:>8}  {:width$}  from, up to\n", "region", "leader", "epoch", "replicas");
    for (region, leader, replicas) in rows {
        let epoch = region.region_epoch.unwrap_or_default();
        writeln!(
            text,
            "{:>8} {leader:>8} {:>4},{:<3}  {replicas:width$}  {} {}",
            region.id,
            epoch.conf_ver,
            epoch.version,
            keys::show(&region.start_key),
            keys::show(&region.end_key)
        )
        .expect("writing into a string has no way to fail");
    }
    Ok(text)
}

/// Asks for a change of a region. Returns when its operator has begun; a split, which is quick, is waited for.
pub(super) async fn change(rt: &Rt, scheduler: &SchedulerClient, wish: Wish) -> Result<String, CallError> {
    let is_split = matches!(wish, Wish::Split { .. });
    let (region, wish, store, key) = match wish {
        Wish::AddPeer { region, store } => (region, RegionWish::AddPeer, store, None),
        Wish::RemovePeer { region, store } => (region, RegionWish::RemovePeer, store, None),
        Wish::Transfer { region, store } => (region, RegionWish::TransferLeader, store, None),
        Wish::Split { region, key } => (region, RegionWish::Split, 0, key),
    };
    let key = key.unwrap_or_default().into();
    let request = OperateRequest { region, wish: wish.into(), store, key };
    let begun: OperateResponse = scheduler.call("/ringkeep.Scheduler/Operate", &request).await?;
    let said = format!("operator {} of region {region}: {}", begun.operator, begun.steps.join(", then "));
    if !is_split {
        return Ok(said);
    }
    let began = rt.now();
    while rt.now().since(began) < SPLIT_SEEN_MAX {
        let seen = seen(scheduler, region).await?;
        match seen.iter().find(|seen| seen.operator == begun.operator) {
            Some(OperatorState { succeeded: true, .. }) => return Ok(format!("{said}: done")),
            Some(ended) if !ended.outcome.is_empty() => {
                let message = format!("{said}: {}", ended.outcome);
                return Err(CallError::Refused(Status::new(Code::FailedPrecondition, message)));
            }
            Some(_) => rt.sleep(LOOK_EVERY).await,
            None => break,
        }
    }
    Ok(format!("{said}; what becomes of it is in `ringkeep ctl operator`"))
}

async fn seen(scheduler: &SchedulerClient, region: u64) -> Result<Vec<OperatorState>, CallError> {
    let request = OperatorsRequest { region };
    let all: OperatorsResponse = scheduler.call("/ringkeep.Scheduler/Operators", &request).await?;
    Ok(all.operators)
}

/// Lists what is being done and was done last, or ends it.
pub(super) async fn operators(
    scheduler: &SchedulerClient,
    wish: Option<OperatorWish>,
) -> Result<String, CallError> {
    if let Some(OperatorWish::Cancel { region }) = wish {
        let request = CancelOperatorRequest { region };
        let ended: CancelOperatorResponse =
            scheduler.call("/ringkeep.Scheduler/CancelOperator", &request).await?;
        return Ok(format!("operator {} of region {region} is cancelled", ended.operator));
    }
    let mut text = format!("{:>8} {:>8} {:16} {:>10} what\n", "operator", "region", "policy", "");
    for seen in seen(scheduler, 0).await? {
        let OperatorState { operator, region, policy, steps, finished, ago_ms, outcome, succeeded: _ } = seen;
        let state = match outcome.as_str() {
            "" => format!("runs, {finished} of {} steps done", steps.len()),
            outcome => outcome.to_owned(),
        };
        let ago = format!("{} s ago", ago_ms / 1000);
        writeln!(text, "{operator:>8} {region:>8} {policy:16} {ago:>10} {}: {state}", steps.join(", then "))
            .expect("writing into a string has no way to fail");
    }
    Ok(text)
}

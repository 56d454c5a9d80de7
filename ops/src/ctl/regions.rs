//! What `ringkeep ctl` asks of regions: where they are, what is to become of them, and what is being done to them.

use std::time::Duration;

use bytes::Bytes;
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use engine::rt::Rt;
use serde_json::json;
use store::control::overview::RegionCondition;
use store::wire::pd::client::{CallError, SchedulerClient};
use store::wire::proto::metapb::{Peer, PeerRole};
use store::wire::proto::ringkeep::{
    CancelOperatorRequest, CancelOperatorResponse, OperateRequest, OperateResponse, OperatorState,
    OperatorsRequest, OperatorsResponse, RegionState, RegionWish, RegionsRequest, RegionsResponse,
};

use super::table::{Answer, Cell, Table, VOTER};
use super::{CtlError, confirm, keys, stores};

/// One value, where `Vec` would be as many as are given.
type TypedKey = Vec<u8>;

/// How long a split or a merge is waited for, which takes a few reports of its region if nothing is in its way.
const SEEN_MAX: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Which regions are listed.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct ListArguments {
    /// Only those of which this holds
    #[arg(long, value_parser = PossibleValuesParser::new(RegionCondition::ALL.map(RegionCondition::name)))]
    state: Option<String>,
    /// Only those with a replica on this store
    #[arg(long, value_parser = keys::id)]
    store: Option<u64>,
    /// From the one on that has this key, with \xNN for a byte that cannot be typed
    #[arg(long, value_parser = keys::read)]
    from: Option<TypedKey>,
    /// At most this many
    #[arg(long)]
    limit: Option<u32>,
    /// Those with the most operations per second first
    #[arg(long)]
    hot: bool,
}

/// A replica of a region, and how it is changed.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Place {
    /// Id of the region, as `ringkeep ctl regions` lists it
    #[arg(value_parser = keys::id)]
    region: u64,
    /// Id of the store, as `ringkeep ctl stores` lists it
    #[arg(value_parser = keys::id)]
    store: u64,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Where a region is cut.
#[derive(Clone, Debug, Args)]
pub(super) struct SplitArguments {
    /// Id of the region, as `ringkeep ctl regions` lists it
    #[arg(value_parser = keys::id)]
    region: u64,
    /// First key of the new region, with \xNN for a byte that cannot be typed; without it the middle by size
    #[arg(long, value_parser = keys::read)]
    key: Option<TypedKey>,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Two regions that become one.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct MergeArguments {
    /// Id of the region that ends, as `ringkeep ctl regions` lists it
    #[arg(value_parser = keys::id)]
    source: u64,
    /// Id of the neighbour that takes its keys in
    #[arg(value_parser = keys::id)]
    target: u64,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// What is asked of a region.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Wish {
    /// Show one region
    #[command(after_help = "Example: ringkeep ctl region show 7")]
    Show {
        /// Id of the region, as `ringkeep ctl regions` lists it
        #[arg(value_parser = keys::id)]
        region: u64,
    },
    /// Show the region that has a key
    #[command(after_help = "Example: ringkeep ctl region key 'user:\\x00'")]
    Key {
        /// The key, with \xNN for a byte that cannot be typed
        #[arg(value_parser = keys::read)]
        key: TypedKey,
    },
    /// Add a replica on a store, on a node that has none of the region yet
    #[command(after_help = "Example: ringkeep ctl region add-peer 7 3 --dry-run")]
    AddPeer(Place),
    /// Remove the replica on a store; a leader hands over first. As long as there are fewer than max_replicas
    /// (`ringkeep ctl config`), the scheduler makes up for it
    #[command(after_help = "Example: ringkeep ctl region remove-peer 7 3 --yes")]
    RemovePeer {
        #[command(flatten)]
        place: Place,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Hand leadership to the replica on a store
    #[command(after_help = "Example: ringkeep ctl region transfer 7 3")]
    Transfer(Place),
    /// Move the replica of a node to another store of that node: its tables are handed over, and none is copied
    #[command(after_help = "Example: ringkeep ctl region relocate 7 2 --dry-run")]
    Relocate(Place),
    /// Cut the region in two; both parts stay where they are. Without --key the region needs some MiB of data, whose middle is looked for
    #[command(after_help = "Example: ringkeep ctl region split 7 --key user:5000")]
    Split(SplitArguments),
    /// Make two neighbours one: SOURCE ends, and TARGET keeps its id and gets its keys. The replicas of SOURCE move to the stores of TARGET
    /// first; for a moment requests to its keys are refused and sent again
    #[command(after_help = "Example: ringkeep ctl region merge 7 8 --dry-run")]
    Merge(MergeArguments),
}

/// What is asked of operators.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum OperatorWish {
    /// End what is being done to a region; a step that has begun is finished all the same
    #[command(after_help = "Example: ringkeep ctl operator cancel 7")]
    Cancel {
        /// Id of the region, the first column of `ringkeep ctl operator`
        #[arg(required_unless_present = "operator")]
        region: Option<u64>,
        /// Id of the operator instead, the second column; such ids begin anew with each new leader of the scheduler
        #[arg(long, conflicts_with = "region")]
        operator: Option<u64>,
    },
}

const REGIONS: &[&str] =
    &["region", "leader", "epoch", "size", "ops/s", "replicas", "state", "from", "up to"];

fn table_of(regions: &[RegionState]) -> Table {
    let row = |known: &RegionState| {
        let region = known.region.clone().unwrap_or_default();
        let epoch = region.region_epoch.unwrap_or_default();
        let (load, leader) = (known.load.unwrap_or_default(), known.leader.unwrap_or_default());
        vec![
            Cell::Number(region.id),
            Cell::Number(leader.store_id),
            Cell::Epoch(epoch.conf_ver, epoch.version),
            Cell::Bytes(known.size_bytes),
            Cell::Number(u64::from(load.read_ops) + u64::from(load.write_ops)),
            Cell::Replicas(region.peers.iter().map(|peer| (peer.store_id, role(peer))).collect()),
            Cell::List(known.conditions.clone()),
            Cell::Key(region.start_key.to_vec()),
            Cell::Key(region.end_key.to_vec()),
        ]
    };
    Table::new(REGIONS, regions.iter().map(row).collect())
}

fn role(peer: &Peer) -> &'static str {
    match peer.role() {
        PeerRole::Voter => VOTER,
        PeerRole::Learner => "learner",
        PeerRole::IncomingVoter => "incoming",
        PeerRole::DemotingVoter => "outgoing",
    }
}

async fn page(scheduler: &SchedulerClient, request: &RegionsRequest) -> Result<RegionsResponse, CallError> {
    scheduler.call("/ringkeep.Scheduler/Regions", request).await
}

/// The hottest regions.
pub(super) async fn hottest(
    scheduler: &SchedulerClient,
    request: RegionsRequest,
) -> Result<Table, CallError> {
    Ok(table_of(&page(scheduler, &request).await?.regions))
}

/// The regions with their replicas and their keys, page by page.
pub(super) async fn list(scheduler: &SchedulerClient, wanted: ListArguments) -> Result<Answer, CtlError> {
    let ListArguments { state, store, from, limit, hot } = wanted;
    if let Some(store) = store {
        stores::one(stores::all(scheduler).await?, store)?;
    }
    let mut request = RegionsRequest {
        store: store.unwrap_or(0),
        condition: state.unwrap_or_default(),
        from: from.unwrap_or_default().into(),
        limit: limit.unwrap_or(0),
        hottest: hot,
        region: 0,
    };
    let (mut found, most) = (Vec::new(), limit.map_or(usize::MAX, |limit| limit as usize));
    loop {
        let RegionsResponse { regions, next, more } = page(scheduler, &request).await?;
        found.extend(regions);
        if !more || found.len() >= most {
            found.truncate(most);
            return Ok(Answer::Table(table_of(&found)));
        }
        request.from = next;
    }
}

/// Shows a region or asks for a change of it. Returns when its operator has begun; a split or a merge, which is quick, is waited for.
pub(super) async fn change(rt: &Rt, scheduler: &SchedulerClient, wish: Wish) -> Result<Answer, CtlError> {
    match wish {
        Wish::Show { region } => {
            let request = RegionsRequest { region, ..RegionsRequest::default() };
            Ok(Answer::Table(table_of(&page(scheduler, &request).await?.regions)))
        }
        Wish::Key { key } => with_key(rt, scheduler, key).await,
        Wish::AddPeer(place) => operate(scheduler, RegionWish::AddPeer, place).await,
        Wish::RemovePeer { place, yes } => {
            let Place { region, store, dry_run } = place;
            confirm::ask(
                yes || dry_run,
                &format!("the replica of region {region} on store {store} will be removed"),
            )?;
            operate(scheduler, RegionWish::RemovePeer, place).await
        }
        Wish::Transfer(place) => transfer(scheduler, place).await,
        Wish::Relocate(place) => relocate(scheduler, place).await,
        Wish::Split(wanted) => split(rt, scheduler, wanted).await,
        Wish::Merge(wanted) => merge(rt, scheduler, wanted).await,
    }
}

/// The region that has a key. Right after a split, a merge or a move the one that has it may not have been reported yet; then it is waited
/// for instead of showing the next one.
async fn with_key(rt: &Rt, scheduler: &SchedulerClient, key: TypedKey) -> Result<Answer, CtlError> {
    let began = rt.now();
    let request = RegionsRequest { from: key.clone().into(), limit: 1, ..RegionsRequest::default() };
    loop {
        let regions = page(scheduler, &request).await?.regions;
        if regions.iter().any(|known| has_key(known, &key)) {
            return Ok(Answer::Table(table_of(&regions)));
        }
        if rt.now().since(began) >= SEEN_MAX {
            return Err(CtlError::Refused(format!(
                "no region with the key {} is known to the scheduler: it has not been reported since it was split or moved, or has no leader; try again in some seconds",
                keys::show(&key)
            )));
        }
        rt.sleep(LOOK_EVERY).await;
    }
}

fn has_key(known: &RegionState, key: &[u8]) -> bool {
    let range = known.region.as_ref().map(|region| (&region.start_key[..], &region.end_key[..]));
    range.is_some_and(|(start, end)| start <= key && (end.is_empty() || key < end))
}

/// Hands the leadership of a region over.
pub(super) async fn transfer(scheduler: &SchedulerClient, place: Place) -> Result<Answer, CtlError> {
    operate(scheduler, RegionWish::TransferLeader, place).await
}

/// Moves a replica between two stores of a node.
pub(super) async fn relocate(scheduler: &SchedulerClient, place: Place) -> Result<Answer, CtlError> {
    operate(scheduler, RegionWish::Relocate, place).await
}

async fn operate(
    scheduler: &SchedulerClient,
    wish: RegionWish,
    Place { region, store, dry_run }: Place,
) -> Result<Answer, CtlError> {
    let request = OperateRequest { region, wish: wish.into(), store, key: Bytes::new(), dry_run, into: 0 };
    let begun: OperateResponse = scheduler.call("/ringkeep.Scheduler/Operate", &request).await?;
    Ok(said(region, &begun, dry_run, ""))
}

/// What was begun, or would be.
fn said(region: u64, begun: &OperateResponse, dry_run: bool, end: &str) -> Answer {
    let steps = begun.steps.join(", then ");
    let text = match dry_run {
        true => format!("would be done to region {region}: {steps}"),
        false => format!("operator {} of region {region}: {steps}{end}", begun.operator),
    };
    let json = json!({ "dry_run": dry_run, "region": region, "operator": begun.operator, "steps": begun.steps, "message": text });
    Answer::Said(text, json)
}

/// Cuts a region, and waits for that.
pub(super) async fn split(
    rt: &Rt,
    scheduler: &SchedulerClient,
    SplitArguments { region, key, dry_run }: SplitArguments,
) -> Result<Answer, CtlError> {
    let key = key.unwrap_or_default().into();
    let request = OperateRequest { region, wish: RegionWish::Split.into(), store: 0, key, dry_run, into: 0 };
    let begun: OperateResponse = scheduler.call("/ringkeep.Scheduler/Operate", &request).await?;
    if dry_run {
        return Ok(said(region, &begun, true, ""));
    }
    watched(rt, scheduler, region, &begun).await
}

/// Waits a while for what was begun, and says what has become of it.
async fn watched(
    rt: &Rt,
    scheduler: &SchedulerClient,
    region: u64,
    begun: &OperateResponse,
) -> Result<Answer, CtlError> {
    let began = rt.now();
    while rt.now().since(began) < SEEN_MAX {
        let seen = seen(scheduler, region).await?;
        match seen.iter().find(|seen| seen.operator == begun.operator) {
            Some(OperatorState { succeeded: true, .. }) => return Ok(said(region, begun, false, ": done")),
            Some(ended) if !ended.outcome.is_empty() => {
                let steps = begun.steps.join(", then ");
                let why =
                    format!("operator {} of region {region}: {steps}: {}", begun.operator, ended.outcome);
                return Err(CtlError::Refused(why));
            }
            Some(_) => rt.sleep(LOOK_EVERY).await,
            None => break,
        }
    }
    Ok(said(region, begun, false, "; what becomes of it is in `ringkeep ctl operator`"))
}

/// Has a region taken in by its neighbour, and waits for that as long as it is quick.
async fn merge(
    rt: &Rt,
    scheduler: &SchedulerClient,
    MergeArguments { source, target, dry_run, yes }: MergeArguments,
) -> Result<Answer, CtlError> {
    let (region, into, wish) = (source, target, RegionWish::Merge.into());
    confirm::ask(
        yes || dry_run,
        &format!("region {source} will end, and region {target} will have its keys"),
    )?;
    let request = OperateRequest { region, wish, store: 0, key: Bytes::new(), dry_run, into };
    let begun: OperateResponse = scheduler.call("/ringkeep.Scheduler/Operate", &request).await?;
    match dry_run {
        true => Ok(said(region, &begun, true, "")),
        false => watched(rt, scheduler, region, &begun).await,
    }
}

async fn seen(scheduler: &SchedulerClient, region: u64) -> Result<Vec<OperatorState>, CallError> {
    let request = OperatorsRequest { region };
    let all: OperatorsResponse = scheduler.call("/ringkeep.Scheduler/Operators", &request).await?;
    Ok(all.operators)
}

/// The region of which an operator is meant, named by itself or by its operator.
fn region_of(all: &[OperatorState], region: Option<u64>, operator: Option<u64>) -> Result<u64, CtlError> {
    let mut running = all.iter().filter(|seen| seen.outcome.is_empty());
    let refuse = |why: String| Err(CtlError::Refused(why));
    match (region, operator) {
        (Some(region), _) if running.clone().any(|seen| seen.region == region) => Ok(region),
        (Some(region), _) => match running.find(|seen| seen.operator == region) {
            Some(meant) => refuse(format!(
                "no operator of region {region} runs; {region} is the id of one of region {}: `ringkeep ctl operator cancel {}` ends that",
                meant.region, meant.region
            )),
            None => refuse(format!(
                "no operator of region {region} runs; `ringkeep ctl operator` lists those that do"
            )),
        },
        (None, Some(operator)) => match running.find(|seen| seen.operator == operator) {
            Some(meant) => Ok(meant.region),
            None => {
                refuse(format!("no operator {operator} runs; `ringkeep ctl operator` lists those that do"))
            }
        },
        (None, None) => Err(CtlError::Usage("name a region, or an operator with --operator".to_owned())),
    }
}

const OPERATORS: &[&str] = &["region", "operator", "policy", "cause", "when", "state", "steps"];

/// Lists what is being done and was done last, or ends it.
pub(super) async fn operators(
    scheduler: &SchedulerClient,
    wish: Option<OperatorWish>,
) -> Result<Answer, CtlError> {
    if let Some(OperatorWish::Cancel { region, operator }) = wish {
        let running: Vec<OperatorState> = seen(scheduler, 0).await?;
        let region = region_of(&running, region, operator)?;
        let request = CancelOperatorRequest { region };
        let ended: CancelOperatorResponse =
            scheduler.call("/ringkeep.Scheduler/CancelOperator", &request).await?;
        return Ok(Answer::said(format!("operator {} of region {region} is cancelled", ended.operator)));
    }
    let row = |seen: OperatorState| {
        let OperatorState { operator, region, policy, steps, finished, ago_ms, outcome, succeeded: _, cause } =
            seen;
        let state = match outcome.as_str() {
            "" => format!("runs, {finished} of {} steps done", steps.len()),
            outcome => outcome.to_owned(),
        };
        let (when, steps) = (Cell::Ago(Some(ago_ms)), Cell::text(steps.join(", then ")));
        let what = [Cell::Number(region), Cell::Number(operator), Cell::text(policy), Cell::text(cause)];
        what.into_iter().chain([when, Cell::text(state), steps]).collect()
    };
    let rows = seen(scheduler, 0).await?.into_iter().map(row).collect();
    Ok(Answer::Table(Table::new(OPERATORS, rows)))
}

#[cfg(test)]
mod tests {
    use store::wire::proto::metapb::Region;

    use super::*;

    /// In a gap of the map the next region is found, which does not have the key.
    #[test]
    fn a_region_has_the_keys_of_its_range() {
        let of = |start: &'static [u8], end: &'static [u8]| {
            let (start_key, end_key) = (Bytes::from_static(start), Bytes::from_static(end));
            let region = Some(Region { start_key, end_key, ..Region::default() });
            RegionState { region, ..RegionState::default() }
        };
        assert!(has_key(&of(b"b", b"d"), b"b") && has_key(&of(b"b", b"d"), b"c\xff"));
        assert!(!has_key(&of(b"b", b"d"), b"a") && !has_key(&of(b"b", b"d"), b"d"));
        assert!(has_key(&of(b"", b""), b"") && has_key(&of(b"b", b""), b"z"));
        assert!(!has_key(&RegionState::default(), b"z"));
    }

    #[test]
    fn an_operator_is_cancelled_by_its_region_or_by_its_own_id() {
        let runs = |operator, region| OperatorState { operator, region, ..OperatorState::default() };
        let ended = OperatorState { outcome: "done".to_owned(), ..runs(3, 9) };
        let all = [runs(1, 7), runs(2, 1), ended];
        assert_eq!(region_of(&all, Some(7), None), Ok(7));
        assert_eq!(region_of(&all, Some(1), None), Ok(1), "a region goes before an operator with that id");
        assert_eq!(region_of(&all, None, Some(1)), Ok(7));
        for (region, operator, says) in [
            (Some(2), None, "2 is the id of one of region 1: `ringkeep ctl operator cancel 1`"),
            (Some(9), None, "no operator of region 9 runs"),
            (None, Some(3), "no operator 3 runs"),
        ] {
            let Err(CtlError::Refused(why)) = region_of(&all, region, operator) else { panic!("{says}") };
            assert!(why.contains(says), "{why}");
        }
        assert_eq!(OPERATORS[..2], ["region", "operator"]);
    }
}

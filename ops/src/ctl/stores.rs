//! What `ringkeep ctl` asks of stores and nodes: how they do, and which of them are to be left alone.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, Subcommand};
use engine::rt::Rt;
use serde_json::json;
use store::wire::pd::client::{CallError, SchedulerClient};
use store::wire::proto::ringkeep::{
    ClusterRequest, ClusterResponse, EvictRequest, EvictResponse, KeepStoreRequest, KeepStoreResponse, Load,
    RemoveStoreRequest, RemoveStoreResponse, StoreState, StoresRequest, StoresResponse,
};

use super::table::{Answer, Cell, Table};
use super::{CtlError, confirm};

/// The time between two looks at leaders that are to go.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What is asked of a store.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum StoreWish {
    /// Show one store
    #[command(after_help = "Example: ringkeep ctl store show 3")]
    Show {
        /// Id of the store, as `ringkeep ctl stores` lists it
        #[arg(value_parser = super::keys::id)]
        store: u64,
    },
    /// Take a store out of use: its replicas are moved away, then it is gone for ever
    #[command(after_help = "Example: ringkeep ctl store remove 3 --dry-run")]
    Remove {
        /// Id of the store, as `ringkeep ctl stores` lists it
        #[arg(value_parser = super::keys::id)]
        store: u64,
        /// Only say what would be moved
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Take a store that is leaving back into use
    #[command(after_help = "Example: ringkeep ctl store keep 3")]
    Keep {
        /// Id of the store, as `ringkeep ctl stores` lists it
        #[arg(value_parser = super::keys::id)]
        store: u64,
    },
}

/// What is asked of the leaders of a node.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct DrainArguments {
    /// Id of the node, as `ringkeep ctl node` lists it
    #[arg(value_parser = super::keys::id)]
    node: u64,
    /// Let its stores lead again
    #[arg(long)]
    end: bool,
    /// Wait until nothing is led there, at most this many seconds; exit code 4 if that is not enough
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
    /// Only say what would move
    #[arg(long, conflicts_with = "end")]
    dry_run: bool,
}

/// What is asked of the leaders of a store.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct EvictArguments {
    /// Id of the store, as `ringkeep ctl stores` lists it
    #[arg(value_parser = super::keys::id)]
    store: u64,
    /// Let it lead again
    #[arg(long)]
    end: bool,
    /// Only say what would move
    #[arg(long, conflicts_with = "end")]
    dry_run: bool,
}

/// All stores, by id.
pub(super) async fn all(scheduler: &SchedulerClient) -> Result<Vec<StoreState>, CallError> {
    let all: StoresResponse = scheduler.call("/ringkeep.Scheduler/Stores", &StoresRequest {}).await?;
    Ok(all.stores)
}

/// How a store does, in an operator's word.
pub(crate) fn state(store: &StoreState) -> &str {
    match &store.health[..] {
        "offline" => "leaving",
        "tombstone" => "gone",
        "up" if store.misses_reports => "silent",
        "up" if store.evicting => "evicted",
        "up" if store.busy => "busy",
        health => health,
    }
}

/// How long ago a store was heard.
fn heard(store: &StoreState) -> Cell {
    Cell::Ago(store.heard.then_some(store.silent_ms))
}

/// The same in words. Of a store that has not been heard a scheduler that began a moment ago cannot say for how long.
pub(crate) fn heard_in_words(store: &StoreState) -> String {
    match store.heard {
        true => format!("last heard {} s ago", store.silent_ms / 1000),
        false => "not heard since this scheduler began".to_owned(),
    }
}

/// Whether a store has been taken out of use for good.
pub(crate) fn is_gone(store: &StoreState) -> bool {
    store.health == "tombstone"
}

const STORES: &[&str] = &[
    "store",
    "node",
    "state",
    "heard",
    "leaders",
    "regions",
    "reads/s",
    "writes/s",
    "used",
    "available",
    "address",
];

pub(super) fn table_of(stores: &[StoreState]) -> Table {
    let row = |store: &StoreState| {
        let load = store.load.unwrap_or_default();
        vec![
            Cell::Number(store.store),
            Cell::Number(store.node),
            Cell::text(state(store)),
            heard(store),
            Cell::Number(store.leaders),
            Cell::Number(store.regions),
            Cell::Number(load.read_ops.into()),
            Cell::Number(load.write_ops.into()),
            Cell::Bytes(store.used_bytes),
            Cell::Bytes(store.available_bytes),
            Cell::text(&store.address),
        ]
    };
    Table::new(STORES, stores.iter().map(row).collect())
}

/// Which stores are listed.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct StoresArguments {
    /// Also those that were taken out of use and are gone
    #[arg(long)]
    all: bool,
}

/// The stores of all nodes.
pub(super) async fn list(scheduler: &SchedulerClient, wanted: StoresArguments) -> Result<Answer, CtlError> {
    Ok(Answer::Table(listed(all(scheduler).await?, wanted)))
}

fn listed(mut stores: Vec<StoreState>, StoresArguments { all }: StoresArguments) -> Table {
    let known = stores.len();
    stores.retain(|store| all || !is_gone(store));
    let (mut table, left_out) = (table_of(&stores), known - stores.len());
    if left_out > 0 {
        table.remarks.push(format!("not listed: {left_out} that are gone; --all lists them, too"));
    }
    table
}

const NODES: &[&str] = &[
    "node",
    "stores",
    "state",
    "leaders",
    "regions",
    "reads/s",
    "writes/s",
    "read B/s",
    "written B/s",
    "used",
    "available",
];

/// The nodes with what their stores come to; one of which a store is worse than the others is as that one.
pub(super) fn nodes_of(stores: &[StoreState]) -> Table {
    let mut nodes: BTreeMap<u64, Vec<&StoreState>> = BTreeMap::new();
    for store in stores.iter().filter(|store| !is_gone(store)) {
        nodes.entry(store.node).or_default().push(store);
    }
    let row = |(node, stores): (&u64, &Vec<&StoreState>)| {
        let sum = |of: fn(&StoreState) -> u64| stores.iter().map(|store| of(store)).sum::<u64>();
        let load =
            |of: fn(&Load) -> u64| stores.iter().filter_map(|store| store.load.as_ref()).map(of).sum::<u64>();
        let worst = stores.iter().map(|store| state(store)).max_by_key(|state| rank(state)).unwrap_or("up");
        vec![
            Cell::Number(*node),
            Cell::Number(stores.len() as u64),
            Cell::text(worst),
            Cell::Number(sum(|store| store.leaders)),
            Cell::Number(sum(|store| store.regions)),
            Cell::Number(load(|load| load.read_ops.into())),
            Cell::Number(load(|load| load.write_ops.into())),
            Cell::Bytes(load(|load| load.read_bytes)),
            Cell::Bytes(load(|load| load.write_bytes)),
            Cell::Bytes(sum(|store| store.used_bytes)),
            Cell::Bytes(sum(|store| store.available_bytes)),
        ]
    };
    Table::new(NODES, nodes.iter().map(row).collect())
}

/// The worse, the more.
fn rank(state: &str) -> usize {
    let order = ["up", "evicted", "busy", "leaving", "silent", "disconnected", "unhealthy", "down"];
    order.iter().position(|known| *known == state).unwrap_or(order.len())
}

/// The nodes, or the stores of one.
pub(super) async fn nodes(scheduler: &SchedulerClient, node: Option<u64>) -> Result<Answer, CtlError> {
    let stores = all(scheduler).await?;
    let Some(node) = node else { return Ok(Answer::Table(nodes_of(&stores))) };
    Ok(Answer::Table(table_of(&of_node(stores, node)?)))
}

fn of_node(mut stores: Vec<StoreState>, node: u64) -> Result<Vec<StoreState>, CtlError> {
    stores.retain(|store| store.node == node && !is_gone(store));
    if stores.is_empty() {
        return Err(CtlError::Refused(format!(
            "no store of node {node} has joined; `ringkeep ctl node` lists those that have"
        )));
    }
    Ok(stores)
}

/// The store of this id.
pub(super) fn one(stores: Vec<StoreState>, id: u64) -> Result<StoreState, CtlError> {
    let unknown = || format!("store {id} has not joined; `ringkeep ctl stores` lists those that have");
    stores.into_iter().find(|store| store.store == id).ok_or_else(|| CtlError::Refused(unknown()))
}

/// Shows a store, or changes whether it is in use.
pub(super) async fn change(scheduler: &SchedulerClient, wish: StoreWish) -> Result<Answer, CtlError> {
    match wish {
        StoreWish::Show { store } => Ok(Answer::Table(table_of(&[one(all(scheduler).await?, store)?]))),
        StoreWish::Remove { store, dry_run: true, yes: _ } => rehearse_removal(scheduler, store).await,
        StoreWish::Remove { store, dry_run: false, yes } => {
            confirm::ask(
                yes,
                &format!("store {store} will be gone for ever once its replicas have been moved away"),
            )?;
            let request = RemoveStoreRequest { store };
            scheduler.call::<RemoveStoreResponse>("/ringkeep.Scheduler/RemoveStore", &request).await?;
            Ok(Answer::said(format!(
                "store {store} is taken out of use; once nothing is on it any more it is gone, until then `ringkeep ctl store keep {store}` \
                 takes it back"
            )))
        }
        StoreWish::Keep { store } => {
            let request = KeepStoreRequest { store };
            scheduler.call::<KeepStoreResponse>("/ringkeep.Scheduler/KeepStore", &request).await?;
            Ok(Answer::said(format!("store {store} is in use")))
        }
    }
}

/// What taking a store out of use would move, or the refusal of it.
async fn rehearse_removal(scheduler: &SchedulerClient, id: u64) -> Result<Answer, CtlError> {
    let request = RemoveStoreRequest { store: id };
    scheduler.call::<RemoveStoreResponse>("/ringkeep.Scheduler/MayRemoveStore", &request).await?;
    let cluster: ClusterResponse = scheduler.call("/ringkeep.Scheduler/Cluster", &ClusterRequest {}).await?;
    let stores = all(scheduler).await?;
    let mut left: Vec<u64> = stores
        .iter()
        .filter(|store| store.store != id && store.health == "up")
        .map(|store| store.node)
        .collect();
    left.sort_unstable();
    left.dedup();
    let store = one(stores, id)?;
    let (nodes, replicas) = (left.len() as u64, cluster.replicas);
    let text = format!(
        "{} replicas would be moved away from store {id}, {} of which lead; {nodes} nodes would be left for {replicas} replicas of each region",
        store.regions, store.leaders
    );
    let json = json!({ "dry_run": true, "store": id, "replicas": store.regions, "leaders": store.leaders, "nodes_left": nodes, "message": text });
    Ok(Answer::Said(text, json))
}

async fn set_evicting(scheduler: &SchedulerClient, store: u64, evicting: bool) -> Result<(), CallError> {
    let request = EvictRequest { store, evicting };
    scheduler.call::<EvictResponse>("/ringkeep.Scheduler/Evict", &request).await.map(drop)
}

/// Keeps leaders off a store, or no longer.
pub(super) async fn evict(
    scheduler: &SchedulerClient,
    EvictArguments { store, end, dry_run }: EvictArguments,
) -> Result<Answer, CtlError> {
    if dry_run {
        let leaders = one(all(scheduler).await?, store)?.leaders;
        let text = format!("{leaders} leaders would leave store {store}");
        let json = json!({ "dry_run": true, "stores": [store], "leaders": leaders, "message": text });
        return Ok(Answer::Said(text, json));
    }
    set_evicting(scheduler, store, !end).await?;
    Ok(Answer::said(match end {
        false => format!(
            "leaders leave store {store} now, and none comes to it until `ringkeep ctl evict {store} --end`"
        ),
        true => format!("store {store} may lead again"),
    }))
}

/// Keeps leaders off all stores of a node, before it is stopped, or no longer.
pub(super) async fn drain(
    rt: &Rt,
    scheduler: &SchedulerClient,
    DrainArguments { node, end, wait, dry_run }: DrainArguments,
) -> Result<Answer, CtlError> {
    let stores = of_node(all(scheduler).await?, node)?;
    let ids: Vec<u64> = stores.iter().map(|store| store.store).collect();
    let leaders: u64 = stores.iter().map(|store| store.leaders).sum();
    if dry_run {
        let text = format!("{leaders} leaders would leave the {} stores of node {node}", ids.len());
        let json =
            json!({ "dry_run": true, "node": node, "stores": ids, "leaders": leaders, "message": text });
        return Ok(Answer::Said(text, json));
    }
    for store in &ids {
        set_evicting(scheduler, *store, !end).await?;
    }
    if end {
        return Ok(Answer::said(format!("the stores of node {node} may lead again")));
    }
    let until = format!("none comes to it until `ringkeep ctl drain {node} --end`");
    let Some(wait) = wait else {
        return Ok(Answer::said(format!("{leaders} leaders leave node {node} now, and {until}")));
    };
    let began = rt.now();
    loop {
        let left: u64 = of_node(all(scheduler).await?, node)?.iter().map(|store| store.leaders).sum();
        if left == 0 {
            return Ok(Answer::said(format!("node {node} leads nothing, and {until}")));
        }
        if rt.now().since(began) >= Duration::from_secs(wait) {
            let why = format!(
                "node {node} leads {left} regions still after {wait} s; `ringkeep ctl why store {}` says why",
                ids[0]
            );
            return Err(CtlError::NotYet(why));
        }
        rt.sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(store: u64, node: u64, health: &str) -> StoreState {
        let load = Some(Load { read_ops: 10, write_ops: 1, read_bytes: 100, write_bytes: 50 });
        StoreState {
            store,
            node,
            health: health.to_owned(),
            heard: true,
            leaders: 2,
            regions: 3,
            load,
            ..StoreState::default()
        }
    }

    #[test]
    fn a_node_is_as_the_worst_of_its_stores_and_sums_what_they_do() {
        let mut evicted = store(5, 2, "up");
        evicted.evicting = true;
        let all = [
            store(1, 1, "up"),
            store(2, 1, "unhealthy"),
            store(3, 1, "tombstone"),
            store(4, 2, "up"),
            evicted,
        ];
        let nodes = nodes_of(&all).json();
        assert_eq!((&nodes[0]["state"], &nodes[0]["stores"]), (&json!("unhealthy"), &json!(2)));
        assert_eq!((&nodes[1]["state"], &nodes[1]["reads_per_s"]), (&json!("evicted"), &json!(20)));
        assert_eq!((&nodes[1]["leaders"], &nodes[1]["written_bytes_per_s"]), (&json!(4), &json!(100)));
        let stores = table_of(&all).json();
        assert_eq!((&stores[2]["state"], &stores[4]["state"]), (&json!("gone"), &json!("evicted")));
    }

    #[test]
    fn a_store_that_misses_reports_is_silent_and_whoever_was_never_heard_has_no_age() {
        let silent =
            StoreState { misses_reports: true, silent_ms: 4200, evicting: true, ..store(1, 1, "up") };
        assert_eq!((state(&silent), &heard_in_words(&silent)[..]), ("silent", "last heard 4 s ago"));
        let unknown = StoreState { heard: false, silent_ms: 4200, ..store(2, 1, "disconnected") };
        assert_eq!(heard_in_words(&unknown), "not heard since this scheduler began");
        let json = table_of(&[silent.clone(), unknown]).json();
        assert_eq!((&json[0]["heard_ms"], &json[1]["heard_ms"]), (&json!(4200), &json!(null)));
        assert_eq!(nodes_of(&[store(2, 1, "up"), silent]).json()[0]["state"], "silent");
    }

    #[test]
    fn stores_that_are_gone_are_listed_only_where_all_are_asked_for() {
        let known = || vec![store(1, 1, "up"), store(2, 1, "tombstone"), store(3, 1, "offline")];
        let shown = listed(known(), StoresArguments { all: false });
        let ids = |table: &Table| -> Vec<Cell> { table.rows.iter().map(|row| row[0].clone()).collect() };
        assert_eq!(ids(&shown), [Cell::Number(1), Cell::Number(3)]);
        assert!(
            shown.text().ends_with("not listed: 1 that are gone; --all lists them, too\n"),
            "{}",
            shown.text()
        );
        let shown = listed(known(), StoresArguments { all: true });
        assert_eq!((shown.rows.len(), shown.remarks.len()), (3, 0));
    }
}

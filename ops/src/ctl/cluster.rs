//! What `ringkeep ctl` asks of the cluster as a whole: how it does, who its members are, what its scheduler does and aims at.

use std::collections::BTreeMap;

use clap::Subcommand;
use engine::rt::Rt;
use serde_json::{Value, json};
use store::wire::pd::client::{CallError, SchedulerClient};
use store::wire::proto::pdpb::{GetMembersRequest, GetMembersResponse};
use store::wire::proto::ringkeep::{
    ClusterRequest, ClusterResponse, ConfigChange, ConfigRequest, ConfigResponse, PolicyState,
    SetConfigRequest, SetConfigResponse, SetPolicyRequest, SetPolicyResponse, Setting, StoreState,
};

use super::table::{Answer, Cell, Table, number_or_text};
use super::{CtlError, stores, waiting};
use crate::output::remark;

/// What is asked of the scheduler's policies.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum PolicyWish {
    /// Switch a policy on
    #[command(after_help = "Example: ringkeep ctl scheduler on balance-leader")]
    On {
        /// Its name, as `ringkeep ctl scheduler` lists it
        policy: String,
    },
    /// Switch a policy off
    #[command(after_help = "Example: ringkeep ctl scheduler off balance-leader")]
    Off {
        /// Its name, as `ringkeep ctl scheduler` lists it
        policy: String,
    },
}

/// What is asked of the configuration.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum ConfigWish {
    /// Show the last changes: when, from where, and what each value was and became
    #[command(after_help = "Example: ringkeep ctl config history")]
    History,
    /// Change one value
    #[command(after_help = "Example: ringkeep ctl config set leader_tolerance 10")]
    Set {
        /// Its name, as `ringkeep ctl config` lists it
        name: String,
        /// The value, in the unit that the name ends with; lists are separated by commas
        value: String,
    },
}

/// How the cluster does.
pub(crate) struct Standing {
    /// In one sentence.
    pub(crate) health: String,
    pub(super) is_healthy: bool,
    pub(super) text: String,
    pub(crate) json: Value,
}

/// How the cluster does that has these stores.
pub(super) async fn standing(
    scheduler: &SchedulerClient,
    stores: &[StoreState],
) -> Result<Standing, CallError> {
    let cluster: ClusterResponse = scheduler.call("/ringkeep.Scheduler/Cluster", &ClusterRequest {}).await?;
    Ok(judge(&cluster, stores))
}

/// Says it.
pub(crate) fn judge(cluster: &ClusterResponse, stores: &[StoreState]) -> Standing {
    let ClusterResponse {
        cluster_id,
        prepared,
        regions,
        replicas,
        short,
        leaderless,
        unavailable,
        survives,
        operators,
        stateless,
        lagging,
    } = *cluster;
    let in_use: Vec<&StoreState> = stores.iter().filter(|store| store.health != "tombstone").collect();
    let away = named(in_use.iter().filter(|store| !["up", "offline"].contains(&&store.health[..])));
    let silent = named(in_use.iter().filter(|store| stores::state(store) == "silent"));
    let (drained, kept) = kept_from_leading(&in_use);
    let mut problems = Vec::new();
    let mut note = |is: bool, what: String| problems.extend(is.then_some(what));
    note(
        stateless,
        "the store that has the scheduler's state is stopped, so there are no ids and not all stores are listed: see /ready?verbose of its node"
            .to_owned(),
    );
    note(!prepared, "the scheduler waits for reports".to_owned());
    note(unavailable > 0, format!("{unavailable} regions have no majority"));
    note(leaderless > 0, format!("{leaderless} regions have no leader"));
    note(!away.is_empty(), format!("stores are away: {}", away.join(", ")));
    note(!silent.is_empty(), format!("stores are silent: {}", silent.join(", ")));
    note(short > 0, format!("{short} regions have fewer than {replicas} replicas that answer"));
    note(
        lagging > 0,
        format!(
            "{lagging} regions have a replica that has not caught up for more than ten minutes (`ringkeep ctl regions --state lagging`)"
        ),
    );
    let is_healthy = problems.is_empty();
    let nodes = match survives {
        0 => "the loss of no node".to_owned(),
        1 => "the loss of one node".to_owned(),
        nodes => format!("the loss of {nodes} nodes"),
    };
    let health = match is_healthy {
        true => format!("healthy: survives {nodes}"),
        false => format!("not healthy: {}; survives {nodes}", problems.join(", ")),
    };
    let mut notes = until_ended("node", &drained);
    notes.extend(until_ended("store", &kept));
    let health = [health].into_iter().chain(notes.iter().cloned()).collect::<Vec<_>>().join("; ");
    let up = in_use.iter().filter(|store| store.health == "up").count();
    let text = format!(
        "cluster    {cluster_id:016x}\nhealth     {health}\nstores     {up} of {} up, {}\nregions    {regions}, each to have {replicas} \
         replicas\noperators  {operators} run\n",
        in_use.len(),
        reported(&in_use),
    );
    let json = json!({
        "cluster": format!("{cluster_id:016x}"), "healthy": is_healthy, "problems": problems, "survives_nodes": survives,
        "stores": in_use.len(), "stores_up": up, "regions": regions, "replicas": replicas, "short": short,
        "leaderless": leaderless, "unavailable": unavailable, "lagging": lagging, "operators": operators, "prepared": prepared,
        "drained_nodes": drained, "evicted_stores": kept,
        "reported": in_use.iter().take(REPORTED_MAX).map(|store| json!({
            "store": store.store, "state": stores::state(store), "heard_ms": store.heard.then_some(store.silent_ms),
        })).collect::<Vec<_>>(),
    });
    Standing { health, is_healthy, text, json }
}

/// What is kept from leading until a person ends it. It is no ailment, and forgotten easily: it lasts over restarts of the node and of the
/// scheduler.
fn until_ended(what: &str, ids: &[u64]) -> Vec<String> {
    let command = match what {
        "node" => "drain",
        _ => "evict",
    };
    let end =
        |id: &u64| format!("{what} {id} is kept from leading, until `ringkeep ctl {command} {id} --end`");
    ids.iter().take(KEPT_SHOWN_MAX).map(end).collect()
}

/// Stores that are listed one by one, and nodes and stores that are kept from leading.
const REPORTED_MAX: usize = 512;
const KEPT_SHOWN_MAX: usize = 8;
const NAMED_MAX: usize = 16;

/// Stores with when each was heard, the first of them.
fn named<'a>(stores: impl Iterator<Item = &'a &'a StoreState>) -> Vec<String> {
    let mut named: Vec<String> =
        stores.map(|store| format!("{} ({})", store.store, stores::heard_in_words(store))).collect();
    let left_out = named.len().saturating_sub(NAMED_MAX);
    named.truncate(NAMED_MAX);
    named.extend((left_out > 0).then(|| format!("and {left_out} more")));
    named
}

/// When the store was heard that has been silent longest, in words.
fn reported(in_use: &[&StoreState]) -> String {
    let unheard = in_use.iter().filter(|store| !store.heard).count();
    let longest = in_use.iter().filter(|store| store.heard).max_by_key(|store| store.silent_ms);
    match (longest, unheard) {
        (None, _) => "none heard since this scheduler began".to_owned(),
        (Some(longest), 0) => format!("all heard within the last {} s", longest.silent_ms / 1000 + 1),
        (Some(longest), unheard) => format!(
            "{unheard} not heard since this scheduler began, the others within the last {} s",
            longest.silent_ms / 1000 + 1
        ),
    }
}

/// Nodes of which every store is kept from leading, and single stores of others.
fn kept_from_leading(in_use: &[&StoreState]) -> (Vec<u64>, Vec<u64>) {
    let mut nodes: BTreeMap<u64, bool> = BTreeMap::new();
    for store in in_use {
        let all = nodes.entry(store.node).or_insert(true);
        *all &= store.evicting;
    }
    let kept = in_use.iter().filter(|store| store.evicting && nodes.get(&store.node) != Some(&true));
    let stores = kept.map(|store| store.store).collect();
    (nodes.into_iter().filter(|(_, all)| *all).map(|(node, _)| node).collect(), stores)
}

/// How the cluster does, as an answer; an error of its own where it is not healthy.
/// A scheduler that has just begun is given a few seconds to hear of all stores and regions: until then it knows no better.
pub(super) async fn show(rt: &Rt, scheduler: &SchedulerClient) -> Result<(Answer, bool), CtlError> {
    let (began, mut is_said) = (rt.now(), false);
    loop {
        let stores = stores::all(scheduler).await?;
        let Standing { is_healthy, text, json, health: _ } = standing(scheduler, &stores).await?;
        let new = waiting::not_heard_yet(&stores);
        let waits = !new.is_empty() || json["prepared"] == false;
        if is_healthy || !waits || rt.now().since(began) >= waiting::WAIT_MAX {
            return Ok((Answer::Said(text, json), is_healthy));
        }
        if !std::mem::replace(&mut is_said, true) {
            remark(
                "the scheduler has begun a moment ago and has not heard of all stores and regions yet; waiting",
            );
        }
        rt.sleep(waiting::LOOK_EVERY).await;
    }
}

/// How the node of a member does: it is heard as long as one of its stores is.
fn member_state(stores: &[StoreState], node: u64) -> String {
    let own = stores.iter().filter(|store| store.node == node && !stores::is_gone(store));
    let best = own.min_by_key(|store| (store.health != "up", store.misses_reports, store.silent_ms));
    best.map_or_else(|| "has no store".to_owned(), |store| stores::state(store).to_owned())
}

/// The members of the group that keeps the scheduler's state.
pub(super) async fn members(scheduler: &SchedulerClient) -> Result<Answer, CtlError> {
    let all: GetMembersResponse =
        scheduler.call("/pdpb.PD/GetMembers", &GetMembersRequest::default()).await?;
    let stores = stores::all(scheduler).await?;
    let leader = all.leader.map_or(0, |leader| leader.member_id);
    let row = |member: store::wire::proto::pdpb::Member| {
        let id = member.member_id;
        let role = if id == leader { "leader" } else { "follower" };
        let state = member_state(&stores, id);
        vec![Cell::Number(id), Cell::text(role), Cell::text(state), Cell::List(member.client_urls)]
    };
    let rows = all.members.into_iter().map(row).collect();
    Ok(Answer::Table(Table::new(&["node", "role", "state", "address"], rows)))
}

/// Lists the policies, or switches one.
pub(super) async fn policies(
    scheduler: &SchedulerClient,
    wish: Option<PolicyWish>,
) -> Result<Answer, CtlError> {
    let (policy, enabled) = match wish {
        None => return list_policies(scheduler).await,
        Some(PolicyWish::On { policy }) => (policy, true),
        Some(PolicyWish::Off { policy }) => (policy, false),
    };
    let request = SetPolicyRequest { policy: policy.clone(), enabled, by: String::new() };
    scheduler.call::<SetPolicyResponse>("/ringkeep.Scheduler/SetPolicy", &request).await?;
    Ok(Answer::said(format!("{policy} is {}", if enabled { "on" } else { "off" })))
}

async fn list_policies(scheduler: &SchedulerClient) -> Result<Answer, CtlError> {
    let config = config(scheduler, false).await?;
    let row = |PolicyState { name, enabled }: &PolicyState| {
        vec![Cell::text(name), Cell::text(if *enabled { "on" } else { "off" })]
    };
    let mut table = Table::new(&["policy", "state"], config.policies.iter().map(row).collect());
    if !config.evicting.is_empty() {
        let stores: Vec<String> = config.evicting.iter().map(ToString::to_string).collect();
        table.remarks.push(format!("kept from leading: stores {}", stores.join(", ")));
    }
    Ok(Answer::Table(table))
}

/// Lists the configuration, or changes a value of it.
pub(super) async fn settings(
    scheduler: &SchedulerClient,
    wish: Option<ConfigWish>,
) -> Result<Answer, CtlError> {
    let (name, value) = match wish {
        Some(ConfigWish::Set { name, value }) => (name, value),
        Some(ConfigWish::History) => return history(scheduler).await,
        None => return list_settings(scheduler).await,
    };
    let request = SetConfigRequest { name: name.clone(), value: value.clone(), by: String::new() };
    let done: SetConfigResponse = scheduler.call("/ringkeep.Scheduler/SetConfig", &request).await?;
    let text = format!("{name} is {value}, it was {}", done.before);
    let (value, before) = (number_or_text(&value), number_or_text(&done.before));
    let json = json!({ "name": name, "value": value, "before": before, "message": text });
    Ok(Answer::Said(text, json))
}

async fn list_settings(scheduler: &SchedulerClient) -> Result<Answer, CtlError> {
    let config = config(scheduler, false).await?;
    let row = |Setting { name, value }: &Setting| vec![Cell::text(name), Cell::Value(value.clone())];
    Ok(Answer::Table(Table::new(&["name", "value"], config.settings.iter().map(row).collect())))
}

/// The last changes of the configuration, the latest first.
async fn history(scheduler: &SchedulerClient) -> Result<Answer, CtlError> {
    let row = |change: ConfigChange| {
        let ConfigChange { at_ms, by, name, before, after } = change;
        vec![Cell::Moment(at_ms), Cell::text(by), Cell::text(name), Cell::Value(before), Cell::Value(after)]
    };
    let rows = config(scheduler, true).await?.changes.into_iter().rev().map(row).collect();
    Ok(Answer::Table(Table::new(&["at", "by", "name", "before", "after"], rows)))
}

async fn config(scheduler: &SchedulerClient, changes: bool) -> Result<ConfigResponse, CallError> {
    scheduler.call("/ringkeep.Scheduler/Config", &ConfigRequest { changes }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_healthy_or_says_everything_that_it_lacks() {
        let store =
            |store, health: &str| StoreState { store, health: health.to_owned(), ..StoreState::default() };
        let well = ClusterResponse {
            prepared: true,
            regions: 9,
            replicas: 3,
            survives: 1,
            ..ClusterResponse::default()
        };
        let healthy = judge(&well, &[store(1, "up"), store(2, "offline"), store(3, "tombstone")]);
        assert!(
            healthy.is_healthy && healthy.health == "healthy: survives the loss of one node",
            "{}",
            healthy.health
        );
        assert_eq!((&healthy.json["stores"], &healthy.json["stores_up"]), (&json!(2), &json!(1)));
        let ill =
            ClusterResponse { prepared: false, short: 4, leaderless: 1, unavailable: 2, survives: 0, ..well };
        let alone = judge(&ClusterResponse { stateless: true, ..well }, &[store(2, "up")]);
        assert!(
            !alone.is_healthy && alone.health.contains("scheduler's state is stopped"),
            "{}",
            alone.health
        );
        let behind = judge(&ClusterResponse { lagging: 3, ..well }, &[store(1, "up")]);
        let word = "3 regions have a replica that has not caught up for more than ten minutes";
        assert!(!behind.is_healthy && behind.health.contains(word), "{}", behind.health);
        assert_eq!(behind.json["lagging"], json!(3));
        let said = judge(&ill, &[store(1, "up"), store(7, "down")]).health;
        for word in [
            "waits for reports",
            "2 regions have no majority",
            "1 regions have no leader",
            "away: 7",
            "4 regions",
            "no node",
        ] {
            assert!(said.contains(word), "{word}: {said}");
        }
    }

    #[test]
    fn a_member_is_as_well_as_the_best_of_its_stores() {
        let store = |store, node, health: &str, misses_reports| StoreState {
            store,
            node,
            health: health.to_owned(),
            misses_reports,
            ..StoreState::default()
        };
        let all = [
            store(1, 7, "up", true),
            store(2, 7, "up", false),
            store(3, 8, "down", false),
            store(4, 8, "disconnected", false),
            store(5, 9, "tombstone", false),
        ];
        let states = [7, 8, 9, 10].map(|node| member_state(&all, node));
        assert_eq!(states, ["up", "down", "has no store", "has no store"].map(str::to_owned));
        assert_eq!(member_state(&all[..1], 7), "silent");
    }

    #[test]
    fn a_store_that_misses_reports_is_named_with_when_it_was_heard() {
        let store = |store, misses_reports| StoreState {
            store,
            health: "up".to_owned(),
            heard: true,
            silent_ms: if misses_reports { 4_200 } else { 900 },
            misses_reports,
            ..StoreState::default()
        };
        let cluster = ClusterResponse {
            prepared: true,
            regions: 9,
            replicas: 3,
            survives: 1,
            ..ClusterResponse::default()
        };
        let well = judge(&cluster, &[store(1, false), store(2, false)]);
        assert!(
            well.is_healthy && well.text.contains("2 of 2 up, all heard within the last 1 s"),
            "{}",
            well.text
        );
        let ill = judge(&cluster, &[store(1, false), store(2, true)]);
        assert!(
            !ill.is_healthy && ill.health.contains("stores are silent: 2 (last heard 4 s ago)"),
            "{}",
            ill.health
        );
        assert_eq!(ill.json["reported"][1], json!({ "store": 2, "state": "silent", "heard_ms": 4200 }));
        let unheard = StoreState { heard: false, health: "disconnected".to_owned(), ..store(3, true) };
        let said = judge(&cluster, &[store(1, false), unheard]);
        assert!(said.health.contains("away: 3 (not heard since this scheduler began)"), "{}", said.health);
        assert!(said.text.contains("1 not heard since this scheduler began, the others"), "{}", said.text);
        assert_eq!(said.json["reported"][1]["heard_ms"], json!(null));
    }

    #[test]
    fn what_is_kept_from_leading_is_said_with_how_it_ends() {
        let store = |store, node, evicting| StoreState {
            store,
            node,
            health: "up".to_owned(),
            heard: true,
            evicting,
            ..StoreState::default()
        };
        let cluster = ClusterResponse {
            prepared: true,
            regions: 9,
            replicas: 3,
            survives: 1,
            ..ClusterResponse::default()
        };
        let stores = [store(1, 1, true), store(2, 1, true), store(3, 2, true), store(4, 2, false)];
        let said = judge(&cluster, &stores);
        assert!(said.is_healthy, "{}", said.health);
        for words in [
            "node 1 is kept from leading, until `ringkeep ctl drain 1 --end`",
            "until `ringkeep ctl evict 3 --end`",
        ] {
            assert!(said.health.contains(words) && said.text.contains(words), "{}", said.text);
        }
        assert!(!said.health.contains("node 2") && !said.health.contains("store 1"), "{}", said.health);
        assert_eq!((&said.json["drained_nodes"], &said.json["evicted_stores"]), (&json!([1]), &json!([3])));
    }
}

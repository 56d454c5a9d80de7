//! What `ringkeep ctl` asks of the cluster as a whole: how it does, who its members are, what its scheduler does and aims at.

use clap::Subcommand;
use serde_json::{Value, json};
use store::wire::pd::client::{CallError, SchedulerClient};
use store::wire::proto::pdpb::{GetMembersRequest, GetMembersResponse};
use store::wire::proto::ringkeep::{
    ClusterRequest, ClusterResponse, ConfigRequest, ConfigResponse, PolicyState, SetConfigRequest,
    SetConfigResponse, SetPolicyRequest, SetPolicyResponse, Setting, StoreState,
};

use super::table::{Answer, Cell, Table};
use super::{CtlError, stores};

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
    } = *cluster;
    let in_use: Vec<&StoreState> = stores.iter().filter(|store| store.health != "tombstone").collect();
    let away: Vec<String> = in_use
        .iter()
        .filter(|store| !["up", "offline"].contains(&&store.health[..]))
        .map(|store| store.store.to_string())
        .collect();
    let mut problems = Vec::new();
    let mut note = |is: bool, what: String| problems.extend(is.then_some(what));
    note(!prepared, "the scheduler waits for reports".to_owned());
    note(unavailable > 0, format!("{unavailable} regions have no majority"));
    note(leaderless > 0, format!("{leaderless} regions have no leader"));
    note(!away.is_empty(), format!("stores are away: {}", away.join(", ")));
    note(short > 0, format!("{short} regions have fewer than {replicas} replicas that answer"));
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
    let up = in_use.iter().filter(|store| store.health == "up").count();
    let text = format!(
        "cluster    {cluster_id:016x}\nhealth     {health}\nstores     {up} of {} up\nregions    {regions}, each to have {replicas} \
         replicas\noperators  {operators} run\n",
        in_use.len()
    );
    let json = json!({
        "cluster": format!("{cluster_id:016x}"), "healthy": is_healthy, "problems": problems, "survives_nodes": survives,
        "stores": in_use.len(), "stores_up": up, "regions": regions, "replicas": replicas, "short": short,
        "leaderless": leaderless, "unavailable": unavailable, "operators": operators, "prepared": prepared,
    });
    Standing { health, is_healthy, text, json }
}

/// How the cluster does, as an answer; an error of its own where it is not healthy.
pub(super) async fn show(scheduler: &SchedulerClient) -> Result<(Answer, bool), CtlError> {
    let stores = stores::all(scheduler).await?;
    let Standing { is_healthy, text, json, health: _ } = standing(scheduler, &stores).await?;
    Ok((Answer::Said(text, json), is_healthy))
}

/// The members of the group that keeps the scheduler's state.
pub(super) async fn members(scheduler: &SchedulerClient) -> Result<Answer, CtlError> {
    let all: GetMembersResponse =
        scheduler.call("/pdpb.PD/GetMembers", &GetMembersRequest::default()).await?;
    let leader = all.leader.map_or(0, |leader| leader.member_id);
    let row = |member: store::wire::proto::pdpb::Member| {
        let role = if member.member_id == leader { "leader" } else { "follower" };
        vec![Cell::Number(member.member_id), Cell::text(role), Cell::List(member.client_urls)]
    };
    Ok(Answer::Table(Table::new(&["node", "role", "address"], all.members.into_iter().map(row).collect())))
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
    let request = SetPolicyRequest { policy: policy.clone(), enabled };
    scheduler.call::<SetPolicyResponse>("/ringkeep.Scheduler/SetPolicy", &request).await?;
    Ok(Answer::said(format!("{policy} is {}", if enabled { "on" } else { "off" })))
}

async fn list_policies(scheduler: &SchedulerClient) -> Result<Answer, CtlError> {
    let config = config(scheduler).await?;
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
    let Some(ConfigWish::Set { name, value }) = wish else {
        let config = config(scheduler).await?;
        let row = |Setting { name, value }: &Setting| vec![Cell::text(name), Cell::text(value)];
        return Ok(Answer::Table(Table::new(&["name", "value"], config.settings.iter().map(row).collect())));
    };
    let request = SetConfigRequest { name: name.clone(), value: value.clone() };
    let done: SetConfigResponse = scheduler.call("/ringkeep.Scheduler/SetConfig", &request).await?;
    let text = format!("{name} is {value}, it was {}", done.before);
    let json = json!({ "name": name, "value": value, "before": done.before, "message": text });
    Ok(Answer::Said(text, json))
}

async fn config(scheduler: &SchedulerClient) -> Result<ConfigResponse, CallError> {
    scheduler.call("/ringkeep.Scheduler/Config", &ConfigRequest {}).await
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
}

//! What `ringkeep ctl` asks of the cluster as a whole: who its members are, what its scheduler does and aims at, which stores may lead.

use std::fmt::Write as _;

use clap::Subcommand;
use store::wire::pd::client::{CallError, SchedulerClient};
use store::wire::proto::pdpb::{GetMembersRequest, GetMembersResponse};
use store::wire::proto::ringkeep::{
    ConfigRequest, ConfigResponse, EvictRequest, EvictResponse, PolicyState, SetConfigRequest,
    SetConfigResponse, SetPolicyRequest, SetPolicyResponse,
};

/// What is asked of the scheduler's policies.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum PolicyWish {
    /// Switch a policy on, such as `ringkeep ctl scheduler on balance-leader`
    On {
        /// Its name, as `ringkeep ctl scheduler` lists it
        policy: String,
    },
    /// Switch a policy off, such as `ringkeep ctl scheduler off balance-leader`
    Off {
        /// Its name, as `ringkeep ctl scheduler` lists it
        policy: String,
    },
}

/// What is asked of the configuration.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum ConfigWish {
    /// Change one value, such as `ringkeep ctl config set leader_tolerance 10`
    Set {
        /// Its name, as `ringkeep ctl config` lists it
        name: String,
        /// The value, in the unit that the name ends with; lists are separated by commas
        value: String,
    },
}

/// The members of the group that keeps the scheduler's state.
pub(super) async fn members(scheduler: &SchedulerClient) -> Result<String, CallError> {
    let all: GetMembersResponse =
        scheduler.call("/pdpb.PD/GetMembers", &GetMembersRequest::default()).await?;
    let leader = all.leader.map_or(0, |leader| leader.member_id);
    let mut text = format!("{:>8} {:8} {}\n", "node", "role", "address");
    for member in all.members {
        let role = if member.member_id == leader { "leader" } else { "follower" };
        writeln!(text, "{:>8} {role:8} {}", member.member_id, member.client_urls.join(" "))
            .expect("writing into a string has no way to fail");
    }
    Ok(text)
}

/// Keeps leaders off a store, or no longer.
pub(super) async fn evict(scheduler: &SchedulerClient, store: u64, end: bool) -> Result<String, CallError> {
    let request = EvictRequest { store, evicting: !end };
    scheduler.call::<EvictResponse>("/ringkeep.Scheduler/Evict", &request).await?;
    Ok(match end {
        false => format!(
            "leaders leave store {store} now, and none comes to it until `ringkeep ctl evict {store} --end`"
        ),
        true => format!("store {store} may lead again"),
    })
}

/// Lists the policies, or switches one.
pub(super) async fn policies(
    scheduler: &SchedulerClient,
    wish: Option<PolicyWish>,
) -> Result<String, CallError> {
    let (policy, enabled) = match wish {
        None => return list_policies(scheduler).await,
        Some(PolicyWish::On { policy }) => (policy, true),
        Some(PolicyWish::Off { policy }) => (policy, false),
    };
    let request = SetPolicyRequest { policy: policy.clone(), enabled };
    scheduler.call::<SetPolicyResponse>("/ringkeep.Scheduler/SetPolicy", &request).await?;
    Ok(format!("{policy} is {}", if enabled { "on" } else { "off" }))
}

async fn list_policies(scheduler: &SchedulerClient) -> Result<String, CallError> {
    let config = config(scheduler).await?;
    let mut text = format!("{:16} {}\n", "policy", "state");
    for PolicyState { name, enabled } in &config.policies {
        let state = if *enabled { "on" } else { "off" };
        writeln!(text, "{name:16} {state}").expect("writing into a string has no way to fail");
    }
    if !config.evicting.is_empty() {
        let stores: Vec<String> = config.evicting.iter().map(ToString::to_string).collect();
        writeln!(text, "kept from leading: stores {}", stores.join(", "))
            .expect("writing into a string has no way to fail");
    }
    Ok(text)
}

/// Lists the configuration, or changes a value of it.
pub(super) async fn settings(
    scheduler: &SchedulerClient,
    wish: Option<ConfigWish>,
) -> Result<String, CallError> {
    let Some(ConfigWish::Set { name, value }) = wish else {
        let config = config(scheduler).await?;
        let line = |setting: &store::wire::proto::ringkeep::Setting| {
            format!("{:28} {}\n", setting.name, setting.value)
        };
        return Ok(config.settings.iter().map(line).collect());
    };
    let request = SetConfigRequest { name: name.clone(), value: value.clone() };
    let done: SetConfigResponse = scheduler.call("/ringkeep.Scheduler/SetConfig", &request).await?;
    Ok(format!("{name} is {value}, it was {}", done.before))
}

async fn config(scheduler: &SchedulerClient) -> Result<ConfigResponse, CallError> {
    scheduler.call("/ringkeep.Scheduler/Config", &ConfigRequest {}).await
}

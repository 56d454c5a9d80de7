//! Why a region or a store is as it is.

use clap::Subcommand;
use serde_json::json;
use store::wire::pd::client::SchedulerClient;
use store::wire::proto::ringkeep::{WhyRequest, WhyResponse};

use super::CtlError;
use super::table::Answer;

/// What is asked about.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(super) enum About {
    /// Say why a region has the replicas and the leader that it has, and what is about to change
    #[command(after_help = "Example: ringkeep ctl why region 7")]
    Region {
        /// Id of the region, as `ringkeep ctl regions` lists it
        #[arg(value_parser = super::keys::id)]
        region: u64,
    },
    /// Say why a store has what it has, and what keeps it from being emptied or filled
    #[command(after_help = "Example: ringkeep ctl why store 3")]
    Store {
        /// Id of the store, as `ringkeep ctl stores` lists it
        #[arg(value_parser = super::keys::id)]
        store: u64,
    },
}

/// The one reason, and for a region why no other store gets a replica of it.
pub(super) async fn answer(scheduler: &SchedulerClient, about: About) -> Result<Answer, CtlError> {
    let (name, request) = match about {
        About::Region { region } => (format!("region {region}"), WhyRequest { region, store: 0 }),
        About::Store { store } => (format!("store {store}"), WhyRequest { region: 0, store }),
    };
    let WhyResponse { verdict, opinions } = scheduler.call("/ringkeep.Scheduler/Why", &request).await?;
    let mut text = format!("{name}: {verdict}\n");
    opinions
        .iter()
        .for_each(|it| text.push_str(&format!("  no replica on store {}: {}\n", it.store, it.says)));
    let others: Vec<_> = opinions.iter().map(|it| json!({ "store": it.store, "says": it.says })).collect();
    Ok(Answer::Said(text, json!({ "about": name, "verdict": verdict, "no_replica_on": others })))
}

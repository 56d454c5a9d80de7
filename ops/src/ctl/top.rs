//! `ringkeep ctl top`: what nodes, cores and the hottest regions do now, again and again.
//!
//! Where standard output is no terminal, or `--once` is given, it is shown once: a script that reads it must not wait for ever.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use engine::rt::Rt;
use serde_json::json;
use store::wire::pd::client::SchedulerClient;
use store::wire::proto::ringkeep::RegionsRequest;

use super::table::{Answer, Table};
use super::{CtlError, cluster, regions, stores};
use crate::output::{Format, screen};

/// What is shown.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct TopArguments {
    /// Show it once, for scripts
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// How many of the hottest regions
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100))]
    regions: u32,
}

/// Everything at one moment.
struct Seen {
    standing: cluster::Standing,
    nodes: Table,
    stores: Table,
    hottest: Table,
}

/// Shows it until it is interrupted, or once.
pub(super) async fn show(
    rt: &Rt,
    scheduler: &SchedulerClient,
    arguments: TopArguments,
    format: Format,
) -> Result<Answer, CtlError> {
    let TopArguments { once, every, regions } = arguments;
    if once || format == Format::Json || !std::io::stdout().is_terminal() {
        let seen = look(scheduler, regions).await?;
        let text = page(&seen);
        let Seen { standing, nodes, stores, hottest } = seen;
        let json = json!({ "cluster": standing.json, "nodes": nodes.json(), "stores": stores.json(), "hottest": hottest.json() });
        return Ok(Answer::Said(text, json));
    }
    loop {
        // A member that goes away is no reason to end: another one answers soon.
        let text = match look(scheduler, regions).await {
            Ok(seen) => page(&seen),
            Err(why) => why.to_string(),
        };
        if !screen(&text) {
            return Ok(Answer::Shown);
        }
        rt.sleep(Duration::from_secs(every)).await;
    }
}

async fn look(scheduler: &SchedulerClient, regions: u32) -> Result<Seen, CtlError> {
    let mut all = stores::all(scheduler).await?;
    all.retain(|store| !stores::is_gone(store));
    let standing = cluster::standing(scheduler, &all).await?;
    let request = RegionsRequest { hottest: true, limit: regions, ..RegionsRequest::default() };
    let hottest = regions::hottest(scheduler, request).await?;
    Ok(Seen { standing, nodes: stores::nodes_of(&all), stores: stores::table_of(&all), hottest })
}

fn page(Seen { standing, nodes, stores, hottest }: &Seen) -> String {
    let tables = [("nodes", nodes), ("stores, which are cores", stores), ("hottest regions", hottest)];
    let mut text = format!("{}\n", standing.health);
    for (name, table) in tables {
        text.push_str(&format!("\n{name}\n{}", table.text()));
    }
    text
}

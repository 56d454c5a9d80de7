//! The console: one page on the status port that shows the cluster to people, and the JSON that it asks for.
//!
//! ```text
//! browser ──/console──▶ files of the binary
//!         ──/api/v1/──▶ Wish ──▶ answer of a moment ago, or ──▶ this node: what its cores have posted
//!                                                           └─▶ the scheduler, wherever it is: asked over the root core
//! ```
//!
//! Any node's console shows the whole cluster, because a node that does not host the scheduler sends the question on as a member. What is about
//! one node (its cores, where its requests spend their time) is about the node that is asked.
//!
//! Bounds: every answer is a page, or an aggregate over a bounded number of cells ([`shape`]); an answer is given again for a second, and
//! for ten times as long as it took to make, so however many pages are open, the scheduler is asked for a tenth of the time at most; that it does
//! not answer is said again for as long as that took ([`kept`]). The status server bounds how many are made at a time.
//!
//! Who may see what: nothing can be changed here. Keys, which are data of users, are shown wherever they could be had anyway: on loopback, and
//! where no `cluster_secret` is set. Beyond loopback with a secret, borders of regions are left out. No setting is shown that `/config` hides.

mod kept;
mod recent;
mod shape;
#[cfg(test)]
mod tests;
mod wish;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::rt::Mono;
use serde_json::{Value, json};
use store::metrics::HistogramNumbers;
use store::node::movement::Movement;
use store::shard::counters::StoreNumbers;
use store::wire::admin::{EmbeddedFile, Phase, SharedPhase};
use store::wire::board::{Board, CoreReport};
use store::wire::grpc::Code;
use store::wire::pd::ask::{Asker, NoAnswer, SchedulerPlace, SchedulerQuestion};
use store::wire::proto::ringkeep::{
    ClusterResponse, HeatResponse, OperatorsResponse, RegionMapResponse, RegionsRequest, RegionsResponse,
    StoresResponse,
};

use self::kept::{Kept, Said};
pub(crate) use self::recent::Recent;
use self::recent::{Lately, What};
pub(crate) use self::shape::Keys;
use self::wish::{HEATS, Page, Refusal, Wish};
use crate::ctl::cluster::judge;

/// Cells of the picture of the key space.
const CELLS: u32 = 256;
const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

macro_rules! file {
    ($path:literal, $name:literal, $type:expr) => {
        EmbeddedFile {
            path: $path,
            content_type: $type,
            body: include_bytes!(concat!("../../console/", $name)),
        }
    };
}

/// The page and what it loads.
pub(crate) const FILES: &[EmbeddedFile] = &[
    file!("/console", "console.html", HTML),
    file!("/console/console.css", "console.css", STYLE),
    file!("/console/console.js", "console.js", SCRIPT),
    file!("/console/words.js", "words.js", SCRIPT),
    file!("/console/tables.js", "tables.js", SCRIPT),
    file!("/console/pictures.js", "pictures.js", SCRIPT),
    file!("/console/icon.svg", "icon.svg", "image/svg+xml"),
];

/// A node's console.
pub(crate) struct Console {
    about: About,
    kept: Mutex<Kept>,
}

/// What it is made from.
pub(crate) struct About {
    pub(crate) node: u64,
    pub(crate) asker: Asker,
    pub(crate) board: Board,
    pub(crate) movement: Movement,
    pub(crate) life: SharedPhase,
    pub(crate) recent: Arc<Mutex<Recent>>,
    pub(crate) keys: Keys,
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("node", &self.about.node).finish_non_exhaustive()
    }
}

/// Why nothing can be shown, as JSON.
pub(crate) fn refused((status, why): Refusal) -> Said {
    (status, json!({ "error": why }).to_string().into())
}

impl Console {
    /// Of a node.
    pub(crate) fn new(about: About) -> Self {
        Self { about, kept: Mutex::default() }
    }

    /// What is asked for by a path and a query below `/api/`.
    pub(crate) fn answer(&self, path: &str, query: &str) -> Said {
        let wish = match Wish::read(path, query) {
            Ok(wish) => wish,
            Err(refusal) => return refused(refusal),
        };
        let began = self.about.movement.now();
        if let Some(said) = self.kept().get(&wish, began) {
            return said;
        }
        let (said, is_whole) = self.make(&wish);
        self.kept().put(wish, said.clone(), (began, self.about.movement.now()), is_whole);
        said
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an answer, and says whether everything that was asked for it has answered.
    fn make(&self, wish: &Wish) -> (Said, bool) {
        let (asker, keys) = (&self.about.asker, &self.about.keys);
        let made = match wish {
            Wish::Overview => {
                let page = overview(&self.about);
                return ((200, page.to_string().into()), page["scheduler"]["error"].is_null());
            }
            Wish::Map => asker
                .ask(SchedulerQuestion::RegionMap(CELLS))
                .map(|(map, _): (RegionMapResponse, _)| shape::map(&map, *keys)),
            Wish::Regions(page) => match regions(&self.about, page) {
                Ok(page) => page,
                Err(refusal) => return (refused(refusal), true),
            },
            Wish::Heat(of) => asker
                .ask(SchedulerQuestion::Heat(HEATS[*of].1))
                .map(|(heat, _): (HeatResponse, _)| shape::heat(&heat, *of, *keys)),
        };
        match made {
            Ok(shown) => ((200, shown.to_string().into()), true),
            Err(none) => {
                let scheduler = shape::silence(&none);
                let said = json!({ "error": scheduler["words"], "scheduler": scheduler });
                ((503, said.to_string().into()), false)
            }
        }
    }
}

/// A page of regions; a refusal where the one before it is gone.
fn regions(about: &About, page: &Page) -> Result<Result<Value, NoAnswer>, Refusal> {
    let Page { after, limit, store, state, hottest } = page;
    let ask = |request: RegionsRequest| -> Result<RegionsResponse, NoAnswer> {
        about.asker.ask(SchedulerQuestion::Regions(request)).map(|(found, _)| found)
    };
    let mut from = bytes::Bytes::new();
    if *after != 0 {
        let before = match ask(RegionsRequest { region: *after, ..RegionsRequest::default() }) {
            Ok(found) => found,
            Err(none) if none.code == Some(Code::NotFound) => {
                return Err((404, format!("region {after} is gone; begin with the first page again")));
            }
            Err(none) => return Ok(Err(none)),
        };
        let end =
            before.regions.into_iter().next().and_then(|before| before.region).map(|region| region.end_key);
        from = end.unwrap_or_default();
        if from.is_empty() {
            return Ok(Ok(shape::regions(&[], None, about.keys)));
        }
    }
    let (limit, store, condition, hottest) = (*limit, *store, state.clone(), *hottest);
    let found = match ask(RegionsRequest { region: 0, from, limit, store, condition, hottest }) {
        Ok(found) => found,
        Err(none) => return Ok(Err(none)),
    };
    let last = found.regions.last().and_then(|last| last.region.as_ref()).map(|region| region.id);
    Ok(Ok(shape::regions(&found.regions, last.filter(|_| found.more), about.keys)))
}

/// The cluster in numbers, as far as the scheduler answers, and this node.
fn overview(about: &About) -> Value {
    let mut page = json!({
        "version": env!("CARGO_PKG_VERSION"), "node": about.node, "phase": phase(about.life.phase()), "keys_shown": about.keys == Keys::Shown,
        "this_node": this_node(about), "cluster": null, "stores": null, "operators": null,
    });
    let asked = || -> Result<_, NoAnswer> {
        let (stores, _): (StoresResponse, SchedulerPlace) = about.asker.ask(SchedulerQuestion::Stores)?;
        let (cluster, _): (ClusterResponse, SchedulerPlace) = about.asker.ask(SchedulerQuestion::Cluster)?;
        let (operators, place): (OperatorsResponse, SchedulerPlace) =
            about.asker.ask(SchedulerQuestion::Operators)?;
        Ok((stores.stores, cluster, operators.operators, place))
    };
    match asked() {
        Ok((stores, cluster, operators, place)) => {
            let standing = judge(&cluster, &stores);
            page["cluster"] = standing.json;
            page["cluster"]["words"] = standing.health.into();
            let (shown, left_out) = shape::stores(&stores);
            page["stores"] = shown.into();
            page["stores_left_out"] = left_out.into();
            let (shown, left_out) = shape::operators(&operators, about.keys);
            page["operators"] = shown.into();
            page["operators_left_out"] = left_out.into();
            page["scheduler"] = shape::place(&place);
        }
        Err(none) => page["scheduler"] = shape::silence(&none),
    }
    page
}

fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Draining => "draining",
    }
}

/// What is known of this node without asking any other.
fn this_node(about: &About) -> Value {
    let (reports, now) = (about.board.read(), about.movement.now());
    let (gone, refused) = (about.board.gone(), about.board.refused());
    let lately = about.recent.lock().unwrap_or_else(PoisonError::into_inner).lately();
    let (still, stalls) = (about.movement.still(), about.movement.stalls());
    let here = |store: &StoreNumbers| {
        let instead = match gone.contains(&store.store) {
            true => Some("was taken out of use".to_owned()),
            false => refused.as_ref().map(|why| format!("is not taken by the cluster: {why}")),
        };
        store_here(store, now, instead)
    };
    let core = |report: &CoreReport| {
        let still =
            still.iter().find(|(core, _)| *core == report.core).map(|(_, still)| still.as_millis() as u64);
        let stalls = stalls.iter().find(|(core, _)| *core == report.core).map(|(_, count)| *count);
        json!({
            "core": report.core, "stores": report.stores.iter().map(here).collect::<Vec<_>>(),
            "busy_percent": lately.busy.get(&report.core).map(|busy| (busy * 1000.0).round() / 10.0),
            "still_ms": still, "stalls": stalls,
            "connections": report.resp.open + report.grpc.connections as u64,
            "memory": report.memory.iter().map(|it| json!({ "pool": it.pool, "used_bytes": it.used_bytes, "max_bytes": it.max_bytes })).collect::<Vec<_>>(),
        })
    };
    json!({
        "cores": reports.iter().map(core).collect::<Vec<_>>(),
        "requests": requests(&lately),
    })
}

/// How a store of this node does.
/// `instead` is what keeps a store that is well from serving.
fn store_here(store: &StoreNumbers, now: Mono, instead: Option<String>) -> Value {
    let words = store.problem(now).or(instead).unwrap_or_else(|| "serves everything".to_owned());
    json!({
        "store": store.store, "state": store.health.standing.name(), "words": words, "note": store.health.note(),
        "regions": store.groups.regions, "leaders": store.groups.leaders, "asleep": store.groups.asleep,
        "disk_free_bytes": store.disk_free_bytes,
    })
}

/// The stages of a proposal, in order, with what ends each.
const STAGES: [(&str, &str); 4] = [
    ("queue", "until it is proposed"),
    ("log", "until it is durable on this node"),
    ("replicate", "until a majority has it"),
    ("apply", "until it is applied"),
];

/// The kinds of commands of the Redis protocol.
const KINDS: [&str; 4] = ["read", "write", "walk", "control"];

/// Where requests spent their time.
fn requests(lately: &Lately) -> Value {
    let seconds = lately.over.as_secs_f64();
    let of = |wanted: &dyn Fn(&What) -> bool| {
        let mut sum = HistogramNumbers::default();
        lately.times.iter().filter(|(what, _)| wanted(what)).for_each(|(_, times)| sum.add(times));
        times(&sum, seconds)
    };
    let stage = |(name, means): &(&str, &str)| {
        let mut row = of(&|what| matches!(what, What::Stage(_, stage) if stage == name));
        (row["stage"], row["means"]) = ((*name).into(), (*means).into());
        row
    };
    let kind = |kind: &&str| {
        let mut row = of(&|what| matches!(what, What::Commands(name) if name == kind));
        row["kind"] = (**kind).into();
        row
    };
    json!({
        "seconds": seconds.round(),
        "stages": STAGES.iter().map(stage).collect::<Vec<_>>(), "commands": KINDS.iter().map(kind).collect::<Vec<_>>(),
    })
}

fn times(times: &HistogramNumbers, seconds: f64) -> Value {
    let micros = |part: f64| (times.count() > 0).then(|| times.quantile(part).as_nanos() as f64 / 1000.0);
    json!({
        "count": times.count(), "per_second": if seconds > 0.0 { times.count() as f64 / seconds } else { 0.0 },
        "p50_us": micros(0.5), "p99_us": micros(0.99), "slowest_us": micros(1.0),
    })
}

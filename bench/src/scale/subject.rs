//! The node that is measured: how it is started and loaded, and what it and its scheduler say of stores and regions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::host::affinity;

use crate::Failed;
use crate::backlog::{page, samples};
use crate::client::Protocol;
use crate::clock::{now, pause};
use crate::load::{self, Phases, RunHandle, Stop};
use crate::process::{Cluster, Node, NodeOptions};
use crate::report::LoadReport;
use crate::workload::{KEY_BYTES_MIN, Mix, Spread, Workload};

/// Sizes are estimated every ten seconds: what has not moved for longer than that is at rest.
const REST: Duration = Duration::from_secs(12);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a drain may take.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// A node on its own.
pub(super) struct Subject {
    pub(super) cluster: Cluster,
    stop: Arc<AtomicBool>,
}

/// What a store holds, and what it has served since its start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) regions: u64,
    pub(super) bytes: u64,
    pub(super) table_bytes: u64,
    pub(super) requests: u64,
}

/// How the node stands at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Standing {
    pub(super) stores: BTreeMap<u64, Held>,
    /// Moves between its stores since its start.
    pub(super) moves: u64,
}

impl Standing {
    pub(super) fn regions(&self) -> u64 {
        self.stores.values().map(|held| held.regions).sum()
    }
}

impl Subject {
    /// Starts a node of this many stores, each on a CPU of its own, in a directory of that name. What the caller asks for comes after
    /// `settings` and wins.
    ///
    /// # Errors
    /// There are fewer CPUs, or the node does not start.
    pub(super) fn start(
        base: &NodeOptions,
        name: &str,
        stores: usize,
        settings: &[&str],
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, Failed> {
        let allowed = affinity()?;
        let cpus: Vec<String> = allowed.iter().take(stores).map(ToString::to_string).collect();
        if cpus.len() < stores {
            return Err(Failed::new(format!(
                "{stores} stores take {stores} CPUs, and this process may use {}: give it more, or run it elsewhere",
                cpus.len()
            )));
        }
        let mut options = base.clone();
        options.data_dir = base.data_dir.with_file_name(name);
        options.log = base.log.as_ref().map(|log| log.with_file_name(format!("{name}.log")));
        // A signal that ends this process is not for the node, which is ended in order.
        options.own_group = true;
        let own = [format!("cores={stores}"), format!("cpus={}", cpus.join(","))];
        let all = own.into_iter().chain(settings.iter().map(|setting| (*setting).to_owned()));
        options.arguments = all.flat_map(|pair| ["--set".to_owned(), pair]).collect();
        options.arguments.extend(base.arguments.iter().cloned());
        Ok(Self { cluster: Cluster::start(&options, 1)?, stop: stop.clone() })
    }

    fn node(&self) -> Result<&Node, Failed> {
        self.cluster.nodes.iter().flatten().next().ok_or_else(|| Failed::new("the node does not run"))
    }

    /// The load of this workload on all records.
    pub(super) fn load(
        &self,
        records: u64,
        value_bytes: usize,
        (connections, pipeline): (usize, usize),
        mix: Mix,
        stop: Stop,
    ) -> load::Options {
        let node = self.cluster.nodes.iter().flatten().next();
        load::Options {
            protocol: Protocol::Resp,
            addr: node.map_or(([127, 0, 0, 1], 0).into(), |node| node.resp),
            password: None,
            workload: Workload {
                mix,
                spread: Spread::Uniform,
                records,
                key_bytes: KEY_BYTES_MIN,
                value_bytes,
                scan_records_max: 1,
            },
            connections,
            pipeline,
            rate: None,
            stop,
            seed: 1,
            server_pids: self.cluster.pids(),
            progress: true,
        }
    }

    /// Whether this process was asked to end.
    ///
    /// # Errors
    /// It was.
    pub(super) fn go_on(&self) -> Result<(), Failed> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Failed::new("stopped by a signal before there was a result")),
            false => Ok(()),
        }
    }

    /// What the node and its scheduler say.
    ///
    /// # Errors
    /// One of them does not answer.
    pub(super) fn standing(&self) -> Result<Standing, Failed> {
        let page = page(self.node()?.status)?;
        let mut standing = Standing { moves: moves(&page), ..Standing::default() };
        let label = |labels: &str| -> Option<u64> {
            labels.split("store=\"").nth(1)?.split('"').next()?.parse().ok()
        };
        let mut add = |name: &str, into: fn(&mut Held) -> &mut u64| {
            for (labels, value) in samples(&page, name) {
                if let Some(store) = label(labels) {
                    *into(standing.stores.entry(store).or_default()) += value as u64;
                }
            }
        };
        add("ringkeep_lsm_table_bytes", |held| &mut held.table_bytes);
        add("ringkeep_store_reads_total", |held| &mut held.requests);
        add("ringkeep_store_write_seconds_count", |held| &mut held.requests);
        for region in self.cluster.region_states()? {
            let Some(leader) = region.leader else { continue };
            let held = standing.stores.entry(leader.store_id).or_default();
            held.regions += 1;
            held.bytes += region.size_bytes;
        }
        Ok(standing)
    }

    /// A number of the node, over all of its stores.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn number(&self, name: &str) -> Result<u64, Failed> {
        let page = page(self.node()?.status)?;
        Ok(samples(&page, name).map(|(_, value)| value as u64).sum())
    }

    /// Waits until no region was cut or moved for a while; how long that took, without that while, or nothing if it took too long.
    ///
    /// # Errors
    /// The node does not answer, or this process is asked to end.
    pub(super) fn settle(&self, most: Duration) -> Result<Option<Duration>, Failed> {
        let (began, mut still, mut before) = (now(), now(), Vec::new());
        while began.elapsed() < most {
            self.go_on()?;
            let seen: Vec<_> =
                self.cluster.region_states()?.into_iter().filter_map(|state| state.region).collect();
            if seen != before || self.cluster.operators()? > 0 {
                (before, still) = (seen, now());
            }
            if still.elapsed() > REST {
                return Ok(Some(still.duration_since(began)));
            }
            pause(LOOK_EVERY);
        }
        Ok(None)
    }

    /// Drains it.
    ///
    /// # Errors
    /// It does not end, or ends with an error.
    pub(super) fn end(self) -> Result<(), Failed> {
        self.cluster.terminate(DRAIN_MAX)
    }
}

/// Operators by load or size that have moved a region to a sibling.
fn moves(page: &str) -> u64 {
    let is_move = |labels: &str| labels.contains("policy=\"balance-core\"") && labels.contains("success");
    let ended = samples(page, "ringkeep_scheduler_operators_total");
    ended.filter(|(labels, _)| is_move(labels)).map(|(_, value)| value as u64).sum()
}

/// Runs one phase.
///
/// # Errors
/// A connection is lost, or this process is asked to end.
pub(super) fn run_load(
    subject: &Subject,
    options: &load::Options,
    phases: Phases,
) -> Result<LoadReport, Failed> {
    let handle = RunHandle { halt: subject.stop.clone(), ..RunHandle::default() };
    let reports = load::run_with(options, phases, &handle)?;
    subject.go_on()?;
    reports.into_iter().next().ok_or_else(|| Failed::new("a phase has no report"))
}

//! `ringkeep server`: one durable node, from its settings to its drain.
//!
//! Order: settings, host check, status server (so that `/started` can say "not yet"), node, banner, wait for a signal,
//! drain. What goes wrong before the node serves is one sentence on standard error and an exit code.

mod check;
mod texts;
mod view;

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use clap::Args;
use engine::host::{Level, affinity, can_pin, plan_cpus};
use rustix::fs::Mode;
use store::config::Config;
use store::node::listen::CannotListen;
use store::node::{Node, Setup};
use store::wire::admin::{Admin, Pages, Phase, SharedPhase};

use self::view::View;
use crate::logging::Logging;
use crate::output::{EXIT_CONFIG, answer, fail};
use crate::settings::{SettingArguments, Settings};
use crate::{console, doctor, host, logging, memory, signals};

/// How often the cores' numbers are taken over for the metrics page.
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `ringkeep server`.
#[derive(Debug, Args)]
pub(crate) struct ServerArguments {
    #[command(flatten)]
    settings: SettingArguments,
    /// Join the cluster of these members (their PD ports), if the data directory is empty; a restart needs no --join
    #[arg(long, value_name = "ADDR[,ADDR]", value_delimiter = ',')]
    join: Vec<String>,
    /// Print every setting with its origin, check the directory and the ports, and exit
    #[arg(long)]
    check: bool,
    /// Print what every setting means, with its default, and exit
    #[arg(long = "settings")]
    meanings: bool,
}

/// Runs `ringkeep server`.
pub(crate) fn run(arguments: &ServerArguments) -> ExitCode {
    if arguments.meanings {
        answer(&texts::meanings());
        return ExitCode::SUCCESS;
    }
    let settings = match Settings::gather(&arguments.settings, host::machine()) {
        Ok(settings) => settings,
        Err(why) => return fail(&why, EXIT_CONFIG),
    };
    if arguments.check {
        return check::check(&settings, &arguments.join);
    }
    if let Err(error) = engine::host::ignore_signals_of_writes() {
        return fail(&format!("signals: {error}"), 1);
    }
    // Whatever this process makes is for its user alone.
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
    let logging = match logging::start(&settings.config.logging) {
        Ok(logging) => logging,
        Err(why) => return fail(&why, EXIT_CONFIG),
    };
    for remark in &settings.remarks {
        tracing::warn!("{remark}");
    }
    host::raise_open_files();
    if let Err(error) = memory::keep_freed_up_to(settings.limits.core_bytes * settings.limits.cores as u64) {
        return fail(&format!("the memory thread: {error}"), 1);
    }
    if let Some(obstacle) = doctor::obstacle(&settings.config.data_dir, doctor::SERVE) {
        // A disk may be mounted later, so a supervisor tries that again.
        return fail(&obstacle.finding, if obstacle.passes { 1 } else { EXIT_CONFIG });
    }
    if let Err(failures) = host_allows(&settings) {
        return fail(&failures, EXIT_CONFIG);
    }
    let members = match members(&arguments.join) {
        Ok(members) => members,
        Err(why) => return fail(&why, EXIT_CONFIG),
    };
    match serve(&settings, members, &logging) {
        Ok(code) => code,
        Err(why) => fail(&why, 1),
    }
}

/// The addresses of `--join`, names looked up.
fn members(join: &[String]) -> Result<Vec<SocketAddr>, String> {
    let mut members = Vec::new();
    for place in join {
        let found = place.to_socket_addrs().map_err(|error| {
            format!("--join {place}: {error}: write HOST:PORT, with the base_port of a member, such as 10.0.0.1:20160")
        })?;
        members.extend(found);
    }
    Ok(members)
}

/// What keeps this host from running a core, one sentence each.
fn host_allows(settings: &Settings) -> Result<(), String> {
    let findings = doctor::needed(&settings.config, &settings.limits);
    for finding in findings.iter().filter(|finding| finding.level == Level::Warning) {
        tracing::warn!(check = finding.subject, "{finding}");
    }
    let failures: Vec<String> =
        findings.iter().filter(|finding| finding.level == Level::Failure).map(ToString::to_string).collect();
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\nringkeep: ")) }
}

fn serve(settings: &Settings, join: Vec<SocketAddr>, logging: &Logging) -> Result<ExitCode, String> {
    let config = &settings.config;
    let (signal, signals) = mpsc::channel();
    let life = SharedPhase::new();
    signals::forward(signal, life.clone()).map_err(|error| format!("signals: {error}"))?;
    let view = Arc::new(OnceLock::new());
    let admin = start_admin(settings, &view, &life).map_err(|why| held_or(config, why))?;
    let cpus = choose_cpus(config, settings.limits.cores)?;
    let setup = Setup { config: config.clone(), limits: settings.limits, cpus, work: None, join };
    let node = Node::start_with(setup).map_err(|error| error.to_string())?;
    let seen = view.get_or_init(|| View::of(&node, settings, logging, &life));
    keep_publishing(seen.clone()).map_err(|error| format!("the metrics thread: {error}"))?;
    life.enter(Phase::Serving);
    let stores = seen.addresses.stores.len();
    if stores < settings.limits.cores {
        tracing::warn!(
            stores,
            cores = settings.limits.cores,
            "the directory has fewer stores than there are cores: the others hold no data"
        );
    }
    answer(&texts::banner(config, (seen.node_id, &seen.addresses), admin.addr(), &seen.conditions()));
    tracing::info!(resp = %seen.addresses.resp, stores = seen.addresses.stores.len(), "serving");
    // The sender lives as long as the signal thread, which is as long as the process.
    let asked = signals.recv().unwrap_or("the end of the signal thread");
    life.enter(Phase::Draining);
    node.announce_drain();
    if !config.drain_delay.is_zero() {
        tracing::info!(
            asked,
            delay_ms = config.drain_delay.as_millis() as u64,
            "not ready any more, still serving"
        );
        pause(config.drain_delay);
    }
    tracing::info!(asked, deadline_seconds = config.drain_deadline.as_secs(), "draining");
    node.drain(config.drain_deadline);
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Lets load balancers notice that the node is not ready. A second signal ends the process meanwhile.
#[expect(clippy::disallowed_methods, reason = "the main thread, which has nothing else to do, never a core")]
fn pause(delay: Duration) {
    std::thread::sleep(delay);
}

/// Why a port is taken: by the node that holds the directory, if there is one.
fn held_or(config: &Config, why: String) -> String {
    let held = doctor::held(&config.data_dir);
    held.map_or(why, |held| format!("{}: {}", held.cause, held.fix))
}

/// One CPU for each core, or none where the host forbids pinning, which has been said by then.
fn choose_cpus(config: &Config, cores: usize) -> Result<Vec<usize>, String> {
    let forbidden = can_pin();
    let Some(wanted) = &config.cpus else {
        let planned = plan_cpus(Some(cores)).map_err(|error| format!("the CPU mask: {error}"))?.cpus;
        return Ok(if forbidden.is_ok() { planned } else { Vec::new() });
    };
    forbidden
        .map_err(|error| format!("cpus is set, and this host forbids pinning threads ({error}): unset it"))?;
    let allowed = affinity().map_err(|error| format!("the CPU mask: {error}"))?;
    match wanted.iter().find(|cpu| !allowed.contains(cpu)) {
        Some(cpu) => Err(format!(
            "cpus names CPU {cpu}, which the CPU mask of this process leaves out: choose among {allowed:?}"
        )),
        None => Ok(wanted.iter().copied().take(cores).collect()),
    }
}

/// The pages of a node that may not have started yet.
fn start_admin(settings: &Settings, view: &Arc<OnceLock<View>>, life: &SharedPhase) -> Result<Admin, String> {
    let (metrics, status, conditions, api) = (view.clone(), view.clone(), view.clone(), view.clone());
    let pages = Pages {
        metrics: Box::new(move |out| {
            if let Some(view) = metrics.get() {
                view.publisher.render(out);
            }
        }),
        status: Box::new(move || status.get().map_or_else(|| "{\"starting\":true}\n".into(), View::status)),
        conditions: Box::new(move || conditions.get().map_or_else(Vec::new, View::conditions)),
        settings: settings.list(),
        files: console::FILES,
        api: Box::new(move |path, query| match api.get() {
            Some(view) => view.console.answer(path, query),
            None => console::refused((503, "the node is starting".to_owned())),
        }),
    };
    let addr = settings.config.status_addr();
    Admin::start(addr, life.clone(), pages).map_err(|error| {
        CannotListen { what: "status", addr, port_key: "status_port", error: &error }.to_string()
    })
}

#[expect(clippy::disallowed_methods, reason = "a plain thread that sleeps between two copies, never a core")]
fn keep_publishing(view: View) -> std::io::Result<()> {
    std::thread::Builder::new().name("rk-metrics".into()).spawn(move || {
        loop {
            std::thread::sleep(PUBLISH_EVERY);
            view.publish();
        }
    })?;
    Ok(())
}

//! `ringkeep demo`: a cluster of several nodes on this machine, to play with.
//!
//! It owns the nodes' processes and their directory: both are gone when it ends, unless the directory was to be kept. A node that
//! ends meanwhile is started again after a moment, so that killing one shows what a cluster does. Nothing here listens beyond
//! loopback, and nothing is fetched.
//!
//! A demo that was killed leaves its directory behind, and the next one removes it. A demo holds the lock of its directory as long as it
//! lives, so a lock that can be had says that its owner is gone; a process id would say nothing where several containers share the place.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::Failed;
use bench::clock::{now, pause};
use bench::process::{Cluster, NodeOptions, Ports};
use clap::Args;
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use signal_hook::iterator::Signals;

use crate::output::{answer, fail, remark};
use crate::signals;

/// How long a node that has ended stays down, so that there is time to look.
const DOWN: Duration = Duration::from_secs(10);
/// How often signals and nodes are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long the nodes may take to end.
const DRAIN_MAX: Duration = Duration::from_secs(40);
/// What the name of a temporary directory begins with; the process follows.
const PLACE: &str = "ringkeep-demo-";
/// The file in it that its demo holds.
const LOCK: &str = "demo.lock";
/// More than one machine shows anything with.
const NODES_MAX: u64 = 9;

/// Arguments of `ringkeep demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=NODES_MAX))]
    nodes: u64,
    /// New directory for the data, which stays; without it a temporary one that is removed at the end
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Further setting of each node, such as memory_bytes=1GiB; may be repeated
    #[arg(long = "node-set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs `ringkeep demo` until SIGINT, SIGTERM or SIGHUP.
pub(crate) fn run(arguments: &DemoArguments) -> ExitCode {
    match play(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => fail(&why, 1),
    }
}

fn play(arguments: &DemoArguments) -> Result<(), Failed> {
    // Before the first node starts, so that no signal leaves one behind.
    let mut ending = Signals::new(signals::that_end()?)?;
    remove_leftovers(&std::env::temp_dir());
    let place = Place::create(arguments.keep.as_deref())?;
    let began = now();
    let base = node_options(arguments, &place)?;
    let nodes = usize::try_from(arguments.nodes).expect("at most nine");
    let mut cluster = Cluster::start(&base, nodes)?;
    answer(&banner(&cluster, &place, &base.binary, began.elapsed()));
    // As `ringkeep ctl` names them, which a node does not say again when it has ended.
    let ids: Vec<u64> = cluster.nodes.iter().flatten().map(|node| node.id).collect();
    let mut down: Vec<(usize, Instant)> = Vec::new();
    while ending.pending().next().is_none() {
        while let Some((n, how)) = cluster.ended() {
            remark(&format!(
                "node {} has ended ({how}); it is started again in {} s",
                ids[n],
                DOWN.as_secs()
            ));
            down.push((n, now()));
        }
        down.retain(|(n, since)| since.elapsed() < DOWN || !start_again(&mut cluster, *n, ids[*n]));
        pause(LOOK_EVERY);
    }
    remark("ending the nodes");
    cluster.terminate(DRAIN_MAX)
}

/// Whether the node runs again; it is tried once more otherwise.
fn start_again(cluster: &mut Cluster, n: usize, id: u64) -> bool {
    match cluster.restart(n) {
        Ok(node) => {
            remark(&format!("node {id} is back as process {}", node.process.pid()));
            true
        }
        Err(why) => {
            remark(&format!("node {id} does not start: {why}"));
            false
        }
    }
}

fn node_options(arguments: &DemoArguments, place: &Place) -> Result<NodeOptions, Failed> {
    Ok(NodeOptions {
        binary: std::env::current_exe()?,
        data_dir: place.path.join("node"),
        arguments: arguments.set.iter().flat_map(|pair| ["--set".to_owned(), pair.clone()]).collect(),
        environment: Vec::new(),
        ports: Ports::default(),
        log: Some(place.path.join("node.log")),
        own_group: true,
    })
}

/// What is there, and what to try.
fn banner(cluster: &Cluster, place: &Place, binary: &Path, took: Duration) -> String {
    let what = match place.kept {
        true => "kept",
        false => "removed at the end; --keep DIR keeps it",
    };
    let count = cluster.nodes.len();
    let mut text = format!(
        "A cluster of {count} nodes on this machine, ready in {:.1} s.\nData and logs: {} ({what})\n\n",
        took.as_secs_f64(),
        place.path.display()
    );
    text.push_str("node  RESP             PD, stores from   status           process\n");
    let nodes: Vec<_> = cluster.nodes.iter().flatten().collect();
    for node in &nodes {
        text.push_str(&format!(
            "{:<4}  {:<15}  {:<16}  {:<15}  {}\n",
            node.id,
            node.resp.to_string(),
            node.pd.to_string(),
            node.status.to_string(),
            node.process.pid()
        ));
    }
    if let (Some(first), Some(last)) = (nodes.first(), nodes.last()) {
        text.push_str(&format!(
            "\nConsole: http://{}/console (any node's shows the whole cluster)\n\nTry:\n\
             \x20 redis-cli -p {} set greeting hello\n\
             \x20 redis-cli -p {} get greeting\n\
             \x20 a TiKV client in raw mode with the PD endpoint {}\n\
             \x20 {} ctl --pd {} regions    and `stores`; `ctl --help` lists more\n\
             \x20 curl http://{}/metrics\n\
             \x20 kill -9 {}    it leads at first; another node takes over, and it is started again after {} s\n\
             Ctrl-C ends the nodes.\n",
            first.status,
            first.resp.port(),
            last.resp.port(),
            first.pd,
            // As it was started: after `cargo run` no ringkeep is on the path.
            binary.display(),
            last.pd,
            last.status,
            first.process.pid(),
            DOWN.as_secs()
        ));
    }
    text
}

/// Removes the temporary directories of demos that were killed. What cannot be looked at or removed is said, and no obstacle.
fn remove_leftovers(parent: &Path) {
    // A directory that cannot be listed cannot be written to either, which is said in a moment.
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_ours = entry.metadata().is_ok_and(|it| it.is_dir() && it.uid() == geteuid().as_raw());
        if !is_ours || !entry.file_name().to_string_lossy().starts_with(PLACE) {
            continue;
        }
        // One without a lock has just been made, or is none of a demo.
        let Ok(lock) = File::open(path.join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        match std::fs::remove_dir_all(&path) {
            Ok(()) => {
                remark(&format!("{} was left by a demo that was killed; it is removed", path.display()))
            }
            Err(error) => {
                remark(&format!("{} was left by a demo that was killed: {error}: remove it", path.display()))
            }
        }
    }
}

/// The directory of a demo. Dropping it removes it, unless it is kept.
struct Place {
    path: PathBuf,
    kept: bool,
    /// Held as long as the demo lives.
    _lock: Option<File>,
}

impl Place {
    fn create(keep: Option<&Path>) -> Result<Self, Failed> {
        let path = match keep {
            Some(path) => std::path::absolute(path)?,
            None => std::env::temp_dir().join(format!("{PLACE}{}", std::process::id())),
        };
        let parents = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        parents.and_then(|()| std::fs::create_dir(&path)).map_err(|error| {
            Failed::new(format!(
                "{}: {error}: name a directory that does not exist with --keep",
                path.display()
            ))
        })?;
        let lock = match keep {
            Some(_) => None,
            None => Some(lock(&path.join(LOCK))?),
        };
        Ok(Self { path, kept: keep.is_some(), _lock: lock })
    }
}

fn lock(path: &Path) -> Result<File, Failed> {
    let file = File::create(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| Failed::new(format!("{}: {error}: start the demo again", path.display())))?;
    Ok(file)
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            remark(&format!("{}: {error}: remove it", self.path.display()));
        }
    }
}

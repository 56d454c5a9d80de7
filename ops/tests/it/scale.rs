//! `ringkeep bench scale`, as small as it can be: it measures, says what it found, and leaves nothing behind, also when it is interrupted.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use bench::clock::{now, pause};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::host::{binary, directory};

/// Longer than anything takes that is waited for here.
const WAIT_MAX: Duration = Duration::from_secs(120);

fn begin(dir: &Path, further: &[&str]) -> Child {
    let small =
        ["--node-set", "memory_bytes=1GiB", "--node-set", "log.segment_bytes=4MiB", "--output", "json"];
    let mut command = Command::new(binary());
    command.args(["bench", "scale", "--connections", "4", "--dir"]).arg(dir).args(small).args(further);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs")
}

fn measured(further: &[&str]) -> (Value, Output) {
    let directory = directory();
    let output = begin(directory.path(), further).wait_with_output().expect("it ends");
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("a directory").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    let page = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (page, output)
}

#[test]
fn a_split_and_a_move_under_load_are_measured() {
    for (change, linked) in [("--split", false), ("--relocate", true)] {
        let (page, output) = measured(&[change, "--mib", "4", "--times", "2"]);
        assert!(output.status.success(), "{page}");
        assert_eq!(page["gaps_ms"].as_array().map(Vec::len), Some(2), "{page}");
        let above = |name: &str| page[name].as_f64().expect("a number") > 0.0;
        assert!(above("operations") && above("took_seconds"), "{page}");
        assert_eq!(above("linked_bytes"), linked, "{page}");
        assert_eq!((page["errors"].as_u64(), page["snapshot_bytes"].as_u64()), (Some(0), Some(0)), "{page}");
    }
}

#[test]
fn what_stays_on_one_store_is_said_and_is_a_failure() {
    let short = ["--records", "500", "--rounds", "1", "--seconds", "1", "--settle-seconds", "1"];
    let (page, output) = measured(&short);
    assert_eq!(output.status.code(), Some(1), "{page}");
    let stores = page["stores"].as_array().expect("a list");
    assert_eq!(stores.len(), 2, "{page}");
    let requests = |store: &Value| store["requests_percent"].as_f64().expect("a number");
    assert!(stores.iter().any(|store| requests(store) == 100.0), "half a megabyte is one region's: {page}");
    assert_eq!((page["errors"].as_u64(), page["settled"].as_bool()), (Some(0), Some(false)), "{page}");
    assert_eq!(page["workloads"].as_array().map(Vec::len), Some(2), "{page}");
}

#[test]
fn an_interrupt_ends_it_and_what_it_has_started() {
    let directory = directory();
    let child = begin(directory.path(), &["--records", "100000000"]);
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a process id");
    let began = now();
    let is_loading = || {
        let own = directory.path().join(format!("ringkeep-bench-{}", child.id()));
        own.join("two-1").join("IDENT").exists()
    };
    while !is_loading() {
        assert!(began.elapsed() < WAIT_MAX, "it does not begin");
        pause(Duration::from_millis(20));
    }
    pause(Duration::from_millis(500));
    kill_process(pid, Signal::INT).expect("it runs");
    let output = child.wait_with_output().expect("it ends");
    assert!(began.elapsed() < WAIT_MAX, "{output:?}");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("stopped by a signal"), "{output:?}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("a directory").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

//! `ringkeep bench regions`, as small as it can be: one node and three grow, and every number of a row is there.

use std::process::Command;

use serde_json::Value;

use crate::host::{binary, directory};

fn measured(members: usize, counts: &str) -> Value {
    let directory = directory();
    let members = members.to_string();
    let mut command = Command::new(binary());
    command.args([
        "bench",
        "regions",
        "--members",
        &members,
        "--counts",
        counts,
        "--seconds",
        "1",
        "--settle-seconds",
        "1",
    ]);
    let small =
        ["--node-set", "memory_bytes=1GiB", "--node-set", "log.segment_bytes=4MiB", "--output", "json"];
    let output = command.args(small).arg("--dir").arg(directory.path()).output().expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    let left: Vec<_> = std::fs::read_dir(directory.path()).expect("a directory").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_growing_number_of_regions_is_measured() {
    for (members, counts, expected) in [(1, "150,600", [150, 600]), (3, "120,200", [120, 200])] {
        let page = measured(members, counts);
        let rows = page["rows"].as_array().expect("a list");
        let regions: Vec<u64> = rows.iter().filter_map(|row| row["regions"].as_u64()).collect();
        assert_eq!(regions, expected, "{page}");
        for row in rows {
            let above = |name: &str| row[name].as_f64().is_some_and(|number| number > 0.0);
            let times = ["start_after_drain_ms", "start_after_kill_ms", "whole_after_ms"];
            let writes = ["first_write_ms", "next_write_ms"];
            assert!(times.into_iter().chain(writes).all(above), "{page}");
            let nodes = |name: &str| row[name].as_array().map(Vec::len);
            assert_eq!(
                (nodes("cpu_percent"), nodes("resident_mib")),
                (Some(members), Some(members)),
                "{page}"
            );
        }
        let per_replica: Vec<_> =
            rows.iter().map(|row| row["bytes_per_replica"].as_array().map(Vec::len)).collect();
        assert_eq!(per_replica, [Some(0), Some(members)], "{page}");
    }
}

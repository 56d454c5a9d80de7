//! Code that touches no world: it gets time, files and randomness as arguments or not at all, so that it can be played on paper.

use std::collections::BTreeSet;

use crate::code::{Code, paths, production, with};
use crate::tidy::assert_none;

/// What has no world around it.
const PURE: [&str; 3] = ["raft/src", "scheduler/src", "store/src/region"];

/// The parts of the standard library that lead out of it.
const WORLDS: [&str; 8] = [
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::sync::mpsc",
];

/// Words that wait for something or read a clock, wherever they come from.
const WAITS: [&str; 4] = ["Instant", "SystemTime", "async", "await"];

/// The parts of the engine that are plain data.
const ENGINE_DATA: [&str; 4] =
    ["engine::lsm::BatchOp", "engine::lsm::Cf", "engine::lsm::Mark", "engine::lsm::WriteBatch"];

fn touches_of_the_world(code: &[Code]) -> Vec<String> {
    let mut found = Vec::new();
    for file in code.iter().filter(|file| file.is_in(&PURE)) {
        let mut touched = BTreeSet::new();
        for path in paths(&file.text) {
            let is = |known: &&str| path == **known || path.starts_with(&format!("{known}::"));
            let foreign = ["tokio::", "rustix::", "libc::"].iter().any(|it| path.starts_with(it));
            let engine = path.starts_with("engine::") && !ENGINE_DATA.iter().any(is);
            if engine || foreign || WORLDS.iter().any(is) {
                touched.insert(path);
            }
        }
        touched.extend(file.words().filter(|word| WAITS.contains(word)).map(str::to_owned));
        found.extend(touched.into_iter().map(|what| format!("{}: {what}", file.path.display())));
    }
    found
}

#[test]
fn pure_code_touches_no_world() {
    let rule =
        "raft, scheduler and store/src/region get time, files and randomness as arguments or not at all";
    assert_none(&touches_of_the_world(&production()), rule);
}

#[test]
fn a_touch_of_the_world_is_seen() {
    for (path, added) in [
        ("store/src/region/reads.rs", "use engine::rt::Rt;"),
        ("store/src/region/reads.rs", "use engine::{lsm::{Cf, Tree}};"),
        ("store/src/region/reads.rs", "use std::{collections::BTreeMap, time::{Duration, Instant}};"),
        ("store/src/region/reads.rs", "async fn wait() {}"),
        ("raft/src/step.rs", "fn f() { std\n    ::fs::read(path); }"),
        ("raft/src/step.rs", "use std::{net::{self, TcpStream}, fmt};"),
        ("scheduler/src/tso.rs", "use std::time; fn f() { time::SystemTime::now(); }"),
        ("scheduler/src/tso.rs", "use std::thread as workers;"),
    ] {
        assert!(!touches_of_the_world(&with(path, added)).is_empty(), "{path} goes unnoticed with: {added}");
    }
    let harmless = "use std::{fmt, time::Duration}; use engine::lsm::{Cf, WriteBatch}; fn f<'a>(c: char) -> bool { c == '\"' } // std::fs";
    assert_eq!(touches_of_the_world(&with("store/src/region/reads.rs", harmless)), Vec::<String>::new());
}

//! Code that touches no world: it gets time, files and randomness as arguments or not at all, so that it can be played on paper. And code
//! that touches it through the seam alone, so that a simulated world can stand in: there, nothing but `engine::rt` opens a file or a socket,
//! starts a thread or draws a random number.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

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

/// Words that draw a random number.
const DRAWS: [&str; 4] = ["RandomState", "SeedableRandomState", "getrandom", "rand"];

/// What runs on a core and has its world from `engine::rt` alone.
const THROUGH_THE_SEAM: [&str; 3] = ["store/src", "engine/src/log", "engine/src/lsm"];

/// What of those parts of the library, and of crates that lead to the kernel, is plain data or a trait of bytes.
const DATA: [&str; 14] = [
    "std::io",
    "std::io::Error",
    "std::io::ErrorKind",
    "std::io::Read",
    "std::io::Result",
    "std::io::Write",
    "std::io::self",
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::SocketAddr",
    "std::os::unix::ffi::OsStrExt",
    "tokio::io::AsyncRead",
    "tokio::io::AsyncWrite",
    "tokio::io::ReadBuf",
];

/// A file that goes past the seam, with what it uses there, and why it may.
struct Exempt {
    path: &'static str,
    uses: &'static [&'static str],
    why: &'static str,
}

const EXEMPT: [Exempt; 8] = [
    Exempt {
        path: "store/src/node/mod.rs",
        uses: &["std::sync::mpsc"],
        why: "the thread of `main` waits until the node serves; it is no core",
    },
    Exempt {
        path: "store/src/process.rs",
        uses: &["std::fs"],
        why: "what the kernel says of the process, for the thread of the metrics page",
    },
    Exempt {
        path: "store/src/publish/process.rs",
        uses: &["std::fs"],
        why: "the same of its memory and its group",
    },
    Exempt {
        path: "store/src/wire/admin/mod.rs",
        uses: &["std::net", "std::thread"],
        why: "the status port answers on threads of its own, so that it answers for a core that does not",
    },
    Exempt {
        path: "store/src/wire/admin/connections.rs",
        uses: &["std::fs", "std::net"],
        why: "the connections of the status port, and the descriptor that it keeps in reserve",
    },
    Exempt {
        path: "store/src/wire/pd/ask.rs",
        uses: &["std::sync::mpsc"],
        why: "a thread of the status port waits for what the root core answers, which never waits for the thread",
    },
    Exempt {
        path: "store/src/wire/resp/settings.rs",
        uses: &["std::process::id"],
        why: "INFO names the process",
    },
    Exempt {
        path: "engine/src/log/measure.rs",
        uses: &["std::thread::available_parallelism", "std::thread::scope"],
        why: "the fastest way to sync is measured before a core runs",
    },
];

/// The parts of the engine that are plain data.
const ENGINE_DATA: [&str; 7] = [
    "engine::lsm::BatchOp",
    "engine::lsm::Cf",
    "engine::lsm::Mark",
    "engine::lsm::TimedValue",
    "engine::lsm::UNTIL_BYTES",
    "engine::lsm::Until",
    "engine::lsm::WriteBatch",
];

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

fn lies_in(path: &str, known: &str) -> bool {
    path == known || path.strip_prefix(known).is_some_and(|rest| rest.starts_with("::"))
}

/// What code on a core uses past the seam.
fn ways_past_the_seam(code: &[Code]) -> Vec<String> {
    let mut found = Vec::new();
    let mut used = BTreeSet::new();
    for file in code.iter().filter(|file| file.is_in(&THROUGH_THE_SEAM)) {
        let exempt = EXEMPT.iter().find(|exempt| file.path == Path::new(exempt.path));
        for path in paths(&file.text).into_iter().filter(|path| leads_out(path)) {
            let allowed = exempt.and_then(|it| it.uses.iter().find(|known| lies_in(&path, known)));
            match allowed {
                Some(known) => _ = used.insert((file.path.clone(), *known)),
                None => found.push(format!("{}: {path}", file.path.display())),
            }
        }
    }
    for Exempt { path, uses, why } in &EXEMPT {
        let idle = uses.iter().filter(|known| !used.contains(&(PathBuf::from(path), **known)));
        found.extend(idle.map(|known| format!("{path} does not use {known} any more ({why})")));
    }
    found
}

/// Whether a path leads to the kernel past `engine::rt`.
fn leads_out(path: &str) -> bool {
    // The runtime below the seam has a rule of its own.
    let crates = ["io_uring", "libc", "memmap2", "rustix", "socket2", "tokio"];
    let head = path.split("::").next().unwrap_or_default();
    // What is imported by the name of its module is seen where it is used.
    let data = DATA.iter().any(|known| {
        path == *known || known.rsplit("::").next().is_some_and(is_type) && lies_in(path, known)
    });
    let named = ["fs", "net", "thread"].contains(&head) || path == "process::Command";
    !data && (crates.contains(&head) || named || WORLDS.iter().any(|world| lies_in(path, world)))
}

fn is_type(name: &str) -> bool {
    name.starts_with(char::is_uppercase)
}

/// Where code on a core, or code without a world, draws a random number: also by a hash table with the library's own state.
fn draws(code: &[Code]) -> Vec<String> {
    let mut found = Vec::new();
    for file in code.iter().filter(|file| file.is_in(&THROUGH_THE_SEAM) || file.is_in(&PURE)) {
        let words = file.words().filter(|word| DRAWS.contains(word));
        found.extend(words.map(|word| format!("{}: {word}", file.path.display())));
        for (table, types) in [("HashMap", 3), ("HashSet", 2)] {
            for (at, _) in file.text.match_indices(table) {
                let rest = &file.text[at + table.len()..];
                let own = ["::new(", "::with_capacity(", "::from("].iter().any(|how| rest.starts_with(how));
                let generics = rest.strip_prefix("::<").or_else(|| rest.strip_prefix('<'));
                if own || generics.is_some_and(|inside| parameters(inside) < types) {
                    found.push(format!("{}: {table} has a random state", file.path.display()));
                }
            }
        }
    }
    found
}

/// How many parameters there are up to the end of the brackets.
fn parameters(inside: &str) -> usize {
    let (mut depth, mut count) = (1, 1);
    for c in inside.chars() {
        match c {
            '<' | '(' | '[' => depth += 1,
            '>' | ')' | ']' => depth -= 1,
            ',' if depth == 1 => count += 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    count
}

#[test]
fn cores_reach_the_world_through_the_seam() {
    let rule = "on a core, nothing outside engine::rt opens a file or a socket or starts a thread; what has to is listed with its reason";
    assert_none(&ways_past_the_seam(&production()), rule);
}

#[test]
fn only_the_seam_draws_random_numbers() {
    let rule = "a random number comes from engine::rt; a map has an order, or a state without a draw";
    assert_none(&draws(&production()), rule);
}

#[test]
fn a_way_past_the_seam_is_seen() {
    for (path, added) in [
        ("store/src/wire/pd/mod.rs", "fn f() { std::fs::read(path); }"),
        ("store/src/wire/pd/mod.rs", "use std::{fs::File, fmt};"),
        ("store/src/shard/read.rs", "fn f() { std::thread::spawn(|| {}); }"),
        ("store/src/shard/read.rs", "fn f() { std::net::TcpStream::connect(address); }"),
        ("store/src/shard/read.rs", "use std::net; fn f() { net::TcpStream::connect(address); }"),
        ("store/src/shard/read.rs", "use std::net::*;"),
        ("store/src/process.rs", "use std::net::UdpSocket;"),
        ("store/src/process.rs", "fn f() { std::env::var(name); }"),
        ("engine/src/log/segment.rs", "use std::os::fd::AsRawFd;"),
        ("engine/src/lsm/open.rs", "fn f() { rustix::fs::fsync(file); }"),
        ("store/src/wire/grpc/io.rs", "use tokio::{io::AsyncRead, net::TcpStream};"),
    ] {
        let seen = ways_past_the_seam(&with(path, added));
        assert!(!seen.is_empty(), "{path} goes unnoticed with: {added}");
    }
    for (path, added) in [
        ("store/src/region/reads.rs", "struct X { map: HashMap<u64, Y, foldhash::fast::RandomState> }"),
        ("store/src/region/reads.rs", "struct X(HashMap<(u64, u64), Vec<(Y, Z)>>);"),
        ("store/src/node/report.rs", "fn f() { let seen = std::collections::HashSet::new(); }"),
        ("scheduler/src/tso.rs", "type X = HashSet<u64>;"),
        ("engine/src/lsm/open.rs", "fn f() { let map = it.collect::<HashMap<_, _>>(); }"),
    ] {
        assert!(!draws(&with(path, added)).is_empty(), "{path} goes unnoticed with: {added}");
    }
    let harmless = "use std::{io, net::SocketAddr}; fn f() -> io::Result<()> { it.collect::<HashMap<_, (X, Y), FixedState>>() }";
    let code = with("store/src/shard/read.rs", harmless);
    assert_eq!((ways_past_the_seam(&code), draws(&code)), (Vec::new(), Vec::new()));
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

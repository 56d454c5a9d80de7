//! What exists once, and where: the owners of state, the ways in, the start of a core. Each rule is shown a second owner here, too, and
//! has to see it.

use std::path::Path;

use crate::code::{Code, is_word, paths, production, with};
use crate::tidy::{assert_none, root};

/// Something that is written in these files and nowhere else, as often as a file is named.
struct Once {
    what: &'static str,
    pattern: &'static str,
    /// Where it is looked for.
    within: &'static [&'static str],
    places: &'static [&'static str],
}

/// Everything that runs the store.
const STORE: &[&str] = &["store/src", "bench/src/sim", "ops/src"];

const ONCE: [Once; 18] = [
    Once {
        what: "what a core has ready is taken",
        pattern: ".ready()",
        within: STORE,
        places: &["store/src/region/effects.rs"],
    },
    Once {
        what: "what a core has ready is taken by path",
        pattern: "Raft::ready",
        within: STORE,
        places: &[],
    },
    Once {
        what: "a core is made",
        pattern: "Raft::new(",
        within: STORE,
        places: &["store/src/region/replica.rs"],
    },
    Once {
        what: "a replica is made",
        pattern: "Replica::new(",
        within: STORE,
        places: &["store/src/shard/inbox.rs", "store/src/shard/open.rs", "store/src/shard/splitting.rs"],
    },
    Once {
        what: "a region comes into a table",
        pattern: "table.insert(",
        within: STORE,
        places: &["store/src/shard/inbox.rs", "store/src/shard/open.rs"],
    },
    Once {
        what: "a region comes into the map of a table",
        pattern: "regions.insert(",
        within: &["store/src"],
        places: &["store/src/shard/table.rs"],
    },
    Once {
        what: "a table is made",
        pattern: "Table::default()",
        within: STORE,
        places: &["store/src/shard/open.rs"],
    },
    Once {
        what: "an oracle is made",
        pattern: "Oracle::new(",
        within: STORE,
        places: &["store/src/control/grants.rs", "store/src/control/mod.rs"],
    },
    Once {
        what: "an oracle is declared",
        pattern: "struct Oracle",
        within: &["store/src", "scheduler/src"],
        places: &["scheduler/src/tso.rs"],
    },
    Once {
        what: "the scheduler is hosted",
        pattern: "Scheduler::new(",
        within: STORE,
        places: &["store/src/control/mod.rs"],
    },
    Once {
        what: "the scheduler is declared",
        pattern: "struct Scheduler{",
        within: &["store/src", "scheduler/src"],
        places: &["scheduler/src/scheduler/mod.rs"],
    },
    Once {
        what: "the map of the cluster is declared",
        pattern: "struct Cluster{",
        within: &["store/src", "scheduler/src"],
        places: &["scheduler/src/cluster/mod.rs"],
    },
    Once {
        what: "the map of the cluster is made beside the scheduler",
        pattern: "Cluster::new(",
        within: STORE,
        places: &[],
    },
    Once {
        what: "stores are opened",
        pattern: "core::open(",
        within: STORE,
        // Once to start with them, once to look at what a start finds on the disk.
        places: &["store/src/node/start.rs", "store/src/node/start.rs"],
    },
    Once {
        what: "the stores of a core are joined",
        pattern: "Dispatch::start(",
        within: STORE,
        places: &["store/src/node/core.rs"],
    },
    Once {
        what: "a store gets its port",
        pattern: "Tikv::new(",
        within: STORE,
        places: &["store/src/node/start.rs"],
    },
    Once {
        what: "other stores become guests",
        pattern: ".peer_port(",
        within: STORE,
        places: &["store/src/node/start.rs"],
    },
    Once {
        what: "RESP is served",
        pattern: "resp::serve(",
        within: STORE,
        places: &["store/src/node/start.rs"],
    },
];

/// A type that only some folders may name.
struct Kept {
    path: &'static str,
    within: &'static [&'static str],
    allowed: &'static [&'static str],
}

const KEPT: [Kept; 2] = [
    // What drives a core belongs to its region.
    Kept { path: "raft::Raft", within: STORE, allowed: &["store/src/region"] },
    // Timestamps come from the oracle that the scheduler shard hosts.
    Kept { path: "scheduler::Oracle", within: STORE, allowed: &["store/src/control"] },
];

/// The maps from keys to regions: what a store has, and what a core knows of others. That of the cluster is the scheduler's.
const KEY_MAPS: [&str; 2] = ["store/src/shard/claims.rs", "store/src/shard/table.rs"];

/// What the table of regions may do with its map.
const MAP_CALLS: [&str; 8] =
    ["contains_key", "get", "get_mut", "insert", "is_empty", "len", "remove", "values"];
const MAP_LOOPS: [&str; 2] = ["values_mut", "iter"];

fn second_owners(code: &[Code]) -> Vec<String> {
    let mut found = Vec::new();
    for Once { what, pattern, within, places } in &ONCE {
        for file in code.iter().filter(|file| file.is_in(within)) {
            let (times, allowed) =
                (file.count(pattern), places.iter().filter(|place| file.path == Path::new(place)).count());
            if times != allowed {
                found.push(format!(
                    "{}: {what} ({pattern}) {times} times, not {allowed}",
                    file.path.display()
                ));
            }
        }
    }
    for Kept { path, within, allowed } in &KEPT {
        let (home, _) = path.split_once("::").expect("a path");
        let everything = format!("{home}::");
        let names = |file: &&Code| {
            let under = format!("{path}::");
            let it = |one: &String| one == path || one.starts_with(&under) || *one == everything;
            paths(&file.text).iter().any(it) || file.count(&format!("use {home} as")) > 0
        };
        let outside = code.iter().filter(|file| file.is_in(within) && !file.is_in(allowed));
        found.extend(outside.filter(names).map(|file| format!("{} names {path}", file.path.display())));
    }
    for file in code.iter().filter(|file| file.is_in(STORE)) {
        let path = file.path.display();
        if maps_keys_to_regions(&file.text) && !file.is_in(&KEY_MAPS) {
            found.push(format!("{path}: a map from keys to regions"));
        }
        // A table by another name could be changed unseen.
        for (at, _) in file.text.match_indices(".table;") {
            let binding = file.text[..at].rsplit(['{', ';', '}']).next().unwrap_or_default();
            if binding.contains("=&mut ") && !binding.starts_with("let table=") {
                found.push(format!("{path}: {binding}.table is a table by another name"));
            }
        }
    }
    if let Some(table) = code.iter().find(|file| file.path == Path::new("store/src/shard/table.rs")) {
        for (at, name) in table.text.match_indices("self.regions") {
            let call = table.text[at + name.len()..].strip_prefix('.').unwrap_or_default();
            let call: String = call.chars().take_while(|c| is_word(*c)).collect();
            let is_loop = table.text[..at].ends_with("in&") || table.text[..at].ends_with("in&mut ");
            if !is_loop && !MAP_CALLS.contains(&&*call) && !MAP_LOOPS.contains(&&*call) {
                found.push(format!("the table calls {call:?} on its map"));
            }
        }
    }
    found
}

fn maps_keys_to_regions(text: &str) -> bool {
    let maps = ["Map<Vec<u8>,", "Map<Bytes,", "Map<Key,", "Map<Box<[u8]>,"];
    let values = ["Region", "RegionId", "Place", "Placed", "Claim", "Replica"];
    maps.iter().flat_map(|map| text.match_indices(map)).any(|(at, map)| {
        let value: String = text[at + map.len()..].chars().take_while(|c| !",;={)".contains(*c)).collect();
        value.split(|c| !is_word(c)).any(|word| values.contains(&word))
    })
}

#[test]
fn what_there_is_once_has_one_owner() {
    assert_none(&second_owners(&production()), "one map, one oracle, one way in, one start of a core");
}

/// Nothing of what a core has ready is left out where it is taken.
#[test]
fn all_that_is_ready_is_taken_by_name() {
    let text = std::fs::read_to_string(root().join("store/src/region/effects.rs")).expect("a readable file");
    let taken = text.split("let Ready {").nth(1).and_then(|rest| rest.split("self.raft.ready()").next());
    let taken = taken.expect("what is ready is taken apart by name");
    assert!(!taken.contains("..") && !taken.contains(": _"), "a part of what is ready is ignored: {taken}");
}

#[test]
fn a_second_owner_is_seen() {
    for (path, added) in [
        ("store/src/shard/turn.rs", "fn f(it: &mut X) { let x = it.core\n    .ready(); }"),
        ("store/src/shard/turn.rs", "fn f(it: &mut X) { let x = raft::Raft::ready(it); }"),
        ("store/src/region/effects.rs", "fn f(it: &mut X) { let x = it.raft.ready(); }"),
        ("store/src/shard/turn.rs", "use raft::Raft as Core;"),
        ("store/src/shard/upkeep.rs", "fn f() { self.state.borrow_mut().table\n        .insert(replica); }"),
        ("store/src/shard/upkeep.rs", "fn f() { let regions = &mut state.table; regions.insert(replica); }"),
        ("store/src/shard/table.rs", "fn f(&mut self) { self.regions.entry(id).or_insert(it); }"),
        ("store/src/shard/table.rs", "fn f(&mut self) { self.regions\n.insert(id, it); }"),
        ("store/src/shard/read.rs", "fn f() { Replica::new(store, stored, config, 1, now) }"),
        ("store/src/gateway/locate.rs", "struct Map { by_start: BTreeMap<Vec<u8>, (RegionId, Epoch)> }"),
        ("store/src/wire/pd/mod.rs", "struct Known(BTreeMap<\n    Bytes,\n    Rc<Region>,\n>);"),
        ("store/src/wire/pd/mod.rs", "fn f() { scheduler::Oracle::new(0, 0) }"),
        ("store/src/wire/pd/mod.rs", "use scheduler::{Oracle as Clock};"),
        ("store/src/node/hosting.rs", "fn f() { let map = scheduler::Cluster::new(); }"),
        ("store/src/node/hosting.rs", "fn f() { Scheduler::new(config, seed, now) }"),
        ("bench/src/sim/nodes.rs", "fn f() { drop(Tikv::new(&rt, gateway, 1, health)); }"),
        ("bench/src/sim/nodes.rs", "fn f() { rt.spawn(resp::serve(rt, listener, gateway, config)); }"),
    ] {
        assert!(!second_owners(&with(path, added)).is_empty(), "{path} goes unnoticed with: {added}");
    }
    let harmless = "// it.raft.ready()\nconst X: &str = \"Oracle::new(\\\"\"; #[cfg(test)]\nmod tests { fn f() { it.ready(); } }";
    assert_eq!(second_owners(&with("store/src/shard/turn.rs", harmless)), Vec::<String>::new());
}

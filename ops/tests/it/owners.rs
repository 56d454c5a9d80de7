//! What exists once, and where: the owners of state, the ways in, the start of a core. Each rule is shown a second owner here, too, and
//! has to see it.

use std::path::Path;

use crate::code::{Code, is_word, paths, production, with};
use crate::tidy::assert_none;

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

const ONCE: [Once; 20] = [
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
        what: "ids are given out",
        pattern: "fn alloc_ids(",
        within: &["store/src", "scheduler/src"],
        places: &["store/src/control/grants.rs"],
    },
    Once {
        what: "a block of ids has a size",
        pattern: "const ID_BLOCK:",
        within: &["store/src", "scheduler/src"],
        places: &["store/src/control/grants.rs"],
    },
    Once {
        what: "a block of ids is asked for",
        pattern: "StateCommand::AllocateIds",
        within: &["store/src/control", "store/src/node", "store/src/wire", "bench/src/sim", "ops/src"],
        // The second takes over those that an older version had given out.
        places: &["store/src/control/grants.rs", "store/src/control/origin.rs"],
    },
    Once {
        what: "the next id is set",
        pattern: ".next_id=",
        within: &["store/src", "scheduler/src"],
        places: &["scheduler/src/state.rs"],
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

/// What changes the table of regions, with the files that may name it, as often as they do. Each has a name that nothing else has, so that a
/// call is seen however the table was come by.
const CHANGES: [(&str, &[&str]); 5] = [
    (
        "enter_region",
        &[
            "store/src/shard/halves.rs",
            "store/src/shard/inbox.rs",
            "store/src/shard/open.rs",
            // Where it is, and what is cut off a region.
            "store/src/shard/table.rs",
            "store/src/shard/table.rs",
        ],
    ),
    (
        "bury_region",
        &[
            "store/src/shard/merging.rs",
            "store/src/shard/open.rs",
            "store/src/shard/table.rs",
            "store/src/shard/table.rs",
            "store/src/shard/turn.rs",
        ],
    ),
    ("cut_region", &["store/src/shard/table.rs"]),
    ("split_region", &["store/src/shard/halves.rs", "store/src/shard/splitting.rs"]),
    (
        "publish_region",
        &[
            "store/src/shard/halves.rs",
            "store/src/shard/inbox.rs",
            "store/src/shard/table.rs",
            "store/src/shard/table.rs",
            "store/src/shard/table.rs",
            "store/src/shard/turn.rs",
            "store/src/shard/turn.rs",
            "store/src/shard/turn.rs",
        ],
    ),
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

/// The maps from keys to regions, each with what it is. That of the cluster is the scheduler's.
const KEY_MAPS: [(&str, &str); 4] = [
    ("store/src/shard/table.rs", "what a store has"),
    ("store/src/shard/claims.rs", "what is said of regions, by whom"),
    ("store/src/shard/routes.rs", "derived from the claims: the one that is right at each key"),
    (
        "store/src/gateway/memory.rs",
        "no regions: the numbers of the latest writes, in the store that tests of the wire use",
    ),
];

/// What the table of regions may do with its map.
const MAP_CALLS: [&str; 8] =
    ["contains_key", "get", "get_mut", "insert", "is_empty", "len", "remove", "values"];
const MAP_LOOPS: [&str; 3] = ["values_mut", "iter", "iter_mut"];

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
    for (name, places) in &CHANGES {
        for file in code.iter().filter(|file| file.is_in(STORE)) {
            let times = file.words().filter(|word| word == name).count();
            let allowed = places.iter().filter(|place| file.path == Path::new(place)).count();
            if times != allowed {
                let path = file.path.display();
                found.push(format!(
                    "{path}: names {name}, which changes the table, {times} times, not {allowed}"
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
        let listed = KEY_MAPS.iter().any(|(listed, _)| file.path == Path::new(listed));
        if maps_keys_to_regions(&file.text) != listed {
            let what =
                if listed { "no map from keys to regions any more" } else { "a map from keys to regions" };
            found.push(format!("{path}: {what}"));
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

/// Whether something is declared that leads from keys to regions: a map, or a list of pairs or of places. An id may be a bare number there.
fn maps_keys_to_regions(text: &str) -> bool {
    let keys = ["Vec<u8>", "Bytes", "Key", "KeyRange", "Box<[u8]>", "Rc<[u8]>", "(Bytes,Bytes)"];
    let values = ["Region", "RegionId", "Place", "Placed", "Claim", "Replica"];
    let leads = |from: &str, ids: &[&str]| {
        text.match_indices(from).any(|(at, _)| {
            let rest = &text[at + from.len()..];
            keys.iter().filter_map(|key| rest.strip_prefix(key)?.strip_prefix(',')).any(|value| {
                let value: String = value.chars().take_while(|c| !",;={)".contains(*c)).collect();
                value.split(|c| !is_word(c)).any(|word| values.contains(&word) || ids.contains(&word))
            })
        })
    };
    let list_of_places = ["Vec<Rc<Placed>>", "Vec<Placed>"];
    leads("Map<", &["u64", "usize"])
        || leads("Vec<(", &["u64"])
        || leads("VecDeque<(", &["u64"])
        || list_of_places.iter().any(|list| text.contains(list))
}

#[test]
fn what_there_is_once_has_one_owner() {
    assert_none(&second_owners(&production()), "one map, one oracle, one way in, one start of a core");
}

/// Nothing of what a core has ready, or a replica wants done, is left out where it is taken.
#[test]
fn all_that_is_ready_is_taken_by_name() {
    for (file, begins, ends) in [
        ("store/src/region/effects.rs", "let Ready{", "}=self.raft.ready();"),
        ("store/src/shard/turn.rs", "let Effects{", "}=effects;"),
    ] {
        let all = production();
        let code = all.iter().find(|code| code.path == Path::new(file)).expect("a file of the tree");
        if let Err(why) = taken_whole(&code.text, begins, ends) {
            panic!("{file}: {why}");
        }
    }
    for part in
        ["let Effects{send,..}=effects;", "let Effects{send,write:_}=effects;", "let it=effects.send;"]
    {
        assert!(taken_whole(part, "let Effects{", "}=effects;").is_err(), "goes unnoticed: {part}");
    }
    // Whoever takes effects apart elsewhere would leave out the rest.
    let places = ["Effects{", ".effects("].map(|what| {
        let files = production().into_iter().filter(|file| file.is_in(STORE) && file.count(what) > 0);
        files.map(|file| file.path.display().to_string()).collect::<Vec<_>>()
    });
    let turn = "store/src/shard/turn.rs".to_owned();
    assert_eq!(places, [vec!["store/src/region/effects.rs".to_owned(), turn.clone()], vec![turn]]);
}

/// Whether what stands between the two names every part.
fn taken_whole(text: &str, begins: &str, ends: &str) -> Result<(), String> {
    let taken = text.split_once(begins).and_then(|(_, rest)| rest.split_once(ends));
    let (taken, _) = taken.ok_or_else(|| format!("{begins} is not taken apart by name"))?;
    let is_whole = !taken.contains("..") && !taken.contains(":_");
    is_whole.then_some(()).ok_or_else(|| format!("a part is ignored: {taken}"))
}

#[test]
fn a_second_owner_is_seen() {
    for (path, added) in [
        ("store/src/shard/turn.rs", "fn f(it: &mut X) { let x = it.core\n    .ready(); }"),
        ("store/src/shard/turn.rs", "fn f(it: &mut X) { let x = raft::Raft::ready(it); }"),
        ("store/src/region/effects.rs", "fn f(it: &mut X) { let x = it.raft.ready(); }"),
        ("store/src/shard/turn.rs", "use raft::Raft as Core;"),
        (
            "store/src/shard/upkeep.rs",
            "fn f() { self.state.borrow_mut().table\n        .enter_region(replica); }",
        ),
        ("store/src/shard/upkeep.rs", "fn f(t: &mut super::table::Table<X, Y>) { t.enter_region(replica) }"),
        ("store/src/shard/upkeep.rs", "fn f() { super::table::Table::enter_region(&mut s.table, replica) }"),
        (
            "store/src/shard/upkeep.rs",
            "fn f() { let change = Table::<X, Y>::bury_region; change(t, record) }",
        ),
        ("store/src/shard/inbox.rs", "fn f() { for t in &mut all { t.publish_region(id) } }"),
        ("bench/src/sim/nodes.rs", "fn f() { t.cut_region(id, right) }"),
        ("store/src/shard/table.rs", "fn f(&mut self) { self.regions.entry(id).or_insert(it); }"),
        ("store/src/shard/read.rs", "fn f() { Replica::new(store, stored, config, 1, now) }"),
        ("store/src/gateway/locate.rs", "struct Map { by_start: BTreeMap<Vec<u8>, (RegionId, Epoch)> }"),
        ("store/src/gateway/locate.rs", "struct Map { regions: BTreeMap<Bytes, u64> }"),
        ("store/src/gateway/locate.rs", "struct Map { regions: Vec<(KeyRange, RegionId)> }"),
        ("store/src/gateway/locate.rs", "struct Map { places: Vec<Rc<Placed>> }"),
        ("store/src/wire/pd/mod.rs", "async fn alloc_ids(&self) -> u64 { 7 }"),
        ("store/src/wire/pd/mod.rs", "const ID_BLOCK: u64 = 10; fn f() { self.state.next_id = 7; }"),
        ("store/src/wire/pd/mod.rs", "fn f() { propose(StateCommand::AllocateIds { count: 1 }) }"),
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

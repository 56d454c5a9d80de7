//! Starts after damage: every file of a data directory gone, cut off, flipped, swapped, or an older copy of itself, and the same for
//! its directories. There are two outcomes: a refusal that names what is damaged and a remedy, or nothing is lost.
//!
//! `RINGKEEP_DAMAGE_FLIPS=40 cargo test -p ringkeep-store --test it damage` flips more bits per file (default 3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::error::Fault;
use engine::log::LogOptions;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::sim::{Node, Options, World};
use engine::rt::{CoreOptions, start_core};
use store::control::{Control, Member};
use store::gateway::Gateway;
use store::node::core::{self, Stores};
use store::node::examine::{Damage, examine};
use store::node::identity::{Ident, IdentState};
use store::node::state_host;
use store::request::{Op, Out};
use store::shard::links::connect;

const DIR: &str = "/data";

type Files = BTreeMap<PathBuf, Vec<u8>>;
type Pairs = BTreeMap<Bytes, Bytes>;

/// Starts as a node does: identity, stores, scheduler shard, and the counts of the openings before anything is served.
async fn start(rt: &Rt) -> Result<(Stores, Gateway), String> {
    let text = |fault: Fault| fault.to_string();
    let dir = Path::new(DIR);
    rt.create_dir_all(dir).await.unwrap();
    let mut ident = Ident::open(rt, dir, 2).await.map_err(text)?;
    let mut plan = crate::node::plan(dir, ident.identity.clone(), 1);
    plan.holdings = ident.holdings.clone();
    plan.shard.log = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
    plan.shard.tree = TreeOptions { memtable_bytes: 16 << 10, cache_bytes: 0, ..TreeOptions::default() };
    plan.shard.limits.segment_bytes = 64 << 10;
    let member = Member {
        name: "one".into(),
        member_id: ident.identity.node,
        client_urls: vec!["http://127.0.0.1:1".into()],
        cluster_id: ident.identity.cluster,
        first_free_id: 1000,
        next_id_min: ident.ids,
    };
    let (plan, ends) = (Arc::new(plan), connect(1).remove(0));
    let stores = core::open(rt, &plan, &ends).await.map_err(text)?;
    if let Some(fenced) = stores.fenced.values().next() {
        return Err(fenced.why.clone());
    }
    stores.settle(rt).await?;
    let (asks, asked) = store::control::link();
    drop(rt.spawn(state_host::serve(rt.clone(), stores.state_store(), asked)));
    let control = Control::open(rt, &dir.join("scheduler"), member, asks).await;
    let control = control.map_err(|error| error.to_string())?;
    control.alloc_ids(1).await.map_err(|denied| denied.to_string())?;
    ident.confirm(rt, dir, &stores.opened(), control.next_id()).await.map_err(text)?;
    let dispatch = stores.join(rt, &plan, stores.places(), ends);
    let gateway = Stores::gateway(&dispatch, 0);
    Ok((stores, gateway))
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("{}{n:04}", (b'0' + (n % 75) as u8) as char))
}

/// Writes with acknowledgements, one by one.
async fn write(gateway: &Gateway, round: u64, numbers: std::ops::Range<u64>, known: &mut Pairs) {
    for n in numbers {
        if n % 7 == round {
            gateway.submit(None, Op::Delete { key: key(n), count: false }).await.unwrap();
            known.remove(&key(n));
        } else {
            let value =
                Bytes::from(format!("{round} {n} {}", (n * 977 + round).pow(3).to_string().repeat(12)));
            gateway.submit(None, Op::Put { key: key(n), value: value.clone() }).await.unwrap();
            known.insert(key(n), value);
        }
    }
}

/// A data directory after two lives: what it held after the first, what it holds now, and what was acknowledged.
struct Prepared {
    older: Files,
    now: Files,
    known: Pairs,
}

/// How the second life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Drain,
    Kill,
}

fn prepared(end: End) -> Prepared {
    let world = World::new(71, Options::default());
    let node = world.node(0);
    let life = |round: u64, end: End, mut known: Pairs| {
        let running = node.start(0, move |rt| async move {
            let (stores, gateway) = start(&rt).await.unwrap();
            write(&gateway, round, 0..150, &mut known).await;
            // Long enough for flushes, cuts of the log, spare segments and the record that vouches for the last one.
            rt.sleep(Duration::from_secs(3)).await;
            write(&gateway, round + 1, 100..160, &mut known).await;
            rt.sleep(Duration::from_secs(1)).await;
            if end == End::Drain {
                stores.stop(Duration::from_secs(30)).await;
            }
            known
        });
        let known = world.block_on(running).unwrap();
        node.kill();
        (node.disk().contents(), known)
    };
    let (older, known) = life(1, End::Drain, Pairs::new());
    let (now, known) = life(3, end, known);
    Prepared { older, now, known }
}

/// What became of a damaged directory.
#[derive(Debug)]
enum Found {
    /// The start or a read was refused.
    Refused(String),
    /// Every key is right.
    Whole,
}

/// Starts with these files and compares everything that was acknowledged.
fn judge(files: &Files, known: &Pairs) -> Result<Found, String> {
    let world = World::new(72, Options::default());
    let node = world.node(0);
    node.disk().set_contents(files);
    let known = known.clone();
    let running = node.start(0, move |rt| async move {
        let gateway = match start(&rt).await {
            Ok((_, gateway)) => gateway,
            Err(refusal) => return Ok(Found::Refused(refusal)),
        };
        for n in 0..170 {
            match gateway.submit(None, Op::Get { key: key(n) }).await {
                Ok(Out::Value(value)) if value.as_ref() == known.get(&key(n)) => {}
                Ok(other) => return Err(format!("key {n} is {other:?}, not {:?}", known.get(&key(n)))),
                Err(refusal) => return Ok(Found::Refused(format!("{refusal:?}"))),
            }
        }
        Ok(Found::Whole)
    });
    world.block_on(running).ok_or("the start did not end")?
}

/// One damaged directory: what was done, to which paths, and what it holds then.
struct Case {
    what: String,
    paths: Vec<PathBuf>,
    files: Files,
}

/// Whether a refusal names one of the paths, or a directory that holds or should hold it, and says what to do.
fn names_it(refusal: &str, paths: &[PathBuf]) -> bool {
    let remedy = ["restore", "put "].iter().any(|word| refusal.contains(word));
    let names = |above: &Path| {
        above.starts_with(DIR) && above != Path::new(DIR) && refusal.contains(&*above.to_string_lossy())
    };
    remedy && paths.iter().any(|path| path.ancestors().any(names))
}

fn twin(path: &Path) -> Option<PathBuf> {
    let text = path.to_str()?;
    let other = match text.contains("/store-1") {
        true => text.replace("/store-1", "/store-2"),
        false => text.replace("/store-2", "/store-1"),
    };
    (other != text).then(|| PathBuf::from(other))
}

fn cases_of_a_file(prepared: &Prepared, path: &Path, flips: u64, cases: &mut Vec<Case>) {
    let Prepared { older, now, .. } = prepared;
    let bytes = &now[path];
    let mut case = |what: String, change: &dyn Fn(&mut Files)| {
        let mut files = now.clone();
        change(&mut files);
        cases.push(Case { what, paths: vec![path.to_owned()], files });
    };
    case("removed".into(), &|files| drop(files.remove(path)));
    if bytes.is_empty() {
        return;
    }
    for (name, len) in [("empty", 0), ("half of it", bytes.len() / 2), ("one byte short", bytes.len() - 1)] {
        case(name.into(), &|files| drop(files.insert(path.to_owned(), bytes[..len].to_vec())));
    }
    let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let seed = path.to_string_lossy().bytes().fold(7u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    let rng = engine::rt::rng::Rng::new(seed);
    for _ in 0..flips {
        let draw = rng.next();
        let at = written[(draw >> 33) as usize % written.len()];
        case(format!("bit of byte {at} flipped"), &|files| {
            files.get_mut(path).unwrap()[at] ^= 1 << (draw >> 20 & 7);
        });
    }
    // The last thing written is what a torn write looks like.
    let last = written[written.len() - 1];
    case(format!("bit of the last byte {last} flipped"), &|files| files.get_mut(path).unwrap()[last] ^= 4);
    if let Some(old) = older.get(path).filter(|old| *old != bytes) {
        case("older copy".into(), &|files| drop(files.insert(path.to_owned(), old.clone())));
    }
    if let Some(other) = twin(path).and_then(|twin| now.get(&twin)).filter(|other| *other != bytes) {
        case("that of the other store".into(), &|files| drop(files.insert(path.to_owned(), other.clone())));
    }
}

fn cases_of_directories(prepared: &Prepared, cases: &mut Vec<Case>) {
    let Prepared { older, now, .. } = prepared;
    let below = |files: &Files, dir: &str| -> Files {
        files
            .iter()
            .filter(|(path, _)| path.starts_with(dir))
            .map(|(path, bytes)| (path.clone(), bytes.clone()))
            .collect()
    };
    for name in ["store-1", "store-1/log", "store-1/tree", "store-2", "store-2/log", "store-2/tree"] {
        let dir = format!("{DIR}/{name}");
        let without: Files = now
            .iter()
            .filter(|(path, _)| !path.starts_with(&dir))
            .map(|(path, bytes)| (path.clone(), bytes.clone()))
            .collect();
        let mut case = |what: &str, files: Files| {
            let paths = [Some(PathBuf::from(&dir)), twin(Path::new(&dir))].into_iter().flatten().collect();
            cases.push(Case { what: what.into(), paths, files });
        };
        case("directory removed", without.clone());
        case("directory is an older copy", without.clone().into_iter().chain(below(older, &dir)).collect());
        if let Some(other) = twin(Path::new(&dir)) {
            let swapped = now.iter().map(|(path, bytes)| {
                let swaps = path.starts_with(&dir) || path.starts_with(&other);
                (twin(path).filter(|_| swaps).unwrap_or_else(|| path.clone()), bytes.clone())
            });
            case("directories swapped", swapped.collect());
            let copied = below(now, other.to_str().unwrap())
                .into_iter()
                .map(|(path, bytes)| (twin(&path).unwrap(), bytes));
            case("directory of the other store", without.into_iter().chain(copied).collect());
        }
    }
}

/// What an inspection of each of these directories finds, on a real disk, because tables are mapped.
fn inspected<'a>(directories: impl Iterator<Item = &'a Files>) -> Vec<Vec<String>> {
    let temporary = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (root, directories) = (temporary.path().to_owned(), directories.cloned().collect::<Vec<_>>());
    let run = start_core(&CoreOptions::default(), move |rt| async move {
        let place = |path: &Path| root.join(path.strip_prefix(DIR).unwrap());
        let (mut found, mut written) = (Vec::new(), Files::new());
        for files in directories {
            for path in written.keys().filter(|path| !files.contains_key(*path)) {
                std::fs::remove_file(place(path)).unwrap();
            }
            for (path, bytes) in files.iter().filter(|(path, bytes)| written.get(*path) != Some(*bytes)) {
                std::fs::create_dir_all(place(path).parent().unwrap()).unwrap();
                std::fs::write(place(path), bytes).unwrap();
            }
            written = files;
            let damage = examine(&rt, &root).await.damage.into_iter();
            let text = |Damage { path, what }| format!("{}: {what}", path.display());
            found.push(damage.map(text).map(|text| text.replace(root.to_str().unwrap(), DIR)).collect());
        }
        found
    });
    run.unwrap()
}

fn sweep(end: End) -> (u64, u64) {
    let flips = std::env::var("RINGKEEP_DAMAGE_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    let prepared = prepared(end);
    assert!(prepared.known.len() > 100);
    assert!(matches!(judge(&prepared.now, &prepared.known), Ok(Found::Whole)), "the undamaged directory");
    let mut cases = Vec::new();
    for path in prepared.now.keys() {
        cases_of_a_file(&prepared, path, flips, &mut cases);
    }
    cases_of_directories(&prepared, &mut cases);
    let (mut refused, mut wrong) = (0, Vec::new());
    let inspected = inspected(std::iter::once(&prepared.now).chain(cases.iter().map(|case| &case.files)));
    assert_eq!(inspected[0], Vec::<String>::new(), "the undamaged directory");
    for (Case { what, paths, files }, seen) in cases.iter().zip(&inspected[1..]) {
        match judge(files, &prepared.known) {
            Ok(Found::Whole) => {}
            Ok(Found::Refused(refusal)) => {
                refused += 1;
                if !seen.iter().any(|damage| names_it(damage, paths)) {
                    wrong.push(format!("{} {what}: not found by inspection: {seen:?}", paths[0].display()));
                }
                if !names_it(&refusal, paths) {
                    wrong.push(format!("{} {what}: not named, or no remedy: {refusal}", paths[0].display()));
                }
            }
            Err(lost) => wrong.push(format!("{} {what}: {lost}", paths[0].display())),
        }
    }
    assert!(wrong.is_empty(), "{end:?}: {} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    (cases.len() as u64, refused)
}

/// A file of a log that is gone and missed is named itself, not only the directory that it was in.
#[test]
fn a_file_of_a_log_that_is_gone_is_named() {
    for end in [End::Drain, End::Kill] {
        let prepared = prepared(end);
        let mut named = 0;
        for path in prepared.now.keys().filter(|path| path.to_string_lossy().contains("/log/")) {
            let mut files = prepared.now.clone();
            files.remove(path);
            match judge(&files, &prepared.known).unwrap_or_else(|lost| panic!("{}: {lost}", path.display())) {
                Found::Whole => {}
                Found::Refused(refusal) => {
                    assert!(refusal.contains(&*path.to_string_lossy()), "{}: {refusal}", path.display());
                    named += 1;
                }
            }
        }
        assert!(named > 2, "{end:?}: only {named} files are missed");
    }
}

#[test]
fn damage_after_a_drain_is_named_or_loses_nothing() {
    let (cases, refused) = sweep(End::Drain);
    assert!(cases > 100 && refused > cases / 2, "{refused} of {cases}");
}

#[test]
fn damage_after_a_kill_is_named_or_loses_nothing() {
    let (cases, refused) = sweep(End::Kill);
    assert!(cases > 100 && refused > cases / 2, "{refused} of {cases}");
}

/// The power goes at every single change that a start makes on the disk. The next start finishes what was begun.
fn cut_at_every_change(before: &Files, known: &Pairs) -> u64 {
    let mut point = 0;
    loop {
        let world = World::new(73 + point, Options::default());
        let node = world.node(0);
        node.disk().set_contents(before);
        node.disk().stop_at(node.disk().changes() + point);
        let first = start_and_check(&node, known);
        let mut first = std::pin::pin!(first);
        let mut ended = false;
        world.run_until(Duration::from_secs(5), || {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            ended = ended || first.as_mut().poll(&mut cx).is_ready();
            ended || node.disk().has_stopped()
        });
        if ended {
            return point;
        }
        node.crash();
        let again = world.block_on(start_and_check(&node, known));
        assert!(again.is_some_and(|state| state == IdentState::Ready), "cut at change {point}");
        point += 1;
    }
}

fn start_and_check(node: &Node, known: &Pairs) -> engine::rt::sim::Running<IdentState> {
    let known = known.clone();
    node.start(0, |rt| async move {
        let (_, gateway) = start(&rt).await.unwrap_or_else(|refusal| panic!("{refusal}"));
        for (key, value) in &known {
            let found = gateway.submit(None, Op::Get { key: key.clone() }).await;
            assert!(matches!(&found, Ok(Out::Value(Some(found))) if found == value), "{key:?}: {found:?}");
        }
        gateway
            .submit(None, Op::Put { key: key(1), value: known.get(&key(1)).cloned().unwrap_or_default() })
            .await
            .unwrap();
        Ident::read(&rt, Path::new(DIR)).await.unwrap().unwrap().state
    })
}

#[test]
fn a_bootstrap_is_finished_after_a_power_cut_at_any_moment() {
    let points = cut_at_every_change(&Files::new(), &Pairs::new());
    assert!(points > 40, "only {points} changes");
}

#[test]
fn a_start_is_repeated_after_a_power_cut_at_any_moment() {
    for end in [End::Drain, End::Kill] {
        let Prepared { now, known, .. } = prepared(end);
        let points = cut_at_every_change(&now, &known);
        assert!(points > 20, "only {points} changes");
    }
}

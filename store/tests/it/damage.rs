//! Starts of a whole node after damage: every file of a data directory gone, cut off, flipped, swapped, or an older copy of itself, and
//! the same for its directories. There are two outcomes: a refusal that names what is damaged and a remedy, or nothing is lost.
//!
//! `RINGKEEP_DAMAGE_FLIPS=40 cargo test -p ringkeep-store --test it damage` flips more bits per file (default 3).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::sim::{Node, Options, World};
use engine::rt::{CoreOptions, start_core};
use store::gateway::Gateway;
use store::node::examine::{Damage, examine};
use store::node::identity::{Ident, IdentState};
use store::request::{Op, Out};
use store::wire::grpc::client::Client;
use store::wire::proto::pdpb::{AllocIdRequest, AllocIdResponse};

use crate::real::{self, ROOT, Real};

pub(crate) const DIR: &str = "/data";

pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;
pub(crate) type Pairs = BTreeMap<Bytes, Bytes>;

/// Starts the node, whose stores must all open.
async fn start(rt: &Rt) -> Result<Real, String> {
    real::start(rt, real::setup(Path::new(DIR))).await
}

fn key(n: u64) -> Bytes {
    Bytes::from(format!("{}{n:04}", (b'0' + (n % 75) as u8) as char))
}

/// Writes with acknowledgements, one by one.
pub(crate) async fn write(gateway: &Gateway, round: u64, numbers: std::ops::Range<u64>, known: &mut Pairs) {
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

/// Has the scheduler's state changed, so that IDENT and the system group must agree on more than the bootstrap.
async fn take_an_id(rt: &Rt, real: &Real) {
    let pd = Client::connect(rt, real.started.addresses.pd).await.unwrap();
    let ask = AllocIdRequest { count: 1, ..AllocIdRequest::default() };
    let given: AllocIdResponse = pd.unary("/pdpb.PD/AllocID", &ask).await.unwrap();
    assert!(given.id > 0, "{given:?}");
}

/// A data directory after two lives: what it held after the first, what it holds now, and what was acknowledged.
pub(crate) struct Prepared {
    pub older: Files,
    pub now: Files,
    pub known: Pairs,
}

/// How the second life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Drain,
    /// Killed after it was idle for a moment.
    Kill,
}

fn prepared(end: End) -> Prepared {
    let world = World::new(71, Options::default());
    let node = world.node(0);
    let life = |round: u64, end: End, mut known: Pairs| {
        let running = node.start(ROOT, move |rt| async move {
            let real = start(&rt).await.unwrap();
            write(&real.gateway, round, 0..150, &mut known).await;
            // Long enough for flushes, cuts of the log, spare segments and the record that vouches for the last one.
            rt.sleep(Duration::from_secs(3)).await;
            write(&real.gateway, round + 1, 100..160, &mut known).await;
            take_an_id(&rt, &real).await;
            rt.sleep(Duration::from_secs(1)).await;
            if end == End::Drain {
                real.drain().await;
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
pub(crate) enum Found {
    /// The start or a read was refused.
    Refused(String),
    /// Every key is right.
    Whole,
}

/// Starts with these files and compares everything that was acknowledged.
pub(crate) fn judge(files: &Files, known: &Pairs) -> Result<Found, String> {
    let world = World::new(72, Options::default());
    let node = world.node(0);
    node.disk().set_contents(files);
    let known = known.clone();
    let running = node.start(ROOT, move |rt| async move {
        let real = match start(&rt).await {
            Ok(real) => real,
            Err(refusal) => return Ok(Found::Refused(refusal)),
        };
        let keys = (0..170).map(key).chain(known.keys().cloned());
        for key in keys {
            match real.gateway.submit(None, Op::Get { key: key.clone() }).await {
                Ok(Out::Value(value)) if value.as_ref() == known.get(&key) => {}
                Ok(other) => return Err(format!("key {key:?} is {other:?}, not {:?}", known.get(&key))),
                Err(refusal) => return Ok(Found::Refused(format!("{refusal:?}"))),
            }
        }
        Ok(Found::Whole)
    });
    world.block_on(running).ok_or("the start did not end")?
}

/// One damaged directory: what was done, to which paths, and what it holds then.
pub(crate) struct Case {
    pub what: String,
    pub paths: Vec<PathBuf>,
    pub files: Files,
}

/// Whether a refusal names one of the paths and says what to do. That of a directory alone does not name a file in it.
fn names_it(refusal: &str, paths: &[PathBuf]) -> bool {
    let remedy = ["restore", "put "].iter().any(|word| refusal.contains(word));
    remedy && paths.iter().any(|path| refusal.contains(&*path.to_string_lossy()))
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

/// The last thing that was written to each segment of a log with a bit that is wrong, which is what a torn write looks like.
pub(crate) fn flipped_ends(prepared: &Prepared) -> Vec<Case> {
    let is_segment = |path: &&PathBuf| path.extension().is_some_and(|kind| kind == "seg");
    let case = |path: &PathBuf| {
        let mut files = prepared.now.clone();
        let bytes = files.get_mut(path)?;
        let last = bytes.iter().rposition(|byte| *byte != 0)?;
        bytes[last] ^= 4;
        Some(Case { what: format!("bit of the last byte {last} flipped"), paths: vec![path.clone()], files })
    };
    prepared.now.keys().filter(is_segment).filter_map(case).collect()
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
        // The other store alone knows better.
        let mut both: Files = without.clone().into_iter().chain(below(older, &dir)).collect();
        both.extend(below(older, &format!("{DIR}/IDENT")));
        case("directory and IDENT are older copies", both);
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

pub(crate) fn sweep(prepared: &Prepared, more: Vec<Case>) -> (u64, u64) {
    let flips = std::env::var("RINGKEEP_DAMAGE_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(3);
    assert!(prepared.known.len() > 100);
    assert!(matches!(judge(&prepared.now, &prepared.known), Ok(Found::Whole)), "the undamaged directory");
    let mut cases = more;
    for path in prepared.now.keys() {
        cases_of_a_file(prepared, path, flips, &mut cases);
    }
    cases_of_directories(prepared, &mut cases);
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
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    (cases.len() as u64, refused)
}

/// A file of a log that is missed is named itself, not only the directory that it was in: one that is gone, and one whose records have
/// gone behind the first two.
#[test]
fn a_file_of_a_log_that_is_gone_is_named() {
    for end in [End::Drain, End::Kill] {
        let prepared = prepared(end);
        let mut named = [0, 0];
        for path in prepared.now.keys().filter(|path| path.to_string_lossy().contains("/log/")) {
            let mut files = [prepared.now.clone(), prepared.now.clone()];
            files[0].remove(path);
            if let Some(behind) = files[1].get_mut(path).unwrap().get_mut(3 * 4096..) {
                behind.fill(0);
            }
            for (files, named) in files.iter().zip(&mut named) {
                match judge(files, &prepared.known)
                    .unwrap_or_else(|lost| panic!("{}: {lost}", path.display()))
                {
                    Found::Whole => {}
                    Found::Refused(refusal) => {
                        assert!(refusal.contains(&*path.to_string_lossy()), "{}: {refusal}", path.display());
                        *named += 1;
                    }
                }
            }
        }
        assert!(named[0] > 2 && named[1] > 0, "{end:?}: only {named:?} files are missed");
    }
}

/// A directory whose log still has everything from its beginning: one short life with values of this round. After a drain the tables have
/// everything, too, and after a kill nothing.
fn young(seed: u64, round: u64, end: End) -> Prepared {
    let world = World::new(seed, Options::default());
    let node = world.node(0);
    let life = node.start(ROOT, move |rt| async move {
        let (real, mut known) = (start(&rt).await.unwrap(), Pairs::new());
        write(&real.gateway, round, 0..60, &mut known).await;
        if end == End::Drain {
            real.drain().await;
        }
        known
    });
    let known = world.block_on(life).unwrap();
    node.kill();
    Prepared { older: Files::new(), now: node.disk().contents(), known }
}

/// Where the log has everything, a tree that is gone could be made again from it, and one of another node fits the log. Neither is
/// what IDENT says, and the log may be the next to go. A log without its end is missed by what the tree contains.
#[test]
fn what_belongs_elsewhere_or_is_gone_is_named_even_where_the_other_half_fits() {
    for end in [End::Drain, End::Kill] {
        halves_are_missed(&young(71, 1, end), &young(79, 2, end), end);
    }
}

fn halves_are_missed(ours: &Prepared, theirs: &Prepared, end: End) {
    let below = |files: &Files, dir: &str| -> Files {
        let below = files.iter().filter(|(path, _)| path.starts_with(dir));
        below.map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
    };
    let mut cases = Vec::new();
    for dir in ["/data/store-1/log", "/data/store-1/tree", "/data/store-2/log", "/data/store-2/tree"] {
        let (half, mut without) = (below(&ours.now, dir), ours.now.clone());
        without.retain(|path, _| !half.contains_key(path));
        let other: Files = without.clone().into_iter().chain(below(&theirs.now, dir)).collect();
        cases.push(Case { what: "gone".into(), paths: vec![dir.into()], files: without });
        cases.push(Case { what: "of another node".into(), paths: vec![dir.into()], files: other });
    }
    // Only tables that contain more than is left can miss it.
    let first = |path: &&PathBuf| path.to_string_lossy().ends_with("log/0000000000000001.seg");
    for path in ours.now.keys().filter(first).filter(|_| end == End::Drain) {
        let (mut files, log) = (ours.now.clone(), path.parent().unwrap());
        for (other, bytes) in files.iter_mut().filter(|(other, _)| other.starts_with(log)) {
            // The head of each segment; of the first also the record of the bootstrap and a few more.
            bytes[if other == path { 8 * 4096 } else { 4096 }..].fill(0);
        }
        // Any of them is a right answer: all are damaged.
        cases.push(Case { what: "without its end".into(), paths: vec![log.into()], files });
    }
    let seen = inspected(cases.iter().map(|case| &case.files));
    for (Case { what, paths, files }, seen) in cases.iter().zip(&seen) {
        let path = paths[0].to_string_lossy();
        let refusal = match judge(files, &ours.known) {
            Ok(Found::Refused(refusal)) => refusal,
            other => panic!("{path} {what}: {other:?}"),
        };
        assert!(refusal.contains(&*path), "{path} {what}: {refusal}");
        assert!(seen.iter().any(|damage| damage.contains(&*path)), "{path} {what}: {seen:?}");
    }
}

#[test]
fn damage_after_a_drain_is_named_or_loses_nothing() {
    let (cases, refused) = sweep(&prepared(End::Drain), Vec::new());
    assert!(cases > 100 && refused > cases / 2, "{refused} of {cases}");
}

#[test]
fn damage_after_a_kill_is_named_or_loses_nothing() {
    let (cases, refused) = sweep(&prepared(End::Kill), Vec::new());
    assert!(cases > 100 && refused > cases / 2, "{refused} of {cases}");
}

/// What a start and reads say of a directory in which damage is known: why a store is not ready, what a read was refused for, or that
/// everything was as before. Every value that is read is right.
fn said_of(files: &Files, known: &Pairs) -> Vec<String> {
    let world = World::new(74, Options::default());
    let node = world.node(0);
    node.disk().set_contents(files);
    let known = known.clone();
    let running = node.start(ROOT, move |rt| async move {
        let real = match start(&rt).await {
            Ok(real) => real,
            Err(refusal) => return vec![refusal],
        };
        // The start looks at the ends of tables beside the requests.
        rt.sleep(Duration::from_secs(1)).await;
        let mut said: Vec<String> =
            real.shards.values().filter_map(|shard| shard.health().problem()).collect();
        for n in 0..170 {
            match real.gateway.submit(None, Op::Get { key: key(n) }).await {
                Ok(Out::Value(value)) => assert_eq!(value.as_ref(), known.get(&key(n)), "key {n}"),
                Ok(other) => panic!("key {n} is {other:?}"),
                Err(refusal) => said.push(format!("{refusal:?}")),
            }
        }
        said
    });
    world.block_on(running).expect("the start ends")
}

/// A directory in which a read has met a damaged table, with that table and the list that remembers it.
fn with_known_damage() -> (Files, PathBuf, PathBuf, Pairs) {
    let Prepared { now, known, .. } = prepared(End::Kill);
    // The first store reads the scheduler's state when it is opened, and does not open if that is damaged.
    let is_table = |path: &&PathBuf| {
        path.starts_with("/data/store-2") && path.extension().is_some_and(|kind| kind == "table")
    };
    let table = now.keys().find(is_table).expect("something was flushed").clone();
    let world = World::new(75, Options::default());
    let node = world.node(0);
    node.disk().set_contents(&now);
    // A byte of its first block: only a read meets it.
    node.disk().rot(&table, 40, 0x10);
    let meet = node.start(ROOT, move |rt| async move {
        let real = start(&rt).await.unwrap();
        for n in 0..170 {
            // Those that lie in the table are refused, and the others are of no interest here.
            drop(real.gateway.submit(None, Op::Get { key: key(n) }).await);
        }
        rt.sleep(Duration::from_secs(1)).await;
    });
    world.block_on(meet).expect("it serves");
    node.kill();
    let list = table.ancestors().nth(2).expect("a store's directory").join("DAMAGE");
    let files = node.disk().contents();
    assert!(files.contains_key(&list), "the damage was met and written down");
    (files, table, list, known)
}

#[test]
fn known_damage_is_named_whatever_happens_to_the_list_of_it() {
    let (files, table, list, known) = with_known_damage();
    let prepared = Prepared { older: Files::new(), now: files, known };
    let mut cases = vec![Case { what: "as it was left".into(), paths: vec![], files: prepared.now.clone() }];
    cases_of_a_file(&prepared, &list, 20, &mut cases);
    let mut other = prepared.now.clone();
    let bytes = other.remove(&list).unwrap();
    other.insert(twin(&list).unwrap(), bytes);
    cases.push(Case { what: "given to the other store".into(), paths: vec![], files: other });
    let names = |text: &String, path: &Path| text.contains(&*path.to_string_lossy());
    let seen = inspected(cases.iter().map(|case| &case.files));
    for (Case { what, files, .. }, seen) in cases.iter().zip(&seen) {
        let said = said_of(files, &prepared.known);
        let named = |said: &[String]| said.iter().any(|text| names(text, &table) || names(text, &list));
        assert!(named(&said), "{what}: {said:?}");
        assert!(named(seen), "{what}: {seen:?}");
    }
    // The table is put back; the list stays until an operator removes it.
    let mut repaired = prepared.now.clone();
    repaired.get_mut(&table).unwrap()[40] ^= 0x10;
    let said = said_of(&repaired, &prepared.known);
    assert!(said.len() == 1 && names(&said[0], &table) && said[0].contains("remove DAMAGE"), "{said:?}");
    let seen = inspected(std::iter::once(&repaired)).remove(0);
    assert!(seen.len() == 1 && names(&seen[0], &table) && seen[0].contains("remove DAMAGE"), "{seen:?}");
    repaired.remove(&list);
    assert_eq!(said_of(&repaired, &prepared.known), Vec::<String>::new());
    // Alone it is damage, too.
    repaired.insert(list.clone(), b"damage 1\nsum 0".to_vec());
    let seen = inspected(std::iter::once(&repaired)).remove(0);
    assert!(seen.len() == 1 && names(&seen[0], &list), "{seen:?}");
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
    node.start(ROOT, |rt| async move {
        let real = start(&rt).await.unwrap_or_else(|refusal| panic!("{refusal}"));
        let gateway = &real.gateway;
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

//! Whole data directories as 0.1 wrote them, byte for byte, opened by this version.
//!
//! `fixtures/data-0.1-early.hex` was written by the binary of commit 7394a16, when the scheduler's state was a file of its own and the
//! manifest had version 3; `fixtures/data-0.1.hex` by the recipe below. **Neither is ever written anew**: 0.1 has been
//! written, and what it wrote stays as it was. A format that changes gets a new version, and its directory a fixture beside these:
//! `RINGKEEP_WRITE_FIXTURE=NAME cargo test -p ringkeep-store --test it the_recipe_of_the_directory` writes `fixtures/data-NAME.hex`
//! and what is to be expected beside it, and refuses where there is one.
//!
//! A directory is text: of each file its name and length, and below them its bytes at each offset that is named, 32 to a
//! line. What no line names is zero, so space that was allocated in advance costs nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bench::sim::callers::anywhere;
use bytes::Bytes;
use engine::rt::sim::{Options, World};
use store::request::{Op, Out, Scan};
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::{Context, RawDeleteRangeRequest, RawDeleteRangeResponse};
use store::wire::proto::metapb::Region;
use store::wire::proto::pdpb::{
    AllocIdRequest, AllocIdResponse, GetGcSafePointRequest, GetGcSafePointResponse, GetRegionRequest,
    GetRegionResponse, ScanRegionsRequest, ScanRegionsResponse, TsoRequest, TsoResponse,
    UpdateGcSafePointRequest, UpdateGcSafePointResponse, UpdateServiceGcSafePointRequest,
    UpdateServiceGcSafePointResponse,
};
use store::wire::proto::ringkeep::{OperateRequest, OperateResponse, RegionWish};

use crate::joined::nodes::{Member, PORT, beside, call, stores};
use crate::node::with_node;

type Files = BTreeMap<PathBuf, Vec<u8>>;

const ROOT: &str = "/data";
const LINE_BYTES: usize = 32;

/// What a directory of 0.1 has.
struct Written {
    files: Files,
    stores: usize,
    /// Every key with its value.
    pairs: BTreeMap<String, String>,
    /// Where a region was cut, if one was.
    border: Option<&'static str>,
    /// The first id that was never handed out.
    next_id_min: u64,
    /// The largest timestamp that was handed out: its milliseconds.
    timestamp_ms: i64,
    safe_point: u64,
    service: Option<(&'static str, u64)>,
}

fn numbered(prefix: &str, keys: std::ops::Range<u32>, round: u32) -> BTreeMap<String, String> {
    keys.map(|n| (format!("{prefix}{n:03}"), format!("value {n} of round {round}"))).collect()
}

/// The keys of both lives.
fn pairs() -> BTreeMap<String, String> {
    let mut pairs = numbered("table", 0..100, 1);
    pairs.extend(numbered("table", 70..75, 2));
    pairs.extend(numbered("log", 0..20, 2));
    pairs.remove("table050");
    pairs.insert("counted".into(), "42".into());
    pairs
}

/// Two stores, the scheduler's state in a file of its own, no split and no service; the deleted range is everything that was there before.
fn early() -> Written {
    Written {
        files: fixture("0.1-early"),
        stores: 2,
        pairs: pairs(),
        border: None,
        next_id_min: 21_024,
        timestamp_ms: 1_795_979_947_104,
        safe_point: SAFE_POINT,
        service: None,
    }
}

fn written() -> Written {
    Written { files: fixture("0.1"), ..expected() }
}

/// What the recipe's directory has.
fn expected() -> Written {
    let mut pairs = pairs();
    pairs.retain(|key, _| !("table020".."table040").contains(&key.as_str()));
    Written {
        files: Files::new(),
        stores: 1,
        pairs,
        border: Some(BORDER),
        next_id_min: NEXT_ID_MIN,
        timestamp_ms: TIMESTAMP_MS,
        safe_point: SAFE_POINT,
        service: Some(("backup", SERVICE_SAFE_POINT)),
    }
}

const BORDER: &str = "table060";
const NEXT_ID_MIN: u64 = 22_014;
const TIMESTAMP_MS: i64 = 1_704_067_228_149;
const SAFE_POINT: u64 = 4000;
const SERVICE_SAFE_POINT: u64 = 4500;

fn place(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/data-{name}.hex"))
}

fn fixture(name: &str) -> Files {
    let path = place(name);
    unpack(&std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

fn pack(files: &Files) -> String {
    let mut text = String::new();
    for (path, bytes) in files {
        let name = path.strip_prefix(ROOT).expect("a file of the directory").display();
        writeln!(text, "file {name} {}", bytes.len()).unwrap();
        for (at, line) in bytes.chunks(LINE_BYTES).enumerate() {
            if line.iter().any(|byte| *byte != 0) {
                let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(text, "{:x} {hex}", at * LINE_BYTES).unwrap();
            }
        }
    }
    text
}

fn unpack(text: &str) -> Files {
    let mut files = Files::new();
    let mut into = PathBuf::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["file", name, bytes] => {
                into = Path::new(ROOT).join(name);
                files.insert(into.clone(), vec![0; bytes.parse().unwrap()]);
            }
            [at, hex] => {
                let at = usize::from_str_radix(at, 16).unwrap();
                let bytes =
                    hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("hexadecimal"));
                let bytes: Vec<u8> = bytes.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
                files.get_mut(&into).expect("a file")[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            _ => panic!("not a line of a directory: {line}"),
        }
    }
    files
}

fn resp(world: &World, member: &Member, commands: Vec<Vec<String>>) -> Vec<String> {
    let addr = member.node.addr(6380);
    beside(world, move |rt| anywhere::commands(rt, addr, commands))
}

fn set(pairs: &BTreeMap<String, String>) -> Vec<Vec<String>> {
    pairs.iter().map(|(key, value)| vec!["SET".to_owned(), key.clone(), value.clone()]).collect()
}

fn region_of(world: &World, member: &Member, key: &'static str) -> Region {
    let request = GetRegionRequest { region_key: key.into(), ..GetRegionRequest::default() };
    let found: GetRegionResponse =
        call(world, member.pd(), "/pdpb.PD/GetRegion", request).expect("it is known");
    found.region.expect("every key has one")
}

fn timestamp_ms(world: &World, member: &Member) -> i64 {
    let pd = member.pd();
    beside(world, move |rt| async move {
        let client = Client::connect(&rt, pd).await.expect("it listens");
        let mut stream = client.open("/pdpb.PD/Tso").await.expect("it is served");
        let request = TsoRequest { count: 1, ..TsoRequest::default() };
        stream.outbox.send(store::wire::grpc::frame(&request)).await.expect("it is read");
        let bytes = stream.inbox.next().await.expect("no error").expect("an answer").bytes;
        let answer: TsoResponse = prost::Message::decode(bytes).expect("a message");
        answer.timestamp.expect("one was asked for").physical
    })
}

fn alloc_id(world: &World, member: &Member) -> u64 {
    let request = AllocIdRequest { count: 1, ..AllocIdRequest::default() };
    let answer: AllocIdResponse =
        call(world, member.pd(), "/pdpb.PD/AllocID", request).expect("ids are handed out");
    answer.id
}

/// Asks that everything after `safe_point` be kept for a service, for longer than any test runs, and returns the oldest that is kept for any.
fn keep_for(world: &World, member: &Member, service: &'static str, safe_point: u64) -> (Bytes, u64) {
    let request = UpdateServiceGcSafePointRequest {
        service_id: service.into(),
        ttl: i64::MAX,
        safe_point,
        ..UpdateServiceGcSafePointRequest::default()
    };
    let answer: UpdateServiceGcSafePointResponse =
        call(world, member.pd(), "/pdpb.PD/UpdateServiceGCSafePoint", request).expect("it is taken");
    (answer.service_id, answer.min_safe_point)
}

fn delete_range(world: &World, member: &Member, start: &'static str, end: &'static str) {
    let (region, store) = (region_of(world, member, start), member.node.addr(PORT + 1));
    beside(world, move |rt| async move {
        let context = Some(Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: region.peers.first().copied(),
            ..Context::default()
        });
        let (start_key, end_key) = (start.into(), end.into());
        let request =
            RawDeleteRangeRequest { context, start_key, end_key, ..RawDeleteRangeRequest::default() };
        let client = Client::connect(&rt, store).await.expect("it listens");
        let done: RawDeleteRangeResponse =
            client.unary("/tikvpb.Tikv/RawDeleteRange", &request).await.expect("an answer");
        assert_eq!(done, RawDeleteRangeResponse::default());
    });
}

fn split(world: &World, member: &Member, border: &'static str) {
    let wish = OperateRequest {
        region: region_of(world, member, border).id,
        wish: RegionWish::Split.into(),
        key: border.into(),
        ..OperateRequest::default()
    };
    call::<OperateResponse>(world, member.pd(), "/ringkeep.Scheduler/Operate", wish).expect("it is taken");
    world.run_for(Duration::from_secs(5));
    assert_eq!(region_of(world, member, border).start_key, border, "it is split");
}

/// Writes the directory: a life that a drain ends, so that everything is in tables, and one that a kill ends, so that the rest is in the log.
fn write() -> Written {
    let world = World::new(1, Options::default());
    let mut member = Member::new(&world, 0, 1);
    member.start(&world, &[]).expect("a cluster of one begins");
    resp(&world, &member, set(&numbered("table", 0..100, 1)));
    delete_range(&world, &member, "table020", "table030");
    let request = UpdateGcSafePointRequest { safe_point: SAFE_POINT, ..UpdateGcSafePointRequest::default() };
    let kept: UpdateGcSafePointResponse =
        call(&world, member.pd(), "/pdpb.PD/UpdateGCSafePoint", request).expect("it is kept");
    assert_eq!(kept.new_safe_point, SAFE_POINT);
    member.drain(&world);
    member.start(&world, &[]).expect("it comes back");
    split(&world, &member, BORDER);
    let mut second = numbered("table", 70..75, 2);
    second.extend(numbered("log", 0..20, 2));
    resp(&world, &member, set(&second));
    delete_range(&world, &member, "table030", "table040");
    let words = |words: &str| words.split(' ').map(str::to_owned).collect();
    resp(&world, &member, vec![words("DEL table050"), words("SET counted 40"), words("INCRBY counted 2")]);
    keep_for(&world, &member, "backup", SERVICE_SAFE_POINT);
    let next_id_min = alloc_id(&world, &member) + 1;
    let timestamp_ms = timestamp_ms(&world, &member);
    member.end(false);
    let mut files = member.node.disk().contents();
    files.remove(&Path::new(ROOT).join("LOCK"));
    Written { files, next_id_min, timestamp_ms, ..expected() }
}

/// A node on the directory, and all that was written there.
fn read_all(was: &Written) {
    let world = World::new(2, Options::default());
    let mut member = Member::new(&world, 0, was.stores);
    member.node.disk().set_contents(&was.files);
    for life in 1..=2 {
        member.start(&world, &[]).unwrap_or_else(|why| panic!("life {life}: {why}"));
        world.run_for(Duration::from_secs(3));
        let words = ["SCAN", "0", "COUNT", "10000"].map(str::to_owned).to_vec();
        let keys: Vec<&str> = was.pairs.keys().map(String::as_str).collect();
        assert_eq!(resp(&world, &member, vec![words]), [format!("0 {}", keys.join(" "))], "life {life}");
        let gets = was.pairs.keys().map(|key| vec!["GET".to_owned(), key.clone()]).collect();
        let values: Vec<String> = was.pairs.values().cloned().collect();
        assert_eq!(resp(&world, &member, gets), values, "life {life}");
        let all = ScanRegionsRequest::default();
        let known: ScanRegionsResponse =
            call(&world, member.pd(), "/pdpb.PD/ScanRegions", all).expect("they are listed");
        let parts = known.regions.iter().filter_map(|known| known.region.as_ref());
        let cut = parts.filter(|region| was.border.is_some_and(|border| region.start_key == border)).count();
        assert_eq!(cut, usize::from(was.border.is_some()), "life {life}");
        let places = stores(&world, member.pd());
        let ids: Vec<_> = places.iter().map(|(store, node, _)| (*store, *node)).collect();
        let node = was.stores as u64 + 1;
        assert_eq!(ids, (1..node).map(|store| (store, node)).collect::<Vec<_>>(), "life {life}");
        assert!(alloc_id(&world, &member) >= was.next_id_min, "life {life}: an id is handed out again");
        assert!(timestamp_ms(&world, &member) > was.timestamp_ms, "life {life}: a timestamp does not rise");
        let request = GetGcSafePointRequest::default();
        let safe: GetGcSafePointResponse =
            call(&world, member.pd(), "/pdpb.PD/GetGCSafePoint", request).expect("it is known");
        assert_eq!(safe.safe_point, was.safe_point, "life {life}");
        if let Some((service, safe_point)) = was.service {
            let kept = keep_for(&world, &member, "gc_worker", 1 << 40);
            assert_eq!(kept, (service.into(), safe_point), "life {life}");
        }
        match life {
            1 => member.drain(&world),
            _ => member.end(true),
        }
    }
}

#[test]
fn directories_of_0_1_open_with_all_that_they_have() {
    read_all(&early());
    read_all(&written());
}

/// What the recipe writes today is read as what was written then, and can be written as a fixture of a later version.
#[test]
fn the_recipe_of_the_directory_still_works() {
    let now = write();
    assert_eq!(unpack(&pack(&now.files)), now.files, "text and back");
    read_all(&now);
    if let Ok(name) = std::env::var("RINGKEEP_WRITE_FIXTURE") {
        let path = place(&name);
        assert!(!path.exists(), "{} is never written anew", path.display());
        std::fs::write(&path, pack(&now.files)).unwrap();
        let noted = format!("{name}: next_id_min {}, timestamp_ms {}", now.next_id_min, now.timestamp_ms);
        std::fs::write(path.with_extension("txt"), noted).unwrap();
    }
}

/// The same bytes on a real disk, by the real runtime.
#[test]
fn directories_of_0_1_open_on_a_real_disk() {
    on_a_real_disk(&early());
    on_a_real_disk(&written());
}

fn on_a_real_disk(was: &Written) {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for (path, bytes) in &was.files {
        let path = dir.path().join(path.strip_prefix(ROOT).expect("a file of the directory"));
        std::fs::create_dir_all(path.parent().expect("a directory")).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let found = with_node(dir.path(), was.stores, was.stores, |_, gateway| async move {
        gateway.submit(None, Op::Scan(Scan { limit: 10_000, ..Scan::default() })).await
    });
    let Ok(Out::Pairs(found)) = found else { panic!("{found:?}") };
    let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
    let found: BTreeMap<_, _> = found.iter().map(|(key, value)| (text(key), text(value))).collect();
    assert_eq!(found, was.pairs);
}

/// A file whose version is another one and which is whole otherwise.
fn of_another_version(name: &str, bytes: &mut [u8]) {
    const ANOTHER: u8 = b'9';
    if name == "IDENT" {
        bytes["ringkeep ".len()] = ANOTHER;
    } else if name.starts_with("MANIFEST-") {
        bytes[12] = ANOTHER;
        let archive = u32::from_le_bytes(*bytes[8..].first_chunk().expect("a frame has a header")) as usize;
        let sum = crc32fast::hash(&bytes[8..40 + archive]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
    } else if name.ends_with(".seg") {
        bytes[8] = ANOTHER;
        let sum = crc32fast::hash(&[&bytes[..12], &bytes[16..64]].concat());
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    } else if name == "END" {
        for slot in bytes.chunks_mut(4096).filter(|slot| slot[0] != 0) {
            slot[8] = ANOTHER;
            let sum = crc32fast::hash(&[&slot[..12], &slot[16..64]].concat());
            slot[12..16].copy_from_slice(&sum.to_le_bytes());
        }
    } else {
        let footer = bytes.last_chunk_mut::<80>().expect("a table is longer than its footer");
        footer[64] = ANOTHER;
        let sum = crc32fast::hash(&footer[..68]);
        footer[68..72].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The directory with one file of another version, whose path contains `part`, and the name of that file.
fn with_another_version(part: &str) -> (Files, String) {
    let mut files = written().files;
    if part == "END" {
        // The binary of that time made none.
        files = write().files;
    }
    let changed = files.keys().find(|path| path.display().to_string().contains(part)).cloned();
    let changed = changed.expect("there is such a file");
    let name = changed.file_name().expect("a file").display().to_string();
    of_another_version(&name, files.get_mut(&changed).expect("it was found"));
    (files, name)
}

/// A table of another version is damage like any other: the store serves what does not need it, and names it from the start on.
#[test]
fn a_table_of_a_version_that_is_not_known_is_named() {
    let (files, name) = with_another_version(".table");
    let world = World::new(3, Options::default());
    let mut member = Member::new(&world, 0, 1);
    member.node.disk().set_contents(&files);
    let started = member.start(&world, &[]).expect("the other files are whole");
    let problem = || {
        let reports = started.board.read();
        reports.iter().flat_map(|core| &core.stores).find_map(|store| store.health.problem())
    };
    // All tables are looked at beside the first requests.
    world.run_until(Duration::from_secs(5), || problem().is_some());
    let problem = problem().expect("the start has looked at it");
    assert!(problem.contains(&name) && problem.contains("a table of an unknown format version"), "{problem}");
}

/// A format of another version is refused by the name of its file, and nothing on disk is changed.
#[test]
fn a_version_that_is_not_known_is_refused_by_name() {
    for (part, what) in [
        ("IDENT", "the directory has format"),
        ("MANIFEST-", "a manifest of an unknown format version"),
        (".seg", "log format version"),
        ("END", "log end format version"),
    ] {
        let (files, name) = with_another_version(part);
        let world = World::new(3, Options::default());
        let mut member = Member::new(&world, 0, 1);
        member.node.disk().set_contents(&files);
        let why = member.start(&world, &[]).expect_err(part);
        assert!(why.contains(&name) && why.contains(what), "{why}");
        let mut after = member.node.disk().contents();
        after.retain(|path, _| files.contains_key(path));
        assert!(after == files, "a file of the directory was changed: {part}");
    }
}

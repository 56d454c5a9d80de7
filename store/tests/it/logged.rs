//! What a node says in its log when it matters: each event one line, with the store, and with the file where there is one.

use std::fmt::{self, Write};
use std::rc::Rc;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use bytes::Bytes;
use engine::lsm::TreeOptions;
use engine::rt::Rt;
use engine::rt::sim::{Node, Options, World};
use store::gateway::Gateway;
use store::node::core::Stores;
use store::publish::log_write_ages;
use store::request::{Op, Outcome};
use store::shard::Shard;
use store::wire::board::CoreReport;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

use crate::node::open_simulated;

/// Beside the only collector of a process, a statement that another thread reaches first is off for the collector, too. So there are two.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(Lines::default()));

/// The lines of information and above that a thread logs, as `LEVEL message field=value ...`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Collects what `work` logs.
    pub(crate) fn of<T>(work: impl FnOnce(&Lines) -> T) -> T {
        LazyLock::force(&SECOND);
        let lines = Self::default();
        tracing::subscriber::with_default(lines.clone(), || work(&lines))
    }

    pub(crate) fn with(&self, text: &str) -> Vec<String> {
        let lines = self.0.lock().unwrap();
        lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// The one line that says `text`, which must have all of `parts`.
    pub(crate) fn only(&self, text: &str, parts: &[&str]) -> String {
        let found = self.with(text);
        let [line] = &found[..] else { panic!("{} lines say {text:?}: {:#?}", found.len(), self.with("")) };
        parts.iter().for_each(|part| assert!(line.contains(part), "no {part:?}: {line}"));
        line.clone()
    }
}

/// The number of a field of a line.
pub(crate) fn number(line: &str, field: &str) -> u64 {
    let value = line.split(&format!(" {field}=")).nth(1).unwrap_or_else(|| panic!("no {field}: {line}"));
    let digits: String = value.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("{field} is no number: {line}"))
}

struct Fields {
    message: String,
    rest: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.rest, " {name}={value:?}"),
        };
        written.expect("a string takes everything");
    }
}

impl Subscriber for Lines {
    fn enabled(&self, of: &Metadata<'_>) -> bool {
        *of.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields { message: String::new(), rest: String::new() };
        event.record(&mut fields);
        let Fields { message, rest } = fields;
        self.0.lock().unwrap().push(format!("{} {message}{rest}", event.metadata().level()));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn put(key: impl Into<Bytes>, bytes: usize) -> Op {
    Op::Put { key: key.into(), value: vec![b'v'; bytes].into() }
}

/// Runs `work` on a node with two stores whose memtables are tiny, and returns what it logged.
fn logged<F: Future<Output = ()>>(
    seed: u64,
    work: impl FnOnce(Rt, Rc<World>, Node, Stores, Gateway) -> F + 'static,
) -> Lines {
    logged_with(seed, 8 << 10, work)
}

/// The same with memtables of this size.
fn logged_with<F: Future<Output = ()>>(
    seed: u64,
    memtable_bytes: usize,
    work: impl FnOnce(Rt, Rc<World>, Node, Stores, Gateway) -> F + 'static,
) -> Lines {
    Lines::of(|lines| {
        let world = Rc::new(World::new(seed, Options::default()));
        let node = world.node(0);
        let (of_disk, outside) = (node.clone(), world.clone());
        let running = node.start(0, |rt| async move {
            let tree =
                TreeOptions { memtable_bytes, closed_memtables: 2, cache_bytes: 0, ..TreeOptions::default() };
            let (stores, gateway) = open_simulated(&rt, |plan| plan.shard.tree = tree).await;
            work(rt, outside, of_disk, stores, gateway).await;
        });
        world.block_on(running).unwrap();
        lines.clone()
    })
}

/// The store that has `k`.
fn owner(stores: &Stores) -> Shard {
    let mut shards = stores.shards.values();
    let has = |shard: &&Shard| shard.regions().iter().any(|(region, ..)| region.range.contains(b"k"));
    shards.find(has).expect("a region has it").clone()
}

#[test]
fn a_log_write_is_logged_when_it_is_slow_and_when_it_has_ended() {
    let lines = logged(601, |rt, world, node, stores, gateway| async move {
        let shard = owner(&stores);
        let look = |rt: &Rt| {
            let report = CoreReport { stores: vec![shard.snapshot()], ..CoreReport::default() };
            assert_eq!(log_write_ages(&[report], rt.now()).len(), 1);
        };
        gateway.submit(None, put("k1", 10)).await.unwrap();
        for _ in 0..2 {
            node.disk().hang();
            let hangs = gateway.submit(None, put("k2", 10));
            rt.sleep(Duration::from_millis(900)).await;
            look(&rt);
            for _ in 0..3 {
                rt.sleep(Duration::from_secs(1)).await;
                look(&rt);
            }
            node.disk().unhang(&world);
            hangs.await.unwrap();
            look(&rt);
        }
        assert_eq!(shard.store().0, 1, "choose another key");
    });
    let (began, ended) = (lines.with("a log write is slow"), lines.with("a slow log write has ended"));
    assert_eq!((began.len(), ended.len()), (2, 2), "{:#?}", lines.with(""));
    for (began, ended) in began.iter().zip(&ended) {
        assert!(began.starts_with("WARN") && began.contains(" store=1"), "{began}");
        assert!((1000..2500).contains(&number(began, "age_ms")), "when it begins to be slow: {began}");
        assert!(ended.contains(" store=1") && number(ended, "took_ms") >= 3900, "{ended}");
    }
}

#[test]
fn stops_of_writers_are_logged_when_they_begin_and_when_they_have_ended() {
    let lines = logged(602, |rt, _, node, stores, gateway| async move {
        let shard = owner(&stores);
        node.disk().slow(300);
        let mut submitted: Vec<_> = Vec::new();
        for n in 0..10_000 {
            if !shard.snapshot().tree.write_stop.is_zero() {
                break;
            }
            submitted.push(gateway.submit(None, put(format!("k{n}"), 9 << 10)));
            rt.sleep(Duration::from_millis(5)).await;
        }
        node.disk().slow(1);
        for submitted in submitted {
            let outcome: Outcome = submitted.await;
            outcome.unwrap();
        }
        rt.sleep(Duration::from_secs(10)).await;
        assert_eq!(shard.store().0, 1, "choose another key");
    });
    let (begins, ends) = (lines.with("writes are stopped"), lines.with("writes go on"));
    assert!(!begins.is_empty() && begins.len() == ends.len(), "{begins:#?} {ends:#?}");
    for line in begins.iter().chain(&ends) {
        assert!(line.contains(" store=1"), "{line}");
    }
    assert!(begins.iter().all(|line| line.starts_with("WARN")), "{begins:#?}");
    for line in &begins {
        let behind = number(line, "level0_tables") + number(line, "closed_memtables");
        assert!(behind > 0, "what is behind is named: {line}");
    }
    assert!(
        ends.iter().all(|line| number(line, "stopped_ms") >= 500),
        "a short stop makes no line: {ends:#?}"
    );
}

#[test]
fn writers_that_are_slowed_down_are_logged_once_with_what_is_behind() {
    let lines = logged_with(607, 256 << 10, |rt, _, node, stores, gateway| async move {
        let shard = owner(&stores);
        node.disk().slow(30);
        let mut submitted: Vec<_> = Vec::new();
        for n in 0..100_000 {
            if shard.snapshot().tree.write_delay > Duration::from_millis(20) {
                break;
            }
            submitted.push(gateway.submit(None, put(format!("k{n}"), 4 << 10)));
            rt.sleep(Duration::from_micros(500)).await;
        }
        node.disk().slow(1);
        for submitted in submitted {
            let outcome: Outcome = submitted.await;
            outcome.unwrap();
        }
        rt.sleep(Duration::from_secs(20)).await;
        assert_eq!(shard.store().0, 1, "choose another key");
    });
    let begins = lines.only("writes are slowed down", &["WARN", " store=1", " level0_tables="]);
    assert!(
        number(&begins, "bytes_per_second_max") > 0 && number(&begins, "closed_memtables") > 0,
        "{begins}"
    );
    let ended = lines.only("writes are not slowed down any more", &["INFO", " store=1"]);
    assert!(number(&ended, "waited_ms") > 0 && number(&ended, "lasted_ms") > 0, "{ended}");
}

#[test]
fn a_full_disk_is_logged_when_it_begins_and_when_it_has_ended() {
    let lines = logged(603, |rt, _, node, stores, gateway| async move {
        let shard = owner(&stores);
        gateway.submit(None, put("k1", 10)).await.unwrap();
        node.disk().leave(0);
        let mut submitted = Vec::new();
        while !shard.health().refuses_writes {
            submitted.push(gateway.submit(None, put("k2", 64 << 10)));
            rt.sleep(Duration::from_millis(20)).await;
        }
        rt.sleep(Duration::from_secs(5)).await;
        node.disk().set_capacity(u64::MAX);
        while shard.health().refuses_writes {
            rt.sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(shard.store().0, 1, "choose another key");
    });
    let begins = lines.with("the store refuses writes");
    let of_ours: Vec<&String> = begins.iter().filter(|line| line.contains(" store=1")).collect();
    assert!(of_ours.len() == 1 && of_ours[0].starts_with("ERROR"), "{begins:#?}");
    assert!(of_ours[0].contains("not enough space"), "{begins:#?}");
    let ends = lines.with("the store takes writes again");
    assert_eq!(ends.iter().filter(|line| line.contains(" store=1")).count(), 1, "{ends:#?}");
}

#[test]
fn a_store_that_stops_names_itself_and_the_file() {
    let lines = logged(604, |rt, _, node, stores, gateway| async move {
        let shard = owner(&stores);
        node.disk().fail_next_write(&format!("store-{}/log", shard.store().0));
        assert!(gateway.submit(None, put("k1", 10)).await.is_err());
        rt.sleep(Duration::from_secs(5)).await;
        assert!(shard.stopped().is_some());
        stores.stop(Duration::from_secs(10)).await;
    });
    let line = lines.only("the store stops after a fault", &[" store=1", "/data/store-1/log"]);
    assert!(line.starts_with("ERROR"), "{line}");
    // The other one is closed in peace.
    lines.only("the store closes", &[" store=2"]);
}

#[test]
fn a_damaged_file_is_named_once_with_its_store() {
    let lines = logged(605, |rt, _, node, stores, gateway| async move {
        let shard = owner(&stores);
        gateway.submit(None, put("k1", 100)).await.unwrap();
        while gateway.get_now(b"k1").is_some() || shard.snapshot().tree.memtable_bytes > 0 {
            gateway.submit(None, put("k3", 8 << 10)).await.unwrap();
            rt.sleep(Duration::from_millis(50)).await;
        }
        let is_table = |path: &std::path::PathBuf| {
            path.starts_with("/data/store-1/tree") && path.extension().is_some_and(|kind| kind == "table")
        };
        for table in node.disk().files().iter().filter(|path| is_table(path)) {
            node.disk().rot(table, 40, 0x10);
        }
        for _ in 0..3 {
            assert!(gateway.submit(None, Op::Get { key: "k1".into() }).await.is_err());
        }
    });
    let parts = [" store=1", "/data/store-1/tree/", ".table", "checksum"];
    let line = lines.only("a file is damaged", &parts);
    assert!(line.starts_with("ERROR"), "{line}");
}

#[test]
fn a_torn_tail_is_logged_with_its_file_and_how_much_is_cut() {
    let lines = Lines::of(|lines| {
        let world = World::new(606, Options::default());
        let node = world.node(0);
        let first = node.start(0, |rt| async move {
            let (_stores, gateway) = open_simulated(&rt, |_| {}).await;
            rt.sleep(Duration::from_secs(1)).await;
            gateway.submit(None, put("k1", 100)).await.unwrap();
        });
        world.block_on(first).unwrap();
        node.kill();
        // Eight bytes within the value, which is in the last record of one log.
        for (path, mut bytes) in node.disk().contents() {
            if let Some(place) = bytes.windows(100).rposition(|window| window == [b'v'; 100]) {
                bytes[place + 40..place + 48].fill(0);
                node.disk().write(&path, &bytes);
            }
        }
        let second = node.start(0, |rt| async move {
            drop(open_simulated(&rt, |_| {}).await);
        });
        world.block_on(second).unwrap();
        lines.clone()
    });
    let line = lines.only("log tail cut: 4096 bytes", &["/data/store-1/log/", " bytes=4096", " pos="]);
    assert!(line.starts_with("WARN"), "{line}");
}

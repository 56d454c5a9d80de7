//! What one core's tree costs: CPU time per operation, percentiles and the worst stall.
//!
//! `cargo run --release -p ringkeep-engine --example lsm_bench -- [keys] [directory]`
//!
//! Keys are 16 bytes in random order, values 100 bytes that do not pack. "put" includes the flushes and compactions that ran
//! meanwhile, "settled" also those that it left behind. CPU time is that of the core's thread.

#![expect(clippy::print_stdout, reason = "the output is the point")]

use std::path::PathBuf;
use std::time::Duration;

use engine::lsm::{Cf, Direction, Lookup, Pressure, Tree, TreeOptions, WriteBatch};
use engine::rt::Rt;
use engine::rt::{CoreOptions, start_core};

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let keys: u64 = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let dir = arguments.next().map_or_else(|| std::env::temp_dir().join("ringkeep-lsm-bench"), PathBuf::from);
    // A tree left by an earlier run would be measured along with this one.
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    start_core(&CoreOptions::default(), move |rt| async move {
        if let Err(fault) = bench(&rt, keys, dir).await {
            println!("{fault}");
        }
    })
}

async fn bench(rt: &Rt, keys: u64, dir: PathBuf) -> engine::error::Result<()> {
    let options = TreeOptions { cache_bytes: 512 << 20, ..TreeOptions::default() };
    let tree = Tree::open(rt, &dir, options.clone()).await?;
    println!("{keys} keys of 16 + 100 bytes");

    let mut meter = Meter::start(rt, "put");
    let watch = watch_stalls(rt);
    let budget = rt.budget();
    let mut batch = WriteBatch::new();
    let mut waited = Duration::ZERO;
    for n in 0..keys {
        let began = rt.now();
        batch.clear();
        batch.put(Cf::Default, &key(n), &value(n));
        batch.mark(n % 64, n);
        tree.write(&batch)?;
        meter.record(rt.now().since(began));
        loop {
            let began = rt.now();
            match tree.pressure() {
                Pressure::None => break,
                Pressure::Delay(pause) => rt.sleep(pause).await,
                Pressure::Stop => rt.sleep(Duration::from_millis(1)).await,
            }
            waited += rt.now().since(began);
        }
        if n % 16 == 0 {
            budget.tick().await;
        }
    }
    meter.report(keys);
    tree.flush().await?;
    meter.name = "settled";
    meter.report(keys);
    let stats = tree.stats();
    let written = stats.flushed_bytes + stats.compacted_bytes;
    println!(
        "  {} flushes, {} compactions, write amplification {:.2}, held back {waited:?}, levels {:?}",
        stats.flushes,
        stats.compactions,
        written as f64 / (keys * 116) as f64,
        stats.levels
    );
    println!("  worst lateness of a 1 ms timer: {:?}", watch.await);

    let began = rt.now();
    tree.close().await;
    let tree = Tree::open(rt, &dir, options).await?;
    println!("close and open: {:?}", rt.now().since(began));

    reads(rt, &tree, keys, "get cold").await?;
    reads(rt, &tree, keys, "get hot").await?;
    misses(rt, &tree, keys).await?;
    scans(rt, &tree, keys).await?;
    tree.compact().await?;
    println!("after a full compaction, levels {:?}", tree.stats().levels);
    reads(rt, &tree, keys, "get warm").await?;
    reads(rt, &tree, keys, "get hot").await?;
    misses(rt, &tree, keys).await?;
    scans(rt, &tree, keys).await?;
    tree.close().await;
    Ok(())
}

async fn reads(rt: &Rt, tree: &Tree, keys: u64, name: &'static str) -> engine::error::Result<()> {
    let count = keys.min(500_000);
    let (mut meter, budget, mut needed) = (Meter::start(rt, name), rt.budget(), 0u64);
    for n in 0..count {
        let wanted = key(mix(n ^ 0x5555) % keys);
        let began = rt.now();
        let found = match tree.get_now(Cf::Default, &wanted) {
            Lookup::Found(_) => true,
            Lookup::Absent => false,
            Lookup::NeedsIo => {
                needed += 1;
                tree.get(Cf::Default, &wanted).await?.is_some()
            }
        };
        meter.record(rt.now().since(began));
        assert!(found, "a key that was put is there");
        if n % 16 == 0 {
            budget.tick().await;
        }
    }
    meter.report(count);
    println!("  {needed} of {count} needed the disk");
    Ok(())
}

async fn misses(rt: &Rt, tree: &Tree, keys: u64) -> engine::error::Result<()> {
    let count = keys.min(500_000);
    let (mut meter, budget) = (Meter::start(rt, "miss"), rt.budget());
    for n in 0..count {
        let wanted = key(keys + n);
        let began = rt.now();
        let found = match tree.get_now(Cf::Default, &wanted) {
            Lookup::Found(_) => true,
            Lookup::Absent => false,
            Lookup::NeedsIo => tree.get(Cf::Default, &wanted).await?.is_some(),
        };
        meter.record(rt.now().since(began));
        assert!(!found, "a key that was never put is not there");
        if n % 16 == 0 {
            budget.tick().await;
        }
    }
    meter.report(count);
    Ok(())
}

async fn scans(rt: &Rt, tree: &Tree, keys: u64) -> engine::error::Result<()> {
    let count = 20_000;
    let (mut meter, budget, mut seen) = (Meter::start(rt, "scan100"), rt.budget(), 0u64);
    for n in 0..count {
        let from = key(mix(n) % keys);
        let began = rt.now();
        let mut iter = tree.iter(Cf::Default, &from, b"", Direction::Forward);
        for _ in 0..100 {
            match iter.next().await? {
                Some((_, value)) => seen += value.len() as u64,
                None => break,
            }
        }
        meter.record(rt.now().since(began));
        budget.tick().await;
    }
    assert!(seen > count * 9_000, "scans find their hundred keys");
    meter.report(count);
    Ok(())
}

/// For two seconds, how late a timer of one millisecond fires at worst.
fn watch_stalls(rt: &Rt) -> impl Future<Output = Duration> {
    let inner = rt.clone();
    rt.spawn(async move {
        let mut worst = Duration::ZERO;
        let began = inner.now();
        while inner.now().since(began) < Duration::from_secs(2) {
            let before = inner.now();
            inner.sleep(Duration::from_millis(1)).await;
            worst = worst.max(inner.now().since(before).saturating_sub(Duration::from_millis(1)));
        }
        worst
    })
}

/// CPU and latency of one kind of operation.
struct Meter {
    name: &'static str,
    rt: Rt,
    cpu: Duration,
    began: engine::rt::Mono,
    latencies: Vec<u32>,
}

impl Meter {
    fn start(rt: &Rt, name: &'static str) -> Self {
        Self {
            name,
            rt: rt.clone(),
            cpu: thread_cpu(),
            began: rt.now(),
            latencies: Vec::with_capacity(2_000_000),
        }
    }

    fn record(&mut self, latency: Duration) {
        self.latencies.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
    }

    fn report(&mut self, operations: u64) {
        let cpu = thread_cpu().saturating_sub(self.cpu);
        let wall = self.rt.now().since(self.began);
        self.latencies.sort_unstable();
        let at =
            |share: f64| self.latencies[((self.latencies.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
        println!(
            "{:9} {:8.2} us CPU, {:9.0} per second, p50 {:.2} us, p99 {:.2} us, p99.9 {:.1} us, worst {:.2} ms",
            self.name,
            cpu.as_secs_f64() * 1e6 / operations as f64,
            operations as f64 / wall.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0) / 1000.0
        );
    }
}

/// CPU time of this thread: the first field of its schedstat, nanoseconds.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split_whitespace().next().and_then(|field| field.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn mix(n: u64) -> u64 {
    let mixed = (n.wrapping_add(0x9E37_79B9_7F4A_7C15) ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Sixteen bytes, spread over the key space.
fn key(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mix(n).to_be_bytes());
    key[8..].copy_from_slice(&n.to_be_bytes());
    key
}

fn value(n: u64) -> [u8; 100] {
    let mut value = [0; 100];
    for (at, chunk) in value.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&mix(n.wrapping_mul(31).wrapping_add(at as u64)).to_le_bytes()[..chunk.len()]);
    }
    value
}

//! The physical limit: what this machine's disk and loopback can do, measured the plainest way, blocking calls in one thread.
//!
//! No durable write is faster than one synced block, and no answer comes sooner than one round trip. Every figure about
//! ringkeep is printed beside these.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::Failed;
use crate::clock::{now, pause};
use crate::random::Random;
use crate::report::{LatencyReport, table};

const BLOCK_BYTES: usize = 4096;
/// Large enough that a device's own cache does not hold it all, small enough to write in a moment.
const FILE_BYTES: u64 = 256 << 20;
const FILE_NAME: &str = "ringkeep-bench-disk.tmp";
/// What a small request and its answer weigh on the wire.
const ROUND_TRIP_BYTES: usize = 64;

/// The limits of a machine.
#[derive(Clone, Debug, Serialize)]
pub struct DiskReport {
    /// Where the file was.
    pub directory: PathBuf,
    /// CPUs, kernel.
    pub machine: String,
    /// 4 KiB over a zeroed file, each durable when it returns (O_DIRECT and O_DSYNC).
    pub write_dsync_us: LatencyReport,
    /// 4 KiB over a zeroed file (O_DIRECT), then fdatasync, together.
    pub write_fdatasync_us: LatencyReport,
    /// 4 KiB from a random place (O_DIRECT).
    pub read_us: LatencyReport,
    /// 64 bytes there and back over loopback TCP between two threads that block.
    pub round_trip_us: LatencyReport,
}

impl DiskReport {
    /// p50 of the better synced write, microseconds.
    pub fn best_write_p50_us(&self) -> f64 {
        self.write_dsync_us.p50.min(self.write_fdatasync_us.p50)
    }

    /// A table for people.
    pub fn table(&self) -> String {
        let mut rows =
            vec![["limit of this machine", "per second", "p50 us", "p99", "p99.9"].map(String::from)];
        for (name, latency) in [
            ("4 KiB write, O_DIRECT + O_DSYNC", self.write_dsync_us),
            ("4 KiB write, O_DIRECT, then fdatasync", self.write_fdatasync_us),
            ("4 KiB random read, O_DIRECT", self.read_us),
            ("loopback TCP round trip, blocking", self.round_trip_us),
        ] {
            let numbers = [1e6 / latency.mean.max(0.001), latency.p50, latency.p99, latency.p999];
            let [rate, p50, p99, p999] = numbers.map(|number| format!("{number:.0}"));
            rows.push([name.to_owned(), rate, p50, p99, p999]);
        }
        format!("{}  in {} on {}\n", table(&rows), self.directory.display(), self.machine)
    }
}

/// Measures in `directory`, each limit for `each`. The file is removed afterwards.
///
/// # Errors
/// The directory cannot be written, or its file system has no direct IO.
pub fn measure(directory: &Path, each: Duration) -> Result<DiskReport, Failed> {
    std::fs::create_dir_all(directory)?;
    let scratch = Scratch::create(directory)?;
    let dsync = scratch.open(libc::O_DSYNC)?;
    let plain = scratch.open(0)?;
    let mut random = Random::new(1);
    let blocks = FILE_BYTES / BLOCK_BYTES as u64;
    let mut buffer = vec![0u8; 2 * BLOCK_BYTES];
    let at = buffer.as_ptr().align_offset(BLOCK_BYTES);
    let block = &mut buffer[at..at + BLOCK_BYTES];
    random.fill(block);

    let mut place = (0..blocks).cycle().map(|block| block * BLOCK_BYTES as u64);
    let mut next = || place.next().expect("a cycle does not end");
    let write_dsync_us = repeat(each, || dsync.write_all_at(block, next()))?;
    let write_fdatasync_us = repeat(each, || {
        plain.write_all_at(block, next())?;
        plain.sync_data()
    })?;
    let read_us = repeat(each, || plain.read_exact_at(block, random.below(blocks) * BLOCK_BYTES as u64))?;
    let round_trip_us = round_trips(each)?;
    let (directory, machine) = (directory.to_owned(), machine());
    Ok(DiskReport { directory, machine, write_dsync_us, write_fdatasync_us, read_us, round_trip_us })
}

/// A zeroed file that is removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create(directory: &Path) -> Result<Self, Failed> {
        let scratch = Self(directory.join(FILE_NAME));
        let mut file = File::create(&scratch.0)
            .map_err(|error| Failed::new(format!("cannot write in {}: {error}", directory.display())))?;
        let zeros = vec![0u8; 1 << 20];
        for _ in 0..FILE_BYTES >> 20 {
            file.write_all(&zeros)?;
        }
        file.sync_all()?;
        // What the zeroing left in the device's queue is not what is to be measured.
        pause(Duration::from_millis(200));
        Ok(scratch)
    }

    fn open(&self, flags: i32) -> Result<File, Failed> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT | flags);
        options.open(&self.0).map_err(|error| {
            Failed::new(format!(
                "{} cannot be opened for direct IO: {error}; use ext4 or XFS",
                self.0.display()
            ))
        })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover file is overwritten by the next run.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn repeat(each: Duration, mut once: impl FnMut() -> std::io::Result<()>) -> Result<LatencyReport, Failed> {
    let mut nanos = histogram();
    let began = now();
    while began.elapsed() < each {
        let started = now();
        once()?;
        nanos.saturating_record(started.elapsed().as_nanos() as u64);
    }
    Ok(LatencyReport::new(&nanos))
}

/// Round trips between two blocking threads.
///
/// # Errors
/// Loopback does not work.
pub fn round_trips(each: Duration) -> Result<LatencyReport, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut bytes = [0u8; ROUND_TRIP_BYTES];
        while stream.read_exact(&mut bytes).is_ok() {
            stream.write_all(&bytes)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    let mut bytes = [0u8; ROUND_TRIP_BYTES];
    let latency = repeat(each, || {
        stream.write_all(&bytes)?;
        stream.read_exact(&mut bytes)
    })?;
    drop(stream);
    echo.join().map_err(|_| Failed::new("the echoing thread panicked"))??;
    Ok(latency)
}

/// The machine in one phrase: CPUs and kernel.
pub fn machine() -> String {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let model = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown CPU", |(_, name)| name).to_owned();
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cpus} x {model}, Linux {}", kernel.trim())
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are constants in range")
}

/// One sample of the limits that a single durable put cannot beat, taken between other measurements.
#[derive(Debug)]
pub struct Probe {
    scratch: Scratch,
    buffer: Vec<u8>,
    place: u64,
}

impl std::fmt::Debug for Scratch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.display().to_string())
    }
}

impl Probe {
    /// Prepares a file in `directory`.
    ///
    /// # Errors
    /// As [`measure`].
    pub fn new(directory: &Path) -> Result<Self, Failed> {
        Ok(Self { scratch: Scratch::create(directory)?, buffer: vec![0; 2 * BLOCK_BYTES], place: 0 })
    }

    /// Latency of `count` synced writes of both kinds, microseconds: (O_DSYNC, fdatasync).
    ///
    /// # Errors
    /// The disk fails.
    pub fn writes(&mut self, count: usize) -> Result<(Vec<f64>, Vec<f64>), Failed> {
        let (dsync, plain) = (self.scratch.open(libc::O_DSYNC)?, self.scratch.open(0)?);
        let at = self.buffer.as_ptr().align_offset(BLOCK_BYTES);
        let block = &self.buffer[at..at + BLOCK_BYTES];
        let (mut by_dsync, mut by_fdatasync) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let started = now();
            dsync.write_all_at(block, self.place)?;
            by_dsync.push(started.elapsed().as_secs_f64() * 1e6);
            let started = now();
            plain.write_all_at(block, self.place + BLOCK_BYTES as u64)?;
            plain.sync_data()?;
            by_fdatasync.push(started.elapsed().as_secs_f64() * 1e6);
            self.place = (self.place + 2 * BLOCK_BYTES as u64) % FILE_BYTES;
        }
        Ok((by_dsync, by_fdatasync))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_take_time() {
        let latency = round_trips(Duration::from_millis(50)).expect("loopback works");
        assert!(latency.p50 > 0.5 && latency.p50 <= latency.p99, "{latency:?}");
    }

    #[test]
    fn the_machine_is_named() {
        assert!(machine().contains("Linux"));
    }
}

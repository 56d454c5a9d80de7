//! What a node says of its own backlog while it is under load: debt of compactions, tables of level 0, how long writers were held
//! back, and the slowest write of its log. Read from its status port once a second, on a plain thread.
//!
//! A put may be late because the disk is, never because a compaction is: so the worst put belongs beside the slowest write of the
//! log in the same run.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::clock;

/// How often the page is read.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a page may take.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines of the table, however long the load took.
const LINES_MAX: usize = 20;

/// The backlog at one moment; of several stores the worst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Moment {
    /// Seconds since the beginning.
    pub at_seconds: f64,
    /// Bytes that compactions have to rewrite.
    pub pending_compaction_bytes: f64,
    /// Tables of level 0.
    pub l0_tables: f64,
    /// How long writers have been slowed down since the node's start, seconds.
    pub write_delay_seconds: f64,
    /// How long they have been stopped.
    pub write_stop_seconds: f64,
}

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BacklogReport {
    /// One per second.
    pub moments: Vec<Moment>,
    /// Above the slowest write of a log meanwhile, seconds: the bound of its bucket. None if there was no write.
    pub slowest_log_write_seconds: Option<f64>,
}

/// A thread that looks until it is asked to stop.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BacklogReport>,
}

impl Watch {
    /// Begins to look at the status port of a node.
    pub fn start(status: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || look(status, &stopping));
        Self { stop, thread }
    }

    /// Ends it. Pages that could not be read are missing from the report.
    pub fn finish(self) -> BacklogReport {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn look(status: SocketAddr, stop: &AtomicBool) -> BacklogReport {
    let (began, mut moments) = (clock::now(), Vec::new());
    let (mut first, mut last) = (None, String::new());
    loop {
        let ended = stop.load(Ordering::Relaxed);
        if let Ok(page) = page(status) {
            moments.push(moment(began.elapsed().as_secs_f64(), &page));
            first.get_or_insert_with(|| page.clone());
            last = page;
        }
        if ended {
            let slowest = slowest(first.as_deref().unwrap_or_default(), &last);
            return BacklogReport { moments, slowest_log_write_seconds: slowest };
        }
        clock::pause(LOOK_EVERY);
    }
}

/// The page of metrics of a node.
pub(crate) fn page(status: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&status, PAGE_TIMEOUT)?;
    stream.set_read_timeout(Some(PAGE_TIMEOUT))?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Labels and value of each line of this name that has them.
pub(crate) fn samples<'a>(page: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    page.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        Some((labels, value.trim().parse().ok()?))
    })
}

fn moment(at_seconds: f64, page: &str) -> Moment {
    let worst = |name| samples(page, name).map(|(_, value)| value).fold(0.0, f64::max);
    let level_zero =
        samples(page, "ringkeep_lsm_tables").filter(|(labels, _)| labels.contains("level=\"0\""));
    Moment {
        at_seconds,
        pending_compaction_bytes: worst("ringkeep_lsm_pending_compaction_bytes"),
        l0_tables: level_zero.map(|(_, value)| value).fold(0.0, f64::max),
        write_delay_seconds: worst("ringkeep_lsm_write_delay_seconds_total"),
        write_stop_seconds: worst("ringkeep_lsm_write_stop_seconds_total"),
    }
}

/// The bound of the highest bucket that a log write fell into between two pages.
fn slowest(first: &str, last: &str) -> Option<f64> {
    const NAME: &str = "ringkeep_log_write_seconds_bucket";
    let before =
        |labels: &str| samples(first, NAME).find(|(other, _)| *other == labels).map_or(0.0, |(_, n)| n);
    let mut worst: Option<f64> = None;
    let mut below: Option<(String, f64)> = None;
    for (labels, count) in samples(last, NAME) {
        let Some((store, bound)) = labels.rsplit_once("le=\"") else { continue };
        let bound = bound.trim_end_matches('"').trim_start_matches('+').parse().unwrap_or(f64::INFINITY);
        let grown = count - before(labels);
        let lower = below.take().filter(|(other, _)| other == store).map_or(0.0, |(_, n)| n);
        if grown > lower {
            worst = Some(worst.map_or(bound, |worst| worst.max(bound)));
        }
        below = Some((store.to_owned(), grown));
    }
    worst
}

impl BacklogReport {
    /// A table for people: moments at even distances, and the slowest log write.
    pub fn table(&self) -> String {
        let mut rows = vec![
            ["seconds", "compaction debt MiB", "level 0 tables", "delayed s", "stopped s"].map(String::from),
        ];
        let every = self.moments.len().div_ceil(LINES_MAX).max(1);
        for moment in self.moments.iter().step_by(every) {
            rows.push([
                format!("{:.0}", moment.at_seconds),
                format!("{:.0}", moment.pending_compaction_bytes / f64::from(1 << 20)),
                format!("{}", moment.l0_tables),
                format!("{:.1}", moment.write_delay_seconds),
                format!("{:.1}", moment.write_stop_seconds),
            ]);
        }
        let mut text = crate::report::table(&rows);
        let slowest = self.slowest_log_write_seconds.map_or_else(
            || "no log write was seen".to_owned(),
            |seconds| format!("the slowest log write took at most {:.0} ms", seconds * 1000.0),
        );
        // Writing into a string cannot fail.
        let _ = writeln!(text, "  {slowest}");
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
ringkeep_log_write_seconds_bucket{core=\"0\",store=\"1\",le=\"0.004\"} 10
ringkeep_log_write_seconds_bucket{core=\"0\",store=\"1\",le=\"0.016\"} 10
ringkeep_log_write_seconds_bucket{core=\"0\",store=\"1\",le=\"+Inf\"} 11
";
    const AFTER: &str = "\
ringkeep_lsm_tables{core=\"0\",store=\"1\",level=\"0\"} 3
ringkeep_lsm_tables{core=\"0\",store=\"1\",level=\"1\"} 9
ringkeep_lsm_pending_compaction_bytes{core=\"0\",store=\"1\"} 1048576
ringkeep_lsm_pending_compaction_bytes{core=\"1\",store=\"2\"} 7
ringkeep_log_write_seconds_bucket{core=\"0\",store=\"1\",le=\"0.004\"} 20
ringkeep_log_write_seconds_bucket{core=\"0\",store=\"1\",le=\"0.016\"} 21
ringkeep_log_write_seconds_bucket{core=\"0\",store=\"1\",le=\"+Inf\"} 22
ringkeep_log_write_seconds_bucket{core=\"1\",store=\"2\",le=\"0.004\"} 5
ringkeep_log_write_seconds_bucket{core=\"1\",store=\"2\",le=\"0.016\"} 5
ringkeep_log_write_seconds_bucket{core=\"1\",store=\"2\",le=\"+Inf\"} 5
";

    #[test]
    fn a_page_gives_the_worst_store_and_the_slowest_write_since_the_first_page() {
        let moment = moment(3.0, AFTER);
        assert_eq!((moment.pending_compaction_bytes, moment.l0_tables), (1048576.0, 3.0));
        assert_eq!(slowest(BEFORE, AFTER), Some(0.016), "the slower one was before");
        assert_eq!(slowest("", AFTER), Some(f64::INFINITY));
        assert_eq!(slowest(AFTER, AFTER), None);
    }
}

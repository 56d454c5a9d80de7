//! Formatted lines on their way to standard error: a bounded queue, and the thread that empties it.
//!
//! What holds: putting a line in never waits; a line that does not fit is counted, and the thread says how many were lost as
//! soon as it can write again; a flush waits for what was queued before it, up to a deadline, because standard error may be a
//! pipe without a reader.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use store::config::LogFormat;
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;

use super::limit::{Limit, WINDOW_SECONDS};

/// Lines that may wait.
const LINES_MAX: usize = 2048;
/// Maximum length of a line, bytes; the rest is cut. With [`LINES_MAX`] it bounds what waits to 8 MiB.
const LINE_BYTES_MAX: usize = 4096;
/// How often the thread looks whether a window has ended or lines were lost, when nothing is logged.
const LOOK_EVERY: Duration = Duration::from_secs(1);

enum Item {
    Line(Vec<u8>),
    /// Answered once everything before it has been written.
    Flush(SyncSender<()>),
}

/// The sending end of the queue.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    queue: SyncSender<Item>,
    dropped: Arc<AtomicU64>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Item::Line(_) => "Line",
            Item::Flush(_) => "Flush",
        })
    }
}

impl Lines {
    /// Lines that found the queue full.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn put(&self, mut line: Vec<u8>) {
        if line.len() > LINE_BYTES_MAX {
            line.truncate(LINE_BYTES_MAX - 4);
            line.extend_from_slice(b"...\n");
        }
        match self.queue.try_send(Item::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Waits until everything that was logged before has been written, but no longer than `limit`.
    #[expect(clippy::disallowed_methods, reason = "the end of the process, never a core that serves")]
    pub(super) fn flush(&self, limit: Duration) {
        let began = Instant::now();
        let (done, written) = sync_channel(1);
        let mut item = Item::Flush(done);
        while let Err(TrySendError::Full(back)) = self.queue.try_send(item) {
            if began.elapsed() >= limit {
                return;
            }
            item = back;
            std::thread::sleep(Duration::from_millis(1));
        }
        // Late or gone: standard error is blocked or closed, and there is nowhere to say so.
        let _ = written.recv_timeout(limit.saturating_sub(began.elapsed()));
    }
}

/// One event's line while it is formatted; queued when it is dropped.
#[derive(Debug)]
pub(super) struct Line<'a> {
    lines: &'a Lines,
    bytes: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.lines.put(std::mem::take(&mut self.bytes));
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { lines: self, bytes: Vec::new() }
    }
}

/// Starts the thread that writes to `out`.
///
/// # Errors
/// The thread cannot be started.
pub(super) fn start(
    out: impl Write + Send + 'static,
    limit: Arc<Limit>,
    format: LogFormat,
) -> io::Result<Lines> {
    let (queue, items) = sync_channel(LINES_MAX);
    let lines = Lines { queue, dropped: Arc::default() };
    let dropped = lines.dropped.clone();
    let mut writer = Writer { out, limit, format, dropped, dropped_said: 0 };
    std::thread::Builder::new().name("rk-log".into()).spawn(move || writer.run(&items))?;
    Ok(lines)
}

struct Writer<W> {
    out: W,
    limit: Arc<Limit>,
    format: LogFormat,
    dropped: Arc<AtomicU64>,
    dropped_said: u64,
}

impl<W: Write> Writer<W> {
    #[expect(clippy::disallowed_methods, reason = "a plain thread that measures its windows, never a core")]
    fn run(&mut self, items: &Receiver<Item>) {
        let mut window_began = Instant::now();
        loop {
            match items.recv_timeout(LOOK_EVERY) {
                Ok(Item::Line(line)) => self.write(&line),
                Ok(Item::Flush(done)) => {
                    self.own_up();
                    // Whoever asked may have stopped waiting.
                    let _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => self.own_up(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if window_began.elapsed() >= Duration::from_secs(WINDOW_SECONDS) {
                window_began = Instant::now();
                self.own_up();
                self.end_window();
            }
        }
    }

    /// Standard error that is closed or broken leaves nowhere to complain.
    fn write(&mut self, line: &[u8]) {
        let _ = self.out.write_all(line);
    }

    fn own_up(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        let lost = dropped - std::mem::replace(&mut self.dropped_said, dropped);
        if lost > 0 {
            let said =
                format!("{lost} log lines were dropped, because they came faster than they could be written");
            self.say(Level::WARN, "ringkeep::logging", &said);
        }
    }

    fn end_window(&mut self) {
        for (what, count) in self.limit.next_window() {
            let said = format!("{count} further lines like the last of this place were suppressed");
            let place = what.file().map_or_else(
                || what.target().to_owned(),
                |file| format!("{file}:{}", what.line().unwrap_or_default()),
            );
            // What is left out weighs as much as the lines themselves.
            self.say(*what.level(), &place, &said);
        }
    }

    /// A line of the logger's own, in the shape of the others but without a time.
    fn say(&mut self, level: Level, place: &str, said: &str) {
        let line = match self.format {
            LogFormat::Human => format!("{level} {said} place={place}\n"),
            LogFormat::Json => {
                format!(
                    "{}\n",
                    serde_json::json!({ "level": level.as_str(), "message": said, "place": place })
                )
            }
        };
        self.write(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{Sender, channel};

    use tracing_subscriber::layer::SubscriberExt;

    use super::super::limit::{LINES_PER_WINDOW, Limiter};
    use super::*;

    /// Takes what is written and, while it is held, lets the writer wait as a full pipe does.
    #[derive(Clone, Default)]
    struct Pipe {
        text: Arc<Mutex<Vec<u8>>>,
        held: Arc<Mutex<()>>,
        /// Notified of every write before it waits.
        writes: Arc<Mutex<Option<Sender<()>>>>,
    }

    impl Pipe {
        fn text(&self) -> String {
            String::from_utf8_lossy(&self.text.lock().expect("no test panics with it")).into_owned()
        }
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(notify) = self.writes.lock().expect("no test panics with it").take() {
                notify.send(()).expect("the test waits");
            }
            let _held = self.held.lock().expect("no test panics with it");
            self.text.lock().expect("no test panics with it").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn lines_arrive_in_order_and_a_flush_waits_for_them() {
        let pipe = Pipe::default();
        let lines = start(pipe.clone(), Arc::default(), LogFormat::Human).expect("a thread");
        for at in 0..100 {
            writeln!(lines.make_writer(), "line {at}").expect("memory");
        }
        lines.flush(LONG);
        let expected: String = (0..100).map(|at| format!("line {at}\n")).collect();
        assert_eq!((pipe.text(), lines.dropped()), (expected, 0));
    }

    #[test]
    fn a_blocked_standard_error_costs_lines_and_no_time_and_the_loss_is_said() {
        let pipe = Pipe::default();
        let (notify, blocked) = channel();
        *pipe.writes.lock().expect("nothing panicked") = Some(notify);
        let held = pipe.held.lock().expect("nothing panicked");
        let lines = start(pipe.clone(), Arc::default(), LogFormat::Json).expect("a thread");
        lines.put(b"first\n".to_vec());
        blocked.recv().expect("the thread writes");
        // The thread is stuck with the first line; the queue takes its bound, and the rest is dropped at once.
        (0..LINES_MAX + 5).for_each(|_| lines.put(b"x\n".to_vec()));
        assert_eq!(lines.dropped(), 5);
        drop(held);
        lines.flush(LONG);
        let text = pipe.text();
        assert_eq!(text.lines().filter(|line| *line == "x").count(), LINES_MAX);
        let last: serde_json::Value =
            serde_json::from_str(text.lines().last().expect("lines")).expect("JSON");
        assert!(
            last["message"].as_str().is_some_and(|said| said.starts_with("5 log lines were dropped")),
            "{last}"
        );
    }

    #[test]
    fn a_line_is_bounded() {
        let pipe = Pipe::default();
        let lines = start(pipe.clone(), Arc::default(), LogFormat::Human).expect("a thread");
        lines.put(vec![b'x'; 3 * LINE_BYTES_MAX]);
        lines.flush(LONG);
        assert_eq!(pipe.text().len(), LINE_BYTES_MAX);
        assert!(pipe.text().ends_with("...\n"));
    }

    #[test]
    fn what_is_left_out_is_said_at_the_level_of_what_it_was() {
        let limit = Arc::new(Limit::default());
        let layers = tracing_subscriber::registry().with(Limiter(limit.clone()));
        tracing::subscriber::with_default(layers, || {
            (0..LINES_PER_WINDOW + 3).for_each(|at| tracing::info!(at, "again"));
        });
        let pipe = Pipe::default();
        let (out, dropped) = (pipe.clone(), Arc::default());
        let mut writer = Writer { out, limit, format: LogFormat::Human, dropped, dropped_said: 0 };
        writer.end_window();
        assert!(pipe.text().starts_with("INFO 3 further lines"), "{}", pipe.text());
    }
}

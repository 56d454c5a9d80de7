//! What a client begins it has to end: commands, its greeting of a server with a password, and saying good-bye.
//!
//! A connection waits for nothing longer than it must, because it holds memory and a place among the connections. It waits
//! for ever between two commands, and for what is the server's to do.
//!
//! | what has begun | ends within |
//! |---|---|
//! | a command, whole or a first byte of it | [`FRAME_TIME_MAX`], and a second per 16 KiB of it |
//! | a connection to a server with a password | [`LOGIN_TIME_MAX`], up to the right one |
//! | bytes after a fatal error | [`LINGER_TIME_MAX`](super::LINGER_TIME_MAX) |

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use engine::rt::Mono;

use super::{FRAME_TIME_MAX, Hold, LOGIN_TIME_MAX, Phase, SLOWEST_BYTES_PER_S, Session};

/// A sleep until a deadline.
type Alarm = (Mono, Pin<Box<dyn Future<Output = ()>>>);

/// The time that a session keeps for its client.
#[derive(Default)]
pub(super) struct Overdue {
    /// When the command that is arriving began to.
    frame_began: Mono,
    alarm: Option<Alarm>,
}

impl std::fmt::Debug for Overdue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { frame_began, alarm } = self;
        let alarm = alarm.as_ref().map(|(at, _)| at);
        f.debug_struct("Overdue").field("frame_began", frame_began).field("alarm", &alarm).finish()
    }
}

impl Overdue {
    /// A command begins to arrive, or may.
    pub(super) fn begun(&mut self, now: Mono) {
        self.frame_began = now;
    }
}

impl Session {
    /// Waits for the client. `Ready(false)` when it has taken too long.
    pub(super) fn wait(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Some(deadline) = self.deadline() else {
            self.overdue.alarm = None;
            return Poll::Pending;
        };
        let now = self.server.rt.now();
        if now >= deadline {
            return self.give_up();
        }
        if self.overdue.alarm.as_ref().is_none_or(|(at, _)| *at != deadline) {
            let rt = self.server.rt.clone();
            let left = deadline.since(now);
            self.overdue.alarm = Some((deadline, Box::pin(async move { rt.sleep(left).await })));
        }
        let alarm = self.overdue.alarm.as_mut();
        match alarm.is_some_and(|(_, alarm)| alarm.as_mut().poll(cx).is_ready()) {
            true => self.give_up(),
            false => Poll::Pending,
        }
    }

    fn give_up(&self) -> Poll<io::Result<bool>> {
        self.server.counters.overdue.add_one();
        Poll::Ready(Ok(false))
    }

    /// Until when the client has to have ended what it has begun.
    fn deadline(&mut self) -> Option<Mono> {
        let after = |began: Mono, time: Duration| Mono(began.0 + time.as_nanos() as u64);
        match self.phase {
            Phase::Lingering(_, until) => Some(until),
            Phase::Open => {
                let login = (!self.client.authenticated.get())
                    .then(|| after(self.client.entry.began, LOGIN_TIME_MAX));
                if self.input.is_empty() || self.hold != Hold::Nothing {
                    return login;
                }
                if !self.has_room() || self.intake.waits() {
                    // It is not read from, so the time is not the client's.
                    self.overdue.begun(self.server.rt.now());
                    return login;
                }
                let bytes_time = Duration::from_secs(self.input.len() as u64 / SLOWEST_BYTES_PER_S);
                let frame = after(self.overdue.frame_began, FRAME_TIME_MAX + bytes_time);
                Some(login.map_or(frame, |login| login.min(frame)))
            }
            Phase::Ending | Phase::EndingEarly => None,
        }
    }
}

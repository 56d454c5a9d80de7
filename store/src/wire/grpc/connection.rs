//! Driving one connection: HTTP/2 in and out, starting calls, keepalive, one write per turn.
//!
//! A call is polled once where it is accepted. Usually its message has come with its head and the answer is in memory, so it is
//! done there, without a task, and its answer leaves with those of its neighbours in one write. Only what has to wait becomes a
//! task.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use engine::rt::{Rt, Stream};
use h2::{Ping, PingPong, RecvStream, server};
use http::Request;

use super::Service;
use super::call;
use super::drain::Listening;
use super::holders::Holding;
use super::io::{Io, Outlet, wrap};
use super::places::Place;
use super::server::{Caller, Options, State};
use super::tally::Running;

/// Calls started between two reads of the clock.
const CALLS_PER_LOOK: usize = 16;
/// Bytes read between two reads of the clock. As empty frames they take a third of a millisecond of the core's time.
const PORTION_BYTES: usize = 32 << 10;
/// What small DATA frames that have not been looked at may cost beside their bytes. The usual bound is half the connection's window,
/// and a burst of 500 small requests passes it; this one has room for a request on each stream, twice.
const FRAME_OVERHEAD_BYTES_MAX: usize = 4 << 20;
/// Maximum size of a header list that is read, bytes. A list over [`call::METADATA_BYTES_MAX`] is refused, and one that could not even be
/// read would end the connection with all its other calls.
const HEADER_BYTES_MAX: u32 = 256 << 10;

/// What h2 is taken to hold for a client whose socket takes nothing: it does not say.
const BLOCKED_BYTES: usize = 256 << 10;

/// How long a client without calls may take in a drain to hear that its connection ends, before it does.
const GOODBYE_MAX: Duration = Duration::from_secs(1);

type Wait = Pin<Box<dyn Future<Output = ()>>>;

/// Serves a connection whose first bytes, `early`, have been read, to its end. Returns false if it ended by an error, and nothing if it had to
/// give way to another one.
pub(super) async fn drive<S: Service>(
    place: &Place<S>,
    stream: Stream,
    early: Vec<u8>,
    caller: Caller,
) -> Option<bool> {
    let state = place.state();
    let (io, outlet) = wrap(stream, early);
    let Some(mut h2) = place.begins(shake_hands(state, io, &outlet)).await?.flatten() else {
        return Some(false);
    };
    let mut driver = Driver {
        place,
        keepalive: Keepalive::new(&state.rt, &state.options, h2.ping_pong()),
        state: state.clone(),
        caller,
        draining: state.drain.listen(),
        said_goodbye: false,
        goodbye: None,
        h2,
        outlet,
        pause: None,
        running: Running::default(),
        holding: Holding::new(&state.holders),
        told_bytes: 0,
    };
    let ended_well = poll_fn(|cx| match place.poll_gives_way(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => driver.poll(cx).map(Some),
    })
    .await?;
    // After GOAWAY the client may close in any way.
    Some(ended_well || driver.said_goodbye)
}

async fn shake_hands<S: Service>(
    state: &State<S>,
    io: Io,
    outlet: &Outlet,
) -> Option<server::Connection<Io, Bytes>> {
    let options = &state.options;
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(options.stream_window_bytes)
        .initial_connection_window_size(options.connection_window_bytes)
        .max_concurrent_streams(options.streams_max)
        .max_header_list_size(HEADER_BYTES_MAX)
        .data_frame_budget(FRAME_OVERHEAD_BYTES_MAX)
        // Callers that time out reset their streams; under load that is ordinary, not an attack.
        .max_pending_accept_reset_streams(options.streams_max as usize)
        .max_concurrent_reset_streams(options.streams_max as usize)
        .max_local_error_reset_streams(Some(options.streams_max as usize));
    let mut handshake = pin!(builder.handshake(io));
    poll_fn(|cx| {
        // Only SETTINGS frames may arrive before the handshake is complete.
        outlet.allow(PORTION_BYTES);
        let shaken = handshake.as_mut().poll(cx);
        if matches!(outlet.poll_flush(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(None);
        }
        shaken.map(Result::ok)
    })
    .await
}

struct Driver<'a, S: Service> {
    place: &'a Place<S>,
    state: Rc<State<S>>,
    caller: Caller,
    h2: server::Connection<Io, Bytes>,
    outlet: Outlet,
    keepalive: Keepalive,
    draining: Listening,
    said_goodbye: bool,
    /// While the client may still answer that, and make calls until then.
    goodbye: Option<Wait>,
    /// Set while the connection has had its share of the core and lets others run.
    pause: Option<Wait>,
    /// The calls of this connection.
    running: Running,
    holding: Holding,
    /// Sent bytes that were reported to `holding`.
    told_bytes: u64,
}

impl<S: Service> Driver<'_, S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if !self.said_goodbye && self.draining.poll(cx).is_ready() {
            self.said_goodbye = true;
            self.h2.graceful_shutdown();
            self.goodbye = Some(timer(&self.state.rt, GOODBYE_MAX));
        }
        let ended = self.poll_calls(cx);
        if matches!(self.outlet.poll_flush(cx), Poll::Ready(Err(_))) {
            return Poll::Ready(false);
        }
        if ended.is_ready() {
            return ended;
        }
        if self.is_given_up(cx) {
            return Poll::Ready(false);
        }
        self.goodbye.take_if(|goodbye| goodbye.as_mut().poll(cx).is_ready());
        let has_time = !self.said_goodbye || self.goodbye.is_some();
        if !has_time && self.running.count() == 0 && !self.outlet.is_blocked() {
            return Poll::Ready(true);
        }
        self.keepalive.poll(cx, self.outlet.read_bytes()).map(|()| false)
    }

    /// Says whether the client has to take what h2 has for it, and asks whether that has taken too long.
    fn is_given_up(&mut self, cx: &Context<'_>) -> bool {
        let written_bytes = self.outlet.written_bytes();
        self.holding.moved((written_bytes - self.told_bytes) as usize);
        self.told_bytes = written_bytes;
        if self.outlet.is_blocked() {
            self.holding.awaits_taking(cx, BLOCKED_BYTES);
        } else {
            self.holding.goes_on();
        }
        self.holding.poll_ended(cx).is_ready()
    }

    /// Reads what has arrived, starts calls and lets h2 put finished answers into the outlet.
    fn poll_calls(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let budget = self.state.rt.budget();
        let mut begun = 0;
        self.outlet.allow(PORTION_BYTES);
        loop {
            if self.pauses(cx) {
                // Answers still flow; what comes in waits.
                self.outlet.allow(0);
                return self.h2.poll_closed(cx).map(|closed| closed.is_ok());
            }
            if self.is_clogged(cx) {
                // Windows and pings still flow; only new calls wait.
                let closed = self.h2.poll_closed(cx).map(|closed| closed.is_ok());
                if closed.is_pending() && self.outlet.is_held() {
                    self.pause();
                    continue;
                }
                return closed;
            }
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Ready(None) => return Poll::Ready(true),
                // There is more than a portion, and every call of it has begun.
                Poll::Pending if self.outlet.is_held() => {
                    self.outlet.allow(PORTION_BYTES);
                    begun = CALLS_PER_LOOK - 1;
                }
                Poll::Pending => return Poll::Pending,
            }
            begun += 1;
            if begun == CALLS_PER_LOOK {
                begun = 0;
                if budget.spent() {
                    self.pause();
                }
            }
        }
    }

    /// Lets others run before more is taken in.
    fn pause(&mut self) {
        let rt = self.state.rt.clone();
        self.pause = Some(Box::pin(async move { rt.yield_to_reactor().await }));
    }

    fn pauses(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(pause) = &mut self.pause else { return false };
        let pauses = pause.as_mut().poll(cx).is_pending();
        if !pauses {
            self.pause = None;
        }
        pauses
    }

    fn is_clogged(&mut self, cx: &mut Context<'_>) -> bool {
        self.outlet.is_clogged() && self.outlet.poll_flush(cx).is_pending() && self.outlet.is_clogged()
    }

    /// Whether a call is one that members make, and this is one as far as the port can tell.
    fn is_for_members(&self, request: &Request<RecvStream>) -> bool {
        let is_closed = self.state.options.gate.as_ref().is_some_and(|gate| gate.is_closed());
        let is_believed = matches!(self.caller, Caller::Member(_)) || !is_closed;
        let method = self.state.service.method(request.uri().path());
        is_believed && method.is_some_and(|(method, _)| self.state.service.is_for_members(method))
    }

    fn begin(&mut self, request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) {
        self.state.count(|stats| stats.calls += 1);
        self.place.has_asked(|| self.is_for_members(&request));
        let options = &self.state.options;
        let entered = self.running.enter(options.streams_max as usize);
        let entered = entered.and_then(|here| Some((here, self.state.running.enter(options.running_max())?)));
        let Some(entered) = entered else {
            return call::turn_away(&self.state, &request, &mut respond);
        };
        let (state, caller) = (self.state.clone(), self.caller);
        let mut call = Box::pin(async move {
            let _entered = entered;
            call::run(state, caller, request, respond).await;
        });
        if call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            // The task polls it again first thing, with its own waker.
            drop(self.state.rt.spawn(call));
        }
    }
}

/// Detects a peer that is gone without closing the connection.
struct Keepalive {
    rt: Rt,
    every: Duration,
    pings: Option<PingPong>,
    timer: Wait,
    seen_bytes: u64,
    asked: bool,
}

impl Keepalive {
    fn new(rt: &Rt, options: &Options, pings: Option<PingPong>) -> Self {
        let every = options.keepalive;
        Self { rt: rt.clone(), every, pings, timer: timer(rt, every), seen_bytes: 0, asked: false }
    }

    /// Ready when the peer is taken for dead.
    fn poll(&mut self, cx: &mut Context<'_>, read_bytes: u64) -> Poll<()> {
        if self.asked
            && let Some(pings) = &mut self.pings
        {
            // An answer also counts as bytes read, which is what is judged below; an error ends the connection elsewhere.
            let _ = pings.poll_pong(cx);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            self.timer = timer(&self.rt, self.every);
            let silent = read_bytes == self.seen_bytes;
            self.seen_bytes = read_bytes;
            if silent && self.asked {
                return Poll::Ready(());
            }
            self.asked = silent;
            if let Some(pings) = self.pings.as_mut().filter(|_| silent) {
                // One is on its way already, or the connection has ended: either is judged by the bytes that are read.
                let _ = pings.send_ping(Ping::opaque());
                // The ping leaves with the next turn of the connection.
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

fn timer(rt: &Rt, after: Duration) -> Wait {
    let rt = rt.clone();
    Box::pin(async move { rt.sleep(after).await })
}

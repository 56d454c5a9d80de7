//! Connections that are too slow with memory that others wait for, and in a drain those that take nothing.
//!
//! A connection may take as long as it likes to go on with a request or to read its replies, as long as the core has memory for
//! the others. Who is too slow is decided in [`crate::memory::stalls`]; here connections are only listed for it and ended.

use std::rc::Rc;
use std::time::Duration;

use super::client::Held;
use super::server::{Server, Stop};
use crate::memory::stalls::{self, Holder, Pace, Stalls};
use crate::memory::{INTAKE_BYTES_MIN, SMALL_BYTES};

/// Ends connections whose clients are too slow with the memory that others wait for, and in a drain those that take nothing.
pub(super) async fn evict_stalled(server: Rc<Server>) {
    let (mut input, mut output) = (Stalls::default(), Stalls::default());
    let mut elapsed = stalls::REST;
    loop {
        let memory = server.gateway.memory();
        let drains = server.stop() != Stop::No;
        if drains && server.clients.borrow().is_empty() {
            return;
        }
        let requests = Pace::of_requests(&memory.input);
        let replies = if drains { Some(Pace::of_drain()) } else { Pace::of_answers(&memory.output) };
        let sending = |held: Held| (held.input > INTAKE_BYTES_MIN).then_some((held.input, held.read_bytes));
        let output_min = if drains { 0 } else { SMALL_BYTES };
        let reading = |held: Held| (held.output > output_min).then_some((held.output, held.written_bytes));
        evict_slow(&server, &mut input, requests, elapsed, sending);
        if evict_slow(&server, &mut output, replies, elapsed, reading) && drains {
            memory.is_jammed_in_drain(server.rt.now());
        }
        let waited_for = requests.is_some() || replies.is_some();
        elapsed = if waited_for { input.rest().min(output.rest()) } else { stalls::REST };
        server.rt.sleep(elapsed).await;
    }
}

/// Ends the clients that are behind `pace`; `holds` returns the bytes that one holds and those that it has moved. Whether there were any.
fn evict_slow(
    server: &Server,
    stalls: &mut Stalls,
    pace: Option<Pace>,
    elapsed: Duration,
    holds: impl Fn(Held) -> Option<(usize, u64)>,
) -> bool {
    let Some(pace) = pace else {
        stalls.forget();
        return false;
    };
    let clients = server.clients.borrow();
    let holders = clients.values().filter(|client| !client.evicted.get()).filter_map(|client| {
        let (bytes, moved_bytes) = holds(client.held.get())?;
        Some(Holder { id: client.entry.id, bytes, moved_bytes })
    });
    let slow = stalls.look(holders, pace, elapsed);
    for client in slow.iter().filter_map(|id| clients.get(id)) {
        let Held { input, output, .. } = client.held.get();
        tracing::warn!(
            client = %client.entry.from,
            input,
            output,
            "closed: the client is too slow with memory that others, or the end of the node, wait for"
        );
        server.counters.evicted.add_one();
        client.evicted.set(true);
        client.wake();
    }
    !slow.is_empty()
}

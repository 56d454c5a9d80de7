//! Clients that stall while others wait for the memory that they hold.
//!
//! A connection may take as long as it likes to go on with a request or to read its replies, as long as the core has memory for
//! the others. Where it has not, it is closed after [`STALL_MAX`] without a byte in either direction.

use std::rc::Rc;
use std::time::Duration;

use super::client::Held;
use super::server::{Server, Stop};
use crate::memory::{INTAKE_BYTES_MIN, SMALL_BYTES};

/// How often clients that stall are looked for.
const STALL_LOOK: Duration = Duration::from_secs(1);
/// How long a client may do nothing while others wait for the memory that it holds.
const STALL_MAX: Duration = Duration::from_secs(5);

/// Ends connections whose clients neither go on with a request nor read their replies, while others wait for the memory that
/// they hold.
pub(super) async fn evict_stalled(server: Rc<Server>) {
    while server.stop() == Stop::No {
        server.rt.sleep(STALL_LOOK).await;
        let memory = server.gateway.memory();
        let short = (memory.input.waiting() > 0, memory.output.waiting() > 0);
        if short == (false, false) {
            continue;
        }
        let now = server.rt.now();
        for client in server.clients.borrow().values() {
            let Held { input, output, moved } = client.held.get();
            let holds = (short.0 && input > INTAKE_BYTES_MIN) || (short.1 && output > SMALL_BYTES);
            if holds && now.since(moved) >= STALL_MAX {
                tracing::warn!(client = %client.entry.from, input, output, "others wait for the memory of a client that stalls; closed");
                client.evicted.set(true);
                client.wake();
            }
        }
    }
}

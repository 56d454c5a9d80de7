//! Migration to another core, and arrival from one. When and why is up to [`migration`](crate::wire::resp::migration).
//!
//! What migrates has no command in flight and no reply unsent; what the client has sent and no core has started goes along.

use std::rc::Rc;

use bytes::BytesMut;
use engine::rt::Stream;

use super::{Hold, Phase, Session, SessionEnd};
use crate::wire::resp::client::ConnectionState;
use crate::wire::resp::migration::{Affinity, Migrating};
use crate::wire::resp::server::Server;

impl Session {
    /// The session of a connection that comes from another core, with what its client has sent already.
    pub(crate) fn resume(
        server: Rc<Server>,
        stream: Stream,
        client: Rc<ConnectionState>,
        input: Vec<u8>,
        affinity: Affinity,
    ) -> Self {
        let hold = if input.is_empty() { Hold::Nothing } else { Hold::Room };
        let input = BytesMut::from(&input[..]);
        Self { input, hold, affinity, ..Self::new(server, stream, client) }
    }

    /// Goes to another core; comes back if that core does not take it.
    pub(super) fn depart(self: Box<Self>, core: usize) -> Result<SessionEnd, Box<Self>> {
        let Self { server, client, stream, input, affinity, .. } = *self;
        let stay = |stream, input: &[u8], affinity| {
            let stayed = Self::resume(server.clone(), stream, client.clone(), input.to_vec(), affinity);
            Err(Box::new(stayed))
        };
        let stream = match stream.detach() {
            Ok(stream) => stream,
            Err(stream) => return stay(stream, &input, Affinity::settled()),
        };
        let migrations = affinity.next_migrations();
        let migrating = Migrating { stream, client: client.pack(), input: input.to_vec(), migrations };
        let Err(refused) = server.config.connections.send(core, migrating) else {
            return Ok(SessionEnd::Migrated);
        };
        match server.rt.attach(refused.stream) {
            Ok(stream) => stay(stream, &refused.input, affinity),
            // Without a descriptor to go on with the connection is over.
            Err(_) => Ok(SessionEnd::Over),
        }
    }

    /// Where the session goes now: it wants to move, and everything is answered and sent.
    pub(super) fn departs_to(&self) -> Option<usize> {
        let quiet = self.queue.is_empty() && self.replies.is_sent() && self.phase == Phase::Open;
        self.goal.filter(|_| quiet).map(usize::from)
    }
}

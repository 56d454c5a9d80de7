//! Going to another core, and coming from one. When and why is [`moving`](crate::wire::resp::moving)'s to say.
//!
//! What travels has no command under way and no reply unsent; what the client has sent and nobody has begun goes along.

use std::rc::Rc;

use bytes::BytesMut;
use engine::rt::Stream;

use super::{Ended, Hold, Phase, Session};
use crate::wire::resp::client::Client;
use crate::wire::resp::moving::{Homing, Moved};
use crate::wire::resp::server::Server;

impl Session {
    /// The session of a connection that comes from another core, with what its client has sent already.
    pub(crate) fn resume(
        server: Rc<Server>,
        stream: Stream,
        client: Rc<Client>,
        input: Vec<u8>,
        homing: Homing,
    ) -> Self {
        let hold = if input.is_empty() { Hold::Nothing } else { Hold::Room };
        let input = BytesMut::from(&input[..]);
        Self { input, hold, homing, ..Self::new(server, stream, client) }
    }

    /// Goes to another core; comes back if that core does not take it.
    pub(super) fn depart(self: Box<Self>, core: usize) -> Result<Ended, Box<Self>> {
        let Self { server, client, stream, input, homing, .. } = *self;
        let stay = |stream, input: &[u8], homing| {
            let stayed = Self::resume(server.clone(), stream, client.clone(), input.to_vec(), homing);
            Err(Box::new(stayed))
        };
        let stream = match stream.detach() {
            Ok(stream) => stream,
            Err(stream) => return stay(stream, &input, Homing::settled()),
        };
        let moves = homing.next_moves();
        let moved = Moved { stream, client: client.pack(), input: input.to_vec(), moves };
        let Err(refused) = server.config.doors.send(core, moved) else { return Ok(Ended::Moved) };
        match server.rt.attach(refused.stream) {
            Ok(stream) => stay(stream, &refused.input, homing),
            // Without a descriptor to go on with the connection is over.
            Err(_) => Ok(Ended::Over),
        }
    }

    /// Where the session goes now: it wants to move, and everything is answered and sent.
    pub(super) fn departs_to(&self) -> Option<usize> {
        let quiet = self.queue.is_empty() && self.sent == self.out.len() && self.phase == Phase::Open;
        self.goal.filter(|_| quiet).map(usize::from)
    }
}

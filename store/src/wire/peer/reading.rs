//! What a connection has read of a frame that is not whole yet: charged, read on only while there is room, and not for ever.
//!
//! Whoever reaches the port of a store may begin a frame, so what frames take before they are whole is bounded over all connections of a
//! core, as that of clients is ([`Intake`]): at the bound a connection is read from only as the one that is let through, and it gives that
//! back with its frame, or after [`FRAME_MAX`].
//!
//! Invariants: what is charged is what the decoder holds, whatever is announced to come; a frame that does not become whole
//! within [`FRAME_MAX`], the waits for room left out, ends its connection.

use std::future::poll_fn;
use std::time::Duration;

use engine::rt::{Mono, Rt};

use super::frame::Decoder;
use super::link::LinkError;
use crate::memory::{Charge, Intake, Pool};

/// How long a frame may take from its first byte to its last. The longest there are, 17 MiB, need 600 KB a second.
pub(super) const FRAME_MAX: Duration = Duration::from_secs(30);

/// The bytes of one connection that are no whole frame.
#[derive(Debug)]
pub(super) struct Reading {
    rt: Rt,
    intake: Intake,
    /// Since when its frame is read, while a part of one is there, and how long it has waited for room since.
    since: Option<(Mono, Duration)>,
}

impl Reading {
    /// Of a connection whose frames are charged to `pool`, with what `decoder` has of it already.
    pub(super) fn new(rt: &Rt, pool: &Pool, decoder: &Decoder) -> Self {
        let mut reading = Self { rt: rt.clone(), intake: Intake::new(pool), since: None };
        reading.fed(decoder);
        reading
    }

    /// Waits until more may be read, and returns for how long: at most `silence`, and less for the rest of a frame.
    ///
    /// # Errors
    /// Timeout if the frame has had its time.
    pub(super) async fn room(&mut self, silence: Duration) -> Result<Duration, LinkError> {
        let began = self.rt.now();
        poll_fn(|cx| self.intake.poll_room(cx)).await;
        let now = self.rt.now();
        let Some((since, waited)) = &mut self.since else { return Ok(silence) };
        // Whoever waits for others is not slow.
        *waited += now.since(began);
        let left = (FRAME_MAX + *waited).saturating_sub(now.since(*since));
        if left.is_zero() { Err(LinkError::Timeout) } else { Ok(left.min(silence)) }
    }

    /// A frame was taken out of `decoder`. What it took in memory is charged with the result from now on, until that is dropped.
    pub(super) fn took(&mut self, bytes: usize) -> Charge {
        self.since = None;
        self.intake.hand_on(bytes.min(self.intake.bytes()))
    }

    /// Bytes have arrived, or frames were taken: the decoder holds another amount now.
    pub(super) fn fed(&mut self, decoder: &Decoder) {
        self.intake.keep(decoder.held_bytes());
        match decoder.waiting_bytes() {
            0 => self.since = None,
            _ if self.since.is_some() => {}
            _ => self.since = Some((self.rt.now(), Duration::ZERO)),
        }
    }
}

//! From bytes to commands: reading, cutting, and holding back what must wait.
//!
//! Bytes stay in the core's buffer unless they have to be kept: the rest that is no complete command, what a bound holds back,
//! and big frames, which keep their memory. Nothing is read while anything is held back.

use std::io;
use std::mem;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use engine::rt::Mono;

use super::{HELD_BYTES_MAX, Hold, OWN_FRAME_BYTES, Phase, Session, Started};
use crate::memory::INTAKE_BYTES_MIN;
use crate::wire::resp::data::REPLY_BYTES_MAX;
use crate::wire::resp::frame::{FrameLimits, Parsed, Parser};
use crate::wire::resp::request::CommandLine;

/// Bytes of replies that commands in flight may come to while the core is short of memory.
const REPLIES_BYTES_SHORT: usize = 1 << 20;
impl Session {
    /// Starts commands that were held back, or reads and starts what has come. Whether there was anything to do.
    pub(super) fn take_in(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        match self.phase {
            Phase::Open if self.goal.is_some() => return Ok(false),
            Phase::Open => {}
            Phase::Lingering(left, until) => return self.discard(cx, left, until),
            // What was read before the end is answered.
            Phase::Ending if self.hold != Hold::Nothing => {}
            Phase::Ending | Phase::EndingEarly => return Ok(false),
        }
        match self.hold {
            Hold::Nothing if !self.has_room() => Ok(false),
            Hold::Nothing => self.read(cx),
            Hold::Room if !self.has_room() => Ok(false),
            Hold::Quiet if !self.queue.is_empty() => Ok(false),
            Hold::Room | Hold::Quiet => {
                self.hold = Hold::Nothing;
                let input = mem::take(&mut self.input);
                self.start_kept(input, self.server.rt.now());
                Ok(true)
            }
        }
    }

    pub(super) fn has_room(&self) -> bool {
        let memory = self.server.gateway.memory();
        let replies_max = if memory.output.is_tight() { REPLIES_BYTES_SHORT } else { REPLY_BYTES_MAX };
        let replies_max = replies_max.min(memory.output.bytes_max() / 2);
        let commands_max = (replies_max / self.replies.expected_bytes().max(1))
            .clamp(1, memory.commands_max(self.server.config.pipeline_max.max(1)));
        self.goal.is_none()
            && !self.slice.is_used_up()
            && self.queue.len() < commands_max
            && self.queue.held_bytes() < HELD_BYTES_MAX
            && self.replies.unsent_bytes() + self.queue.said_bytes() < self.unsent_bytes_max()
    }

    fn read(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.intake.poll_room(cx).is_pending() {
            return Ok(false);
        }
        let server = self.server.clone();
        let input = &server.gateway.memory().input;
        let buffer = &mut *server.read_buffer.borrow_mut();
        // While memory is short a connection that keeps little may go on, but not by much at a time.
        let short = input.used() > input.bytes_max() && !self.intake.is_through();
        let buffer = if short { &mut buffer[..INTAKE_BYTES_MIN] } else { &mut buffer[..] };
        let bytes = match self.stream.poll_read(cx, buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(bytes) => bytes?,
        };
        if bytes == 0 {
            // A half-closed client still reads: it gets the answers to all that it has sent.
            self.phase = Phase::Ending;
            return Ok(true);
        }
        server.counters.reads.add_one();
        server.counters.bytes_in.add(bytes as u64);
        self.traffic.read_bytes += bytes as u64;
        let now = server.rt.now();
        let unfinished = self.input.len();
        if unfinished == 0 {
            let done = self.start_all(&buffer[..bytes], now);
            self.input.extend_from_slice(&buffer[done..bytes]);
        } else {
            let mut input = mem::take(&mut self.input);
            input.extend_from_slice(&buffer[..bytes]);
            self.start_kept(input, now);
        }
        if unfinished == 0 || self.input.len() != unfinished + bytes {
            self.overdue.begun(now);
        }
        Ok(true)
    }

    /// Starts what is complete in `input` and keeps the rest. A big frame at the beginning keeps its memory.
    pub(super) fn start_kept(&mut self, mut input: BytesMut, now: Mono) {
        while let Some(bytes) = self.big_frame(&input) {
            let frame = input.split_to(bytes).freeze();
            let started = self.start_own(&frame, now);
            self.slice.look(&self.server.rt);
            match started {
                Started::Yes => self.parser.restart(),
                Started::Last => return,
                Started::WhenQuiet => {
                    self.hold_back(Hold::Quiet);
                    let mut whole = BytesMut::from(frame);
                    whole.unsplit(input);
                    self.input = whole;
                    return;
                }
            }
        }
        let done = self.start_all(&input, now);
        if done == input.len() {
            return;
        }
        input.advance(done);
        self.input = input;
    }

    /// The length of the frame at the beginning of `input` if it is complete and big, and may be started.
    fn big_frame(&mut self, input: &[u8]) -> Option<usize> {
        if input.len() < OWN_FRAME_BYTES || !self.has_room() {
            return None;
        }
        match self.parser.parse(input, self.limits()) {
            Ok(Parsed::Command { bytes }) if bytes >= OWN_FRAME_BYTES => Some(bytes),
            Ok(Parsed::Incomplete) => None,
            // Small frames and mistakes are met again at once.
            _ => {
                self.parser.restart();
                None
            }
        }
    }

    fn start_own(&mut self, frame: &Bytes, now: Mono) -> Started {
        let parser = mem::take(&mut self.parser);
        let started = self.start(&CommandLine::in_own_memory(&parser, frame), frame.len(), now);
        self.parser = parser;
        started
    }

    /// Starts the complete commands of `input`; how many bytes they were.
    fn start_all(&mut self, input: &[u8], now: Mono) -> usize {
        let mut parser = mem::take(&mut self.parser);
        let done = self.start_each(&mut parser, input, now);
        self.parser = parser;
        if self.in_place > 0 {
            self.record_in_place(now);
        }
        done
    }

    fn start_each(&mut self, parser: &mut Parser, input: &[u8], now: Mono) -> usize {
        let mut done = 0;
        while done < input.len() {
            #[cfg(test)]
            {
                self.most_queued = self.most_queued.max(self.queue.len());
            }
            if !self.has_room() {
                self.hold = Hold::Room;
                return done;
            }
            let rest = &input[done..];
            let bytes = match parser.parse(rest, self.limits()) {
                Ok(Parsed::Incomplete) => return done,
                Ok(Parsed::Nothing { bytes }) => bytes,
                Ok(Parsed::Command { bytes }) => {
                    match self.start(&CommandLine::new(parser, rest), bytes, now) {
                        Started::Yes => bytes,
                        Started::Last => return input.len(),
                        Started::WhenQuiet => {
                            parser.restart();
                            self.hold = Hold::Quiet;
                            return done;
                        }
                    }
                }
                Err(malformed) => {
                    self.complain(&malformed, now);
                    return input.len();
                }
            };
            parser.restart();
            done += bytes;
            self.slice.count(&self.server.rt, bytes);
        }
        done
    }

    pub(super) fn hold_back(&mut self, hold: Hold) {
        self.parser.restart();
        self.hold = hold;
    }

    pub(super) fn limits(&self) -> &'static FrameLimits {
        if self.client.authenticated.get() { &FrameLimits::OPEN } else { &FrameLimits::UNAUTHENTICATED }
    }
}

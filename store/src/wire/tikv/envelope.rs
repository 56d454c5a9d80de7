//! A message of many commands, taken apart one command at a time.
//!
//! ```text
//! field 1, repeated:  length, one command ...          field 2, repeated:  one id, or packed: length, id, id, ...
//! ```
//!
//! The client decides how many commands a message has, and the ids may come before or after them. So nothing is decoded
//! ahead: a first walk counts both, a second one hands them out in pairs, and both walk in steps of a bounded length between
//! which the caller may let others run. What a message takes in memory is its own bytes.
//!
//! Invariants: a step looks at no more than [`STEP_FIELDS`] fields or ids; commands are handed out in the order in which they lie, the
//! n-th with the n-th id; none is handed out of a message whose counts differ.

use bytes::{Buf, Bytes};

/// Fields and ids looked at in one step.
const STEP_FIELDS: usize = 256;

const COMMANDS: u64 = 1;
const IDS: u64 = 2;

/// A message on its way through the two walks.
#[derive(Debug)]
pub(super) struct Envelope {
    body: Bytes,
    commands: Cursor,
    ids: Cursor,
    walk: Walk,
    /// The command that waits for its id.
    next: Option<Bytes>,
}

#[derive(Debug)]
enum Walk {
    CountCommands(u64),
    CountIds(u64, u64),
    HandOut,
}

/// The result of a step.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A command, still encoded, and the id that its answer carries.
    Command(u64, Bytes),
    /// Nothing yet; step again.
    Again,
    /// The end of the message.
    End,
}

/// Where one of the two kinds of fields is looked for.
#[derive(Clone, Debug)]
struct Cursor {
    field: u64,
    at: usize,
    /// End of the packed ids that `at` lies in.
    packed_until: usize,
}

/// What a cursor found.
enum Found {
    Range(usize, usize),
    Number(u64),
    End,
    /// The step is over.
    Tired,
}

/// Why a message cannot be taken apart.
type Malformed = String;

impl Envelope {
    pub(super) fn new(body: Bytes) -> Self {
        let (commands, ids) = (Cursor::new(COMMANDS), Cursor::new(IDS));
        Self { body, commands, ids, walk: Walk::CountCommands(0), next: None }
    }

    /// Goes on for a bounded time.
    ///
    /// # Errors
    /// The message is not one, or has not exactly one id per command.
    pub(super) fn step(&mut self) -> Result<Step, Malformed> {
        let mut fuel = STEP_FIELDS;
        loop {
            match self.walk {
                Walk::CountCommands(count) => match self.commands.next(&self.body, &mut fuel)? {
                    Found::Tired => return Ok(Step::Again),
                    Found::End => self.walk = Walk::CountIds(count, 0),
                    Found::Range(..) | Found::Number(_) => self.walk = Walk::CountCommands(count + 1),
                },
                Walk::CountIds(commands, ids) => match self.ids.next(&self.body, &mut fuel)? {
                    Found::Tired => return Ok(Step::Again),
                    Found::Range(..) | Found::Number(_) => self.walk = Walk::CountIds(commands, ids + 1),
                    Found::End if commands == ids => {
                        (self.commands, self.ids) = (Cursor::new(COMMANDS), Cursor::new(IDS));
                        self.walk = Walk::HandOut;
                    }
                    Found::End => {
                        return Err(format!("{commands} requests with {ids} request_ids; each needs one"));
                    }
                },
                Walk::HandOut => return self.hand_out(&mut fuel),
            }
        }
    }

    fn hand_out(&mut self, fuel: &mut usize) -> Result<Step, Malformed> {
        if self.next.is_none() {
            match self.commands.next(&self.body, fuel)? {
                Found::Tired => return Ok(Step::Again),
                Found::Range(from, to) => self.next = Some(self.body.slice(from..to)),
                Found::Number(_) => unreachable!("a command has a length"),
                Found::End => return Ok(Step::End),
            }
        }
        match self.ids.next(&self.body, fuel)? {
            Found::Tired => Ok(Step::Again),
            Found::Number(id) => {
                Ok(Step::Command(id, self.next.take().expect("it was found before its id was looked for")))
            }
            Found::Range(..) => unreachable!("an id is a number"),
            Found::End => unreachable!("there are as many ids as commands"),
        }
    }
}

impl Cursor {
    fn new(field: u64) -> Self {
        Self { field, at: 0, packed_until: 0 }
    }

    /// The next field of its kind.
    fn next(&mut self, body: &[u8], fuel: &mut usize) -> Result<Found, Malformed> {
        while *fuel > 0 {
            *fuel -= 1;
            if self.at < self.packed_until {
                return self.packed_id(body).map(Found::Number);
            }
            if self.at == body.len() {
                return Ok(Found::End);
            }
            let key = number(body, &mut self.at)?;
            let (field, kind) = (key >> 3, key & 7);
            match (field, kind) {
                (COMMANDS, 2) | (IDS, 0 | 2) => {}
                (0 | COMMANDS | IDS, _) => return Err(malformed(self.at)),
                _ => {
                    skip(body, &mut self.at, kind)?;
                    continue;
                }
            }
            if kind == 0 {
                let id = number(body, &mut self.at)?;
                if self.field == IDS {
                    return Ok(Found::Number(id));
                }
                continue;
            }
            let (from, to) = span(body, &mut self.at)?;
            match (field == self.field, field) {
                (true, COMMANDS) => return Ok(Found::Range(from, to)),
                (true, _) => (self.at, self.packed_until) = (from, to),
                (false, _) => {}
            }
        }
        Ok(Found::Tired)
    }

    fn packed_id(&mut self, body: &[u8]) -> Result<u64, Malformed> {
        let id = number(&body[..self.packed_until], &mut self.at)?;
        Ok(id)
    }
}

fn skip(body: &[u8], at: &mut usize, kind: u64) -> Result<(), Malformed> {
    let length = match kind {
        0 => return number(body, at).map(drop),
        2 => return span(body, at).map(drop),
        1 => 8,
        5 => 4,
        _ => return Err(malformed(*at)),
    };
    *at = at.checked_add(length).filter(|end| *end <= body.len()).ok_or_else(|| malformed(*at))?;
    Ok(())
}

/// A length and as many bytes: where they lie. `at` moves past them.
fn span(body: &[u8], at: &mut usize) -> Result<(usize, usize), Malformed> {
    let length = usize::try_from(number(body, at)?).map_err(|_| malformed(*at))?;
    let end = at.checked_add(length).filter(|end| *end <= body.len()).ok_or_else(|| malformed(*at))?;
    Ok((std::mem::replace(at, end), end))
}

fn number(body: &[u8], at: &mut usize) -> Result<u64, Malformed> {
    let mut rest = &body[*at..];
    let number = prost::encoding::decode_varint(&mut rest).map_err(|_| malformed(*at))?;
    *at = body.len() - rest.remaining();
    Ok(number)
}

fn malformed(at: usize) -> Malformed {
    format!("the batch cannot be decoded: at byte {at} it is no protocol buffer")
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::wire::proto::tikvpb::{BatchCommandsRequest, Command, EmptyRequest, Request};

    /// All commands of a message, and the steps that it took.
    fn open(body: Bytes) -> Result<(Vec<(u64, Request)>, usize), Malformed> {
        let (mut envelope, mut commands, mut steps) = (Envelope::new(body), Vec::new(), 0);
        loop {
            steps += 1;
            match envelope.step()? {
                Step::Command(id, bytes) => commands.push((id, Request::decode(bytes).unwrap())),
                Step::Again => {}
                Step::End => return Ok((commands, steps)),
            }
        }
    }

    fn request(test_id: u64) -> Request {
        Request { cmd: Some(Command::Empty(EmptyRequest { test_id, delay_time: 0 })) }
    }

    fn message(commands: u64) -> Vec<u8> {
        BatchCommandsRequest {
            requests: (0..commands).map(request).collect(),
            request_ids: (0..commands).map(|n| n * 1_000_003).collect(),
            client_send_time_ns: 77,
        }
        .encode_to_vec()
    }

    fn expected(commands: u64) -> Vec<(u64, Request)> {
        (0..commands).map(|n| (n * 1_000_003, request(n))).collect()
    }

    #[test]
    fn commands_come_out_in_order_with_their_ids_wherever_these_lie() {
        for commands in [0, 1, 2, 255, 256, 1000] {
            assert_eq!(open(message(commands).into()).unwrap().0, expected(commands));
            // Ids first, one field each, with an unknown field between.
            let mut mixed = Vec::new();
            for n in 0..commands {
                mixed.push(0x10);
                prost::encoding::encode_varint(n * 1_000_003, &mut mixed);
                mixed.extend_from_slice(&[0x9d, 0x06, 1, 2, 3, 4]);
            }
            for n in 0..commands {
                mixed.extend(
                    BatchCommandsRequest { requests: vec![request(n)], ..Default::default() }.encode_to_vec(),
                );
            }
            assert_eq!(open(mixed.into()).unwrap().0, expected(commands));
        }
    }

    #[test]
    fn a_step_is_short_however_many_commands_there_are() {
        let (commands, steps) = open(message(100_000).into()).unwrap();
        assert_eq!(commands.len(), 100_000);
        // One per command, and the walks ahead in steps of their own.
        assert!(steps >= 100_000 + 2 * 100_000 / STEP_FIELDS, "{steps} steps");
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let whole = message(3);
        for cut in 1..whole.len() {
            // Cut between two fields it is a message, with too few ids or none.
            assert!(
                open(Bytes::copy_from_slice(&whole[..cut])).is_err() || cut >= whole.len() - 2,
                "cut at {cut}"
            );
        }
        for bad in [
            &b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..],
            b"\x08\x01",
            b"\x13",
            b"\x00",
            b"\x15\0\0\0\0",
            b"\x12\x02\xff\xff",
        ] {
            assert!(open(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
        let counts = open(
            BatchCommandsRequest { requests: vec![request(1)], ..Default::default() }.encode_to_vec().into(),
        );
        assert_eq!(counts.unwrap_err(), "1 requests with 0 request_ids; each needs one");
    }

    #[test]
    fn any_bytes_end() {
        let rng = engine::rt::rng::Rng::new(9);
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.below(40))
                .map(|_| [0x0a, 0x12, 0x10, 0x01, rng.next() as u8][rng.below(5) as usize])
                .collect();
            let decoded = BatchCommandsRequest::decode(&bytes[..]);
            let mut envelope = Envelope::new(bytes.clone().into());
            let (mut commands, mut end) = (Vec::new(), None);
            for _ in 0..1000 {
                match envelope.step() {
                    Ok(Step::Command(id, bytes)) => commands.push((id, bytes)),
                    Ok(Step::Again) => {}
                    Ok(Step::End) => {
                        end = Some(true);
                        break;
                    }
                    Err(_) => {
                        end = Some(false);
                        break;
                    }
                }
            }
            let whole = end.expect("it ends");
            if let Ok(decoded) = decoded {
                let equal = decoded.requests.len() == decoded.request_ids.len();
                assert_eq!(whole, equal, "{bytes:?}");
                if equal {
                    let ids: Vec<u64> = commands.iter().map(|(id, _)| *id).collect();
                    assert_eq!(ids, decoded.request_ids, "{bytes:?}");
                }
            }
        }
    }
}

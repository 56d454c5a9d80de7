//! The one task that appends.
//!
//! It takes every batch that waits, makes one record of them, writes it, applies it to the index and answers. What comes in
//! the meantime is the next record: that is the whole of group commit.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use super::format::{
    FIRST_RECORD_POS, RECORD_HEADER_BYTES, RecordAt, RecordHeader, SegmentNo, Sequence, record_bytes,
};
use super::group::Live;
use super::plant::{Bug, planted};
use super::witness::Reached;
use super::{Batch, Shared};
use crate::error::Result;
use crate::rt::BLOCK_BYTES;
use crate::rt::local::Answer;

/// When a record is written again for which the kernel lacked something.
const APPEND_AGAIN: Duration = Duration::from_millis(10);

/// The same where files may not become as long, which an operator has to change.
const LONGER_AGAIN: Duration = Duration::from_millis(250);

/// A batch that waits to be written.
pub(crate) struct Request {
    pub(crate) batch: Batch,
    pub(crate) guard: Option<Guard>,
    /// The core has nothing better to do than to wait.
    pub(crate) idle: bool,
    pub(crate) answer: Answer<Result<()>>,
}

/// The condition of a move: this is still what the group has live in the segment.
pub(crate) struct Guard {
    pub(crate) group: u64,
    pub(crate) segment: SegmentNo,
    pub(crate) live: Live,
}

/// Runs until the log is stopped.
pub(crate) async fn run(shared: Rc<Shared>) {
    loop {
        let requests = next_group(&shared);
        if !requests.is_empty() {
            write_group(&shared, requests).await;
            // Where the core blocks for every record, nothing else lets the reactor run.
            shared.rt.yield_if_due().await;
        } else if shared.stopping.get() {
            break;
        } else {
            shared.work.wait().await;
        }
    }
    shared.writer_done.set(true);
    shared.wanted.ring();
    shared.to_witness.ring();
}

/// The batches of the next record: as many as wait, up to the group size, and always at least one. Moves share no record with
/// changes, because their guards are asked before the record is applied.
fn next_group(shared: &Shared) -> Vec<Request> {
    let mut queue = shared.queue.borrow_mut();
    let (mut bytes, mut count) = (0, 0);
    for request in queue.iter() {
        bytes += request.batch.len();
        let mixed = request.guard.is_some() != queue[0].guard.is_some();
        if count > 0 && (mixed || bytes > shared.options.group_bytes_max) {
            break;
        }
        count += 1;
    }
    queue.drain(..count).collect()
}

async fn write_group(shared: &Shared, mut requests: Vec<Request>) {
    if shared.failed() {
        return answer(requests, &Err(shared.refusal()));
    }
    let is_due = |request: &Request| request.guard.as_ref().is_none_or(|guard| guard.holds(shared));
    let (due, overtaken): (Vec<_>, Vec<_>) = requests.into_iter().partition(is_due);
    // A move that has been overtaken has nothing left to do, which is no failure of the log.
    answer(overtaken, &Ok(()));
    requests = due;
    while !requests.is_empty() {
        let body_bytes = requests.iter().map(|request| request.batch.len()).sum();
        let appends = requests.iter().any(|request| request.batch.appends());
        let placed = make_room(shared, record_bytes(body_bytes), appends).await;
        let outcome = match placed {
            Ok(()) => write_record(shared, &mut requests, body_bytes).await,
            Err(short) if short.is_passing() => {
                let refuse = |request: &Request| !appends || request.batch.appends();
                let (refused, rest) = requests.into_iter().partition(refuse);
                answer(refused, &Err(short));
                requests = rest;
                continue;
            }
            Err(fault) => Err(fault),
        };
        if let Err(fault) = &outcome
            && !fault.is_passing()
        {
            shared.fail(fault);
        }
        return answer(requests, &outcome);
    }
}

fn answer(requests: Vec<Request>, outcome: &Result<()>) {
    for request in requests {
        request.answer.send(outcome.clone());
    }
}

impl Guard {
    fn holds(&self, shared: &Shared) -> bool {
        let index = shared.index.borrow();
        index.group(self.group).is_some_and(|group| group.live_in(self.segment) == self.live)
    }
}

/// Sees to it that `bytes` of zeroed space lie at the tail. A record larger than a segment gets one of its own, which grows.
async fn make_room(shared: &Shared, bytes: u64, appends: bool) -> Result<()> {
    let begun = shared.tail.get() > FIRST_RECORD_POS;
    if begun && shared.tail.get() + bytes > shared.active().bytes {
        roll(shared, appends).await?;
    }
    let zeroed = zero_at_tail(shared, bytes).await;
    match &zeroed {
        Err(short) if short.is_passing() => *shared.short.borrow_mut() = Some(short.clone()),
        // As long as spares are missing, it is the task that makes them that knows whether something is short.
        Ok(()) if shared.ready.borrow().len() >= shared.options.spare_segments => {
            *shared.short.borrow_mut() = None;
        }
        Ok(()) | Err(_) => {}
    }
    zeroed
}

async fn zero_at_tail(shared: &Shared, bytes: u64) -> Result<()> {
    shared.active().zero_to(&shared.rt, shared.tail.get() + bytes).await
}

/// Goes on in the next ready segment. The last one is the reserve for what makes room on a full disk; new entries wait until
/// there is another one, or that is known to be impossible.
async fn roll(shared: &Shared, appends: bool) -> Result<()> {
    loop {
        let reserve = usize::from(appends);
        if shared.ready.borrow().len() > reserve {
            break;
        }
        if shared.failed() {
            return Err(shared.refusal());
        }
        let short = shared.short.borrow().clone();
        if let Some(shortage) = short {
            // It may be over by now; the refused caller finds out by trying again.
            shared.wanted.ring();
            return Err(shortage);
        }
        shared.writer_waits.set(true);
        shared.wanted.ring();
        shared.made.wait().await;
        shared.writer_waits.set(false);
    }
    let segment = shared.ready.borrow().front().expect("checked above").number;
    let sequence = Sequence(shared.next_sequence.get().0 - 1);
    // Before anything is acknowledged that lies there: the segment may be lost as a whole.
    shared.witness(Reached { segment, end: FIRST_RECORD_POS, sequence }).await?;
    let next = Rc::new(shared.ready.borrow_mut().pop_front().expect("checked above"));
    shared.segments.borrow_mut().insert(next.number, next.clone());
    *shared.active.borrow_mut() = next;
    shared.tail.set(FIRST_RECORD_POS);
    shared.wanted.ring();
    Ok(())
}

async fn write_record(shared: &Shared, requests: &mut [Request], body_bytes: usize) -> Result<()> {
    let (segment, pos) = (shared.active(), shared.tail.get());
    let sequence = shared.next_sequence.get();
    let total = record_bytes(body_bytes);
    let idle = requests.iter().all(|request| request.idle);
    if planted(Bug::WitnessAhead) {
        shared.witness(Reached { segment: segment.number, end: pos + total, sequence }).await?;
    }
    let body = loop {
        let mut record = shared.rt.alloc(usize::try_from(total).expect("a record fits memory"));
        let mut end = RECORD_HEADER_BYTES;
        for request in requests.iter() {
            let body = request.batch.body();
            record[end..end + body.len()].copy_from_slice(body);
            end += body.len();
        }
        assert_whole(shared, &record[RECORD_HEADER_BYTES..end]);
        let header = RecordHeader {
            body_bytes: u32::try_from(body_bytes).expect("what is larger was refused"),
            sequence,
            durable_to: Sequence(sequence.0 - 1),
            needed_from: shared.needed_from.get(),
            opened: shared.opened,
        };
        header.seal(segment.incarnation, &mut record);
        let body = match requests {
            [_] => None,
            _ => Some(Bytes::copy_from_slice(&record[RECORD_HEADER_BYTES..end])),
        };
        let (meanwhile, began) = (shared.blocking.meanwhile(idle, total), shared.rt.now());
        match segment.append(record, pos, meanwhile).await {
            // The limit on the length of files is lower than it was when the segment was made. What is one block long leaves at most a
            // part of it, which any other record covers; what is longer must go there once it has begun.
            Err(short) if short.is_of_room() => {
                *shared.short.borrow_mut() = Some(short.clone());
                shared.append_waits.set(true);
                if total == BLOCK_BYTES as u64 {
                    return Err(short);
                }
                shared.rt.sleep(LONGER_AGAIN).await;
            }
            // The kernel could not even begin for a moment. The same record goes to the same place.
            Err(short) if short.is_passing() => shared.rt.sleep(APPEND_AGAIN).await,
            Err(fault) => return Err(fault),
            Ok(()) => {
                shared.blocking.took(meanwhile, shared.rt.now().since(began));
                if shared.append_waits.replace(false) {
                    *shared.short.borrow_mut() = None;
                }
                break body;
            }
        }
    };
    let body = match requests {
        [only] => std::mem::take(&mut only.batch).into_body(),
        _ => body.unwrap_or_default(),
    };

    shared.tail.set(pos + total);
    shared.next_sequence.set(Sequence(sequence.0 + 1));
    shared.counted.set(true);
    note_vouching(shared, body.is_empty(), Reached { segment: segment.number, end: pos, sequence });
    let at = RecordAt::new(segment.number, pos);
    shared.index.borrow_mut().apply(at, &body).expect("the log reads what it writes");
    if !body.is_empty() {
        shared.cache.borrow_mut().wrote(at, body);
    }
    let mut written = shared.written.get();
    written.records += 1;
    written.batches += requests.len() as u64;
    written.record_bytes += total;
    written.body_bytes += body_bytes as u64;
    shared.written.set(written);
    if cfg!(any(debug_assertions, feature = "checks")) {
        shared.check_tail();
    }
    Ok(())
}

/// Notes whether the record that begins there changed nothing. Then it vouches for the one before it, and so does `END`, soon; its own
/// loss would be none.
fn note_vouching(shared: &Shared, empty: bool, begins: Reached) {
    shared.vouched.set(empty);
    if empty {
        shared.witness_soon(Reached { sequence: Sequence(begins.sequence.0 - 1), ..begins });
    }
}

/// A hole would be damage at the next start, so it is a bug now.
fn assert_whole(shared: &Shared, body: &[u8]) {
    if let Some(misuse) = shared.index.borrow().misuse(body) {
        panic!("{misuse}");
    }
}

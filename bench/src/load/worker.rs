//! One connection's task: sends what is due while there is room, and records what comes back.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use engine::rt::{Mono, Rt};

use super::pace::Pace;
use super::{Shared, histogram, show_progress};
use crate::Failed;
use crate::client::{Answer, AnswerResult, Connection, Request};
use crate::workload::Kind;

/// A request in flight.
#[derive(Clone, Copy, Debug)]
struct Pending {
    kind: Kind,
    record: u64,
    due: Mono,
    /// The read of a read-modify-write, whose write comes next.
    write_follows: bool,
}

/// One connection's task.
pub(super) struct Worker {
    rt: Rt,
    connection: Connection,
    shared: Rc<RefCell<Shared>>,
    pace: Pace,
    pipeline: usize,
    pending: HashMap<u64, Pending>,
    next_tag: u64,
    exhausted: bool,
    key: Vec<u8>,
}

impl Worker {
    pub(super) fn new(
        rt: &Rt,
        connection: Connection,
        shared: Rc<RefCell<Shared>>,
        pace: Pace,
        pipeline: usize,
    ) -> Self {
        Self {
            rt: rt.clone(),
            connection,
            shared,
            pace,
            pipeline,
            pending: HashMap::new(),
            next_tag: 0,
            exhausted: false,
            key: Vec::new(),
        }
    }

    pub(super) async fn run(mut self) -> Result<(), Failed> {
        let mut answers = Vec::new();
        loop {
            self.fill();
            if self.pending.is_empty() && self.exhausted {
                return Ok(());
            }
            self.connection.flush().await?;
            self.wait(&mut answers).await?;
            for answer in answers.drain(..) {
                self.take(answer);
            }
        }
    }

    /// Pushes every request that is due, as far as the pipeline has room.
    fn fill(&mut self) {
        while !self.exhausted && self.pending.len() < self.pipeline {
            let now = self.rt.now();
            let due = self.pace.due(now);
            if due > now {
                return;
            }
            let shared = &mut *self.shared.borrow_mut();
            let Some(operation) = shared.source.next(now.since(shared.began)) else {
                self.exhausted = true;
                return;
            };
            self.pace.sent += 1;
            let (kind, record) = (operation.kind, operation.record);
            let pending = Pending { kind, record, due, write_follows: kind == Kind::ReadModifyWrite };
            self.key.clear();
            shared.source.generator.key(record, &mut self.key);
            let key = &self.key;
            let request = match kind {
                Kind::Read | Kind::ReadModifyWrite => Request::Get { key },
                Kind::Update | Kind::Insert => Request::Put { key, value: shared.source.generator.value() },
                Kind::Scan => Request::Scan { start: key, records: operation.records },
            };
            self.connection.push(self.next_tag, request);
            self.pending.insert(self.next_tag, pending);
            self.next_tag += 1;
        }
    }

    /// Waits for answers, or for the next request to fall due, whichever is first.
    async fn wait(&mut self, answers: &mut Vec<Answer>) -> Result<(), Failed> {
        let now = self.rt.now();
        let until_due = self.pace.due(now).since(now);
        if self.pending.is_empty() {
            self.rt.sleep(until_due).await;
            return Ok(());
        }
        let room = self.pending.len() < self.pipeline && !self.exhausted;
        if !room || until_due.is_zero() {
            return self.connection.answers(answers).await;
        }
        let rt = self.rt.clone();
        let due = async move {
            rt.sleep(until_due).await;
            Ok(())
        };
        futures_lite::future::or(self.connection.answers(answers), due).await
    }

    fn take(&mut self, answer: Answer) {
        let pending = self.pending.remove(&answer.tag).expect("every answer carries the tag of a request");
        if pending.write_follows && answer.result == AnswerResult::Done {
            return self.write_back(pending);
        }
        let now = self.rt.now();
        let shared = &mut *self.shared.borrow_mut();
        shared.done += 1;
        match answer.result {
            AnswerResult::Done => {
                if shared.gaps.is_watching() {
                    self.key.clear();
                    shared.source.generator.key(pending.record, &mut self.key);
                    shared.gaps.note(&self.key);
                }
                if pending.kind == Kind::Insert && shared.source.fill.is_none() {
                    shared.source.generator.acknowledge(pending.record);
                }
            }
            AnswerResult::Missing => shared.missing += 1,
            AnswerResult::Refused(said) => {
                shared.refused += 1;
                shared.first_refusal.get_or_insert(said);
            }
        }
        let latency = shared.latency.entry(pending.kind).or_insert_with(histogram);
        latency.saturating_record(now.since(pending.due).as_nanos() as u64);
        if shared.done.is_multiple_of(1024) {
            show_progress(shared, now);
        }
    }

    /// The second half of a read-modify-write; its latency goes on from the first half's due time.
    fn write_back(&mut self, read: Pending) {
        let shared = &mut *self.shared.borrow_mut();
        self.key.clear();
        shared.source.generator.key(read.record, &mut self.key);
        let value = shared.source.generator.value();
        self.connection.push(self.next_tag, Request::Put { key: &self.key, value });
        self.pending.insert(self.next_tag, Pending { write_follows: false, ..read });
        self.next_tag += 1;
    }
}

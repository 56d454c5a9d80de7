//! Regions of which this node has no replica: the scheduler is asked where they are, and what it says is kept until it proves to be old.
//!
//! ```text
//! nowhere ──ask──▶ asked ──answer──▶ known ──refused there, or too many are known──▶ nowhere
//! ```
//!
//! A request for such a key waits with those whose regions move ([`super::retry`]), and is sent when the answer is in. What a store
//! refuses because the region is another one, or not there, is forgotten and asked anew; where a replica only does not lead, it says who does,
//! or the next one is asked.
//!
//! Invariants: a core has at most [`QUESTIONS_MAX`] questions in flight, one at a time about the same unknown keys, and asks again about them after
//! [`ASK_PAUSE`] at the earliest; it keeps at most [`LOCATED_MAX`] regions, and forgets the one that it has known longest first.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::local::Pending;
use engine::rt::{Mono, Rt};
use scheduler::{NewRegion, Peer, Region, Role};

use super::dispatch::Dispatch;
use crate::plant::{Bug, planted};
use crate::refusal::Refusal;
use crate::request::{Atomic, Op};

/// Regions that a core keeps of those that no store of the node has.
const LOCATED_MAX: usize = 4096;
/// Questions of a core that may be in flight.
const QUESTIONS_MAX: usize = 16;
/// Questions that were asked lately and are not asked again.
const REMEMBERED_MAX: usize = 256;
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The shortest time between two questions about the same keys.
const ASK_PAUSE: Duration = Duration::from_millis(50);

/// What the scheduler knows of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Located {
    /// The region.
    pub region: Region,
    /// Who leads it, if that is known.
    pub leader: Option<Peer>,
}

/// The way to the scheduler.
pub trait Locates: fmt::Debug {
    /// Asks for the region that has `key` and for some after it; an answer without any says that none is known, or that the scheduler was not
    /// reached. Where the stores of their peers are reached has been noted by the time of the answer.
    fn locate(&self, key: Bytes) -> Pending<Vec<Located>>;

    /// Asks for ids for as many parts that are to be cut off `region`, or why there are none.
    fn parts(&self, region: &Region, count: u32) -> Pending<Result<Vec<NewRegion>, String>>;
}

/// The questions of one core.
#[derive(Debug)]
pub(super) struct Questions {
    scheduler: Box<dyn Locates>,
    asked: RefCell<Vec<Question>>,
    /// First keys of what was located, the oldest first, some of which may be forgotten already.
    oldest: RefCell<VecDeque<(u64, Bytes)>>,
}

#[derive(Debug)]
struct Question {
    key: Bytes,
    /// It was answered; it is not asked again until then.
    until: Option<Mono>,
}

impl Questions {
    pub(super) fn new(scheduler: Box<dyn Locates>) -> Self {
        Self { scheduler, asked: RefCell::default(), oldest: RefCell::default() }
    }

    /// Ids for parts of a region; nothing if the scheduler does not answer in time.
    pub(super) async fn parts(
        &self,
        rt: &Rt,
        region: &Region,
        count: u32,
    ) -> Option<Result<Vec<NewRegion>, String>> {
        rt.timeout(ANSWER_MAX, self.scheduler.parts(region, count)).await.flatten()
    }

    /// Takes note of a question for keys in `[start, end)`, unless it must not be asked now.
    fn begin(&self, key: &Bytes, (start, end): &(Bytes, Bytes), now: Mono) -> bool {
        let mut asked = self.asked.borrow_mut();
        asked.retain(|question| question.until.is_none_or(|until| until > now));
        let same = |question: &Question| *start <= question.key && (end.is_empty() || question.key < *end);
        let in_flight = asked.iter().filter(|question| question.until.is_none()).count();
        if in_flight >= QUESTIONS_MAX || asked.len() >= REMEMBERED_MAX || asked.iter().any(same) {
            return false;
        }
        asked.push(Question { key: key.clone(), until: None });
        true
    }

    fn end(&self, key: &Bytes, now: Mono) {
        let mut asked = self.asked.borrow_mut();
        if let Some(question) =
            asked.iter_mut().find(|question| question.until.is_none() && question.key == *key)
        {
            question.until = Some(Mono(now.0 + ASK_PAUSE.as_nanos() as u64));
        }
    }

    /// Notes that a region was located; another one that has to be forgotten for it.
    fn keep(&self, region_id: u64, start: Bytes, located: usize) -> Option<u64> {
        let mut oldest = self.oldest.borrow_mut();
        if oldest.len() >= 2 * LOCATED_MAX {
            // Most of them were forgotten and located again.
            let mut seen = std::collections::BTreeSet::new();
            let mut kept: VecDeque<_> =
                oldest.drain(..).rev().filter(|(region_id, _)| seen.insert(*region_id)).collect();
            kept.make_contiguous().reverse();
            *oldest = kept;
        }
        oldest.push_back((region_id, start));
        (located > LOCATED_MAX).then(|| oldest.pop_front().map(|(region_id, _)| region_id)).flatten()
    }
}

impl Dispatch {
    /// Asks the scheduler where `key` is, if there is one to ask or the routes of this node have changed lately. The refusal for a request that
    /// waits for that in vain; nothing if it would.
    pub(super) fn seek(self: &Rc<Self>, key: &Bytes) -> Option<Refusal> {
        if let Some(questions) = self.questions() {
            self.ask(questions, key);
            let reason = "the scheduler has not said in time which node has the key";
            return Some(Refusal::Busy { reason, backoff_ms: 1000 });
        }
        self.is_changing().then_some(Refusal::RegionNotFound { region_id: 0 })
    }

    /// Asks where the greatest keys below `key` are, by the first ones that are not known there.
    pub(super) fn seek_before(self: &Rc<Self>, key: &Bytes) -> Option<Refusal> {
        let (start, _) = self.routes().around_before(key);
        self.seek(&start)
    }

    /// Asks where those keys of an operation are of which that is not known.
    pub(super) fn seek_others(self: &Rc<Self>, op: &Op) {
        let Some(questions) = self.questions() else { return };
        let unknown = |keys: &mut dyn Iterator<Item = &Bytes>| -> Vec<Bytes> {
            let routes = self.routes();
            keys.filter(|key| routes.find(key).is_none()).take(REMEMBERED_MAX).cloned().collect()
        };
        let keys = match op {
            Op::BatchGet { keys, .. }
            | Op::Lengths { keys, ahead: _ }
            | Op::BatchDelete { keys }
            | Op::Watch { keys } => unknown(&mut keys.iter()),
            Op::BatchPut { pairs } | Op::PutAbsent { pairs } => {
                unknown(&mut pairs.iter().map(|(key, _)| key))
            }
            Op::PutTimed { puts } => unknown(&mut puts.iter().map(|(key, ..)| key)),
            Op::Copy { from, to, remove: _, replace: _ } => unknown(&mut [from, to].into_iter()),
            Op::Atomic(atomic @ Atomic { .. }) => unknown(&mut atomic.keys().iter()),
            // Their only key, or the first one that is not known, has been asked for.
            Op::Get { .. }
            | Op::Expiry { .. }
            | Op::Put { .. }
            | Op::Delete { .. }
            | Op::Modify { .. }
            | Op::DeleteRange { .. }
            | Op::Scan(_) => Vec::new(),
        };
        keys.iter().for_each(|key| self.ask(questions, key));
    }

    /// Asks the scheduler about the region of an operation that its replicas here or elsewhere have refused for a while.
    pub(super) fn seek_instead(self: &Rc<Self>, op: &Op) {
        let key = match op {
            Op::Get { key }
            | Op::Expiry { key }
            | Op::Put { key, .. }
            | Op::Delete { key, .. }
            | Op::Modify { key, .. } => key.clone(),
            Op::BatchGet { keys, .. }
            | Op::Lengths { keys, ahead: _ }
            | Op::BatchDelete { keys }
            | Op::Watch { keys } => keys.first().cloned().unwrap_or_default(),
            Op::BatchPut { pairs } | Op::PutAbsent { pairs } => {
                pairs.first().map(|(key, _)| key.clone()).unwrap_or_default()
            }
            Op::PutTimed { puts } => puts.first().map(|(key, ..)| key.clone()).unwrap_or_default(),
            Op::Copy { from, to: _, remove: _, replace: _ } => from.clone(),
            Op::DeleteRange { start, .. } => start.clone(),
            Op::Scan(scan) => scan.start.clone(),
            Op::Atomic(atomic) => atomic.keys().into_iter().next().unwrap_or_default(),
        };
        if let Some(questions) = self.questions() {
            self.ask(questions, &key);
        }
    }

    pub(super) fn questions(&self) -> Option<&Rc<Questions>> {
        self.remote().and_then(|remote| remote.questions())
    }

    fn ask(self: &Rc<Self>, questions: &Rc<Questions>, key: &Bytes) {
        let around = self.routes().around(key);
        if !questions.begin(key, &around, self.rt().now()) {
            return;
        }
        let pending = questions.scheduler.locate(key.clone());
        let (dispatch, questions, key) = (self.clone(), questions.clone(), key.clone());
        self.rt().spawn(async move {
            let answer = dispatch.rt().timeout(ANSWER_MAX, pending).await;
            for located in answer.flatten().unwrap_or_default() {
                dispatch.located(&questions, &located);
            }
            questions.end(&key, dispatch.rt().now());
        });
    }

    /// Takes over what the scheduler said of a region.
    fn located(&self, questions: &Questions, Located { region, leader }: &Located) {
        let Some(remote) = self.remote() else { return };
        // What is on this node is published by its store, or the scheduler has not heard yet that it has left.
        let elsewhere = |peer: &&Peer| !remote.is_ours(peer);
        let may_lead = |peer: &&Peer| peer.role != Role::Learner && elsewhere(peer);
        let leader = leader.as_ref().filter(elsewhere).or_else(|| region.peers.iter().find(may_lead));
        let Some(leader) = leader else { return };
        let mut routes = self.routes_mut();
        if planted(Bug::OldOwnerKept) && routes.find(region.range.start().as_bytes()).is_some() {
            return;
        }
        if routes.locate(region, *leader) {
            let start = Bytes::copy_from_slice(region.range.start().as_bytes());
            if let Some(oldest) = questions.keep(region.id.0, start, routes.located()) {
                routes.forget(oldest);
            }
        }
    }

    /// A store refused what was sent to a region that it no longer has as it was: what the scheduler said of it is old.
    pub(super) fn forget_located(&self, region_id: u64) {
        self.routes_mut().forget(region_id);
    }
}

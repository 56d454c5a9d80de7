//! What threads of the node ask the scheduler, wherever it is hosted: the console of the status port shows the answers.
//!
//! ```text
//!   thread ──question──▶ bounded queue ──▶ root core: the PD port answers, or sends it on to the host ──reply──▶ thread
//! ```
//!
//! Only questions are taken, nothing that changes anything, and one at a time: whatever the threads do, they cost the root core a walk over
//! the map at most, which pauses, and one answer's memory. A question that finds the queue full, or is not answered in [`ANSWER_MAX`], comes to an
//! error in words. The node asks as a member, so what is asked needs no secret; who may see the answer is decided where it is shown.

use std::fmt;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::chan::{self, Receiver, Sender, TrySend};
use prost::Message as _;

use super::Method;
use super::port::Port;
use crate::wire::grpc::{Code, Service as _, Status};
use crate::wire::proto::ringkeep::{
    ClusterRequest, HeatOf, HeatRequest, OperatorsRequest, RegionMapRequest, RegionsRequest, StoresRequest,
};

/// Questions that may wait.
const QUEUE_BOUND: usize = 8;
/// How long an answer may take. Longer than one other node may need that hosts the scheduler no more.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// What stands before the message of an answer: whether it is compressed, and its length.
const FRAME_BYTES: usize = 5;

/// What can be asked; each is answered by the message of its name.
#[derive(Clone, Debug, PartialEq)]
pub enum SchedulerQuestion {
    /// How the cluster does.
    Cluster,
    /// The stores.
    Stores,
    /// What is being done to regions.
    Operators,
    /// Regions, page by page.
    Regions(RegionsRequest),
    /// The key space in this many cells.
    RegionMap(u32),
    /// The load of the last hour.
    Heat(HeatOf),
}

/// A question with where its answer goes.
pub struct QuestionAsked {
    question: SchedulerQuestion,
    reply: mpsc::SyncSender<Reply>,
}

impl fmt::Debug for QuestionAsked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("QuestionAsked").field(&self.question).finish()
    }
}

/// Where the scheduler is, as far as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchedulerPlace {
    /// On this node.
    Here,
    /// On one of these PD ports, the likeliest first.
    Elsewhere(Vec<String>),
}

struct Reply {
    place: SchedulerPlace,
    framed: Result<Bytes, Status>,
}

/// Why there is no answer, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer {
    /// Where the scheduler is thought to be; not known if the root core did not answer.
    pub place: Option<SchedulerPlace>,
    /// How the call ended, if it did.
    pub code: Option<Code>,
    /// Why.
    pub why: String,
}

/// The threads' side. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Asker(Sender<QuestionAsked>);

/// An answer that may still come.
#[derive(Debug)]
pub struct Waiting(mpsc::Receiver<Reply>);

/// A queue for questions.
pub fn questions() -> (Asker, Receiver<QuestionAsked>) {
    let (ask, asked) = chan::queue(QUEUE_BOUND);
    (Asker(ask), asked)
}

impl SchedulerQuestion {
    fn into_call(self) -> (Method, Bytes) {
        let (method, message) = match self {
            Self::Cluster => (Method::Cluster, ClusterRequest {}.encode_to_vec()),
            Self::Stores => (Method::Stores, StoresRequest {}.encode_to_vec()),
            Self::Operators => (Method::Operators, OperatorsRequest { region: 0 }.encode_to_vec()),
            Self::Regions(request) => (Method::Regions, request.encode_to_vec()),
            Self::RegionMap(cells) => (Method::RegionMap, RegionMapRequest { cells }.encode_to_vec()),
            Self::Heat(of) => (Method::Heat, HeatRequest { of: of.into() }.encode_to_vec()),
        };
        (method, message.into())
    }
}

impl NoAnswer {
    fn here(why: &str) -> Self {
        Self { place: None, code: None, why: why.to_owned() }
    }
}

impl Asker {
    /// Asks, and waits for the answer. For plain threads: it blocks.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ask<A: prost::Message + Default>(
        &self,
        question: SchedulerQuestion,
    ) -> Result<(A, SchedulerPlace), NoAnswer> {
        // The root core gives up by itself; it is waited for a little longer, because it may be busy.
        let Waiting(replies) = self.begin(question)?;
        let late = |_| NoAnswer::here("it was not reached in time, or this node is overloaded");
        read(replies.recv_timeout(ANSWER_MAX + Duration::from_secs(1)).map_err(late)?)
    }

    /// Asks, and does not wait.
    ///
    /// # Errors
    /// The node has as many questions as it takes, or ends.
    pub fn begin(&self, question: SchedulerQuestion) -> Result<Waiting, NoAnswer> {
        let (reply, replies) = mpsc::sync_channel(1);
        match self.0.try_send(QuestionAsked { question, reply }) {
            Ok(()) => Ok(Waiting(replies)),
            Err(TrySend::Full(_)) => {
                Err(NoAnswer::here("too much is asked of the scheduler here; try again"))
            }
            Err(TrySend::Closed(_)) => Err(NoAnswer::here("this node stops")),
        }
    }
}

impl Waiting {
    /// The answer, once it has come.
    pub fn try_take<A: prost::Message + Default>(&self) -> Option<Result<(A, SchedulerPlace), NoAnswer>> {
        self.0.try_recv().ok().map(read)
    }
}

fn read<A: prost::Message + Default>(
    Reply { place, framed }: Reply,
) -> Result<(A, SchedulerPlace), NoAnswer> {
    let failed = |Status { code, message, .. }: Status| NoAnswer {
        place: Some(place.clone()),
        code: Some(code),
        why: message,
    };
    let framed = framed.map_err(failed)?;
    let garbled = |error| Status::new(Code::Internal, format!("the answer cannot be decoded: {error}"));
    let answer = A::decode(framed.get(FRAME_BYTES..).unwrap_or_default()).map_err(garbled).map_err(failed)?;
    Ok((answer, place))
}

/// Answers what is asked, as long as the core runs.
pub async fn serve(rt: Rt, port: Port, asked: Receiver<QuestionAsked>) {
    while let Some(QuestionAsked { question, reply }) = asked.recv().await {
        let (method, message) = question.into_call();
        let answered = rt.timeout(ANSWER_MAX, port.unary(method, message, None)).await;
        let place = port.elsewhere().map_or(SchedulerPlace::Here, SchedulerPlace::Elsewhere);
        let framed = answered.unwrap_or_else(|| {
            let why = format!("the scheduler does not answer within {} s", ANSWER_MAX.as_secs());
            Err(Status::new(Code::Unavailable, why))
        });
        if reply.try_send(Reply { place, framed }).is_err() {
            tracing::debug!("a page has not waited for the answer of the scheduler");
        }
    }
}

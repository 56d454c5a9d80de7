//! TiKV's raw API from the client's side: the map of regions from PD, then one BatchCommands stream to each store.
//!
//! It follows regions as a TiKV client does: what a store refuses because a region was split, moved or is led by another is sent again by
//! newer routes ([`Regions`]), with a growing pause and for [`RETRY_MAX`] at most, and only then counts as refused. What a store refuses
//! because it is busy or full is an answer, which the report shows.
//!
//! Invariant: every request that was pushed is in `sent` until it is answered, and there either in flight or named in `again`.

mod lane;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::{Mono, Rt};
use futures_lite::future::or;
use store::wire::grpc::Status;
use store::wire::grpc::client::Client;
use store::wire::proto::{errorpb, kvrpcpb, tikvpb};
use tikvpb::{Answer as Said, Command};

use self::lane::Lane;
use super::regions::{Lesson, Regions};
use super::{Answer, AnswerResult, Request};
use crate::Failed;

/// For how long a request is sent again before its refusal counts: as long as TiKV's clients do.
const RETRY_MAX: Duration = Duration::from_secs(20);
/// The first pause, after a request was sent again at once to no avail.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// A connection to every store of a cluster.
pub(super) struct Tikv {
    rt: Rt,
    pd: Client,
    regions: Regions,
    /// PD is to be asked for the regions before anything is sent again.
    stale: bool,
    /// By the id of the store.
    lanes: HashMap<u64, Lane>,
    sent: HashMap<u64, Sent>,
    /// The tags of what is sent again, and when.
    again: Vec<(Mono, u64)>,
    /// What is not tried any more.
    given_up: Vec<Answer>,
}

/// A request that is not answered.
struct Sent {
    asked: Asked,
    context: kvrpcpb::Context,
    since: Mono,
    tries: u32,
}

#[derive(Clone)]
enum Asked {
    Get(Bytes),
    Put(Bytes, Bytes),
    /// A scan ends with its region, as one request of a client that goes on in the next one does.
    Scan(Bytes, u32),
}

impl std::fmt::Debug for Tikv {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} regions on {} stores", self.regions.len(), self.lanes.len())
    }
}

impl Tikv {
    pub(super) async fn open(rt: &Rt, addr: SocketAddr) -> Result<Self, Failed> {
        let pd = Box::pin(Client::connect(rt, addr))
            .await
            .map_err(|error| Failed::new(format!("cannot connect to PD at {addr}: {error}")))?;
        let asked = Regions::ask(&pd).await;
        let regions = asked.map_err(|status| failed("ScanRegions", &addr.to_string(), &status))?;
        let mut lanes = HashMap::new();
        for store in regions.stores() {
            if let std::collections::hash_map::Entry::Vacant(place) = lanes.entry(store) {
                place.insert(Box::pin(Lane::open(rt, &pd, store)).await?);
            }
        }
        if regions.is_empty() || lanes.is_empty() {
            return Err(Failed::new(format!("PD at {addr} knows no region with a leader")));
        }
        let (rt, sent) = (rt.clone(), HashMap::new());
        let (again, given_up) = (Vec::new(), Vec::new());
        Ok(Self { rt, pd, regions, stale: false, lanes, sent, again, given_up })
    }

    pub(super) fn push(&mut self, tag: u64, request: Request<'_>) {
        let asked = match request {
            Request::Get { key } => Asked::Get(Bytes::copy_from_slice(key)),
            Request::Put { key, value } => {
                Asked::Put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
            }
            Request::Scan { start, records } => {
                Asked::Scan(Bytes::copy_from_slice(start), u32::try_from(records).unwrap_or(u32::MAX))
            }
        };
        let since = self.rt.now();
        self.sent.insert(tag, Sent { asked, context: kvrpcpb::Context::default(), since, tries: 0 });
        if !self.queue(tag) {
            self.again.push((since, tag));
        }
    }

    /// Queues a request at the store that leads its key, if both are known.
    fn queue(&mut self, tag: u64) -> bool {
        let Some(sent) = self.sent.get_mut(&tag) else { return true };
        let Some(context) = self.regions.context(sent.asked.key()) else { return false };
        let Some(lane) = store_of(&context).and_then(|store| self.lanes.get_mut(&store)) else {
            return false;
        };
        sent.context = context;
        lane.queue(tag, sent.asked.command(context));
        true
    }

    /// Sends what is queued, and again what is due for that.
    ///
    /// # Errors
    /// A connection is gone.
    pub(super) async fn flush(&mut self) -> Result<(), Failed> {
        if !self.again.is_empty() {
            Box::pin(self.send_again()).await?;
        }
        for lane in self.lanes.values_mut() {
            lane.flush().await?;
        }
        Ok(())
    }

    async fn send_again(&mut self) -> Result<(), Failed> {
        let now = self.rt.now();
        let (due, later): (Vec<_>, Vec<_>) = self.again.drain(..).partition(|(at, _)| *at <= now);
        self.again = later;
        if due.is_empty() {
            return Ok(());
        }
        if self.stale {
            match Regions::ask(&self.pd).await {
                Ok(regions) => (self.regions, self.stale) = (regions, false),
                Err(status) => {
                    let why = format!("PD does not say where regions are: {}", status.message);
                    due.into_iter().for_each(|(_, tag)| self.postpone(tag, &why));
                    return Ok(());
                }
            }
        }
        for (_, tag) in due {
            let context = self.sent.get(&tag).and_then(|sent| self.regions.context(sent.asked.key()));
            if let Some(store) = context.as_ref().and_then(store_of)
                && !self.lanes.contains_key(&store)
            {
                self.lanes.insert(store, Lane::open(&self.rt, &self.pd, store).await?);
            }
            if !self.queue(tag) {
                self.stale = true;
                self.postpone(tag, "PD knows no leader of the region");
            }
        }
        Ok(())
    }

    /// Sends a request again later, or gives it up.
    fn postpone(&mut self, tag: u64, why: &str) {
        let Some(sent) = self.sent.get_mut(&tag) else { return };
        let now = self.rt.now();
        if now.since(sent.since) >= RETRY_MAX {
            let result = AnswerResult::Refused(format!("{why} (after {} tries)", sent.tries + 1));
            self.sent.remove(&tag);
            self.given_up.push(Answer { tag, result });
            return;
        }
        let pause = pause_after(sent.tries);
        sent.tries += 1;
        self.again.push((Mono(now.0 + pause.as_nanos() as u64), tag));
    }

    /// Waits for answers, or until something is to be sent again.
    ///
    /// # Errors
    /// A connection is gone, or says what no server may.
    pub(super) async fn answers(&mut self, into: &mut Vec<Answer>) -> Result<(), Failed> {
        if !self.given_up.is_empty() {
            into.append(&mut self.given_up);
            return Ok(());
        }
        let Some(due) = self.again.iter().map(|(at, _)| *at).min() else { return self.read(into).await };
        let rt = self.rt.clone();
        let due = async move {
            rt.sleep(due.since(rt.now())).await;
            Ok(())
        };
        or(self.read(into), due).await
    }

    async fn read(&mut self, into: &mut Vec<Answer>) -> Result<(), Failed> {
        let mut said = Vec::new();
        poll_fn(|cx| {
            for lane in self.lanes.values_mut() {
                if let Err(failed) = lane.poll(cx, &mut said) {
                    return Poll::Ready(Err(failed));
                }
            }
            if said.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
        })
        .await?;
        said.into_iter().for_each(|(tag, said)| self.take(tag, said, into));
        Ok(())
    }

    fn take(&mut self, tag: u64, said: Option<Said>, into: &mut Vec<Answer>) {
        let Some(sent) = self.sent.get(&tag) else { return };
        let lesson = match region_error(said.as_ref()) {
            Some(error) => self.regions.learn(error, &sent.context),
            None => Lesson::Stands,
        };
        let result = result_of(said);
        match (lesson, result) {
            (Lesson::Again | Lesson::AskPd, AnswerResult::Refused(why)) => {
                self.stale |= lesson == Lesson::AskPd;
                self.postpone(tag, &why);
            }
            (Lesson::Again | Lesson::AskPd | Lesson::Stands, result) => {
                self.sent.remove(&tag);
                into.push(Answer { tag, result });
            }
        }
    }
}

impl Asked {
    fn key(&self) -> &[u8] {
        let (Self::Get(key) | Self::Put(key, _) | Self::Scan(key, _)) = self;
        key
    }

    fn command(&self, context: kvrpcpb::Context) -> Command {
        let context = Some(context);
        match self.clone() {
            Self::Get(key) => Command::RawGet(kvrpcpb::RawGetRequest { context, key, ..Default::default() }),
            Self::Put(key, value) => {
                Command::RawPut(kvrpcpb::RawPutRequest { context, key, value, ..Default::default() })
            }
            Self::Scan(start_key, limit) => {
                Command::RawScan(kvrpcpb::RawScanRequest { context, start_key, limit, ..Default::default() })
            }
        }
    }
}

/// The pause before a request is sent again that was tried so often before: none at first, because the answer mostly says where to.
fn pause_after(tries: u32) -> Duration {
    match tries.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => PAUSE_MIN.saturating_mul(1 << doublings.min(16)).min(PAUSE_MAX),
    }
}

fn store_of(context: &kvrpcpb::Context) -> Option<u64> {
    context.peer.map(|peer| peer.store_id)
}

fn failed(call: &str, addr: &str, status: &Status) -> Failed {
    Failed::new(format!("{call} at {addr}: {:?}: {}", status.code, status.message))
}

fn region_error(said: Option<&Said>) -> Option<&errorpb::Error> {
    match said {
        Some(Said::RawGet(got)) => got.region_error.as_ref(),
        Some(Said::RawPut(put)) => put.region_error.as_ref(),
        Some(Said::RawScan(scanned)) => scanned.region_error.as_ref(),
        _ => None,
    }
}

fn result_of(said: Option<Said>) -> AnswerResult {
    match said {
        Some(Said::RawGet(got)) if got.not_found => AnswerResult::Missing,
        Some(Said::RawGet(got)) => judged(got.region_error, got.error),
        Some(Said::RawPut(put)) => judged(put.region_error, put.error),
        Some(Said::RawScan(scanned)) => judged(scanned.region_error, String::new()),
        _ => AnswerResult::Refused("the answer is not one to the command".into()),
    }
}

fn judged(region_error: Option<errorpb::Error>, error: String) -> AnswerResult {
    match region_error {
        Some(refusal) => AnswerResult::Refused(refusal.message),
        None if error.is_empty() => AnswerResult::Done,
        None => AnswerResult::Refused(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_words() {
        let error = errorpb::Error { message: "not leader".into(), ..Default::default() };
        assert_eq!(judged(Some(error), String::new()), AnswerResult::Refused("not leader".into()));
        assert_eq!(judged(None, String::new()), AnswerResult::Done);
        let missing = kvrpcpb::RawGetResponse { not_found: true, ..Default::default() };
        assert_eq!(result_of(Some(Said::RawGet(missing))), AnswerResult::Missing);
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let pauses: Vec<Duration> = (0..4).map(pause_after).collect();
        assert_eq!(pauses, [0, 2, 4, 8].map(Duration::from_millis));
        assert_eq!((pause_after(9), pause_after(u32::MAX)), (PAUSE_MAX, PAUSE_MAX));
    }
}

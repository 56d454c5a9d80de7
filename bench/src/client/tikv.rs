//! TiKV's raw API from the client's side: the map of regions from PD, then one BatchCommands stream to each store.
//!
//! The map is read once when the connection opens. A run during which regions move shows that as refusals, in the report.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::Poll;

use bytes::Bytes;
use engine::rt::Rt;
use prost::Message;
use store::wire::grpc::client::{Call, Client};
use store::wire::grpc::{Status, frame};
use store::wire::proto::{errorpb, kvrpcpb, metapb, pdpb, tikvpb};
use tikvpb::{Answer as Said, Command};

use super::{Answer, AnswerResult, Request};
use crate::Failed;

const PD: &str = "/pdpb.PD";
const BATCH_COMMANDS: &str = "/tikvpb.Tikv/BatchCommands";

/// A connection to every store of a cluster.
pub(super) struct Tikv {
    /// By start key, ascending and without gaps.
    regions: Vec<Region>,
    lanes: Vec<Lane>,
}

struct Region {
    start: Bytes,
    context: kvrpcpb::Context,
    lane: usize,
}

struct Lane {
    addr: String,
    call: Call,
    queued: tikvpb::BatchCommandsRequest,
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
        let ask = pdpb::ScanRegionsRequest::default();
        let map: pdpb::ScanRegionsResponse = pd
            .unary(&format!("{PD}/ScanRegions"), &ask)
            .await
            .map_err(|status| failed("ScanRegions", &addr.to_string(), &status))?;
        let mut this = Self { regions: Vec::new(), lanes: Vec::new() };
        let mut lane_of = HashMap::new();
        for found in map.regions {
            let (Some(region), Some(leader)) = (found.region, found.leader) else { continue };
            let lane = match lane_of.get(&leader.store_id) {
                Some(lane) => *lane,
                None => {
                    this.lanes.push(Box::pin(Lane::open(rt, &pd, leader.store_id)).await?);
                    lane_of.insert(leader.store_id, this.lanes.len() - 1);
                    this.lanes.len() - 1
                }
            };
            this.regions.push(Region::new(region, leader, lane));
        }
        this.regions.sort_by(|a, b| a.start.cmp(&b.start));
        if this.regions.is_empty() {
            return Err(Failed::new(format!("PD at {addr} knows no region with a leader")));
        }
        Ok(this)
    }

    fn region_of(&self, key: &[u8]) -> &Region {
        let behind = self.regions.partition_point(|region| &region.start[..] <= key);
        &self.regions[behind.saturating_sub(1)]
    }

    pub(super) fn push(&mut self, tag: u64, request: Request<'_>) {
        let (Request::Get { key } | Request::Put { key, .. } | Request::Scan { start: key, .. }) = request;
        let region = self.region_of(key);
        let (lane, context) = (region.lane, Some(region.context));
        let key = Bytes::copy_from_slice(key);
        let command = match request {
            Request::Get { .. } => {
                Command::RawGet(kvrpcpb::RawGetRequest { context, key, ..Default::default() })
            }
            Request::Put { value, .. } => {
                let value = Bytes::copy_from_slice(value);
                Command::RawPut(kvrpcpb::RawPutRequest { context, key, value, ..Default::default() })
            }
            // A scan ends with its region, as one request of a client that goes on in the next one does.
            Request::Scan { records, .. } => Command::RawScan(kvrpcpb::RawScanRequest {
                context,
                start_key: key,
                limit: u32::try_from(records).unwrap_or(u32::MAX),
                ..Default::default()
            }),
        };
        let queued = &mut self.lanes[lane].queued;
        queued.requests.push(tikvpb::Request { cmd: Some(command) });
        queued.request_ids.push(tag);
    }

    pub(super) async fn flush(&mut self) -> Result<(), Failed> {
        for lane in &mut self.lanes {
            if lane.queued.request_ids.is_empty() {
                continue;
            }
            let message = frame(&lane.queued);
            lane.queued.requests.clear();
            lane.queued.request_ids.clear();
            let sent = lane.call.outbox.send(message).await;
            sent.map_err(|status| failed("BatchCommands", &lane.addr, &status))?;
        }
        Ok(())
    }

    pub(super) async fn answers(&mut self, into: &mut Vec<Answer>) -> Result<(), Failed> {
        let before = into.len();
        poll_fn(|cx| {
            for lane in &mut self.lanes {
                while let Poll::Ready(message) = lane.call.inbox.poll_next(cx) {
                    let message = match message {
                        Ok(Some(message)) => message,
                        Ok(None) => {
                            return Poll::Ready(Err(Failed::new(format!("{} ended the stream", lane.addr))));
                        }
                        Err(status) => return Poll::Ready(Err(failed("BatchCommands", &lane.addr, &status))),
                    };
                    let batch = match tikvpb::BatchCommandsResponse::decode(message.bytes) {
                        Ok(batch) => batch,
                        Err(error) => {
                            return Poll::Ready(Err(Failed::new(format!("{}: {error}", lane.addr))));
                        }
                    };
                    let results = batch.responses.into_iter().map(|response| result_of(response.cmd));
                    let answers = batch.request_ids.into_iter().zip(results);
                    into.extend(answers.map(|(tag, result)| Answer { tag, result }));
                }
            }
            if into.len() > before { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

impl Region {
    fn new(region: metapb::Region, leader: metapb::Peer, lane: usize) -> Self {
        let context = kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            ..Default::default()
        };
        Self { start: region.start_key, context, lane }
    }
}

impl Lane {
    async fn open(rt: &Rt, pd: &Client, store_id: u64) -> Result<Self, Failed> {
        let ask = pdpb::GetStoreRequest { store_id, ..Default::default() };
        let found: pdpb::GetStoreResponse = pd
            .unary(&format!("{PD}/GetStore"), &ask)
            .await
            .map_err(|status| failed("GetStore", "PD", &status))?;
        let addr = found.store.map(|store| store.address).unwrap_or_default();
        let socket = addr
            .parse()
            .map_err(|_| Failed::new(format!("store {store_id} is at \"{addr}\", no address")))?;
        let client = Box::pin(Client::connect(rt, socket))
            .await
            .map_err(|error| Failed::new(format!("cannot connect to store {store_id} at {addr}: {error}")))?;
        let call =
            client.open(BATCH_COMMANDS).await.map_err(|status| failed("BatchCommands", &addr, &status))?;
        Ok(Self { addr, call, queued: tikvpb::BatchCommandsRequest::default() })
    }
}

fn failed(call: &str, addr: &str, status: &Status) -> Failed {
    Failed::new(format!("{call} at {addr}: {:?}: {}", status.code, status.message))
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
    fn keys_go_to_the_region_that_holds_them() {
        let region = |start: &'static str, lane| Region {
            start: Bytes::from_static(start.as_bytes()),
            context: kvrpcpb::Context::default(),
            lane,
        };
        let tikv = Tikv { regions: vec![region("", 0), region("g", 1), region("t", 2)], lanes: Vec::new() };
        for (key, lane) in [("", 0), ("f", 0), ("g", 1), ("m", 1), ("t", 2), ("zz", 2)] {
            assert_eq!(tikv.region_of(key.as_bytes()).lane, lane, "{key}");
        }
    }

    #[test]
    fn refusals_keep_their_words() {
        let error = errorpb::Error { message: "not leader".into(), ..Default::default() };
        assert_eq!(judged(Some(error), String::new()), AnswerResult::Refused("not leader".into()));
        assert_eq!(judged(None, String::new()), AnswerResult::Done);
        let missing = kvrpcpb::RawGetResponse { not_found: true, ..Default::default() };
        assert_eq!(result_of(Some(Said::RawGet(missing))), AnswerResult::Missing);
    }
}

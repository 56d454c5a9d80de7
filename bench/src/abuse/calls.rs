//! The cases over gRPC: messages of many commands, scans without a reader, ranges of tombstones.
//!
//! They speak through the store's own client, on a core of their own in this process. What a node answers is read and counted; refusals
//! for lack of room are answers, too.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::{CoreOptions, Rt, start_core};
use futures_lite::future::poll_once;
use prost::Message;
use store::wire::grpc::client::{Call, Client};
use store::wire::grpc::{Status, frame};
use store::wire::proto::kvrpcpb::{
    Context, RawDeleteRangeRequest, RawGetRequest, RawPutRequest, RawScanRequest,
};
use store::wire::proto::tikvpb::{BatchCommandsRequest, BatchCommandsResponse, Command, Request};
use store::wire::proto::{kvrpcpb, pdpb};

use super::cases::{BIG_BYTES, Target};
use crate::Failed;
use crate::clock::now;

const BATCH_COMMANDS: &str = "/tikvpb.Tikv/BatchCommands";
const RAW_SCAN: &str = "/tikvpb.Tikv/RawScan";
/// Scans that run when they are all reset.
const SCANS: usize = 3000;
/// Range deletes of each kind.
const RANGES: usize = 2000;
/// As long as keys may be, without what tells them apart.
const LONG_KEY_BYTES: usize = 8000;

/// The store that has the keys of the cases.
struct Store {
    client: Client,
    context: Context,
}

type Working<'a> = Pin<Box<dyn Future<Output = Result<u64, Failed>> + 'a>>;

/// Runs `work` on a core of its own until it ends.
fn on_core(
    target: Target,
    each: Duration,
    work: for<'a> fn(&'a Rt, &'a Store, Duration) -> Working<'a>,
) -> Result<u64, Failed> {
    let Some(pd) = target.pd else { return Err(Failed::new("the node's PD address is not known")) };
    start_core(&CoreOptions::default(), move |rt| async move {
        let store = Box::pin(Store::find(&rt, pd)).await?;
        work(&rt, &store, each).await
    })?
}

fn broken(status: Status) -> Failed {
    Failed::new(format!("{:?}: {}", status.code, status.message))
}

impl Store {
    async fn find(rt: &Rt, pd: SocketAddr) -> Result<Self, Failed> {
        let pd = Client::connect(rt, pd).await?;
        let ask = pdpb::GetRegionRequest { region_key: "abuse:".into(), ..Default::default() };
        let found: pdpb::GetRegionResponse = pd.unary("/pdpb.PD/GetRegion", &ask).await.map_err(broken)?;
        let (Some(region), Some(leader)) = (found.region, found.leader) else {
            return Err(Failed::new("PD knows no leader for the keys of the cases"));
        };
        let ask = pdpb::GetStoreRequest { store_id: leader.store_id, ..Default::default() };
        let store: pdpb::GetStoreResponse = pd.unary("/pdpb.PD/GetStore", &ask).await.map_err(broken)?;
        let address = store.store.map(|store| store.address).unwrap_or_default();
        let addr = address.parse().map_err(|_| Failed::new(format!("a store is at \"{address}\"")))?;
        let client = Client::connect(rt, addr).await?;
        let context = Context {
            region_id: region.id,
            region_epoch: region.region_epoch,
            peer: Some(leader),
            ..Context::default()
        };
        Ok(Self { client, context })
    }

    fn get(&self, key: &str) -> Command {
        let key = Bytes::copy_from_slice(key.as_bytes());
        Command::RawGet(RawGetRequest { context: Some(self.context), key, ..Default::default() })
    }

    fn delete_range(&self, start: Vec<u8>) -> Command {
        let end = [&start[..], b"~"].concat();
        Command::RawDeleteRange(RawDeleteRangeRequest {
            context: Some(self.context),
            start_key: start.into(),
            end_key: end.into(),
            ..Default::default()
        })
    }

    /// Sends commands as one message and reads until all are answered. Returns the bytes that were sent.
    async fn ask(&self, commands: Vec<Command>) -> Result<u64, Failed> {
        let count = commands.len();
        let message = BatchCommandsRequest {
            request_ids: (1..=count as u64).collect(),
            requests: commands.into_iter().map(|cmd| Request { cmd: Some(cmd) }).collect(),
            ..Default::default()
        };
        let message = frame(&message);
        let sent = message.len() as u64;
        let Call { mut outbox, mut inbox } = self.client.open(BATCH_COMMANDS).await.map_err(broken)?;
        let mut sending = Box::pin(outbox.send(message));
        let mut answered = 0;
        // It is read while it is sent: a node that has much to say does not listen for ever.
        let mut all_sent = poll_once(sending.as_mut()).await.transpose().map_err(broken)?.is_some();
        while answered < count {
            let next = poll_fn(|cx| {
                if !all_sent && let Poll::Ready(outcome) = sending.as_mut().poll(cx) {
                    all_sent = true;
                    if let Err(status) = outcome {
                        return Poll::Ready(Err(status));
                    }
                }
                inbox.poll_next(cx)
            });
            let Some(answer) = next.await.map_err(broken)? else {
                return Err(Failed::new(format!("the stream ended after {answered} of {count} answers")));
            };
            let answer = BatchCommandsResponse::decode(answer.bytes)
                .map_err(|error| Failed::new(format!("an answer cannot be read: {error}")))?;
            answered += answer.request_ids.len();
        }
        Ok(sent)
    }
}

/// 513 reads of a large value in one message, two large writes in one, and 500,000 small reads in one, in turn.
pub(super) fn batch(target: Target, each: Duration) -> Result<u64, Failed> {
    on_core(target, each, |_, store, each| {
        Box::pin(async move {
            let (began, mut sent) = (now(), 0);
            while began.elapsed() < each {
                sent += store.ask(vec![store.get("abuse:big"); 513]).await?;
                let put = |n: usize| {
                    Command::RawPut(RawPutRequest {
                        context: Some(store.context),
                        key: format!("abuse:put:{n}").into(),
                        value: vec![b'p'; BIG_BYTES].into(),
                        ..Default::default()
                    })
                };
                sent += store.ask(vec![put(0), put(1)]).await?;
                sent += store.ask(vec![store.get("abuse:none"); 500_000]).await?;
            }
            Ok(sent)
        })
    })
}

/// Scans of large values, begun and reset.
pub(super) fn scans(target: Target, each: Duration) -> Result<u64, Failed> {
    on_core(target, each, |rt, store, each| {
        Box::pin(async move {
            let ask = RawScanRequest {
                context: Some(store.context),
                start_key: "abuse:big".into(),
                end_key: "abuse:bih".into(),
                limit: 100,
                ..Default::default()
            };
            let (began, mut sent) = (now(), 0);
            while began.elapsed() < each {
                let mut calls: Vec<_> = (0..SCANS)
                    .map(|_| Box::pin(store.client.unary::<kvrpcpb::RawScanResponse>(RAW_SCAN, &ask)))
                    .collect();
                for _ in 0..20 {
                    // A call that is answered leaves; what it was answered does not matter, only what is left behind does.
                    let mut running = Vec::with_capacity(calls.len());
                    for mut call in calls {
                        if poll_once(call.as_mut()).await.is_none() {
                            running.push(call);
                        }
                    }
                    calls = running;
                    rt.sleep(Duration::from_millis(5)).await;
                    if began.elapsed() >= each {
                        break;
                    }
                }
                sent += (SCANS * ask.encoded_len()) as u64;
                drop(calls);
                rt.sleep(Duration::from_millis(50)).await;
            }
            Ok(sent)
        })
    })
}

/// Unfinished messages on many connections to the PD port.
pub(super) fn pd(target: Target, each: Duration) -> Result<u64, Failed> {
    const CONNECTIONS: usize = 60;
    const STREAMS: usize = 20;
    const PART_BYTES: usize = 3 << 20;
    const WHOLE_BYTES: u32 = 4 << 20;
    let Some(pd) = target.pd else { return Err(Failed::new("the node's PD address is not known")) };
    start_core(&CoreOptions::default(), move |rt| async move {
        let mut message = vec![0; PART_BYTES];
        message[1..5].copy_from_slice(&WHOLE_BYTES.to_be_bytes());
        let message = Bytes::from(message);
        let (mut sending, ended) = (Vec::new(), Rc::new(Cell::new(0)));
        for _ in 0..CONNECTIONS {
            let client = Client::connect(&rt, pd).await?;
            for stream in 0..STREAMS {
                // The one is never that long, the other may be.
                let path = ["/pdpb.PD/GetRegion", "/pdpb.PD/BatchScanRegions"][stream % 2];
                let (client, message, ended) = (client.clone(), message.clone(), ended.clone());
                sending.push(rt.spawn(async move {
                    // Refused, or waiting for room until the case ends.
                    let _status = client.begin_message(path, message).await;
                    ended.set(ended.get() + 1);
                }));
            }
        }
        rt.sleep(each).await;
        drop(sending);
        if ended.get() == 0 {
            return Err(Failed::new(
                "the node has ended none of the messages that are longer than they may be",
            ));
        }
        Ok((CONNECTIONS * STREAMS * PART_BYTES) as u64)
    })?
}

/// Small and large range deletes, again and again.
pub(super) fn ranges(target: Target, each: Duration) -> Result<u64, Failed> {
    on_core(target, each, |_, store, each| {
        Box::pin(async move {
            let long = "r".repeat(LONG_KEY_BYTES);
            let (began, mut sent) = (now(), 0);
            while began.elapsed() < each {
                let small = (0..RANGES).map(|n| store.delete_range(format!("abuse:r:{n:06}").into_bytes()));
                sent += store.ask(small.collect()).await?;
                let large =
                    (0..RANGES).map(|n| store.delete_range(format!("abuse:r:{long}{n:06}").into_bytes()));
                sent += store.ask(large.collect()).await?;
            }
            Ok(sent)
        })
    })
}

//! The cases over gRPC: messages of many commands, scans without a reader, ranges of tombstones.
//!
//! They speak through the store's own client, on a core of their own in this process. What a node answers is read and counted; refusals
//! for lack of room are answers, too. Where an answer says that a region has changed, later commands go by newer routes, so that the load
//! stays where it is meant to be.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
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
use store::wire::proto::tikvpb::{Answer, BatchCommandsRequest, BatchCommandsResponse, Command, Request};
use store::wire::proto::{errorpb, kvrpcpb, pdpb};

use super::cases::{BIG_BYTES, Target};
use crate::Failed;
use crate::client::regions::{Lesson, Regions};
use crate::clock::now;

const BATCH_COMMANDS: &str = "/tikvpb.Tikv/BatchCommands";
const RAW_SCAN: &str = "/tikvpb.Tikv/RawScan";
/// Scans that run when they are all reset.
const SCANS: usize = 3000;
/// Range deletes of each kind.
const RANGES: usize = 2000;
/// As long as keys may be, without what tells them apart.
const LONG_KEY_BYTES: usize = 8000;

/// The stores that have the keys of the cases.
struct Stores {
    rt: Rt,
    pd: Client,
    regions: RefCell<Regions>,
    clients: RefCell<HashMap<u64, Client>>,
}

/// A command and the key that it is for, without the region.
struct Aimed {
    key: Bytes,
    command: fn(Context, Bytes) -> Command,
}

type Working<'a> = Pin<Box<dyn Future<Output = Result<u64, Failed>> + 'a>>;

/// Runs `work` on a core of its own until it ends.
fn on_core(
    target: Target,
    each: Duration,
    work: for<'a> fn(&'a Rt, &'a Stores, Duration) -> Working<'a>,
) -> Result<u64, Failed> {
    let Some(pd) = target.pd else { return Err(Failed::new("the node's PD address is not known")) };
    start_core(&CoreOptions::default(), move |rt| async move {
        let stores = Box::pin(Stores::find(&rt, pd)).await?;
        work(&rt, &stores, each).await
    })?
}

fn broken(status: Status) -> Failed {
    Failed::new(format!("{:?}: {}", status.code, status.message))
}

impl Aimed {
    fn get(key: &'static str) -> Self {
        let command = |context, key| {
            Command::RawGet(RawGetRequest { context: Some(context), key, ..Default::default() })
        };
        Self { key: key.into(), command }
    }

    fn put(n: usize) -> Self {
        let command = |context, key| {
            let value = vec![b'p'; BIG_BYTES].into();
            Command::RawPut(RawPutRequest { context: Some(context), key, value, ..Default::default() })
        };
        Self { key: format!("abuse:put:{n}").into(), command }
    }

    fn delete_range(start: Vec<u8>) -> Self {
        let command = |context, start_key: Bytes| {
            let end_key = [&start_key[..], b"~"].concat().into();
            let context = Some(context);
            Command::RawDeleteRange(RawDeleteRangeRequest {
                context,
                start_key,
                end_key,
                ..Default::default()
            })
        };
        Self { key: start.into(), command }
    }
}

impl Stores {
    async fn find(rt: &Rt, pd: SocketAddr) -> Result<Self, Failed> {
        let pd = Client::connect(rt, pd).await?;
        let regions = RefCell::new(Regions::ask(&pd).await.map_err(broken)?);
        Ok(Self { rt: rt.clone(), pd, regions, clients: RefCell::default() })
    }

    /// As whose request one for a key goes out. PD is asked again where it is not known.
    async fn context(&self, key: &[u8]) -> Result<Context, Failed> {
        let known = self.regions.borrow().context(key);
        if let Some(known) = known {
            return Ok(known);
        }
        let regions = Regions::ask(&self.pd).await.map_err(broken)?;
        let found = regions.context(key);
        *self.regions.borrow_mut() = regions;
        found.ok_or_else(|| Failed::new("PD knows no leader for the keys of the cases"))
    }

    /// The connection to the store that a context names.
    async fn client(&self, context: &Context) -> Result<Client, Failed> {
        let store_id = context.peer.map(|peer| peer.store_id).unwrap_or_default();
        if let Some(client) = self.clients.borrow().get(&store_id) {
            return Ok(client.clone());
        }
        let ask = pdpb::GetStoreRequest { store_id, ..Default::default() };
        let store: pdpb::GetStoreResponse = self.pd.unary("/pdpb.PD/GetStore", &ask).await.map_err(broken)?;
        let address = store.store.map(|store| store.address).unwrap_or_default();
        let addr = address.parse().map_err(|_| Failed::new(format!("a store is at \"{address}\"")))?;
        let client = Client::connect(&self.rt, addr).await?;
        self.clients.borrow_mut().insert(store_id, client.clone());
        Ok(client)
    }

    /// Learns from the region errors among the answers of a store.
    fn learn(&self, asked: &Context, answers: Vec<Option<Answer>>) {
        let regions = &mut *self.regions.borrow_mut();
        for error in answers.iter().filter_map(region_error) {
            if regions.learn(error, asked) == Lesson::AskPd {
                // They are looked up again before the next command.
                *regions = Regions::default();
            }
        }
    }

    /// Sends commands as one message to each store that has some of their keys, one after the other. Returns the bytes that were sent.
    async fn ask(&self, commands: Vec<Aimed>) -> Result<u64, Failed> {
        let mut of_store: BTreeMap<u64, (Context, Vec<Command>)> = BTreeMap::new();
        for Aimed { key, command } in commands {
            let context = self.context(&key).await?;
            let store = context.peer.map(|peer| peer.store_id).unwrap_or_default();
            let (_, commands) = of_store.entry(store).or_insert((context, Vec::new()));
            commands.push(command(context, key));
        }
        let mut sent = 0;
        for (context, commands) in of_store.into_values() {
            sent += self.ask_store(context, commands).await?;
        }
        Ok(sent)
    }

    /// Sends commands as one message and reads until all are answered. Returns the bytes that were sent.
    async fn ask_store(&self, context: Context, commands: Vec<Command>) -> Result<u64, Failed> {
        let client = self.client(&context).await?;
        let count = commands.len();
        let message = BatchCommandsRequest {
            request_ids: (1..=count as u64).collect(),
            requests: commands.into_iter().map(|cmd| Request { cmd: Some(cmd) }).collect(),
            ..Default::default()
        };
        let message = frame(&message);
        let sent = message.len() as u64;
        let Call { mut outbox, mut inbox } = client.open(BATCH_COMMANDS).await.map_err(broken)?;
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
            self.learn(&context, answer.responses.into_iter().map(|response| response.cmd).collect());
        }
        Ok(sent)
    }
}

fn region_error(said: &Option<Answer>) -> Option<&errorpb::Error> {
    match said {
        Some(Answer::RawGet(got)) => got.region_error.as_ref(),
        Some(Answer::RawPut(put)) => put.region_error.as_ref(),
        Some(Answer::RawScan(scanned)) => scanned.region_error.as_ref(),
        Some(Answer::RawDeleteRange(deleted)) => deleted.region_error.as_ref(),
        _ => None,
    }
}

/// 513 reads of a large value in one message, two large writes in one, and 500,000 small reads in one, in turn.
pub(super) fn batch(target: Target, each: Duration) -> Result<u64, Failed> {
    on_core(target, each, |_, stores, each| {
        Box::pin(async move {
            let (began, mut sent) = (now(), 0);
            while began.elapsed() < each {
                sent += stores.ask((0..513).map(|_| Aimed::get("abuse:big")).collect()).await?;
                sent += stores.ask(vec![Aimed::put(0), Aimed::put(1)]).await?;
                sent += stores.ask((0..500_000).map(|_| Aimed::get("abuse:none")).collect()).await?;
            }
            Ok(sent)
        })
    })
}

/// Scans of large values, begun and reset.
pub(super) fn scans(target: Target, each: Duration) -> Result<u64, Failed> {
    on_core(target, each, |rt, stores, each| {
        Box::pin(async move {
            let (began, mut sent) = (now(), 0);
            while began.elapsed() < each {
                let context = stores.context(b"abuse:big").await?;
                let client = stores.client(&context).await?;
                let ask = RawScanRequest {
                    context: Some(context),
                    start_key: "abuse:big".into(),
                    end_key: "abuse:bih".into(),
                    limit: 100,
                    ..Default::default()
                };
                let mut calls: Vec<_> = (0..SCANS)
                    .map(|_| Box::pin(client.unary::<kvrpcpb::RawScanResponse>(RAW_SCAN, &ask)))
                    .collect();
                for _ in 0..20 {
                    // A call that is answered leaves; what it was answered matters only where it says that the region is another one.
                    let mut running = Vec::with_capacity(calls.len());
                    for mut call in calls {
                        let Some(answered) = poll_once(call.as_mut()).await else {
                            running.push(call);
                            continue;
                        };
                        if let Ok(scanned) = answered {
                            stores.learn(&context, vec![Some(Answer::RawScan(scanned))]);
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
    on_core(target, each, |_, stores, each| {
        Box::pin(async move {
            let long = "r".repeat(LONG_KEY_BYTES);
            let (began, mut sent) = (now(), 0);
            while began.elapsed() < each {
                let small = (0..RANGES).map(|n| Aimed::delete_range(format!("abuse:r:{n:06}").into_bytes()));
                sent += stores.ask(small.collect()).await?;
                let large =
                    (0..RANGES).map(|n| Aimed::delete_range(format!("abuse:r:{long}{n:06}").into_bytes()));
                sent += stores.ask(large.collect()).await?;
            }
            Ok(sent)
        })
    })
}

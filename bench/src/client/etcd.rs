//! etcd's KV from the client's side: a unary call per request, as etcd's own clients make them. Reads are linearizable, which is
//! etcd's default.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use engine::rt::Rt;
use prost::Message;
use store::wire::grpc::Status;
use store::wire::grpc::client::Client;

use super::{Answer, AnswerResult, Request};
use crate::Failed;

/// The fields of etcd's `PutRequest` that are used here.
#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// The fields of etcd's `RangeRequest` that are used here.
#[derive(Clone, PartialEq, Message)]
struct RangeRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    /// Exclusive; empty for the single key, one zero byte for all keys from `key` on.
    #[prost(bytes = "bytes", tag = "2")]
    range_end: Bytes,
    #[prost(int64, tag = "3")]
    limit: i64,
}

/// The field of etcd's `RangeResponse` that is used here.
#[derive(Clone, PartialEq, Message)]
struct RangeResponse {
    #[prost(int64, tag = "4")]
    count: i64,
}

/// The answer to a put, of which only the status counts.
#[derive(Clone, PartialEq, Message)]
struct PutResponse {}

type InFlight = Pin<Box<dyn Future<Output = Result<AnswerResult, Status>>>>;

/// A connection to one member.
pub(super) struct Etcd {
    client: Client,
    addr: SocketAddr,
    in_flight: Vec<(u64, InFlight)>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} calls in flight to {}", self.in_flight.len(), self.addr)
    }
}

impl Etcd {
    pub(super) async fn open(rt: &Rt, addr: SocketAddr) -> Result<Self, Failed> {
        let client = Client::connect(rt, addr)
            .await
            .map_err(|error| Failed::new(format!("cannot connect to etcd at {addr}: {error}")))?;
        Ok(Self { client, addr, in_flight: Vec::new() })
    }

    pub(super) fn push(&mut self, tag: u64, request: Request<'_>) {
        let client = self.client.clone();
        let call: InFlight = match request {
            Request::Put { key, value } => {
                let ask =
                    PutRequest { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value) };
                Box::pin(async move {
                    client.unary::<PutResponse>("/etcdserverpb.KV/Put", &ask).await?;
                    Ok(AnswerResult::Done)
                })
            }
            Request::Get { key } => Self::range(
                client,
                RangeRequest { key: Bytes::copy_from_slice(key), range_end: Bytes::new(), limit: 0 },
            ),
            Request::Scan { start, records } => Self::range(
                client,
                RangeRequest {
                    key: Bytes::copy_from_slice(start),
                    range_end: Bytes::from_static(b"\0"),
                    limit: i64::try_from(records).unwrap_or(i64::MAX),
                },
            ),
        };
        self.in_flight.push((tag, call));
    }

    fn range(client: Client, ask: RangeRequest) -> InFlight {
        Box::pin(async move {
            let found: RangeResponse = client.unary("/etcdserverpb.KV/Range", &ask).await?;
            Ok(if found.count > 0 { AnswerResult::Done } else { AnswerResult::Missing })
        })
    }

    pub(super) async fn answers(&mut self, into: &mut Vec<Answer>) -> Result<(), Failed> {
        let before = into.len();
        poll_fn(|cx| {
            let mut at = 0;
            while at < self.in_flight.len() {
                let (tag, call) = &mut self.in_flight[at];
                let result = match call.as_mut().poll(cx) {
                    Poll::Pending => {
                        at += 1;
                        continue;
                    }
                    Poll::Ready(Ok(result)) => result,
                    Poll::Ready(Err(status)) => {
                        AnswerResult::Refused(format!("{:?}: {}", status.code, status.message))
                    }
                };
                into.push(Answer { tag: *tag, result });
                drop(self.in_flight.swap_remove(at));
            }
            if into.len() > before { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

//! A small gRPC client for the load generator, the tools and the tests.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::{Rt, Stream};
use h2::client::{self, ResponseFuture, SendRequest};
use http::{HeaderMap, Request};

use super::call::{CallOutbox, Inbox};
use super::frame::frame;
use super::gzip::{self, Messages};
use super::io::wrap;
use super::status::{Code, Status};
use crate::memory::Memory;

/// Maximum length of an answer, bytes.
const MESSAGE_BYTES_MAX: usize = 128 << 20;
pub(crate) const WINDOW_BYTES: u32 = 16 << 20;

/// A connection to a server. Cheap to clone; clones share the connection.
#[derive(Clone, Debug)]
pub struct Client {
    requests: SendRequest<Bytes>,
    addr: SocketAddr,
    authority: String,
    memory: Memory,
}

impl Client {
    /// Connects and starts the connection's driver on this core.
    pub async fn connect(rt: &Rt, addr: SocketAddr) -> io::Result<Self> {
        Self::connect_with(rt, addr, WINDOW_BYTES).await
    }

    /// As [`Client::connect`], of a client that takes `window_bytes` of an answer before it has read any.
    pub async fn connect_with(rt: &Rt, addr: SocketAddr, window_bytes: u32) -> io::Result<Self> {
        Self::over(rt, rt.connect(addr).await?, Vec::new(), (addr, window_bytes)).await
    }

    /// Over a connection to a server at `addr` on which something else was said before; `early` is what has come since then.
    pub(crate) async fn over(
        rt: &Rt,
        stream: Stream,
        early: Vec<u8>,
        (addr, window_bytes): (SocketAddr, u32),
    ) -> io::Result<Self> {
        let (io, outlet) = wrap(stream, early);
        let mut builder = client::Builder::new();
        builder.initial_window_size(window_bytes).initial_connection_window_size(WINDOW_BYTES);
        let (requests, mut connection) = {
            let mut handshake = pin!(builder.handshake(io));
            poll_fn(|cx| {
                let shaken = handshake.as_mut().poll(cx);
                // A socket that fails here fails the handshake as well, which says why.
                let _ = outlet.poll_flush(cx);
                shaken
            })
            .await
            .map_err(io::Error::other)?
        };
        drop(rt.spawn(async move {
            poll_fn(|cx| {
                let ended = std::pin::Pin::new(&mut connection).poll(cx);
                match outlet.poll_flush(cx) {
                    Poll::Ready(Err(_)) => Poll::Ready(()),
                    _ => ended.map(drop),
                }
            })
            .await;
        }));
        Ok(Self { requests, addr, authority: addr.to_string(), memory: Memory::unbounded() })
    }

    /// Whom it is connected to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends one message and returns the answer.
    pub async fn unary<A: prost::Message + Default>(
        &self,
        path: &str,
        message: &impl prost::Message,
    ) -> Result<A, Status> {
        self.unary_within(path, message, None).await
    }

    /// As [`Client::unary`], with a deadline sent to the server.
    pub async fn unary_within<A: prost::Message + Default>(
        &self,
        path: &str,
        message: &impl prost::Message,
        timeout: Option<Duration>,
    ) -> Result<A, Status> {
        let answer = self.unary_raw(path, frame(message), timeout).await?;
        A::decode(answer).map_err(|error| Status::new(Code::Internal, error.to_string()))
    }

    /// As [`Client::unary`], with a body that is sent as it is.
    pub async fn unary_raw(
        &self,
        path: &str,
        body: Bytes,
        timeout: Option<Duration>,
    ) -> Result<Bytes, Status> {
        let call = self.begin(path, timeout, &[], Some(body)).await?;
        Self::only_answer(call).await
    }

    /// As [`Client::unary`], with headers of the caller's own.
    pub async fn unary_with<A: prost::Message + Default>(
        &self,
        path: &str,
        message: &impl prost::Message,
        metadata: &[(&str, &str)],
    ) -> Result<A, Status> {
        let call = self.begin(path, None, metadata, Some(frame(message))).await?;
        let answer = Self::only_answer(call).await?;
        A::decode(answer).map_err(|error| Status::new(Code::Internal, error.to_string()))
    }

    /// As [`Client::unary_raw`], with headers of the caller's own.
    pub async fn unary_raw_with(
        &self,
        path: &str,
        body: Bytes,
        metadata: &[(&str, &str)],
    ) -> Result<Bytes, Status> {
        Self::only_answer(self.begin(path, None, metadata, Some(body)).await?).await
    }

    async fn only_answer(mut call: Call) -> Result<Bytes, Status> {
        let answer = call.inbox.next().await?;
        if answer.is_some() && call.inbox.next().await?.is_some() {
            return Err(Status::new(Code::Internal, "the server answered more than once"));
        }
        call.finish().await?;
        answer
            .map(|message| message.bytes)
            .ok_or_else(|| Status::new(Code::Internal, "the server did not answer"))
    }

    /// Opens a stream in both directions.
    pub async fn open(&self, path: &str) -> Result<Call, Status> {
        self.open_within(path, None).await
    }

    /// As [`Client::open`], with a deadline sent to the server.
    pub async fn open_within(&self, path: &str, timeout: Option<Duration>) -> Result<Call, Status> {
        self.begin(path, timeout, &[], None).await
    }

    /// Sends a part of a call's only message and no more of it, until the server ends it; how it says so.
    pub async fn begin_message(&self, path: &str, part: Bytes) -> Status {
        let (response, mut outbox) = match self.ask(path, None, &[]).await {
            Ok(asked) => asked,
            Err(status) => return status,
        };
        if let Err(status) = outbox.send(part).await {
            return status;
        }
        match response.await {
            Err(error) => broken(error),
            Ok(_) => Status::new(Code::Internal, "it is answered before it has ended"),
        }
    }

    /// Sends one message and leaves the answer where it is until the caller reads it.
    pub async fn open_with(&self, path: &str, message: &impl prost::Message) -> Result<Call, Status> {
        self.begin(path, None, &[], Some(frame(message))).await
    }

    async fn begin(
        &self,
        path: &str,
        timeout: Option<Duration>,
        metadata: &[(&str, &str)],
        body: Option<Bytes>,
    ) -> Result<Call, Status> {
        let (response, mut outbox) = self.ask(path, timeout, metadata).await?;
        if let Some(body) = body {
            // A server may answer before it has read everything and want no more; what it says is what counts then.
            if outbox.send(body).await.is_ok() {
                let _ = outbox.finish();
            }
        }
        let (head, body) = response.await.map_err(broken)?.into_parts();
        if let Some(Err(status)) = status_of(&head.headers) {
            return Err(status);
        }
        if head.status != http::StatusCode::OK {
            return Err(Status::new(Code::Unknown, format!("HTTP status {}", head.status)));
        }
        let inflates = head.headers.get(gzip::ENCODING) == Some(&gzip::GZIP);
        let inbox = Inbox::of_client(body, Messages::new(MESSAGE_BYTES_MAX, inflates), &self.memory);
        Ok(Call { inbox, outbox })
    }

    /// Sends the head of a request and waits for nothing.
    async fn ask(
        &self,
        path: &str,
        timeout: Option<Duration>,
        metadata: &[(&str, &str)],
    ) -> Result<(ResponseFuture, CallOutbox), Status> {
        let mut request = Request::post(format!("http://{}{path}", self.authority))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", format!("{}m", timeout.as_millis().min(99_999_999)));
        }
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let request = request.body(()).map_err(|error| Status::invalid(error.to_string()))?;
        let mut requests = self.requests.clone().ready().await.map_err(broken)?;
        let (response, stream) = requests.send_request(request, false).map_err(broken)?;
        Ok((response, CallOutbox::of_client(stream, &self.memory)))
    }
}

/// A stream from the caller's side.
#[derive(Debug)]
pub struct Call {
    /// From the server.
    pub inbox: Inbox,
    /// To the server.
    pub outbox: CallOutbox,
}

impl Call {
    /// The server's status, once its messages have been read.
    pub async fn finish(&mut self) -> Result<(), Status> {
        let trailers = self.inbox.trailers().await.map_err(broken)?.unwrap_or_default();
        status_of(&trailers).unwrap_or_else(|| Err(Status::new(Code::Internal, "no grpc-status trailer")))
    }
}

fn status_of(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let code = Code::parse(headers.get("grpc-status")?);
    if code == Code::Ok {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map(Status::decode_message).unwrap_or_default();
    Some(Err(Status { code, message }))
}

fn broken(error: h2::Error) -> Status {
    Status::new(Code::Unavailable, error.to_string())
}

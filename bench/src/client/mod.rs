//! One connection to a server with many requests in flight.
//!
//! Requests are pushed with a tag, sent together by [`Connection::flush`], and come back as [`Answer`]s that carry the tag.
//! [`Connection::answers`] may be dropped while it waits; nothing is lost by that.

mod etcd;
pub(crate) mod regions;
mod resp;
mod tikv;

use std::net::SocketAddr;

use engine::rt::Rt;

use crate::Failed;

/// What a server is spoken to in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// The Redis protocol.
    Resp,
    /// TiKV's raw API over BatchCommands.
    Tikv,
    /// etcd's KV over gRPC, reads linearizable.
    Etcd,
}

impl Protocol {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Resp => "resp",
            Protocol::Tikv => "tikv",
            Protocol::Etcd => "etcd",
        }
    }
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Reads a record.
    Get {
        /// Its key.
        key: &'a [u8],
    },
    /// Writes a record.
    Put {
        /// Its key.
        key: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// Reads records in order.
    Scan {
        /// The first key.
        start: &'a [u8],
        /// How many.
        records: u64,
    },
}

/// What came of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The tag it was pushed with.
    pub tag: u64,
    /// What the server said.
    pub result: AnswerResult,
}

/// What the server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerResult {
    /// It is done, or the record is there.
    Done,
    /// There is no such record.
    Missing,
    /// The server refused, in its own words.
    Refused(String),
}

/// A connection.
///
/// What it does over gRPC is boxed: without optimisation each of these futures is copied from frame to frame, and together they are
/// more than the stack of a core.
#[derive(Debug)]
pub struct Connection(Inner);

#[derive(Debug)]
enum Inner {
    Resp(resp::Resp),
    Tikv(Box<tikv::Tikv>),
    Etcd(etcd::Etcd),
}

impl Connection {
    /// Connects and, for RESP, authenticates.
    ///
    /// # Errors
    /// No listener, or the password is refused.
    pub async fn open(
        rt: &Rt,
        protocol: Protocol,
        addr: SocketAddr,
        password: Option<&str>,
    ) -> Result<Self, Failed> {
        match protocol {
            Protocol::Resp => Ok(Self(Inner::Resp(resp::Resp::open(rt, addr, password).await?))),
            Protocol::Tikv => {
                let tikv = Box::pin(tikv::Tikv::open(rt, addr)).await?;
                Ok(Self(Inner::Tikv(Box::new(tikv))))
            }
            Protocol::Etcd => Ok(Self(Inner::Etcd(Box::pin(etcd::Etcd::open(rt, addr)).await?))),
        }
    }

    /// Queues a request.
    pub fn push(&mut self, tag: u64, request: Request<'_>) {
        match &mut self.0 {
            Inner::Resp(resp) => resp.push(tag, request),
            Inner::Tikv(tikv) => tikv.push(tag, request),
            Inner::Etcd(etcd) => etcd.push(tag, request),
        }
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn flush(&mut self) -> Result<(), Failed> {
        match &mut self.0 {
            Inner::Resp(resp) => resp.flush().await,
            Inner::Tikv(tikv) => Box::pin(tikv.flush()).await,
            // A call is sent when it is first polled, which waiting for answers does.
            Inner::Etcd(_) => Ok(()),
        }
    }

    /// Waits for at least one answer and takes all that are there. Over TiKV's API none may have come, where requests are to be sent again
    /// by [`Connection::flush`], because a region has changed.
    ///
    /// # Errors
    /// The connection is gone, or says what no server may.
    pub async fn answers(&mut self, into: &mut Vec<Answer>) -> Result<(), Failed> {
        match &mut self.0 {
            Inner::Resp(resp) => resp.answers(into).await,
            Inner::Tikv(tikv) => Box::pin(tikv.answers(into)).await,
            Inner::Etcd(etcd) => etcd.answers(into).await,
        }
    }
}

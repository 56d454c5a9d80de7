//! One BatchCommands stream to one store.

use std::task::{Context, Poll};

use engine::rt::Rt;
use prost::Message;
use store::wire::grpc::client::{Call, Client};
use store::wire::grpc::frame;
use store::wire::proto::{pdpb, tikvpb};
use tikvpb::{Answer as Said, Command};

use super::failed;
use crate::Failed;

const BATCH_COMMANDS: &str = "/tikvpb.Tikv/BatchCommands";

pub(super) struct Lane {
    addr: String,
    call: Call,
    queued: tikvpb::BatchCommandsRequest,
}

impl Lane {
    /// Opens a stream to a store, whose address PD knows.
    ///
    /// # Errors
    /// PD does not, or the store is not reached.
    pub(super) async fn open(rt: &Rt, pd: &Client, store_id: u64) -> Result<Self, Failed> {
        let ask = pdpb::GetStoreRequest { store_id, ..Default::default() };
        let found: pdpb::GetStoreResponse =
            pd.unary("/pdpb.PD/GetStore", &ask).await.map_err(|status| failed("GetStore", "PD", &status))?;
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

    pub(super) fn queue(&mut self, tag: u64, command: Command) {
        self.queued.requests.push(tikvpb::Request { cmd: Some(command) });
        self.queued.request_ids.push(tag);
    }

    /// Sends what is queued as one message.
    ///
    /// # Errors
    /// The connection is gone.
    pub(super) async fn flush(&mut self) -> Result<(), Failed> {
        if self.queued.request_ids.is_empty() {
            return Ok(());
        }
        let message = frame(&self.queued);
        self.queued.requests.clear();
        self.queued.request_ids.clear();
        let sent = self.call.outbox.send(message).await;
        sent.map_err(|status| failed("BatchCommands", &self.addr, &status))
    }

    /// Takes the answers that are there, with their tags.
    ///
    /// # Errors
    /// The connection is gone, or says what no server may.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Vec<(u64, Option<Said>)>,
    ) -> Result<(), Failed> {
        while let Poll::Ready(message) = self.call.inbox.poll_next(cx) {
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Err(Failed::new(format!("{} ended the stream", self.addr))),
                Err(status) => return Err(failed("BatchCommands", &self.addr, &status)),
            };
            let batch = tikvpb::BatchCommandsResponse::decode(message.bytes)
                .map_err(|error| Failed::new(format!("{}: {error}", self.addr)))?;
            let said = batch.responses.into_iter().map(|response| response.cmd);
            into.extend(batch.request_ids.into_iter().zip(said));
        }
        Ok(())
    }
}

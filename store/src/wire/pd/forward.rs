//! Calls that clients have made at the port of a node that does not host the scheduler, which sends them here as they came.
//!
//! A call is answered as if it had been made here, by the same code; each message of a stream is a call of its own. A call that is sent on
//! is never sent on again, so nodes with different opinions of who hosts the scheduler do not send it in a circle.

use bytes::Bytes;

use super::{Method, Pd, decode};
use crate::wire::grpc::{self, Code, Service, Status};
use crate::wire::proto::ringkeep;

impl Pd {
    /// Answers a call that was made at another node.
    pub(super) async fn forwarded(
        &self,
        request: ringkeep::ForwardRequest,
    ) -> Result<ringkeep::ForwardResponse, Status> {
        let ringkeep::ForwardRequest { path, message } = request;
        let unknown = || Status::new(Code::Unimplemented, format!("there is no method {path}"));
        let (method, _) = Method::of(&path).ok_or_else(unknown)?;
        Ok(ringkeep::ForwardResponse { message: self.once(method, message).await? })
    }

    /// Answers one message of a call, be it the only one or one of a stream.
    pub(super) async fn once(&self, method: Method, message: Bytes) -> Result<Bytes, Status> {
        match method {
            Method::Tso => grpc::answer(&self.tso_once(decode(message)?).await?),
            Method::QueryRegion => grpc::answer(&self.query_region_once(&decode(message)?)?),
            Method::RegionHeartbeat => Err(self.report_of_a_stranger()),
            // They are answered where they are asked, and what is sent on ends here.
            Method::HealthCheck | Method::HealthWatch | Method::Reflection | Method::Forward => {
                Err(Status::new(Code::Unimplemented, format!("{} is not sent on", method.path())))
            }
            method => Box::pin(self.unary(method, message, None)).await,
        }
    }
}

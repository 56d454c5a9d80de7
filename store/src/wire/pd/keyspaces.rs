//! The keyspace of API V2: there is one, which every cluster has.
//!
//! A client asks for it by name before anything else, and decodes every border that it hears of from then on. So the first answer comes once
//! regions are cut at both ends of the keyspace: a border that others have made for keys of their own would end such a client. Where that
//! takes too long, the client is asked to try again.

use std::time::Duration;

use super::{Pd, denied};
use crate::keyspace;
use crate::wire::grpc::{Code, Status};
use crate::wire::proto::keyspacepb::{
    KeyspaceMeta, KeyspaceState, LoadKeyspaceRequest, LoadKeyspaceResponse,
};
use crate::wire::proto::pdpb::ErrorType;

/// How long an answer waits for regions that are cut: shorter than the shortest default timeout of the known clients.
const CUT_MAX: Duration = Duration::from_millis(1500);

impl Pd {
    /// Says which keyspace has a name.
    pub(super) async fn load_keyspace(
        &self,
        request: LoadKeyspaceRequest,
    ) -> Result<LoadKeyspaceResponse, Status> {
        let LoadKeyspaceRequest { header, name } = request;
        self.check_cluster(header.as_ref())?;
        let failed = |header| Ok(LoadKeyspaceResponse { header, keyspace: None });
        if name != keyspace::DEFAULT {
            let name: String = name.chars().take(64).collect();
            let message = format!("there is no keyspace {name:?}; {} is the only one", keyspace::DEFAULT);
            return failed(self.failed(ErrorType::EntryNotFound, message));
        }
        if !self.is_bootstrapped() {
            return failed(self.not_bootstrapped());
        }
        if !self.control.cut_keyspace_off(CUT_MAX).await.map_err(denied)? {
            let message = "regions are being cut at the ends of the keyspace; try again in a moment";
            return Err(Status::new(Code::Unavailable, message));
        }
        let keyspace = KeyspaceMeta {
            id: keyspace::DEFAULT_ID,
            name,
            state: KeyspaceState::Enabled.into(),
            created_at: 0,
            state_changed_at: 0,
        };
        Ok(LoadKeyspaceResponse { header: self.header(), keyspace: Some(keyspace) })
    }
}

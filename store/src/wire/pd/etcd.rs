//! What clients ask of the store that PD is usually built on.
//!
//! They want to know its members, which are ours, and poll a few keys that have never been set here. So there is a member list, and every
//! read is empty. Nothing can be written.

use super::Pd;
use crate::wire::proto::etcd::{
    Member, MemberListResponse, MetaStorageResponse, RangeResponse, ResponseHeader,
};

impl Pd {
    pub(super) fn member_list(&self) -> MemberListResponse {
        let identity = self.placement.identity();
        let member = Member {
            id: identity.member_id,
            name: identity.name.clone(),
            peer_urls: identity.client_urls.clone(),
            client_urls: identity.client_urls.clone(),
        };
        MemberListResponse { header: Some(self.etcd_header()), members: vec![member] }
    }

    pub(super) fn range(&self) -> RangeResponse {
        RangeResponse { header: Some(self.etcd_header()), more: false, count: 0 }
    }

    pub(super) fn meta_storage_get(&self) -> MetaStorageResponse {
        MetaStorageResponse { header: self.header(), count: 0, more: false }
    }

    fn etcd_header(&self) -> ResponseHeader {
        let (cluster_id, member_id) = (self.placement.cluster_id(), self.placement.identity().member_id);
        ResponseHeader { cluster_id, member_id, revision: 1, raft_term: 1 }
    }
}

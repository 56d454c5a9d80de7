//! What clients ask of the store that PD is usually built on.
//!
//! They want to know its members, which are ours, and poll a few keys that have never been set here. So there is a member list, and every
//! read is empty. Nothing can be written.

use super::Pd;
use crate::wire::proto::etcdserverpb::{Member, MemberListResponse, RangeResponse, ResponseHeader};
use crate::wire::proto::{meta_storagepb, pdpb};

impl Pd {
    pub(super) fn member_list(&self) -> MemberListResponse {
        let member = |member: pdpb::Member| Member {
            id: member.member_id,
            name: member.name,
            peer_urls: member.peer_urls,
            client_urls: member.client_urls,
        };
        let members = self.get_members().members.into_iter().map(member).collect();
        MemberListResponse { header: Some(self.etcd_header()), members }
    }

    pub(super) fn range(&self) -> RangeResponse {
        RangeResponse { header: Some(self.etcd_header()), more: false, count: 0 }
    }

    pub(super) fn meta_storage_get(&self) -> meta_storagepb::GetResponse {
        let header = meta_storagepb::ResponseHeader { cluster_id: self.control.cluster_id(), error: None };
        meta_storagepb::GetResponse { header: Some(header), count: 0, more: false }
    }

    fn etcd_header(&self) -> ResponseHeader {
        let (cluster_id, member_id) = (self.control.cluster_id(), self.control.member().member_id);
        ResponseHeader { cluster_id, member_id, revision: 1, raft_term: 1 }
    }
}

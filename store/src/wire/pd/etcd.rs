//! What clients ask of the store that PD is usually built on.
//!
//! They want to know its members, which are ours, and poll a few keys. Of those the GC safe point is there once it was raised, under the key
//! where older clients look for it and the one of the keyspace; every other read is empty. Nothing can be written.

use bytes::Bytes;

use super::Pd;
use crate::wire::proto::etcdserverpb::{
    Member, MemberListResponse, RangeRequest, RangeResponse, ResponseHeader,
};
use crate::wire::proto::mvccpb::KeyValue;
use crate::wire::proto::{meta_storagepb, pdpb};

/// Where clients look for the GC safe point, which is written as a decimal number.
const SAFE_POINTS: [&str; 2] =
    ["/keyspaces/tidb/0/tidb/store/gcworker/saved_safe_point", "/tidb/store/gcworker/saved_safe_point"];
/// The end of a range that has no end.
const NO_END: &[u8] = b"\0";

/// Whether a read is about `key`: of this very key where it has no end.
fn is_asked(request: &RangeRequest, key: &[u8]) -> bool {
    let RangeRequest { key: first, range_end } = request;
    match &range_end[..] {
        b"" => key == first,
        end => *first <= *key && (end == NO_END || *key < *end),
    }
}

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

    pub(super) fn range(&self, request: &RangeRequest) -> RangeResponse {
        let safe_point = self.control.gc_safe_point();
        let pair = |key: &str| KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: safe_point.to_string().into(),
            create_revision: 1,
            mod_revision: 1,
            version: 1,
        };
        let known = SAFE_POINTS.into_iter().filter(|key| safe_point > 0 && is_asked(request, key.as_bytes()));
        let kvs: Vec<KeyValue> = known.map(pair).collect();
        let count = i64::try_from(kvs.len()).unwrap_or(i64::MAX);
        RangeResponse { header: Some(self.etcd_header()), kvs, more: false, count }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_about_one_key_or_a_range() {
        let asks = |first: &'static str, end: &'static [u8], key: &str| {
            let request = RangeRequest { key: first.into(), range_end: end.into() };
            is_asked(&request, key.as_bytes())
        };
        assert!(asks("/a", b"", "/a") && !asks("/a", b"", "/ab") && !asks("/a", b"", "/"));
        assert!(asks("/a", b"/b", "/ab") && !asks("/a", b"/b", "/b") && !asks("/a", b"/b", "/"));
        assert!(asks("/a", NO_END, "/z") && !asks("/b", NO_END, "/a"));
    }
}

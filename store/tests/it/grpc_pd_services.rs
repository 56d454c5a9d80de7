//! Safe points of services, and how far collection is, as the bytes that backups, change feeds, collectors and clients send.

use bytes::{BufMut, BytesMut};
use prost::Message;
use store::wire::grpc::client::Client;
use store::wire::grpc::{Code, Status};
use store::wire::proto::etcdserverpb::RangeResponse;
use store::wire::proto::pdpb::{ErrorType, GetGcStateResponse, UpdateServiceGcSafePointResponse};

use crate::grpc::{on_core, serve_pd};

/// For ever, as a field.
const FOR_EVER: &[u8] = b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\x7f";

/// The name and the safe point of the least one, and its seconds.
async fn set(pd: &Client, parts: &[&[u8]]) -> Result<(String, u64, i64), Status> {
    let parts = [&[&b"\x0a\x02\x08\x07"[..]], parts].concat();
    let answer: UpdateServiceGcSafePointResponse =
        call(pd, "/pdpb.PD/UpdateServiceGCSafePoint", &parts).await?;
    assert_eq!(answer.header.expect("clients unwrap it").cluster_id, 7);
    let name = String::from_utf8(answer.service_id.to_vec()).expect("a name");
    Ok((name, answer.min_safe_point, answer.ttl))
}

#[test]
fn what_services_need_is_kept_over_restarts_until_it_expires() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (path, again) = (dir.path().to_owned(), dir.path().to_owned());
    let tikv = ([127, 0, 0, 1], 20160).into();
    let (backup, collector): (&[u8], &[u8]) = (b"\x12\x06backup", b"\x12\x09gc_worker");
    let expect = |name: &str, point| (name.to_owned(), point, i64::MAX);
    on_core(move |rt| async move {
        let (addr, _control) = serve_pd(&rt, &path, tikv).await;
        let pd = Client::connect(&rt, addr).await.unwrap();
        let least = set(&pd, &[backup, b"\x18\x90\x1c", b"\x20\x05"]).await.unwrap();
        assert_eq!(least, expect("gc_worker", 0));
        let (name, point, left) = set(&pd, &[collector, FOR_EVER, b"\x20\x09"]).await.unwrap();
        assert_eq!((&name[..], point), ("backup", 5));
        assert!((3500..=3600).contains(&left), "{left} s of 3600");
        for (wrong, why) in [
            (vec![FOR_EVER, b"\x20\x05"], "1 to 256 bytes"),
            (vec![collector, b"\x18\x05", b"\x20\x09"], "gc_worker is not removed"),
        ] {
            let refused = set(&pd, &wrong).await.unwrap_err();
            assert_eq!(refused.code, Code::FailedPrecondition);
            assert!(refused.message.contains(why), "{refused}");
        }
        let future: &[u8] = b"\x20\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
        assert_eq!(set(&pd, &[backup, FOR_EVER, future]).await.unwrap_err().code, Code::InvalidArgument);
    });
    on_core(move |rt| async move {
        let (addr, _control) = serve_pd(&rt, &again, tikv).await;
        let pd = Client::connect(&rt, addr).await.unwrap();
        // One below the least is not entered, and the caller sees that.
        let (name, point, _) = set(&pd, &[b"\x12\x04feed", FOR_EVER, b"\x20\x04"]).await.unwrap();
        assert_eq!((&name[..], point), ("backup", 5));
        // Without seconds it is removed.
        assert_eq!(set(&pd, &[backup]).await.unwrap(), expect("gc_worker", 9));
    });
}

/// A message of `parts` as a call of its own, and what is answered.
async fn call<A: Message + Default>(pd: &Client, path: &str, parts: &[&[u8]]) -> Result<A, Status> {
    let message = parts.concat();
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    Ok(A::decode(pd.unary_raw(path, body.freeze(), None).await?).expect("an answer"))
}

#[test]
fn how_far_collection_is_shows_wherever_clients_look() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().to_owned();
    on_core(move |rt| async move {
        let (addr, control) = serve_pd(&rt, &path, ([127, 0, 0, 1], 20160).into()).await;
        let pd = Client::connect(&rt, addr).await.unwrap();
        let header: &[u8] = b"\x0a\x02\x08\x07";
        // By the tags alone: the keyspace 0 is an empty scope.
        let (of_none, of_default, of_third): (&[u8], &[u8], &[u8]) = (b"", b"\x12\x00", b"\x12\x02\x08\x03");
        let state = async |scope: &[u8], more: &[u8]| {
            let answer: GetGcStateResponse =
                call(&pd, "/pdpb.PD/GetGCState", &[header, scope, more]).await.unwrap();
            (answer.header.expect("clients unwrap it").error, answer.gc_state)
        };
        let key = b"/tidb/store/gcworker/saved_safe_point";
        let range = async |key: &[u8]| -> Vec<(Vec<u8>, Vec<u8>)> {
            let found: RangeResponse =
                call(&pd, "/etcdserverpb.KV/Range", &[b"\x0a", &[key.len() as u8], key]).await.unwrap();
            assert_eq!((found.count as usize, found.more), (found.kvs.len(), false));
            found.kvs.into_iter().map(|pair| (pair.key.to_vec(), pair.value.to_vec())).collect()
        };
        let (error, none) = state(of_none, b"").await;
        let none = none.unwrap();
        assert_eq!((error, none.txn_safe_point, none.gc_safe_point, none.gc_barriers.len()), (None, 0, 0, 0));
        assert_eq!(range(key).await, []);
        set(&pd, &[b"\x12\x06backup", b"\x18\x90\x1c", b"\x20\x05"]).await.unwrap();
        set(&pd, &[b"\x12\x04feed", FOR_EVER, b"\x20\x07"]).await.unwrap();
        set(&pd, &[b"\x12\x09gc_worker", FOR_EVER, b"\x20\x09"]).await.unwrap();
        control.raise_gc_safe_point(4).await.unwrap();
        for scope in [of_none, of_default] {
            let (error, found) = state(scope, b"").await;
            let found = found.unwrap();
            assert_eq!((error, found.txn_safe_point, found.gc_safe_point), (None, 4, 4));
            assert_eq!(found.keyspace_scope.unwrap().keyspace_id, u32::MAX);
            assert!(!found.is_keyspace_level_gc);
            let barriers: Vec<_> =
                found.gc_barriers.iter().map(|it| (&it.barrier_id[..], it.barrier_ts)).collect();
            assert_eq!(barriers, [("backup", 5), ("feed", 7)], "the collector holds nothing back");
            let left: Vec<i64> = found.gc_barriers.iter().map(|it| it.ttl_seconds).collect();
            assert!((3500..=3600).contains(&left[0]) && left[1] == i64::MAX, "{left:?}");
        }
        let (_, short) = state(of_none, b"\x18\x01").await;
        assert_eq!(short.unwrap().gc_barriers, [], "they were not asked for");
        let (error, other) = state(of_third, b"").await;
        assert_eq!((error.unwrap().r#type(), other), (ErrorType::EntryNotFound, None));
        assert_eq!(range(key).await, [(key.to_vec(), b"4".to_vec())]);
        let of_keyspace = [b"/keyspaces/tidb/0", &key[..]].concat();
        assert_eq!(range(&of_keyspace).await, [(of_keyspace.clone(), b"4".to_vec())]);
        assert_eq!(range(b"/tidb/store/gcworker/leader").await, []);
    });
}

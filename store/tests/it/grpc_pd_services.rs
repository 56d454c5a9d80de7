//! Safe points of services, as the bytes that backups, change feeds and collectors send.

use bytes::{BufMut, BytesMut};
use prost::Message;
use store::wire::grpc::client::Client;
use store::wire::grpc::{Code, Status};
use store::wire::proto::pdpb::UpdateServiceGcSafePointResponse;

use crate::grpc::{on_core, serve_pd};

/// For ever, as a field.
const FOR_EVER: &[u8] = b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\x7f";

/// The name and the safe point of the least one, and its seconds.
async fn set(pd: &Client, parts: &[&[u8]]) -> Result<(String, u64, i64), Status> {
    let message = [&[&b"\x0a\x02\x08\x07"[..]], parts].concat().concat();
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    let answer = pd.unary_raw("/pdpb.PD/UpdateServiceGCSafePoint", body.freeze(), None).await?;
    let answer = UpdateServiceGcSafePointResponse::decode(answer).expect("an answer");
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

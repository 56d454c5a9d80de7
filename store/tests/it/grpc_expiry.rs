//! Times to live over gRPC, against a map in memory whose clock does not change.

use bytes::Bytes;
use store::wire::grpc::Options;
use store::wire::grpc::client::Client;
use store::wire::proto::kvrpcpb::*;

use crate::grpc::{on_core, serve_tikv};

fn pair(key: &'static str, value: &'static str) -> KvPair {
    KvPair { key: key.into(), value: value.into(), ..KvPair::default() }
}

async fn ttl(client: &Client, key: &'static str) -> (u64, bool) {
    let request = RawGetKeyTtlRequest { key: key.into(), ..Default::default() };
    let answer: RawGetKeyTtlResponse = client.unary("/tikvpb.Tikv/RawGetKeyTTL", &request).await.unwrap();
    assert_eq!(answer.error, "");
    (answer.ttl, answer.not_found)
}

async fn batch_put(client: &Client, ttl: u64, ttls: Vec<u64>) -> RawBatchPutResponse {
    let pairs = vec![pair("a", "1"), pair("b", "2"), pair("c", "3")];
    let request = RawBatchPutRequest { pairs, ttl, ttls, ..Default::default() };
    client.unary("/tikvpb.Tikv/RawBatchPut", &request).await.unwrap()
}

#[test]
fn keys_have_the_time_to_live_that_was_put() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let put = RawPutRequest { key: "k".into(), value: "v".into(), ttl: 1000, ..Default::default() };
        let done: RawPutResponse = client.unary("/tikvpb.Tikv/RawPut", &put).await.unwrap();
        assert_eq!(done, RawPutResponse::default());
        assert_eq!((ttl(&client, "k").await, ttl(&client, "x").await), ((1000, false), (0, true)));
        let done: RawPutResponse =
            client.unary("/tikvpb.Tikv/RawPut", &RawPutRequest { ttl: 0, ..put }).await.unwrap();
        assert_eq!((done.error.as_str(), ttl(&client, "k").await), ("", (0, false)));

        // None, one for all, one for each; the deprecated one for all.
        for (all, each, expected) in [
            (0, vec![], [0, 0, 0]),
            (0, vec![500], [500, 500, 500]),
            (0, vec![0, 600, 700], [0, 600, 700]),
            (800, vec![], [800, 800, 800]),
        ] {
            assert_eq!(batch_put(&client, all, each).await, RawBatchPutResponse::default());
            for (key, expected) in ["a", "b", "c"].into_iter().zip(expected) {
                assert_eq!(ttl(&client, key).await, (expected, false), "{key}");
            }
        }
        let refused = batch_put(&client, 0, vec![1, 2]).await;
        assert!(refused.error.contains("one per pair"), "{}", refused.error);

        let mut swap = RawCasRequest {
            key: "k".into(),
            value: "w".into(),
            previous_value: "v".into(),
            ttl: 900,
            ..Default::default()
        };
        let path = "/tikvpb.Tikv/RawCompareAndSwap";
        let swapped: RawCasResponse = client.unary(path, &swap).await.unwrap();
        assert_eq!((swapped.succeed, ttl(&client, "k").await), (true, (900, false)));
        swap = RawCasRequest { previous_value: "w".into(), ttl: 0, ..swap };
        let swapped: RawCasResponse = client.unary(path, &swap).await.unwrap();
        assert_eq!((swapped.succeed, ttl(&client, "k").await), (true, (0, false)));
        let context = Some(Context { api_version: ApiVersion::V1ttl.into(), ..Context::default() });
        let get = RawGetRequest { context, key: Bytes::from_static(b"k"), ..Default::default() };
        let found: RawGetResponse = client.unary("/tikvpb.Tikv/RawGet", &get).await.unwrap();
        assert_eq!((&found.value[..], found.not_found), (&b"w"[..], false));
    });
}

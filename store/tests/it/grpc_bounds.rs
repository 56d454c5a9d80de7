//! Scans over gRPC that begin outside of the region that the client named: `key_not_in_region` in both directions and both commands. A
//! client that sees no error takes the rows of another region for those that it asked for.

use bytes::Bytes;
use engine::rt::sim::{Options, World};
use engine::rt::{ListenOptions, Rt};
use store::request::Op;
use store::wire::grpc;
use store::wire::grpc::client::Client;
use store::wire::health::HealthService;
use store::wire::proto::errorpb;
use store::wire::proto::kvrpcpb::*;
use store::wire::proto::metapb;
use store::wire::tikv::Tikv;

use crate::grpc::{STORE, loopback};
use crate::node::open_simulated;

/// What a scan begins at and how it goes.
#[derive(Clone)]
struct Ask {
    context: Context,
    from: Bytes,
    to: Bytes,
    reverse: bool,
}

/// The keys and the region error of one `RawScan`.
async fn scan(client: &Client, ask: Ask) -> (Vec<Bytes>, Option<errorpb::Error>) {
    let Ask { context, from, to, reverse } = ask;
    let request = RawScanRequest {
        context: Some(context),
        start_key: from,
        end_key: to,
        limit: 2,
        reverse,
        ..RawScanRequest::default()
    };
    let answer: RawScanResponse = client.unary("/tikvpb.Tikv/RawScan", &request).await.unwrap();
    (answer.kvs.into_iter().map(|pair| pair.key).collect(), answer.region_error)
}

/// The same of a `RawBatchScan` whose last range it is; the first one is good.
async fn batch_scan(client: &Client, good: Ask, ask: Ask) -> (Vec<Bytes>, Option<errorpb::Error>) {
    let range = |ask: &Ask| KeyRange { start_key: ask.from.clone(), end_key: ask.to.clone() };
    let request = RawBatchScanRequest {
        ranges: vec![range(&good), range(&ask)],
        context: Some(ask.context),
        each_limit: 2,
        reverse: ask.reverse,
        ..RawBatchScanRequest::default()
    };
    let answer: RawBatchScanResponse = client.unary("/tikvpb.Tikv/RawBatchScan", &request).await.unwrap();
    (answer.kvs.into_iter().map(|pair| pair.key).collect(), answer.region_error)
}

async fn scans_stay_in_their_region(rt: Rt) {
    let (stores, gateway) = open_simulated(&rt, |_| {}).await;
    let listener = rt.listen(loopback(), ListenOptions::default()).unwrap();
    let addr = listener.local_addr().unwrap();
    // The port of the first store.
    let inner =
        |region: &scheduler::Region| !region.range.start().is_empty() && !region.range.end().is_empty();
    let regions = stores.shards[&0].regions();
    let (region, ..) =
        regions.into_iter().find(|(region, ..)| inner(region)).expect("one lies between others");
    let (start, end) = (region.range.start().to_vec(), region.range.end().to_vec());
    let key = |of: &[u8], last: &str| Bytes::from([of, last.as_bytes()].concat());
    let keys = ["1", "2", "3"].map(|last| key(&start, last));
    for key in keys.iter().cloned().chain([key(&end, "1"), key(&end, "2")]) {
        gateway.submit(None, Op::Put { key, value: "v".into() }).await.unwrap();
    }
    let _server =
        grpc::serve(&rt, listener, Tikv::new(&rt, gateway, STORE, HealthService::default()), <_>::default());
    let client = Client::connect(&rt, addr).await.unwrap();
    let to = metapb::Region::from(&region);
    let context = Context {
        region_id: to.id,
        region_epoch: to.region_epoch,
        peer: to.peers.first().cloned(),
        ..Context::default()
    };
    let ask = |from: Bytes, to: Bytes, reverse| Ask { context, from, to, reverse };
    let (first, last) = (Bytes::from(start.clone()), Bytes::from(end.clone()));
    // A scan upwards ends with its region. One downwards begins with the region's end, which is not in it.
    let up = ask(first.clone(), key(&end, "9"), false);
    let down = ask(last.clone(), first.clone(), true);
    for (good, expected) in [(up.clone(), [0, 1]), (down.clone(), [2, 1])] {
        let expected = expected.map(|place: usize| keys[place].clone());
        assert_eq!(scan(&client, good.clone()).await, (expected.to_vec(), None));
        let twice = [expected.clone(), expected].concat();
        assert_eq!(batch_scan(&client, good.clone(), good).await, (twice, None));
    }
    let outside = [
        ask(key(&end, "1"), Bytes::new(), false),
        ask(Bytes::new(), last.clone(), false),
        ask(key(&end, "9"), first.clone(), true),
        ask(key(&end, "\0"), first.clone(), true),
        // No bound is the end of all keys, which is another region's.
        ask(Bytes::new(), first, true),
    ];
    for ask in outside {
        let good = if ask.reverse { down.clone() } else { up.clone() };
        let said = format!("{:?} to {:?}, reverse: {}", ask.from, ask.to, ask.reverse);
        for (keys, error) in [scan(&client, ask.clone()).await, batch_scan(&client, good, ask).await] {
            assert_eq!(keys, Vec::<Bytes>::new(), "{said}");
            let refusal = error.and_then(|error| error.key_not_in_region);
            assert_eq!(refusal.map(|refusal| refusal.region_id), Some(region.id.0), "{said}");
        }
    }
}

#[test]
fn scans_that_begin_outside_of_their_region_are_refused() {
    let world = World::new(17, Options::default());
    world.block_on(world.node(0).start(0, scans_stay_in_their_region)).expect("nothing crashes the node");
}

//! Batches whose size the client decides: bounded messages back, the rest of a message waits, errors where clients look.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::sim::{self, World};
use prost::Message;
use store::memory::{ITEM_BYTES, Memory, MemoryLimits};
use store::node::core::{Plan, Stores};
use store::node::start::Until;
use store::wire::grpc::client::{Call, Client};
use store::wire::grpc::{self, Code, Options};
use store::wire::proto::kvrpcpb::*;
use store::wire::proto::metapb;
use store::wire::proto::tikvpb::*;

use crate::grpc::{BATCH, GET, PUT, command, get, loopback, on_core, put, serve_tikv};
use crate::node::start_simulated;

/// What a message of more than one answer may have at most.
const ANSWERS_BYTES_MAX: usize = 4 << 20;

async fn send(call: &mut Call, commands: Vec<Request>) {
    let request_ids = (0..commands.len() as u64).collect();
    let batch = BatchCommandsRequest { requests: commands, request_ids, client_send_time_ns: 0 };
    call.outbox.send(grpc::frame(&batch)).await.unwrap();
}

/// The next message of answers and its length.
async fn receive(call: &mut Call) -> (Vec<(u64, Option<Answer>)>, usize) {
    let bytes = call.inbox.next().await.unwrap().expect("the stream goes on").bytes;
    let length = bytes.len();
    let answers = BatchCommandsResponse::decode(bytes).unwrap();
    assert_eq!(answers.responses.len(), answers.request_ids.len());
    let answers = answers.request_ids.into_iter().zip(answers.responses.into_iter().map(|one| one.cmd));
    (answers.collect(), length)
}

/// The answers to `commands` in one message, by position.
async fn answered(client: &Client, commands: Vec<Request>) -> Vec<Option<Answer>> {
    let (mut call, count) = (client.open(BATCH).await.unwrap(), commands.len());
    send(&mut call, commands).await;
    let mut answers = HashMap::new();
    while answers.len() < count {
        answers.extend(receive(&mut call).await.0);
    }
    (0..count as u64).map(|id| answers.remove(&id).unwrap()).collect()
}

fn large(megabytes: usize) -> Bytes {
    vec![7; megabytes << 20].into()
}

#[test]
fn answers_leave_in_messages_of_bounded_size() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        for (key, megabytes) in [("large", 8), ("middle", 3)] {
            let request = RawPutRequest { value: large(megabytes), ..put(key, "") };
            let done: RawPutResponse = client.unary(PUT, &request).await.unwrap();
            assert_eq!(done.error, "");
        }
        // In all 260 MiB of answers, which is more than the client takes in one message.
        let keys = ["large", "small", "middle", "small", "small"];
        let commands: Vec<_> = (0..120).map(|n| command(Command::RawGet(get(keys[n % 5])))).collect();
        let (mut call, mut left) = (client.open(BATCH).await.unwrap(), commands.len());
        send(&mut call, commands).await;
        while left > 0 {
            let (answers, length) = receive(&mut call).await;
            left -= answers.len();
            assert!(length <= ANSWERS_BYTES_MAX || answers.len() == 1, "{} in {length} bytes", answers.len());
            for (id, answer) in answers {
                let Some(Answer::RawGet(found)) = answer else {
                    panic!("command {id} was answered by another")
                };
                let expected = [8 << 20, 0, 3 << 20, 0, 0][id as usize % 5];
                assert_eq!(found.value.len(), expected, "command {id}");
            }
        }
    });
}

#[test]
fn a_batch_may_be_as_large_as_its_legal_parts() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let one = |key| command(Command::RawPut(RawPutRequest { value: large(8), ..put(key, "") }));
        let answers = answered(&client, ["a", "b", "c", "d", "e"].map(one).to_vec()).await;
        for answer in answers {
            assert_eq!(answer, Some(Answer::RawPut(RawPutResponse::default())));
        }
        let found: RawGetResponse = client.unary(GET, &get("e")).await.unwrap();
        assert_eq!(found.value, large(8));
    });
}

/// How long others on the core had to wait at most, and how long it all took.
async fn longest_wait(rt: &Rt, work: impl Future<Output = ()>) -> (Duration, Duration) {
    let (over, began) = (Rc::new(Cell::new(false)), rt.now());
    let (ends, ticking) = (over.clone(), rt.clone());
    let bystander = rt.spawn(async move {
        let mut longest = Duration::ZERO;
        while !ends.get() {
            let before = ticking.now();
            ticking.yield_to_reactor().await;
            longest = longest.max(ticking.now().since(before));
        }
        longest
    });
    work.await;
    over.set(true);
    (bystander.await, rt.now().since(began))
}

#[test]
fn the_rest_of_a_message_waits_its_turn() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        const COMMANDS: u64 = 400_000;
        let requests = (0..COMMANDS).map(|_| command(Command::RawGet(get("k")))).collect();
        let ids = (0..COMMANDS).collect();
        let batch = BatchCommandsRequest { requests, request_ids: ids, client_send_time_ns: 0 };
        let framed = grpc::frame(&batch);
        drop(batch);
        let mut call = client.open(BATCH).await.unwrap();
        let (longest, whole) = longest_wait(&rt, async {
            call.outbox.send(framed).await.unwrap();
            let mut left = COMMANDS;
            while left > 0 {
                let message = call.inbox.next().await.unwrap().expect("the stream goes on");
                // Not decoded: the client lives on the same core, and this is about the server.
                left -= ids_in(&message.bytes);
            }
        })
        .await;
        assert!(longest < whole / 4, "others waited {longest:?} of {whole:?}");
    });
}

/// How many answers a message has: the fields with number 1.
fn ids_in(mut message: &[u8]) -> u64 {
    let mut count = 0;
    while !message.is_empty() {
        let key = prost::encoding::decode_varint(&mut message).unwrap();
        let length = prost::encoding::decode_varint(&mut message).unwrap();
        message = &message[if key & 7 == 2 { length as usize } else { 0 }..];
        count += u64::from(key >> 3 == 1);
    }
    count
}

#[test]
fn a_command_that_is_not_served_is_refused_where_its_sender_looks() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let unserved = [
            Command::Get(Default::default()),
            Command::Scan(Default::default()),
            Command::Prewrite(Default::default()),
            Command::BatchGet(Default::default()),
            Command::DeleteRange(Default::default()),
            Command::Coprocessor(Default::default()),
            Command::PessimisticLock(Default::default()),
            Command::RawCoprocessor(Default::default()),
        ];
        let mut commands: Vec<_> = unserved.into_iter().map(command).collect();
        commands.push(command(Command::RawGet(get("k"))));
        commands.push(Request { cmd: None });
        let mut answers = answered(&client, commands).await;
        assert_eq!(answers.pop(), Some(None), "an unknown command is answered without content");
        let Some(Some(Answer::RawGet(found))) = answers.pop() else { panic!("a served command beside them") };
        assert!(found.not_found);
        let sentence = |answer: &Option<Answer>| match answer.as_ref().expect("an answer with content") {
            Answer::Get(GetResponse { error: Some(error) }) => error.abort.clone(),
            Answer::Prewrite(PrewriteResponse { errors })
            | Answer::PessimisticLock(PessimisticLockResponse { errors }) => errors[0].abort.clone(),
            Answer::Scan(ScanResponse { pairs }) | Answer::BatchGet(BatchGetResponse { pairs }) => {
                pairs[0].error.as_ref().unwrap().abort.clone()
            }
            Answer::DeleteRange(DeleteRangeResponse { error })
            | Answer::RawCoprocessor(RawCoprocessorResponse { error }) => error.clone(),
            Answer::Coprocessor(refusal) => refusal.other_error.clone(),
            other => panic!("{other:?}"),
        };
        for (answer, name) in answers.iter().zip([
            "Get",
            "Scan",
            "Prewrite",
            "BatchGet",
            "DeleteRange",
            "Coprocessor",
            "PessimisticLock",
            "RawCoprocessor",
        ]) {
            let said = sentence(answer);
            assert!(said.contains(&format!("command {name} is not served")), "{name}: {said}");
        }
    });
}

#[test]
fn an_answer_that_would_be_too_large_is_an_error_where_clients_look() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let keys: Vec<Bytes> = (0..9).map(|n| format!("k{n}").into()).collect();
        for key in &keys {
            let request = RawPutRequest { key: key.clone(), value: large(8), ..put("", "") };
            let done: RawPutResponse = client.unary(PUT, &request).await.unwrap();
            assert_eq!(done.error, "");
        }
        let scan = RawScanRequest { limit: 99, ..RawScanRequest::default() };
        let some = RawBatchGetRequest { keys, ..RawBatchGetRequest::default() };
        let halves = KeyRange { start_key: "k0".into(), end_key: "k5".into() };
        let ranges =
            RawBatchScanRequest { ranges: vec![halves.clone(), halves], each_limit: 9, ..Default::default() };

        // Alone: the status of the call.
        let scanned = client.unary::<RawScanResponse>("/tikvpb.Tikv/RawScan", &scan).await.unwrap_err();
        let got = client.unary::<RawBatchGetResponse>("/tikvpb.Tikv/RawBatchGet", &some).await.unwrap_err();
        let both =
            client.unary::<RawBatchScanResponse>("/tikvpb.Tikv/RawBatchScan", &ranges).await.unwrap_err();
        for status in [scanned, got, both] {
            assert_eq!(status.code, Code::ResourceExhausted, "{status}");
            assert!(status.message.contains("67108864"), "the bound is named: {status}");
        }
        // In a batch: the region error, and nothing that looks like a result.
        let commands = vec![
            command(Command::RawScan(scan)),
            command(Command::RawBatchGet(some)),
            command(Command::RawBatchScan(ranges)),
            command(Command::RawScan(RawScanRequest { cf: "lock".to_owned(), ..Default::default() })),
        ];
        let errors: Vec<_> = answered(&client, commands)
            .await
            .into_iter()
            .map(|answer| match answer.unwrap() {
                Answer::RawScan(RawScanResponse { region_error: Some(error), kvs }) if kvs.is_empty() => {
                    error
                }
                Answer::RawBatchGet(RawBatchGetResponse { region_error: Some(error), pairs })
                    if pairs.is_empty() =>
                {
                    error
                }
                Answer::RawBatchScan(RawBatchScanResponse { region_error: Some(error), kvs })
                    if kvs.is_empty() =>
                {
                    error
                }
                other => panic!("not refused: {other:?}"),
            })
            .collect();
        for error in &errors[..3] {
            assert!(error.raft_entry_too_large.is_some() && error.message.contains("67108864"), "{error:?}");
        }
        assert!(
            errors[3].message.contains("\"lock\"") && errors[3].raft_entry_too_large.is_none(),
            "{errors:?}"
        );
    });
}

#[test]
fn items_that_would_fill_the_memory_are_refused_before_they_are_decoded() {
    on_core(|rt| async move {
        let (addr, _server, _) = serve_tikv(&rt, Options::default());
        let client = Client::connect(&rt, addr).await.unwrap();
        let many = RawBatchGetRequest { keys: vec![Bytes::new(); 200_000], ..Default::default() };
        let status =
            client.unary::<RawBatchGetResponse>("/tikvpb.Tikv/RawBatchGet", &many).await.unwrap_err();
        assert_eq!(status.code, Code::InvalidArgument, "{status}");
        assert!(status.message.contains("131072"), "{status}");
        // In a batch they are a level deeper.
        let mut call = client.open(BATCH).await.unwrap();
        send(&mut call, vec![command(Command::RawBatchGet(many))]).await;
        assert!(call.inbox.next().await.unwrap().is_none(), "it is over the bound");
        let status = call.finish().await.unwrap_err();
        assert_eq!(status.code, Code::InvalidArgument, "{status}");
        assert!(status.message.contains("131072"), "{status}");
        let fewer = RawBatchGetRequest { keys: vec!["k".into(); 1000], ..Default::default() };
        let found: RawBatchGetResponse = client.unary("/tikvpb.Tikv/RawBatchGet", &fewer).await.unwrap();
        assert!(found.pairs.is_empty());
    });
}

/// Keys that were taken apart take many times their bytes, so they wait in those until there is room.
#[test]
fn commands_of_many_keys_wait_until_their_keys_have_room() {
    const KEYS: usize = 10_000;
    const BOUND: usize = 4 << 20;
    for alone in [false, true] {
        let work = move |rt: Rt| async move {
            let bounds = MemoryLimits { input_bytes: BOUND, output_bytes: 16 << 20 };
            let small = |plan: &mut Plan| plan.shard.memory = Memory::new(bounds);
            let core = start_simulated(&rt, small, Until::Settled).await;
            let served = core.serve_stores(&rt, &[(0, loopback())], &Options::default()).unwrap();
            let (addr, memory) = (served.stores[0].addr, core.stores.memory.clone());
            let (start, context) = first_region(&core.stores);
            let client = Rc::new(Client::connect(&rt, addr).await.unwrap());
            let keys = (0..KEYS).map(|n| Bytes::from([&start[..], format!("{n:05}").as_bytes()].concat()));
            let request =
                RawBatchGetRequest { context: Some(context), keys: keys.collect(), ..Default::default() };
            let nothing = RawBatchGetResponse::default();
            if alone {
                let calls = (0..40).map(|_| {
                    let (client, request) = (client.clone(), request.clone());
                    rt.spawn(async move { client.unary("/tikvpb.Tikv/RawBatchGet", &request).await })
                });
                for call in calls.collect::<Vec<_>>() {
                    let answer: RawBatchGetResponse = call.await.unwrap();
                    assert_eq!(answer, nothing);
                }
            } else {
                let commands = vec![command(Command::RawBatchGet(request)); 40];
                for answer in answered(&client, commands).await {
                    assert_eq!(answer, Some(Answer::RawBatchGet(nothing.clone())));
                }
            }
            let (items, one) = (&memory.items, KEYS * ITEM_BYTES / 2);
            assert!(items.peak() >= one, "{} bytes were charged: the keys have no room", items.peak());
            assert!(items.peak() <= BOUND, "{} bytes were charged", items.peak());
            assert_eq!((items.used(), items.waiting()), (0, 0));
        };
        let world = World::new(11, sim::Options::default());
        world.block_on(world.node(0).start(0, work)).expect("nothing crashes the node");
    }
}

/// The first key of a store's first region, and how clients name that.
fn first_region(stores: &Stores) -> (Vec<u8>, Context) {
    let (region, ..) = stores.shards[&0].regions().swap_remove(0);
    let to = metapb::Region::from(&region);
    let context = Context {
        region_id: to.id,
        region_epoch: to.region_epoch,
        peer: to.peers.first().cloned(),
        ..Context::default()
    };
    (region.range.start().to_vec(), context)
}

/// The rest of a message waits in the bytes that it came in, however slow the store is.
#[test]
fn of_one_stream_only_so_many_commands_are_in_flight() {
    const IN_FLIGHT_MAX: usize = 1024;
    const COMMANDS: usize = 5000;
    const BYTES: usize = 100;
    let slow = Duration::from_millis(100).as_nanos() as u64;
    let mut options = sim::Options::default();
    options.disk.sync_ns = (slow, slow);
    let world = World::new(11, options);
    let work = |rt: Rt| async move {
        let wide = |plan: &mut Plan| plan.shard.limits.inflight_bytes_max = 64 << 20;
        let core = start_simulated(&rt, wide, Until::Settled).await;
        let served = core.serve_stores(&rt, &[(0, loopback())], &Options::default()).unwrap();
        let addr = served.stores[0].addr;
        let (start, context) = first_region(&core.stores);
        let client = Client::connect(&rt, addr).await.unwrap();
        let one = move |n: usize| {
            let key = [&start[..], format!("k{n:05}").as_bytes()].concat();
            let value = vec![7; BYTES - key.len()].into();
            let context = Some(context);
            command(Command::RawPut(RawPutRequest { context, key: key.into(), value, ..Default::default() }))
        };
        let (done, mut most) = (Rc::new(Cell::new(false)), 0);
        let ends = done.clone();
        let asking = rt.spawn(async move {
            let answers = answered(&client, (0..COMMANDS).map(one).collect()).await;
            ends.set(true);
            answers
        });
        // The simulated core may block in a write of the log, so looks that are rare may miss all that is in flight.
        while !done.get() {
            rt.sleep(Duration::from_micros(10)).await;
            let bytes: u64 = core.stores.shards.values().map(|shard| shard.snapshot().inflight_bytes).sum();
            most = most.max(bytes as usize / BYTES);
        }
        let answers = asking.await;
        for answer in answers {
            assert_eq!(answer, Some(Answer::RawPut(RawPutResponse::default())));
        }
        assert!(most > IN_FLIGHT_MAX / 2, "{most} were in flight: the bound was not met");
        // What is answered in a turn still counts as in flight until the next one.
        assert!(most <= 2 * IN_FLIGHT_MAX, "{most} were in flight");
    };
    world.block_on(world.node(0).start(0, work)).expect("nothing crashes the node");
}

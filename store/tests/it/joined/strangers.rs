//! Which stores a member hears: those that have joined, also while the scheduler is away, and no others once it is there.

use std::time::Duration;

use engine::rt::sim::World;
use scheduler::StoreId;
use store::region::lineage::Lineage;
use store::wire::peer::frame::{self, Decoder, FrameKind};
use store::wire::peer::messages::MessageBatch;
use store::wire::peer::open::{Purpose, Speaker, introduce};
use store::wire::proto::pdpb::{GetMembersRequest, GetMembersResponse};

use super::nodes::{Member, beside, call, stores};
use super::three;

/// Longer than a store that is not known waits for the scheduler's word.
const JUDGED: Duration = Duration::from_secs(5);

/// Introduces itself to the only store of `member` as `store`, says something and returns the answer.
fn speak(world: &World, cluster: u64, store: u64, (member, target): (&Member, u64)) -> Option<String> {
    let address = member.node.addr(2001).to_string();
    beside(world, move |rt| async move {
        let (from, to) = (StoreId(store), StoreId(target));
        let speaker =
            Speaker { secret: None, cluster, store: from, incarnation: 1000, lineage: Lineage::default() };
        let mut stream =
            introduce(&rt, Purpose::Messages, &speaker, &address, to).await.expect("it says who is there");
        let mut bytes = Vec::new();
        let nothing = MessageBatch { from, to, messages: Vec::new() };
        frame::push(&mut bytes, FrameKind::Messages, |out| nothing.encode(out));
        stream.write_all(&bytes).await.expect("it is there");
        let (mut decoder, mut buffer) = (Decoder::new(4096), [0; 4096]);
        loop {
            if let Some(refused) = decoder.next_frame().expect("a frame") {
                assert_eq!(refused.kind, FrameKind::Refused);
                return Some(String::from_utf8(refused.payload.to_vec()).expect("a sentence"));
            }
            let read = rt.timeout(JUDGED, stream.read(&mut buffer)).await?.expect("it says why");
            assert!(read > 0, "it says nothing");
            decoder.feed(&buffer[..read]);
        }
    })
}

#[test]
fn stores_that_have_joined_are_heard_and_strangers_are_not() {
    let (world, mut members) = three(75);
    let members_of: GetMembersResponse =
        call(&world, members[0].pd(), "/pdpb.PD/GetMembers", GetMembersRequest::default())
            .expect("it answers");
    let cluster = members_of.header.expect("it says which cluster").cluster_id;
    let known: Vec<u64> = stores(&world, members[0].pd()).into_iter().map(|(id, ..)| id).collect();
    let [hosts, _, other, last] = known[..] else { panic!("{known:?}") };
    let stranger = known.iter().max().expect("there are stores") + 1000;
    let is_refused = |world: &World, member: &Member, target, store| {
        let answer = speak(world, cluster, store, (member, target));
        let name = format!("store {store} is not known to the cluster");
        answer.is_some_and(|answer| answer.contains(&name) || panic!("{answer}"))
    };
    assert!(is_refused(&world, &members[0], hosts, stranger));
    assert!(is_refused(&world, &members[2], last, stranger));
    // Nothing of the last node has to do with any other, so the scheduler is asked.
    assert!(!is_refused(&world, &members[2], last, other));
    // What it has said is not forgotten, whoever is away.
    world.run_for(Duration::from_secs(3));
    members[0].end(true);
    members[2].end(true);
    members[2].start(&world, &[]).expect("it comes back by itself");
    assert!(!is_refused(&world, &members[2], last, other));
    // Nor is one shut out of which it cannot be asked.
    assert!(!is_refused(&world, &members[2], last, known[1]));
    members[0].start(&world, &[]).expect("it comes back");
    world.run_for(Duration::from_secs(5));
    assert!(!is_refused(&world, &members[2], last, known[1]));
    assert!(is_refused(&world, &members[2], last, stranger));
}

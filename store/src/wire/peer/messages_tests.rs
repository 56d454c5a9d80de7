//! Every kind of message through the codec, and what damage does to it.

use std::cell::Cell;
use std::rc::Rc;

use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use raft::{
    AppendOutcome, Beat, Body, Entry, EntryKind, Index, Joint, LogId, Membership, Payload, ReadId, Snapshot,
    VoteAnswer, VoteAsk,
};

use super::*;
use crate::region::message::Body as Content;

fn entry(term: u64, index: u64, kind: EntryKind, payload: &str) -> Entry {
    Entry { term: Term(term), index: Index(index), kind, payload: Payload::from(payload) }
}

/// One body of each shape, every field different from its neighbours and from its default.
fn bodies() -> Vec<Body> {
    let ask = VoteAsk { last: LogId::new(3, 4), commit: LogId::new(1, 2), priority: 9, forced: Some(6) };
    let read = ReadId { incarnation: 21, seq: 22 };
    let entries =
        vec![entry(7, 8, EntryKind::Normal, "payload"), entry(7, 9, EntryKind::Membership, "change")];
    let membership = Membership {
        voters: vec![NodeId(1), NodeId(2)],
        learners: vec![NodeId(5)],
        joint: Some(Box::new(Joint {
            outgoing: vec![NodeId(2), NodeId(3)],
            learners_next: vec![NodeId(3)],
            auto_leave: true,
        })),
    };
    let snapshot = Snapshot { last: LogId::new(11, 12), membership, context: Payload::from("files") };
    vec![
        Body::PreVote(ask),
        Body::PreVoteReply(VoteAnswer { granted: true, commit: LogId::new(5, 6) }),
        Body::Vote(VoteAsk { forced: None, ..ask }),
        Body::VoteReply(VoteAnswer { granted: false, commit: LogId::new(5, 6) }),
        Body::Append { prev: LogId::new(6, 7), entries, commit: Index(30) },
        Body::Append { prev: LogId::new(6, 7), entries: Vec::new(), commit: Index(7) },
        Body::AppendReply(AppendOutcome::Matched(Index(9))),
        Body::AppendReply(AppendOutcome::Conflict { refused: Index(8), hint: LogId::new(2, 5), lost: true }),
        Body::AppendReply(AppendOutcome::Blank { refused: Index(10) }),
        Body::Heartbeat(Beat { commit: Index(13), round: 14, fence: 15, quiet: true }),
        Body::HeartbeatReply { round: 16, quiet: true },
        Body::Snapshot(Box::new(snapshot)),
        Body::TransferRequest { target: NodeId(17) },
        Body::TimeoutNow { fence: 18 },
        Body::ReadIndex { id: read },
        Body::ReadIndexReply { id: read, index: Some(Index(19)) },
        Body::ReadIndexReply { id: read, index: None },
        Body::Stale,
    ]
}

fn batch() -> MessageBatch {
    let roles = [Role::Voter, Role::Learner, Role::Incoming, Role::Outgoing];
    let envelope = |place: usize, body| PeerMessage {
        region: RegionId(40 + place as u64),
        from: Peer { id: PeerId(41), store: StoreId(1), role: roles[place % 4] },
        to: Peer { id: PeerId(42), store: StoreId(2), role: roles[(place + 1) % 4] },
        epoch: Epoch::new(2, 3 + place as u64),
        range: place.is_multiple_of(3).then(|| KeyRange::new("b", "m").unwrap()),
        body,
    };
    let raft = |place: usize, body| {
        let group = GroupId(40 + place as u64);
        Content::Raft(Box::new(Message { group, from: NodeId(41), to: NodeId(42), term: Term(43), body }))
    };
    let mut messages: Vec<PeerMessage> =
        bodies().into_iter().enumerate().map(|(place, body)| envelope(place, raft(place, body))).collect();
    messages.push(envelope(messages.len(), Content::Removed));
    messages.push(envelope(messages.len(), Content::Merged { into: RegionId(77) }));
    MessageBatch { from: StoreId(1), to: StoreId(2), messages }
}

/// Fails to compile when a kind of message is added that [`bodies`] does not have.
fn number(body: &Body) -> usize {
    match body {
        Body::PreVote(_) => 0,
        Body::PreVoteReply(_) => 1,
        Body::Vote(_) => 2,
        Body::VoteReply(_) => 3,
        Body::Append { .. } => 4,
        Body::AppendReply(AppendOutcome::Matched(_)) => 5,
        Body::AppendReply(AppendOutcome::Conflict { .. }) => 6,
        Body::AppendReply(AppendOutcome::Blank { .. }) => 7,
        Body::Heartbeat(_) => 8,
        Body::HeartbeatReply { .. } => 9,
        Body::Snapshot(_) => 10,
        Body::TransferRequest { .. } => 11,
        Body::TimeoutNow { .. } => 12,
        Body::ReadIndex { .. } => 13,
        Body::ReadIndexReply { .. } => 14,
        Body::Stale => 15,
    }
}

#[test]
fn every_kind_of_message_survives_the_codec() {
    let kinds: std::collections::BTreeSet<usize> = bodies().iter().map(number).collect();
    assert_eq!(kinds.len(), 16, "a kind is missing here");
    let batch = batch();
    assert_eq!(MessageBatch::decode(&batch.encode(Vec::new())), Ok(batch));
}

#[test]
fn what_is_announced_is_about_what_is_sent() {
    for message in batch().messages {
        let announced = message_bytes(&message);
        let alone = MessageBatch { messages: vec![message], ..batch() };
        let sent = alone.encode(Vec::new()).len();
        assert!(sent <= announced + 64, "{sent} bytes were sent and {announced} announced: {alone:?}");
    }
}

#[test]
fn damage_is_refused_or_harmless() {
    let good = batch().encode(Vec::new());
    for place in 0..good.len() {
        assert!(MessageBatch::decode(&good[..place]).is_err(), "cut at {place} went unnoticed");
        for flip in [1u8, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[place] ^= flip;
            if let Ok(batch) = MessageBatch::decode(&bad) {
                let bytes: usize = batch.messages.iter().map(message_bytes).sum();
                assert!(bytes < 64 * good.len(), "{bytes} bytes out of {}", good.len());
            }
        }
    }
}

#[test]
fn a_role_that_does_not_exist_is_refused() {
    let good = MessageBatch { messages: vec![batch().messages.pop().unwrap()], ..batch() };
    let bytes = good.encode(Vec::new());
    let refused = |place: &usize| {
        let mut bad = bytes.clone();
        bad[*place] = 9;
        MessageBatch::decode(&bad) == Err(BadMessages("a peer has an unknown role"))
    };
    assert_eq!((0..bytes.len()).filter(refused).count(), 2, "the sender's and the addressee's");
}

#[test]
fn noise_never_panics() {
    let rng = engine::rt::rng::Rng::new(9);
    for length in 0..3000usize {
        let mut noise: Vec<u8> = (0..length % 211).map(|_| rng.next() as u8).collect();
        if let Some(head) = noise.first_chunk_mut::<2>() {
            *head = FORMAT.to_le_bytes();
        }
        if let Ok(batch) = MessageBatch::decode(&noise) {
            assert!(batch.messages.len() <= noise.len());
        }
    }
}

#[test]
fn a_batch_of_a_newer_format_is_named() {
    let mut bytes = batch().encode(Vec::new());
    bytes[0] = 2;
    assert!(MessageBatch::decode(&bytes).unwrap_err().to_string().contains("newer version"));
}

/// Nodes of different versions meet: these bytes were written by version 0.1 and must stay readable.
#[test]
fn the_bytes_of_version_0_1_are_still_written_and_read() {
    let messages = batch_of_fixture();
    let fixture = concat!(
        "0100070000000000000008000000000000000007000000070000000000000009000000000000000106000000",
        "626d626d2a000000000000000200000000000000050000000000000000000000000000000000000000000000",
        "002900000000000000022a0000000000000003002b0000000000000002030000000000000004000000000000",
        "0001000000000000000200000000000000090000000000000000000000000000000000000000002c00000000",
        "0000000200000000000000070000000000000000000000000000000000000000000000002900000000000000",
        "002a0000000000000001002b0000000000000004060000000000000007000000000000001e00000000000000",
        "fafeffff02000000000000000000000000000000000000000000000000003100000000000000020000000000",
        "00000c0000000000000001edfeffff01000000e6feffff010000002900000000000000012a00000000000000",
        "02002b00000000000000080d000000000000000e000000000000000f00000001000000000000000000000000",
        "0000000000000000000000000000000000000000003a00000000000000020000000000000015000000000000",
        "000174feffff010000006dfeffff010000002900000000000000022a00000000000000030100000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000007061796c6f61646368616e676501000000000000000200000000000000f7fdff",
        "ff04000000dbffffff0d000000",
    );
    let bytes = messages.encode(Vec::new());
    assert_eq!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), fixture);
    assert_eq!(MessageBatch::decode(&bytes), Ok(messages));
}

/// A vote, an append of one entry, a heartbeat and the word to a peer that was removed.
fn batch_of_fixture() -> MessageBatch {
    let mut batch = batch();
    let mut place = 0;
    batch.messages.retain(|_| {
        place += 1;
        [3, 5, 10, 19].contains(&place)
    });
    batch
}

#[test]
fn others_of_the_core_run_while_a_long_frame_is_decoded() {
    let world = World::new(5, Options::default());
    let node = world.node(0);
    node.slow_cpu(1000);
    let running = node.start(0, |rt| async move {
        let mut long = batch();
        long.messages = std::iter::repeat_n(long.messages, 20).flatten().collect();
        let payload = long.encode(Vec::new());
        let ran = runs_beside(&rt);
        assert_eq!(MessageBatch::decode_in_pieces(&payload, &rt.budget()).await, Ok(long));
        assert!(ran.get() > 10, "{} times", ran.get());
    });
    world.block_on(running).unwrap();
}

/// Counts how often another task of the core runs.
pub(in crate::wire::peer) fn runs_beside(rt: &Rt) -> Rc<Cell<u32>> {
    let (ran, own) = (Rc::new(Cell::new(0)), rt.clone());
    let count = ran.clone();
    rt.spawn(async move {
        loop {
            own.yield_to_reactor().await;
            count.set(count.get() + 1);
        }
    });
    ran
}

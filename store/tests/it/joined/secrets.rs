//! A cluster whose nodes have a secret: whoever does not prove it is refused at every entrance for nodes and changes nothing, and nodes
//! that have it go on as without.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use engine::rt::sim::{Options, World};
use scheduler::StoreId;
use store::config::Config;
use store::plant::{self, Bug};
use store::region::lineage::Lineage;
use store::secret::{ClusterSecret, Exchange, Side};
use store::wire::grpc::Code;
use store::wire::pd::client::{CallError, SchedulerClient};
use store::wire::peer::frame::{self, Decoder, FrameKind};
use store::wire::peer::link::LinkError;
use store::wire::peer::open::{Purpose, Speaker, introduce};
use store::wire::proto::descriptors;
use store::wire::proto::pdpb::{
    GetMembersRequest, GetMembersResponse, ScanRegionsRequest, ScanRegionsResponse,
};
use store::wire::proto::ringkeep::{RegionReport, ReportRequest, ReportResponse, StoreReport};

use super::nodes::{Member, beside, call, stores};
use crate::logged::Lines;
use crate::page::{page, sum};

pub(super) const SECRET: &str = "what all nodes of the cluster share";
const OTHER: &str = "what the nodes of another one share";
const PURPOSES: [Purpose; 3] = [Purpose::Messages, Purpose::Requests, Purpose::Snapshot];

pub(super) fn secret(text: &str) -> ClusterSecret {
    ClusterSecret::parse(text).expect("it is long enough")
}

pub(super) fn with_secret(config: &mut Config) {
    config.cluster_secret = Some(secret(SECRET));
}

fn with_other(config: &mut Config) {
    config.cluster_secret = Some(secret(OTHER));
}

/// While the secret is being changed from the one to the other.
fn with_both(config: &mut Config) {
    config.cluster_secret = Some(secret(&format!("{OTHER}\n{SECRET}")));
}

/// Two nodes, of which the second has joined the first.
fn two(seed: u64, change: fn(&mut Config)) -> (World, [Member; 2]) {
    let world = World::new(seed, Options::default());
    let mut members = [0, 1].map(|number| Member::new(&world, number, 1));
    members.iter_mut().for_each(|member| member.change = change);
    members[0].start(&world, &[]).expect("a cluster of one begins");
    let first = members[0].pd();
    members[1].start(&world, &[first]).expect("the other one joins");
    (world, members)
}

fn cluster(world: &World, pd: SocketAddr) -> u64 {
    let members = call::<GetMembersResponse>(world, pd, "/pdpb.PD/GetMembers", GetMembersRequest::default());
    members.expect("any client may ask").header.expect("it says which cluster").cluster_id
}

/// Calls a PD port as a node or an operator that has `secret`.
fn call_with<A: prost::Message + Default + 'static>(
    world: &World,
    (addr, secret): (SocketAddr, Option<ClusterSecret>),
    path: &'static str,
    request: impl prost::Message + 'static,
) -> Result<A, CallError> {
    beside(world, move |rt| async move {
        SchedulerClient::by_way_of(&rt, [addr], secret).call(path, &request).await
    })
}

/// Introduces itself to the only store of `member` as the store of another member.
fn introduced(
    world: &World,
    (member, to): (&Member, StoreId),
    purpose: Purpose,
    speaker: Speaker,
) -> Result<(), LinkError> {
    let address = member.node.addr(2001).to_string();
    beside(world, move |rt| async move { introduce(&rt, purpose, &speaker, &address, to).await.map(drop) })
}

/// How many were refused, by entrance and reason, on this node.
fn refused(world: &World, member: &Member, label: &str) -> f64 {
    world.run_for(Duration::from_secs(2));
    let started = member.said().expect("it is up").expect("it has started");
    sum(&page(&started.board.read(), &["ringkeep_unauthenticated"]), "ringkeep_unauthenticated_total", label)
}

/// Every method of our own services, by its path.
fn methods() -> Vec<&'static str> {
    let file = descriptors::by_name("ringkeep.proto").expect("it is there");
    let services: BTreeSet<String> = file.services.iter().map(|name| format!("{name}.")).collect();
    let method = |symbol: &&str| services.iter().any(|service| symbol.starts_with(service));
    let path = |symbol: &str| {
        let (service, method) = symbol.rsplit_once('.').expect("a method is of a service");
        &*format!("/{service}/{method}").leak()
    };
    file.symbols.iter().copied().filter(method).map(path).collect()
}

#[test]
fn every_method_for_nodes_needs_the_secret_at_every_node() {
    let (world, members) = two(701, with_secret);
    let joining = ["/pdpb.PD/PutStore", "/pdpb.PD/AllocID", "/pdpb.PD/Bootstrap"];
    let all = [methods(), joining.to_vec()].concat();
    assert!(all.len() >= 18 && all.contains(&"/ringkeep.Scheduler/Report"), "{all:?}");
    for pd in [members[0].pd(), members[1].pd()] {
        for path in &all {
            let refused = call::<()>(&world, pd, path, ()).expect_err("no secret is proved");
            assert_eq!(refused.code, Code::Unauthenticated, "{path}: {refused}");
            for word in ["cluster_secret_file", "--cluster-secret-file"] {
                assert!(refused.message.contains(word), "{path}: {refused}");
            }
            // Whatever it says to an empty message, it says it to one who has been let in.
            if let Err(CallError::Refused(status)) =
                call_with::<()>(&world, (pd, Some(secret(SECRET))), path, ())
            {
                assert_ne!(status.code, Code::Unauthenticated, "{path}: {status}");
            }
        }
        match call_with::<()>(&world, (pd, Some(secret(OTHER))), "/ringkeep.Scheduler/Stores", ()) {
            Err(CallError::Refused(status)) => {
                assert_eq!(status.code, Code::Unauthenticated);
                assert!(status.message.contains("another cluster_secret"), "{status}");
            }
            answered => panic!("{answered:?}"),
        }
    }
    assert_eq!(stores(&world, members[1].pd()).len(), 2, "clients are served without");
    for member in &members {
        assert!(refused(&world, member, "entrance=\"pd\",reason=\"missing\"") >= all.len() as f64);
        assert_eq!(refused(&world, member, "entrance=\"pd\",reason=\"wrong\""), 1.0);
    }
}

#[test]
fn every_connection_between_stores_needs_the_secret() {
    let (world, members) = two(702, with_secret);
    let cluster = cluster(&world, members[0].pd());
    let known = stores(&world, members[0].pd());
    let (to, from) = (StoreId(known[0].0), StoreId(known[1].0));
    let speaker =
        |secret| Speaker { secret, cluster, store: from, incarnation: 1000, lineage: Lineage::default() };
    for purpose in PURPOSES {
        for (theirs, why) in
            [(None, "does not prove that it has it"), (Some(secret(OTHER)), "another cluster_secret")]
        {
            match introduced(&world, (&members[0], to), purpose, speaker(theirs)) {
                Err(LinkError::Refused(said)) => {
                    assert!(
                        said.contains(why) && said.contains("cluster_secret_file"),
                        "{purpose:?}: {said}"
                    );
                }
                other => panic!("{purpose:?}: {other:?}"),
            }
        }
    }
    assert_eq!(refused(&world, &members[0], "entrance=\"peer\",reason=\"missing\""), 3.0);
    assert_eq!(refused(&world, &members[0], "entrance=\"peer\",reason=\"wrong\""), 3.0);
    for purpose in PURPOSES {
        introduced(&world, (&members[0], to), purpose, speaker(Some(secret(SECRET))))
            .expect("it is one of them");
    }
}

/// Whoever has to find the culprit needs its address.
#[test]
fn whoever_is_refused_is_named_by_address_at_every_entrance() {
    Lines::of(|lines| {
        let (world, members) = two(704, with_secret);
        let pd = members[0].pd();
        let cluster = cluster(&world, pd);
        let known = stores(&world, pd);
        let (to, from) = (StoreId(known[0].0), StoreId(known[1].0));
        let caller = format!("from={}", world.node(9).ip());
        let mut seen = 0;
        // A port says the next refusal only after a while.
        let mut is_said = |what: &str| {
            // The port waits for a peer to take the reason.
            world.run_for(Duration::from_secs(2));
            let lines = lines.with("is refused");
            let [line] = &lines[seen..] else { panic!("{what}: {lines:#?}") };
            assert!(
                line.contains(&caller) && line.contains(what) && line.contains("cluster_secret"),
                "{line}"
            );
            seen = lines.len();
            world.run_for(Duration::from_secs(6));
        };
        let path = "/ringkeep.Scheduler/Stores";
        call::<()>(&world, pd, path, ()).expect_err("no secret is proved");
        is_said(path);
        call_with::<()>(&world, (pd, Some(secret(OTHER))), path, ()).expect_err("it is another one");
        is_said("a connection");
        for purpose in PURPOSES {
            for theirs in [None, Some(secret(OTHER))] {
                let speaker = Speaker {
                    secret: theirs,
                    cluster,
                    store: from,
                    incarnation: 1000,
                    lineage: Lineage::default(),
                };
                introduced(&world, (&members[0], to), purpose, speaker).expect_err("it proves nothing");
                is_said("a connection of a peer");
            }
        }
    });
}

/// Where none is set, one who proves a secret hears that, and one who proves none is believed as before.
#[test]
fn without_a_secret_there_is_nothing_to_prove() {
    let (world, members) = two(703, |_| {});
    let cluster = cluster(&world, members[0].pd());
    let known = stores(&world, members[0].pd());
    let (to, from) = (StoreId(known[0].0), StoreId(known[1].0));
    for purpose in PURPOSES {
        let speaker =
            |secret| Speaker { secret, cluster, store: from, incarnation: 1000, lineage: Lineage::default() };
        match introduced(&world, (&members[0], to), purpose, speaker(Some(secret(SECRET)))) {
            Err(LinkError::Refused(said)) => assert!(said.contains("it connects to has none"), "{said}"),
            other => panic!("{purpose:?}: {other:?}"),
        }
        introduced(&world, (&members[0], to), purpose, speaker(None)).expect("any caller is believed");
    }
    assert_eq!(refused(&world, &members[0], "entrance=\"peer\",reason=\"unset\""), 3.0);
    let mut third = Member::new(&world, 2, 1);
    third.change = with_secret;
    let said = third.start(&world, &[members[0].pd()]).expect_err("it wants proof");
    for word in ["cannot join", "it connects to has none", "set cluster_secret_file"] {
        assert!(said.contains(word), "{said}");
    }
    assert!(!said.contains("PD port"), "it is one: {said}");
    assert_eq!(refused(&world, &members[0], "entrance=\"pd\",reason=\"unset\""), 1.0);
    match call_with::<()>(&world, (members[1].pd(), Some(secret(SECRET))), "/ringkeep.Scheduler/Stores", ()) {
        Err(CallError::Refused(status)) => assert!(status.message.contains("has none"), "{status}"),
        answered => panic!("{answered:?}"),
    }
    call_with::<()>(&world, (members[1].pd(), None), "/ringkeep.Scheduler/Stores", ())
        .expect("any caller is believed");
    assert!(!third.has_identity(), "nothing was begun");
}

/// What the store of the second node says of a region that it does not have: a later epoch, and itself as the leader.
fn forged(world: &World, pd: SocketAddr) -> (ReportRequest, Vec<u64>) {
    let regions: ScanRegionsResponse =
        call(world, pd, "/pdpb.PD/ScanRegions", ScanRegionsRequest::default()).expect("they are listed");
    let versions: Vec<u64> = regions
        .regions
        .iter()
        .map(|it| it.region.as_ref().and_then(|region| region.region_epoch).expect("it has one").version)
        .collect();
    let first = regions.regions[0].clone();
    let mut region = first.region.expect("there is one");
    region.region_epoch.as_mut().expect("it has one").version += 50;
    let leader = first.leader.expect("it is led").id;
    let (store, node, address) = stores(world, pd)[1].clone();
    let report = RegionReport { region: Some(region), leader, term: 99, ..RegionReport::default() };
    let store = StoreReport { store, address, regions: vec![report], ..StoreReport::default() };
    let cluster_id = cluster(world, pd);
    (ReportRequest { cluster_id, node, stores: vec![store], ..ReportRequest::default() }, versions)
}

/// The forgery that the PD port makes possible by itself: all that it needs is shown there.
#[test]
fn a_forged_report_changes_the_map_only_where_no_secret_is_set() {
    for (seed, change) in [(704, with_secret as fn(&mut Config)), (705, |_| {})] {
        let (world, members) = two(seed, change);
        world.run_for(Duration::from_secs(3));
        let (host, other) = (members[0].pd(), members[1].pd());
        let (request, before) = forged(&world, host);
        let report = |addr, request| {
            call::<ReportResponse>(&world, addr, "/ringkeep.Scheduler/Report", request).map(drop)
        };
        let answers = [report(other, request.clone()), report(host, request)];
        let (_, after) = forged(&world, host);
        if seed == 704 {
            for answer in answers {
                assert_eq!(answer.expect_err("nothing is proved").code, Code::Unauthenticated);
            }
            assert_eq!(after, before, "the map is as it was");
        } else {
            assert_eq!(answers, [Ok(()), Ok(())]);
            assert_eq!(after[0], before[0] + 50, "whoever names a store is believed");
        }
    }
}

#[test]
fn a_node_joins_with_the_secret_and_with_no_other() {
    let (world, members) = two(706, with_secret);
    let mut third = Member::new(&world, 2, 1);
    for (change, why) in
        [(with_other as fn(&mut Config), "another cluster_secret"), (|_| {}, "does not prove that it has it")]
    {
        third.change = change;
        let said = third.start(&world, &[members[1].pd()]).expect_err("it is not one of them");
        for word in ["cannot join", why, "set cluster_secret_file"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert!(!third.has_identity(), "nothing was begun");
    }
    assert_eq!(stores(&world, members[0].pd()).len(), 2);
    third.change = with_secret;
    third.start(&world, &[members[1].pd()]).expect("it joins");
    assert_eq!(stores(&world, members[0].pd()).len(), 3);
    // A member that comes back without it is refused as one that joins.
    third.end(true);
    third.change = |_| {};
    let said = third.start(&world, &[]).expect_err("it has lost it");
    assert!(
        said.contains("does not take this node's stores") && said.contains("cluster_secret_file"),
        "{said}"
    );
}

/// Two restarts of each node change it: first both are known, then the newer one alone.
#[test]
fn a_secret_is_changed_while_the_cluster_serves() {
    let (world, mut members) = two(707, with_secret);
    for change in [with_both as fn(&mut Config), with_other] {
        for number in [1, 0] {
            members[number].drain(&world);
            members[number].change = change;
            members[number].start(&world, &[]).expect("the others still believe it");
            world.run_for(Duration::from_secs(3));
            for member in &members {
                assert_eq!(refused(&world, member, ""), 0.0, "none is refused on the way");
            }
        }
    }
    let mut third = Member::new(&world, 2, 1);
    third.change = with_secret;
    third.start(&world, &[members[0].pd()]).expect_err("the old one is good for nothing now");
    third.change = with_other;
    third.start(&world, &[members[0].pd()]).expect("it joins with the new one");
    assert_eq!(stores(&world, members[0].pd()).len(), 3);
}

/// What was overheard of a connection opens no other, because each side draws anew, and what is proved to one store opens none of another.
#[test]
fn what_was_overheard_or_meant_for_another_store_proves_nothing() {
    let (world, members) = two(708, with_secret);
    let address = members[0].node.addr(2001);
    // The store on the first port of the first node.
    let here = 1;
    let [exchanged, replayed, passed_on] = beside(&world, move |rt| async move {
        let (purpose, connecting) = (*Purpose::Messages.preface(), [7; 32]);
        let hear = async |stream: &mut engine::rt::Stream, decoder: &mut Decoder| {
            let mut buffer = [0; 1024];
            loop {
                if let Some(frame) = decoder.next_frame().expect("a frame") {
                    return (frame.kind, frame.payload.to_vec());
                }
                let read = stream.read(&mut buffer).await.expect("it answers");
                assert!(read > 0, "it says nothing");
                decoder.feed(&buffer[..read]);
            }
        };
        let put = |bytes: &mut Vec<u8>, kind, payload: &[u8]| {
            frame::push(bytes, kind, |out| [out, payload.to_vec()].concat());
        };
        let mut begin = purpose.to_vec();
        put(&mut begin, FrameKind::Challenge, &connecting);
        let (mut proof, mut heard) = (Vec::new(), Vec::new());
        for (meant, is_new) in [(here, true), (here, false), (here + 1, true)] {
            let (mut stream, mut decoder) =
                (rt.connect(address).await.expect("it listens"), Decoder::new(4096));
            stream.write_all(&begin).await.expect("it is there");
            let (kind, nonce) = hear(&mut stream, &mut decoder).await;
            assert_eq!(kind, FrameKind::Challenge);
            if is_new {
                proof.clear();
                let accepting = nonce.try_into().expect("a nonce");
                let exchange = Exchange { purpose, meant, connecting, accepting };
                put(
                    &mut proof,
                    FrameKind::Proof,
                    &secret(SECRET).proofs(Side::Connecting, &exchange).concat(),
                );
            }
            stream.write_all(&proof).await.expect("it is there");
            heard.push(hear(&mut stream, &mut decoder).await.0);
        }
        [heard[0], heard[1], heard[2]]
    });
    assert_eq!([exchanged, replayed, passed_on], [FrameKind::Proof, FrameKind::Refused, FrameKind::Refused]);
}

/// Who is not known to be a node cannot make one hold more than a short frame, and not for long.
#[test]
fn who_proves_nothing_is_listened_to_for_little_and_not_for_long() {
    let (world, members) = two(709, with_secret);
    let long = [&(1u32 << 20).to_le_bytes()[..], &[0; 4]].concat();
    for (port, preface) in [(2000, b"RKNODE\0\x01"), (2001, Purpose::Snapshot.preface())] {
        for (rest, most) in [(long.clone(), Duration::from_secs(1)), (Vec::new(), Duration::from_secs(5))] {
            let (addr, bytes) = (members[0].node.addr(port), [preface.to_vec(), rest].concat());
            let ended = beside(&world, move |rt| async move {
                let mut stream = rt.connect(addr).await.expect("it listens");
                stream.write_all(&bytes).await.expect("it is there");
                rt.timeout(most, stream.read(&mut [0; 64])).await
            });
            assert!(matches!(ended, Some(Ok(0) | Err(_))), "port {port}: {ended:?}");
        }
    }
}

/// Each of the bugs makes one of the tests above fail.
#[test]
fn bugs_of_those_who_want_proof_are_caught() {
    let scenarios: [(Bug, fn()); 5] = [
        (Bug::CallersBelieved, a_forged_report_changes_the_map_only_where_no_secret_is_set),
        (Bug::MethodOpen, every_method_for_nodes_needs_the_secret_at_every_node),
        (Bug::PeersBelieved, every_connection_between_stores_needs_the_secret),
        (Bug::ProofNotChecked, every_connection_between_stores_needs_the_secret),
        (Bug::NonceKept, what_was_overheard_or_meant_for_another_store_proves_nothing),
    ];
    let mut unnoticed = Vec::new();
    for (bug, scenario) in scenarios {
        plant::plant(Some(bug));
        let caught = catch_unwind(AssertUnwindSafe(scenario)).is_err();
        plant::plant(None);
        if !caught {
            unnoticed.push(bug);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} went unnoticed");
}

//! The scheduler's state on several nodes: it spreads by itself, outlives nodes, and whoever leads it gives timestamps and ids that no
//! other has given.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use store::config::Config;
use store::plant::{self, Bug};
use store::wire::grpc::client::Client;
use store::wire::grpc::{Status, frame};
use store::wire::proto::metapb::{PeerRole, Region};
use store::wire::proto::pdpb::{
    AllocIdRequest, AllocIdResponse, GetAllStoresRequest, GetAllStoresResponse, GetMembersRequest,
    GetMembersResponse, ScanRegionsRequest, ScanRegionsResponse, TsoRequest, TsoResponse,
};
use store::wire::proto::ringkeep::{RemoveStoreRequest, RemoveStoreResponse};

use super::nodes::{Member, beside, stores};

/// Within this time a change of the members, or of their leader, is over.
const SETTLED_MAX: Duration = Duration::from_secs(60);
/// How long one call may take.
const CALL_MAX: Duration = Duration::from_secs(1);
/// The shortest and the longest election timeout are one and two seconds, and a voter that was just heard waits out its promise.
const TWO_ELECTIONS: Duration = Duration::from_secs(4);

/// What was given out, checked against what had been answered before it was asked for.
#[derive(Debug, Default)]
struct Oracle {
    largest: u64,
    ids: BTreeSet<u64>,
    answered: u64,
    wrong: Option<String>,
}

impl Oracle {
    fn timestamps(&mut self, before: u64, answer: &TsoResponse) {
        let timestamp = answer.timestamp.expect("there is one");
        let largest = ((timestamp.physical as u64) << 18) | timestamp.logical as u64;
        let smallest = largest - u64::from(answer.count) + 1;
        if smallest <= before {
            self.wrong.get_or_insert(format!("timestamp {smallest} after {before}"));
        }
        self.largest = self.largest.max(largest);
        self.answered += 1;
    }

    fn ids(&mut self, first: u64, count: u64) {
        for id in first..first + count {
            if !self.ids.insert(id) {
                self.wrong.get_or_insert(format!("id {id} was given out twice"));
            }
        }
        self.answered += 1;
    }
}

/// One call to one member, which may be down.
async fn unary<A: prost::Message + Default>(
    rt: &Rt,
    addr: SocketAddr,
    path: &str,
    request: &impl prost::Message,
) -> Option<Result<A, Status>> {
    let asked = async { Client::connect(rt, addr).await.ok()?.unary(path, request).await.into() };
    rt.timeout(CALL_MAX, asked).await.flatten()
}

/// Timestamps over a stream, as clients take them: the stream is kept until it breaks.
async fn ask_timestamps(rt: Rt, addr: SocketAddr, oracle: Rc<RefCell<Oracle>>, done: Rc<Cell<bool>>) {
    while !done.get() {
        let talk = async {
            let client = Client::connect(&rt, addr).await.ok()?;
            let mut stream = client.open("/pdpb.PD/Tso").await.ok()?;
            while !done.get() {
                let before = oracle.borrow().largest;
                let request = TsoRequest { count: 1 + (rt.random() % 8) as u32, ..TsoRequest::default() };
                stream.outbox.send(frame(&request)).await.ok()?;
                let message = rt.timeout(CALL_MAX, stream.inbox.next()).await?.ok()??;
                let answer: TsoResponse = prost::Message::decode(message.bytes).expect("an answer");
                oracle.borrow_mut().timestamps(before, &answer);
                rt.sleep(Duration::from_millis(rt.random() % 10)).await;
            }
            Some(())
        };
        // Whatever broke, it is asked again.
        if talk.await.is_none() {
            rt.sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn ask_ids(rt: Rt, addr: SocketAddr, oracle: Rc<RefCell<Oracle>>, done: Rc<Cell<bool>>) {
    while !done.get() {
        let request = AllocIdRequest { count: 3, ..AllocIdRequest::default() };
        if let Some(Ok(answer)) = unary::<AllocIdResponse>(&rt, addr, "/pdpb.PD/AllocID", &request).await {
            oracle.borrow_mut().ids(answer.id, u64::from(answer.count));
        }
        rt.sleep(Duration::from_millis(rt.random() % 40)).await;
    }
}

/// A cluster whose members are asked all the time.
struct Run {
    world: World,
    members: Vec<Member>,
    oracle: Rc<RefCell<Oracle>>,
    done: Rc<Cell<bool>>,
}

impl Run {
    /// `count` nodes, three replicas of every region, and the state on as many nodes as it should be.
    fn begin(seed: u64, count: usize) -> Result<Self, String> {
        let world = World::new(seed, Options::default());
        let mut members: Vec<Member> = (0..5).map(|number| Member::new(&world, number, 1)).collect();
        members[0].change = |config: &mut Config| config.replicas = Some(3);
        members[0].start(&world, &[])?;
        let pd = members[0].pd();
        for member in &mut members[1..count] {
            member.start(&world, &[pd])?;
        }
        let run = Self { world, members, oracle: Rc::default(), done: Rc::default() };
        run.wait_members(pd, if count >= 5 { 5 } else { 3 })?;
        Ok(run)
    }

    /// Asks on at every member.
    fn ask(&self) {
        for (number, member) in self.members.iter().enumerate() {
            let (pd, oracle, done) = (member.pd(), self.oracle.clone(), self.done.clone());
            let client = self.world.node(20 + number);
            drop(client.start(0, move |rt| ask_timestamps(rt, pd, oracle, done)));
            let (oracle, done) = (self.oracle.clone(), self.done.clone());
            let client = self.world.node(30 + number);
            drop(client.start(0, move |rt| ask_ids(rt, pd, oracle, done)));
        }
    }

    fn pass(&self, time: Duration) -> Result<(), String> {
        self.world.run_for(time);
        self.oracle.borrow().wrong.clone().map_or(Ok(()), Err)
    }

    /// Lets time pass and gives the longest part of it without an answer to any client.
    fn pass_and_listen(&self, time: Duration) -> Result<Duration, String> {
        let until = self.world.now() + time;
        let (mut longest, mut answered, mut since) = (Duration::ZERO, self.answered(), self.world.now());
        while self.world.now() < until {
            self.pass(Duration::from_millis(10))?;
            if self.answered() > answered {
                (answered, since) = (self.answered(), self.world.now());
            }
            longest = longest.max(self.world.now() - since);
        }
        Ok(longest)
    }

    fn answered(&self) -> u64 {
        self.oracle.borrow().answered
    }

    /// One call to one member that is up, asked again until it is answered.
    fn call<A: prost::Message + Default + std::fmt::Debug + 'static>(
        &self,
        addr: SocketAddr,
        path: &'static str,
        request: impl prost::Message + Clone + 'static,
    ) -> Result<A, String> {
        beside(&self.world, move |rt| async move {
            let until = rt.now() + SETTLED_MAX;
            loop {
                match unary(&rt, addr, path, &request).await {
                    Some(Ok(answer)) => return Ok(answer),
                    why if rt.now() > until => return Err(format!("{addr} does not answer {path}: {why:?}")),
                    _ => rt.sleep(Duration::from_millis(50)).await,
                }
            }
        })
    }

    fn members(&self, addr: SocketAddr) -> Result<GetMembersResponse, String> {
        self.call(addr, "/pdpb.PD/GetMembers", GetMembersRequest::default())
    }

    /// Waits until the member at `addr` names so many.
    fn wait_members(&self, addr: SocketAddr, count: usize) -> Result<GetMembersResponse, String> {
        let until = self.world.now() + SETTLED_MAX;
        loop {
            let said = self.members(addr)?;
            if said.members.len() == count {
                return Ok(said);
            }
            if self.world.now() > until {
                return Err(format!("{count} members were expected: {:?}", said.members));
            }
            self.pass(Duration::from_millis(100))?;
        }
    }

    /// The number of the node that hosts the scheduler, as the member `asked` says it.
    fn host(&self, asked: usize) -> Result<usize, String> {
        let said = self.members(self.members[asked].pd())?;
        let urls = said.leader.ok_or("no node leads")?.client_urls;
        let is_there = |member: &Member| urls.contains(&format!("http://{}", member.pd()));
        self.members.iter().position(is_there).ok_or(format!("{urls:?} is no node"))
    }

    /// Waits until all of three nodes name the same host.
    fn agreed_host(&self) -> Result<usize, String> {
        let until = self.world.now() + SETTLED_MAX;
        loop {
            let said: BTreeSet<usize> = (0..3).map(|asked| self.host(asked)).collect::<Result<_, _>>()?;
            if said.len() == 1 {
                return Ok(said.into_iter().next().expect("there is one"));
            }
            if self.world.now() > until {
                return Err(format!("the nodes name {said:?}"));
            }
            self.pass(Duration::from_millis(200))?;
        }
    }

    /// Waits until the regions that the scheduler knows, as asked at `addr`, are all as `wanted`.
    fn wait_regions(&self, addr: SocketAddr, wanted: impl Fn(&Region) -> bool) -> Result<(), String> {
        let until = self.world.now() + 2 * SETTLED_MAX;
        loop {
            let scan = ScanRegionsRequest::default();
            let known: ScanRegionsResponse = self.call(addr, "/pdpb.PD/ScanRegions", scan)?;
            let regions: Vec<Region> = known.regions.into_iter().filter_map(|known| known.region).collect();
            if regions.len() >= 5 && regions.iter().all(&wanted) {
                return Ok(());
            }
            if self.world.now() > until {
                return Err(format!("the regions are {regions:?}"));
            }
            self.pass(Duration::from_millis(200))?;
        }
    }
}

fn voters(region: &Region) -> BTreeSet<u64> {
    let voters = region.peers.iter().filter(|peer| peer.role() == PeerRole::Voter);
    voters.map(|peer| peer.store_id).collect()
}

#[test]
fn the_state_spreads_with_the_cluster() {
    let run = Run::begin(101, 2).err().expect("two nodes are no reason for two members");
    assert!(run.contains("3 members"), "{run}");
    for (count, members) in [(3, 3), (4, 3), (5, 5)] {
        let run = Run::begin(102, count).expect("it spreads");
        run.pass(Duration::from_secs(10)).expect("nothing happens");
        let said: Vec<_> =
            (0..count).map(|number| run.members(run.members[number].pd()).expect("it says")).collect();
        assert!(said.iter().all(|other| *other == said[0]), "{said:?}");
        assert_eq!(said[0].members.len(), members);
        assert_eq!(run.host(0), Ok(0), "no other node takes over without need");
    }
}

/// The node that began the cluster is lost for ever, with everything on it.
fn outlives_its_first_node(seed: u64) -> Result<Duration, String> {
    let mut run = Run::begin(seed, 3)?;
    run.ask();
    let one = run.members[1].pd();
    run.wait_regions(one, |region| voters(region).len() == 3)?;
    run.pass(Duration::from_secs(3))?;
    let known = stores(&run.world, one);
    run.members[0].end(true);
    run.members[0].node.disk().wipe();
    let before = run.answered();
    let silence = run.pass_and_listen(2 * TWO_ELECTIONS)?;
    let answered = run.answered() - before;
    if answered < 200 {
        return Err(format!("without its first node the cluster answers {answered} calls"));
    }
    // What is known of the stores is what it was.
    let host = run.host(1)?;
    if host == 0 || stores(&run.world, run.members[host].pd()) != known {
        return Err(format!("node {host} hosts the scheduler"));
    }
    // A node joins by a member that does not host it, and takes the places of the one that is gone.
    let other = if host == 1 { 2 } else { 1 };
    let by = run.members[other].pd();
    run.members[3].start(&run.world, &[by])?;
    let gone = RemoveStoreRequest { store: 1 };
    run.call::<RemoveStoreResponse>(by, "/ringkeep.Scheduler/RemoveStore", gone)?;
    run.wait_regions(by, |region| voters(region).len() == 3 && !voters(region).contains(&1))?;
    let url = format!("http://{}", run.members[3].pd());
    let until = run.world.now() + 2 * SETTLED_MAX;
    while !run.wait_members(by, 3)?.members.iter().any(|member| member.client_urls.contains(&url)) {
        if run.world.now() > until {
            return Err(format!("the new node is no member: {:?}", run.members(by)?.members));
        }
        run.pass(Duration::from_millis(200))?;
    }
    // Again one is lost, and the new one counts.
    run.members[host].end(false);
    let before = run.answered();
    run.pass(2 * TWO_ELECTIONS)?;
    if run.answered() - before < 200 {
        return Err(format!("without node {host} the cluster answers {} calls", run.answered() - before));
    }
    run.done.set(true);
    Ok(silence)
}

#[test]
fn the_cluster_outlives_the_node_that_began_it() {
    for seed in [111, 112] {
        let silence = outlives_its_first_node(seed).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(silence < TWO_ELECTIONS, "seed {seed}: no answer for {silence:?}");
    }
    for bug in [Bug::PlacesForgotten, Bug::GoneVotersKept, Bug::RowsNotLoaded] {
        plant::plant(Some(bug));
        let ended = outlives_its_first_node(111);
        plant::plant(None);
        assert!(ended.is_err(), "{bug:?} went unnoticed: {ended:?}");
    }
}

/// The only member goes, with everything that its store holds; `bug` is planted once that has been promised.
fn the_only_member_goes(bug: Option<Bug>) -> Result<(), String> {
    let world = World::new(131, Options::default());
    let mut members: Vec<Member> = (0..2).map(|number| Member::new(&world, number, 1)).collect();
    members[0].start(&world, &[])?;
    let first = members[0].pd();
    members[1].start(&world, &[first])?;
    let run = Run { world, members, oracle: Rc::default(), done: Rc::default() };
    run.ask();
    run.pass(Duration::from_secs(2))?;
    let gone = RemoveStoreRequest { store: 1 };
    run.call::<RemoveStoreResponse>(first, "/ringkeep.Scheduler/RemoveStore", gone)?;
    plant::plant(bug);
    let until = run.world.now() + 2 * SETTLED_MAX;
    let other = run.members[1].pd();
    let is_there = |run: &Run| {
        let all = GetAllStoresRequest { exclude_tombstone_stores: true, ..GetAllStoresRequest::default() };
        let known: GetAllStoresResponse = run.call(other, "/pdpb.PD/GetAllStores", all)?;
        Ok::<bool, String>(known.stores.iter().any(|store| store.id == 1))
    };
    while is_there(&run)? {
        if run.world.now() > until {
            return Err("store 1 stays".to_owned());
        }
        run.pass(Duration::from_millis(500))?;
    }
    let Run { world, mut members, oracle, done } = run;
    members[0].end(true);
    let run = Run { world, members, oracle, done };
    let before = run.answered();
    run.pass(2 * TWO_ELECTIONS)?;
    if run.answered() - before < 50 {
        return Err(format!("without the first node {} calls are answered", run.answered() - before));
    }
    run.wait_regions(other, |region| voters(region).len() == 1 && !voters(region).contains(&1))?;
    run.done.set(true);
    Ok(())
}

#[test]
fn a_store_that_leaves_hands_the_state_on_before_it_is_gone() {
    the_only_member_goes(None).expect("the other one takes everything");
    let stays = the_only_member_goes(Some(Bug::GoneVotersKept));
    plant::plant(None);
    assert_eq!(stays, Err("store 1 stays".to_owned()), "the state is still there");
}

/// The leader is killed, cut off, paused and handed over, while every member is asked.
fn leaders_come_and_go(seed: u64, rounds: u64) -> Result<(u64, u64), String> {
    let mut run = Run::begin(seed, 3)?;
    run.ask();
    run.pass(Duration::from_secs(1))?;
    let mut changes = 0;
    for round in 0..rounds {
        let host = run.agreed_host()?;
        let before = run.answered();
        match run.world.below(4) {
            0 => {
                run.members[host].end(run.world.below(2) == 0);
                run.pass(TWO_ELECTIONS)?;
                run.members[host].start(&run.world, &[])?;
            }
            1 => {
                // It is cut off from the other members, and clients reach it still.
                for other in (0..3).filter(|other| *other != host) {
                    run.world.cut(&run.members[host].node, &run.members[other].node);
                }
                run.pass(TWO_ELECTIONS)?;
                run.world.heal_network();
            }
            2 => {
                run.members[host].node.pause();
                run.pass(TWO_ELECTIONS)?;
                run.members[host].node.resume();
            }
            _ => {
                run.members[host].drain(&run.world);
                run.pass(Duration::from_secs(1))?;
                run.members[host].start(&run.world, &[])?;
            }
        }
        if run.answered() - before < 50 {
            return Err(format!("round {round}: {} calls were answered", run.answered() - before));
        }
        run.pass(Duration::from_secs(1 + run.world.below(3)))?;
        changes += u64::from(run.agreed_host()? != host);
    }
    run.done.set(true);
    run.pass(Duration::from_secs(3))?;
    Ok((run.answered(), changes))
}

#[test]
fn nothing_is_given_out_twice_or_too_late_while_leaders_come_and_go() {
    for seed in 121..124 {
        let (answered, changes) =
            leaders_come_and_go(seed, 6).unwrap_or_else(|why| panic!("seed {seed}: {why}"));
        assert!(answered > 1000 && changes >= 4, "seed {seed}: {answered} answers, {changes} changes");
    }
}

#[test]
fn bugs_of_a_leader_that_was_deposed_are_caught() {
    for (bug, sign) in [(Bug::FenceOpen, " after "), (Bug::OfficeKept, "")] {
        plant::plant(Some(bug));
        let caught = (121..141).any(|seed| leaders_come_and_go(seed, 6).is_err_and(|why| why.contains(sign)));
        plant::plant(None);
        assert!(caught, "{bug:?} went unnoticed");
    }
}

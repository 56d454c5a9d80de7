//! A cluster whose members are asked for timestamps and ids all the time: whatever is given out twice, or is not above what had been given
//! out before it was asked for, is noted.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use store::config::Config;
use store::wire::grpc::client::Client;
use store::wire::grpc::{Status, frame};
use store::wire::proto::metapb::{PeerRole, Region};
use store::wire::proto::pdpb::{
    AllocIdRequest, AllocIdResponse, GetMembersRequest, GetMembersResponse, ScanRegionsRequest,
    ScanRegionsResponse, TsoRequest, TsoResponse,
};

use super::nodes::{Member, beside};

/// Within this time a change of the members, or of their leader, is over.
pub(super) const SETTLED_MAX: Duration = Duration::from_secs(60);
/// How long one call may take.
pub(super) const CALL_MAX: Duration = Duration::from_secs(1);
/// The shortest and the longest election timeout are one and two seconds, and a voter that was just heard waits out its promise.
pub(super) const TWO_ELECTIONS: Duration = Duration::from_secs(4);

/// What was given out, checked against what had been answered before it was asked for.
#[derive(Debug, Default)]
pub(super) struct Oracle {
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
pub(super) async fn unary<A: prost::Message + Default>(
    rt: &Rt,
    addr: SocketAddr,
    path: &str,
    request: &impl prost::Message,
) -> Option<Result<A, Status>> {
    let asked = async { Client::connect(rt, addr).await.ok()?.unary(path, request).await.into() };
    rt.timeout(CALL_MAX, asked).await.flatten()
}

/// Timestamps over a stream, as clients take them: the stream is kept until it breaks.
async fn ask_timestamps(
    rt: Rt,
    addr: SocketAddr,
    pause_ms: u64,
    (oracle, done): (Rc<RefCell<Oracle>>, Rc<Cell<bool>>),
) {
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
                rt.sleep(Duration::from_millis(rt.random() % pause_ms)).await;
            }
            Some(())
        };
        // Whatever broke, it is asked again.
        if talk.await.is_none() {
            rt.sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn ask_ids(
    rt: Rt,
    addr: SocketAddr,
    pause_ms: u64,
    (oracle, done): (Rc<RefCell<Oracle>>, Rc<Cell<bool>>),
) {
    while !done.get() {
        let request = AllocIdRequest { count: 3, ..AllocIdRequest::default() };
        if let Some(Ok(answer)) = unary::<AllocIdResponse>(&rt, addr, "/pdpb.PD/AllocID", &request).await {
            oracle.borrow_mut().ids(answer.id, u64::from(answer.count));
        }
        rt.sleep(Duration::from_millis(rt.random() % pause_ms)).await;
    }
}

/// How the node that hosts the scheduler is lost.
#[derive(Clone, Copy, Debug)]
pub(super) enum Loss {
    Killed,
    WithoutPower,
    /// From the other members; clients reach it still.
    CutOff,
    Paused,
}

/// A cluster whose members are asked all the time.
pub(super) struct Run {
    pub(super) world: World,
    pub(super) members: Vec<Member>,
    pub(super) oracle: Rc<RefCell<Oracle>>,
    pub(super) done: Rc<Cell<bool>>,
}

impl Run {
    /// `count` nodes, three replicas of every region, and the state on as many nodes as it should be.
    pub(super) fn begin(seed: u64, count: usize) -> Result<Self, String> {
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
    pub(super) fn ask(&self) {
        self.ask_every(10);
    }

    /// The same, for timestamps at least every this many milliseconds and for ids at a quarter of that rate.
    pub(super) fn ask_every(&self, pause_ms: u64) {
        for (number, member) in self.members.iter().enumerate() {
            let (pd, oracle, done) = (member.pd(), self.oracle.clone(), self.done.clone());
            let client = self.world.node(20 + number);
            drop(client.start(0, move |rt| ask_timestamps(rt, pd, pause_ms, (oracle, done))));
            let (oracle, done) = (self.oracle.clone(), self.done.clone());
            let client = self.world.node(30 + number);
            drop(client.start(0, move |rt| ask_ids(rt, pd, 4 * pause_ms, (oracle, done))));
        }
    }

    pub(super) fn pass(&self, time: Duration) -> Result<(), String> {
        self.world.run_for(time);
        self.oracle.borrow().wrong.clone().map_or(Ok(()), Err)
    }

    /// Lets time pass and returns the longest part of it without an answer to any client.
    pub(super) fn pass_and_listen(&self, time: Duration) -> Result<Duration, String> {
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

    pub(super) fn answered(&self) -> u64 {
        self.oracle.borrow().answered
    }

    /// One call to one member that is up, asked again until it is answered.
    pub(super) fn call<A: prost::Message + Default + std::fmt::Debug + 'static>(
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

    pub(super) fn members(&self, addr: SocketAddr) -> Result<GetMembersResponse, String> {
        self.call(addr, "/pdpb.PD/GetMembers", GetMembersRequest::default())
    }

    /// Waits until the member at `addr` names this many.
    pub(super) fn wait_members(&self, addr: SocketAddr, count: usize) -> Result<GetMembersResponse, String> {
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
    pub(super) fn host(&self, asked: usize) -> Result<usize, String> {
        let said = self.members(self.members[asked].pd())?;
        let urls = said.leader.ok_or("no node leads")?.client_urls;
        let is_there = |member: &Member| urls.contains(&format!("http://{}", member.pd()));
        self.members.iter().position(is_there).ok_or(format!("{urls:?} is no node"))
    }

    /// Waits until all of three nodes name the same host.
    pub(super) fn agreed_host(&self) -> Result<usize, String> {
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
    pub(super) fn wait_regions(
        &self,
        addr: SocketAddr,
        wanted: impl Fn(&Region) -> bool,
    ) -> Result<(), String> {
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

    /// Takes a node away.
    pub(super) fn lose(&mut self, host: usize, loss: Loss) {
        match loss {
            Loss::Killed => self.members[host].end(false),
            Loss::WithoutPower => self.members[host].end(true),
            Loss::CutOff => {
                for other in (0..3).filter(|other| *other != host) {
                    self.world.cut(&self.members[host].node, &self.members[other].node);
                }
            }
            Loss::Paused => self.members[host].node.pause(),
        }
    }

    /// Brings a node back that was lost so.
    pub(super) fn bring_back(&mut self, host: usize, loss: Loss) -> Result<(), String> {
        match loss {
            Loss::Killed | Loss::WithoutPower => self.members[host].start(&self.world, &[]).map(drop),
            Loss::CutOff => {
                self.world.heal_network();
                Ok(())
            }
            Loss::Paused => {
                self.members[host].node.resume();
                Ok(())
            }
        }
    }
}

pub(super) fn voters(region: &Region) -> BTreeSet<u64> {
    let voters = region.peers.iter().filter(|peer| peer.role() == PeerRole::Voter);
    voters.map(|peer| peer.store_id).collect()
}

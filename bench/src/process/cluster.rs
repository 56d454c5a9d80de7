//! Several ringkeep nodes on loopback that form one cluster.
//!
//! A node keeps its ports over restarts, as an operator's node does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use engine::host::affinity;
use engine::rt::native as world;
use store::wire::grpc::client::Client;
use store::wire::proto::ringkeep::{
    ClusterRequest, ClusterResponse, OperateRequest, OperateResponse, RegionState, RegionWish,
    RegionsRequest, RegionsResponse, RemoveStoreRequest, RemoveStoreResponse, SetConfigRequest,
    SetConfigResponse, SetPolicyRequest, SetPolicyResponse,
};
use store::wire::proto::{metapb, pdpb};

use super::{Network, Node, NodeOptions, Ports, START_MAX, Starting, free_ports, free_ports_in_a_row};
use crate::Failed;
use crate::clock::{now, pause};

/// Ports of a node for PD and its stores: more than a machine of a measurement has cores for each node.
const PORTS_PER_NODE: u16 = 32;
/// Stores of a node whose links can be cut.
const LINKED_PORTS: u16 = 8;

/// Nodes of which the first founded the cluster and the others joined it. Dropping it kills them.
#[derive(Debug)]
pub struct Cluster {
    /// In the order of their first starts; absent while a node does not run.
    pub nodes: Vec<Option<Node>>,
    options: Vec<NodeOptions>,
    /// The links between the nodes, if they can be cut.
    network: Option<Network>,
    /// Replicas that every region is to have.
    replicas: usize,
}

impl Cluster {
    /// Starts `members` nodes with directories beside that of `base` and waits until every region has a voter on each of them.
    ///
    /// # Errors
    /// A node does not start, or the regions are not replicated within a minute.
    pub fn start(base: &NodeOptions, members: usize) -> Result<Self, Failed> {
        Self::start_with(base, (members, members), false)
    }

    /// Starts `members` of `places` nodes; the others may [join](Cluster::join) later. What `base` says of replicas holds for all.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub fn start_of(base: &NodeOptions, places: usize, members: usize) -> Result<Self, Failed> {
        Self::start_with(base, (places, members), false)
    }

    /// As [`Cluster::start`], with links between the nodes that can be cut and whose bytes are counted.
    ///
    /// # Errors
    /// As for [`Cluster::start`].
    pub fn start_linked(base: &NodeOptions, members: usize) -> Result<Self, Failed> {
        Self::start_with(base, (members, members), true)
    }

    fn start_with(
        base: &NodeOptions,
        (places, members): (usize, usize),
        linked: bool,
    ) -> Result<Self, Failed> {
        let mut options = (0..places).map(|n| member(base, n, places)).collect::<Result<Vec<_>, _>>()?;
        let network = if linked { Some(link(&mut options)?) } else { None };
        let founder = options.first().ok_or_else(|| Failed::new("a cluster has at least one member"))?;
        let mut this = Self { nodes: Vec::new(), options: options.clone(), network, replicas: members };
        this.add(0, Starting::spawn(founder)?)?;
        let joining: Vec<Starting> = options[1..members]
            .iter()
            .map(|options| join_by(options, founder))
            .collect::<Result<_, Failed>>()?;
        for (n, starting) in joining.iter().enumerate() {
            this.note(n + 1, starting.pid());
        }
        for (n, starting) in joining.into_iter().enumerate() {
            this.add(n + 1, starting)?;
        }
        this.wait_until_replicated()?;
        Ok(this)
    }

    /// Starts the next node, which joins.
    ///
    /// # Errors
    /// It does not start, or is not the next.
    pub fn join(&mut self, n: usize) -> Result<(), Failed> {
        if n != self.nodes.len() || n >= self.options.len() {
            return Err(Failed::new(format!("node {} is not the next one to join", n + 1)));
        }
        let starting = join_by(&self.options[n], &self.options[0])?;
        self.add(n, starting)
    }

    /// Starts a node again that has ended, or was killed, with the ports it had.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, n: usize) -> Result<&Node, Failed> {
        self.nodes[n] = None;
        let starting = Starting::spawn(&self.options[n])?;
        self.note(n, starting.pid());
        let node = starting.ready(&self.options[n])?;
        Ok(self.nodes[n].insert(node))
    }

    /// Ends a node as an operator does, until [`Cluster::restart`].
    ///
    /// # Errors
    /// It does not run, or does not end within `deadline`.
    pub fn stop(&mut self, n: usize, deadline: Duration) -> Result<(), Failed> {
        self.take(n)?.process.terminate(deadline)
    }

    /// Ends a node at once, as a crash would, until [`Cluster::restart`].
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, n: usize) -> Result<(), Failed> {
        self.take(n)?.process.kill();
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<Node, Failed> {
        self.nodes[n].take().ok_or_else(|| Failed::new(format!("node {} does not run", n + 1)))
    }

    /// Waits until the next node of the list is ready.
    fn add(&mut self, n: usize, starting: Starting) -> Result<(), Failed> {
        self.note(n, starting.pid());
        self.nodes.push(Some(starting.ready(&self.options[n])?));
        Ok(())
    }

    fn note(&self, n: usize, pid: u32) {
        if let Some(network) = &self.network {
            network.runs_as(n, pid);
        }
    }

    /// The links between the nodes.
    ///
    /// # Panics
    /// If the cluster was not started with links that can be cut.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("the cluster was started with links")
    }

    /// Every region that the scheduler knows, in the order of their keys.
    ///
    /// # Errors
    /// The node that hosts the scheduler does not answer.
    pub fn regions(&self) -> Result<Vec<pdpb::Region>, Failed> {
        regions(self.pd())
    }

    /// The stores of every node, by its place.
    ///
    /// # Errors
    /// The node that hosts the scheduler does not answer.
    pub fn stores(&self) -> Result<Vec<Vec<u64>>, Failed> {
        let all: pdpb::GetAllStoresResponse =
            ask(self.pd(), "/pdpb.PD/GetAllStores", pdpb::GetAllStoresRequest::default())?;
        let on = |options: &NodeOptions| {
            let ports = options.ports.base..options.ports.base + PORTS_PER_NODE;
            let port = |store: &metapb::Store| store.address.rsplit_once(':')?.1.parse().ok();
            let here = |store: &&metapb::Store| port(store).is_some_and(|port| ports.contains(&port));
            all.stores.iter().filter(here).map(|store| store.id).collect()
        };
        Ok(self.options.iter().map(on).collect())
    }

    /// Asks that a store leads a region; the steps are carried out later.
    ///
    /// # Errors
    /// The scheduler does not take it.
    pub fn transfer(&self, region: u64, store: u64) -> Result<(), Failed> {
        let wish = RegionWish::TransferLeader.into();
        let request = OperateRequest { region, wish, store, ..OperateRequest::default() };
        ask::<OperateResponse>(self.pd(), "/ringkeep.Scheduler/Operate", request).map(drop)
    }

    /// Asks the scheduler to split a region at `key`.
    ///
    /// # Errors
    /// The scheduler does not take it, or not now.
    pub fn split(&self, region: u64, key: &[u8]) -> Result<(), Failed> {
        let (wish, key) = (RegionWish::Split.into(), key.to_vec().into());
        let request = OperateRequest { region, wish, key, ..OperateRequest::default() };
        ask::<OperateResponse>(self.pd(), "/ringkeep.Scheduler/Operate", request).map(drop)
    }

    /// Cuts regions at keys. How many of them begin a region by the end of the call, in percent; what has begun goes on.
    ///
    /// # Errors
    /// The scheduler refuses that, or does not answer.
    pub fn cut(&self, keys: &[Vec<u8>]) -> Result<u64, Failed> {
        let split_keys = keys.iter().map(|key| key.clone().into()).collect();
        let request = pdpb::SplitRegionsRequest { header: None, split_keys, retry_limit: 0 };
        let done: pdpb::SplitRegionsResponse = ask(self.pd(), "/pdpb.PD/SplitRegions", request)?;
        match done.header.and_then(|header| header.error) {
            Some(why) => Err(Failed::new(format!("regions are not cut: {}", why.message))),
            None => Ok(done.finished_percentage),
        }
    }

    /// Asks the scheduler to move the replica of a node to `store`, another store of that node.
    ///
    /// # Errors
    /// The scheduler does not take it, or not now.
    pub fn relocate(&self, region: u64, store: u64) -> Result<(), Failed> {
        let wish = RegionWish::Relocate.into();
        let request = OperateRequest { region, wish, store, ..OperateRequest::default() };
        ask::<OperateResponse>(self.pd(), "/ringkeep.Scheduler/Operate", request).map(drop)
    }

    /// Every region as the scheduler sees it, in the order of their keys.
    ///
    /// # Errors
    /// The node that hosts the scheduler does not answer.
    pub fn region_states(&self) -> Result<Vec<RegionState>, Failed> {
        let mut all = Vec::new();
        let mut request = RegionsRequest::default();
        loop {
            let page: RegionsResponse = ask(self.pd(), "/ringkeep.Scheduler/Regions", request)?;
            all.extend(page.regions);
            if !page.more {
                return Ok(all);
            }
            request = RegionsRequest { from: page.next, ..RegionsRequest::default() };
        }
    }

    /// How many operators of the scheduler run.
    ///
    /// # Errors
    /// The node that hosts the scheduler does not answer.
    pub fn operators(&self) -> Result<u64, Failed> {
        let seen: ClusterResponse = ask(self.pd(), "/ringkeep.Scheduler/Cluster", ClusterRequest::default())?;
        Ok(seen.operators)
    }

    /// Switches a policy of the scheduler off.
    ///
    /// # Errors
    /// There is no such policy, or the scheduler does not answer.
    pub fn switch_off(&self, policy: &str) -> Result<(), Failed> {
        self.switch(policy, false)
    }

    /// Sets a value of the scheduler's configuration.
    ///
    /// # Errors
    /// There is no such value, or the scheduler does not answer.
    pub fn set(&self, name: &str, value: &str) -> Result<(), Failed> {
        let request = SetConfigRequest { name: name.to_owned(), value: value.to_owned(), by: String::new() };
        ask::<SetConfigResponse>(self.pd(), "/ringkeep.Scheduler/SetConfig", request).map(drop)
    }

    /// Takes a store out of use.
    ///
    /// # Errors
    /// The scheduler refuses that, or does not answer.
    pub fn remove_store(&self, store: u64) -> Result<(), Failed> {
        let request = RemoveStoreRequest { store };
        ask::<RemoveStoreResponse>(self.pd(), "/ringkeep.Scheduler/RemoveStore", request).map(drop)
    }

    /// Switches a policy of the scheduler on or off.
    ///
    /// # Errors
    /// As for [`Cluster::switch_off`].
    pub fn switch(&self, policy: &str, enabled: bool) -> Result<(), Failed> {
        let request = SetPolicyRequest { policy: policy.to_owned(), enabled, by: String::new() };
        ask::<SetPolicyResponse>(self.pd(), "/ringkeep.Scheduler/SetPolicy", request).map(drop)
    }

    /// The place and the exit status of a node that has ended since the last call.
    pub fn ended(&mut self) -> Option<(usize, String)> {
        for (n, place) in self.nodes.iter_mut().enumerate() {
            if let Some(how) = place.as_mut().and_then(|node| node.process.ended()) {
                *place = None;
                return Some((n, how));
            }
        }
        None
    }

    /// Asks all nodes to end and waits for that.
    ///
    /// # Errors
    /// One does not end within `deadline`, or ends with an error; all others have ended then.
    pub fn terminate(mut self, deadline: Duration) -> Result<(), Failed> {
        self.nodes.iter().flatten().for_each(|node| node.process.ask_to_end());
        let ends = self.nodes.iter_mut().flatten().map(|node| node.process.wait(deadline));
        ends.collect::<Vec<_>>().into_iter().collect()
    }

    /// Where clients of PD go.
    pub fn pd(&self) -> SocketAddr {
        pd_of(&self.options[0])
    }

    /// The place of the node that hosts the scheduler's leader, once its state is kept on as many nodes as it can be.
    ///
    /// # Errors
    /// That takes longer than a minute, or the leader is on none of these nodes.
    pub fn host(&self) -> Result<usize, Failed> {
        let began = now();
        let wanted = if self.nodes.len() < 3 { 1 } else { (self.nodes.len().min(5) - 1) / 2 * 2 + 1 };
        loop {
            let request = pdpb::GetMembersRequest::default();
            let seen: pdpb::GetMembersResponse = ask(self.pd(), "/pdpb.PD/GetMembers", request)?;
            if let Some(leader) = seen.leader.filter(|_| seen.members.len() >= wanted) {
                let is_at = |options: &NodeOptions| {
                    leader.client_urls.contains(&format!("http://{}", pd_of(options)))
                };
                let urls = &leader.client_urls;
                return self.options.iter().position(is_at).ok_or_else(|| {
                    Failed::new(format!("the scheduler's leader is at {urls:?}, which is none of the nodes"))
                });
            }
            if began.elapsed() > START_MAX {
                return Err(Failed::new(format!(
                    "the scheduler's state is on {} nodes and not on {wanted} after {START_MAX:?}",
                    seen.members.len()
                )));
            }
            pause(Duration::from_millis(50));
        }
    }

    /// Where clients of PD go at every other node that runs than this one.
    pub fn others(&self, place: usize) -> Vec<SocketAddr> {
        let running = self.nodes.iter().zip(&self.options).enumerate();
        let others = running.filter(|(n, (node, _))| *n != place && node.is_some());
        others.map(|(_, (_, options))| pd_of(options)).collect()
    }

    /// Ids of the processes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().flatten().map(|node| node.process.pid()).collect()
    }

    /// Waits until every region is led and has a voter on each node, none of them behind.
    ///
    /// # Errors
    /// That takes longer than a minute.
    pub fn wait_until_replicated(&self) -> Result<(), Failed> {
        self.wait_until_replicated_within(START_MAX)
    }

    /// As [`Cluster::wait_until_replicated`], for as long as the caller says.
    ///
    /// # Errors
    /// It takes longer.
    pub fn wait_until_replicated_within(&self, most: Duration) -> Result<(), Failed> {
        let (began, members) = (now(), self.replicas);
        loop {
            // A node that has just been started may not listen yet.
            let seen = regions(self.pd()).unwrap_or_default();
            let missing = seen.iter().filter(|region| !is_whole(region, members)).count();
            if !seen.is_empty() && missing == 0 {
                return Ok(());
            }
            if began.elapsed() > most {
                return Err(Failed::new(format!(
                    "{missing} of {} regions do not have {members} replicas after {most:?}",
                    seen.len()
                )));
            }
            pause(Duration::from_millis(20));
        }
    }
}

/// Starts a node on an empty directory, which joins the cluster of `founder`.
fn join_by(options: &NodeOptions, founder: &NodeOptions) -> Result<Starting, Failed> {
    let mut first_start = options.clone();
    first_start.arguments.extend(["--join".to_owned(), pd_of(founder).to_string()]);
    Starting::spawn(&first_start)
}

fn pd_of(options: &NodeOptions) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], options.ports.base))
}

/// Whether a region is led and has a voter on each of `members` nodes, none of them behind.
fn is_whole(region: &pdpb::Region, members: usize) -> bool {
    let voters = region.region.iter().flat_map(|region| &region.peers);
    region.pending_peers.is_empty()
        && region.leader.is_some()
        && voters.filter(|peer| peer.role() == metapb::PeerRole::Voter).count() == members
}

/// How the node in place `n` is started.
fn member(base: &NodeOptions, n: usize, members: usize) -> Result<NodeOptions, Failed> {
    let mut options = base.clone();
    options.data_dir = beside(&base.data_dir, n);
    options.log = base.log.as_ref().map(|log| beside(log, n));
    let others = free_ports(2)?;
    options.ports = Ports { base: free_ports_in_a_row(PORTS_PER_NODE)?, resp: others[0], status: others[1] };
    let cpus = shared_cpus(&affinity()?, n, members);
    let mut settings = vec![format!("cores={}", cpus.len())];
    let names: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    settings.push(format!("cpus={}", names.join(",")));
    if members > 1 {
        settings.push(format!("replicas={members}"));
    }
    // What the caller asks for comes later and wins.
    options.arguments = settings.into_iter().flat_map(|pair| ["--set".to_owned(), pair]).collect();
    options.arguments.extend(base.arguments.iter().cloned());
    Ok(options)
}

/// The CPUs of the node in place `n` of `members`: as many for each, and at least one, which several share if there are too few.
fn shared_cpus(allowed: &[usize], n: usize, members: usize) -> Vec<usize> {
    let each = (allowed.len() / members).max(1);
    (n * each..(n + 1) * each).map(|place| allowed[place % allowed.len()]).collect()
}

fn beside(path: &Path, n: usize) -> std::path::PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{}", n + 1));
    let mut beside = path.with_file_name(name);
    if let Some(extension) = path.extension() {
        beside.set_extension(extension);
    }
    beside
}

/// Every region that PD at `addr` knows.
fn regions(addr: SocketAddr) -> Result<Vec<pdpb::Region>, Failed> {
    let map: pdpb::ScanRegionsResponse =
        ask(addr, "/pdpb.PD/ScanRegions", pdpb::ScanRegionsRequest::default())?;
    Ok(map.regions)
}

/// One call to the scheduler at `addr`, on a core of its own.
fn ask<A: prost::Message + Default + Send + 'static>(
    addr: SocketAddr,
    path: &'static str,
    request: impl prost::Message + 'static,
) -> Result<A, Failed> {
    world::start_core(&engine::rt::CoreOptions::default(), move |rt| async move {
        let client = Client::connect(&rt, addr)
            .await
            .map_err(|error| Failed::new(format!("cannot connect to PD at {addr}: {error}")))?;
        let answered = client.unary(path, &request).await;
        answered.map_err(|status| Failed::new(format!("{path} at {addr}: {}", status.message)))
    })?
}

/// Lets every node announce an address whose connections are led through a network.
fn link(options: &mut [NodeOptions]) -> Result<Network, Failed> {
    let ports =
        options.iter().map(|options| (options.ports.base..=options.ports.base + LINKED_PORTS).collect());
    let network = Network::start(&ports.collect::<Vec<_>>())?;
    for (n, options) in options.iter_mut().enumerate() {
        options.arguments.extend(["--set".to_owned(), format!("advertise={}", Network::address(n))]);
    }
    Ok(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_names_and_ports_of_their_own() {
        let base = NodeOptions {
            binary: "ringkeep".into(),
            data_dir: "/tmp/x/node".into(),
            arguments: vec!["--set".into(), "memory_bytes=1GiB".into()],
            environment: Vec::new(),
            ports: Ports::default(),
            log: Some("/tmp/x/node.log".into()),
            own_group: false,
        };
        let (first, second) =
            (member(&base, 0, 2).expect("free ports"), member(&base, 1, 2).expect("free ports"));
        assert_eq!(first.data_dir, Path::new("/tmp/x/node-1"));
        assert_eq!(second.log.as_deref(), Some(Path::new("/tmp/x/node-2.log")));
        assert_ne!(first.ports.resp, second.ports.resp);
        assert!(first.ports.base != 0 && first.ports.base != second.ports.base);
        let base_last = |options: &NodeOptions| options.arguments.last().cloned();
        assert_eq!(base_last(&second).as_deref(), Some("memory_bytes=1GiB"), "{:?}", second.arguments);
        assert!(second.arguments.contains(&"replicas=2".to_owned()), "{:?}", second.arguments);
    }

    #[test]
    fn cpus_are_shared_out() {
        let of = |allowed: &[usize], members| -> Vec<Vec<usize>> {
            (0..members).map(|n| shared_cpus(allowed, n, members)).collect()
        };
        assert_eq!(of(&[0, 1], 3), [[0], [1], [0]]);
        assert_eq!(of(&[2, 3, 5, 7], 2), [[2, 3], [5, 7]]);
        assert_eq!(of(&[4, 5], 1), [[4, 5]]);
    }

    #[test]
    fn a_region_is_whole_with_a_leader_and_all_voters() {
        let peer = |id, role: metapb::PeerRole| metapb::Peer { id, role: role.into(), ..Default::default() };
        let (voter, learner) = (metapb::PeerRole::Voter, metapb::PeerRole::Learner);
        let mut region = pdpb::Region {
            region: Some(metapb::Region {
                peers: vec![peer(1, voter), peer(2, voter)],
                ..Default::default()
            }),
            leader: Some(peer(1, voter)),
            ..Default::default()
        };
        assert!(is_whole(&region, 2) && !is_whole(&region, 3));
        region.pending_peers.push(peer(2, voter));
        assert!(!is_whole(&region, 2), "a member is behind");
        region.pending_peers.clear();
        region.leader = None;
        assert!(!is_whole(&region, 2), "it has no leader");
        region.leader = Some(peer(1, voter));
        region.region.iter_mut().for_each(|region| region.peers[1] = peer(2, learner));
        assert!(!is_whole(&region, 2), "a learner is no voter");
    }
}

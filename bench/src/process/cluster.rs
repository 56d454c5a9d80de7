//! Several ringkeep nodes on loopback that form one cluster.
//!
//! A node keeps its ports over restarts, as an operator's node does.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use engine::host::affinity;
use engine::rt::native as world;
use store::wire::grpc::client::Client;
use store::wire::proto::{metapb, pdpb};

use super::{Node, NodeOptions, Ports, START_MAX, free_ports, free_ports_in_a_row};
use crate::Failed;
use crate::clock::{now, pause};

/// Ports of a node for PD and its stores: more than a machine of a measurement has cores for each node.
const PORTS_PER_NODE: u16 = 32;

/// Nodes of which the first founded the cluster and the others joined it. Dropping it kills them.
#[derive(Debug)]
pub struct Cluster {
    /// In the order of their first starts; absent while a node does not run.
    pub nodes: Vec<Option<Node>>,
    options: Vec<NodeOptions>,
}

impl Cluster {
    /// Starts `members` nodes with directories beside that of `base` and waits until every region has a voter on each of them.
    ///
    /// # Errors
    /// A node does not start, or the regions are not replicated within a minute.
    pub fn start(base: &NodeOptions, members: usize) -> Result<Self, Failed> {
        let mut this = Self { nodes: Vec::new(), options: Vec::new() };
        for n in 0..members {
            let options = member(base, n, members)?;
            let mut first_start = options.clone();
            if let Some(founder) = this.options.first() {
                first_start.arguments.extend(["--join".to_owned(), pd_of(founder).to_string()]);
            }
            this.nodes.push(Some(Node::start(&first_start)?));
            this.options.push(options);
        }
        this.wait_until_replicated()?;
        Ok(this)
    }

    /// Starts a node again that has ended, or was killed, with the ports it had.
    ///
    /// # Errors
    /// It does not start.
    pub fn restart(&mut self, n: usize) -> Result<&Node, Failed> {
        self.nodes[n] = None;
        Ok(self.nodes[n].insert(Node::start(&self.options[n])?))
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

    /// Ids of the processes that run.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().flatten().map(|node| node.process.pid()).collect()
    }

    fn wait_until_replicated(&self) -> Result<(), Failed> {
        let (began, members) = (now(), self.options.len());
        loop {
            let seen = regions(self.pd())?;
            let missing = seen.iter().filter(|region| !is_whole(region, members)).count();
            if !seen.is_empty() && missing == 0 {
                return Ok(());
            }
            if began.elapsed() > START_MAX {
                return Err(Failed::new(format!(
                    "{missing} of {} regions do not have {members} replicas after {START_MAX:?}",
                    seen.len()
                )));
            }
            pause(Duration::from_millis(50));
        }
    }
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
    world::start_core(&engine::rt::CoreOptions::default(), move |rt| async move {
        let client = Client::connect(&rt, addr)
            .await
            .map_err(|error| Failed::new(format!("cannot connect to PD at {addr}: {error}")))?;
        let map: pdpb::ScanRegionsResponse = client
            .unary("/pdpb.PD/ScanRegions", &pdpb::ScanRegionsRequest::default())
            .await
            .map_err(|status| Failed::new(format!("ScanRegions at {addr}: {}", status.message)))?;
        Ok(map.regions)
    })?
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

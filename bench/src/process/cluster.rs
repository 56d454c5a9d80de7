//! Several ringkeep nodes on loopback that form one cluster.

use std::net::SocketAddr;
use std::time::Duration;

use engine::rt::native as world;
use store::wire::grpc::client::Client;
use store::wire::proto::{metapb, pdpb};

use super::{Node, NodeOptions, START_MAX};
use crate::Failed;
use crate::clock::{now, pause};

/// Running nodes, the first one founded the cluster and the others joined it. Dropping it kills them.
#[derive(Debug)]
pub struct Cluster {
    /// In the order of their starts.
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Starts `members` nodes with directories beside that of `base` and waits until every region has a voter on each of them.
    ///
    /// # Errors
    /// A node does not start, or the regions are not replicated within a minute.
    pub fn start(base: &NodeOptions, members: usize) -> Result<Self, Failed> {
        let mut this = Self { nodes: Vec::new() };
        for n in 0..members {
            this.nodes.push(Node::start(&this.options(base, n, members))?);
        }
        this.wait_until_replicated(members)?;
        Ok(this)
    }

    /// How the node in place `n` is started.
    fn options(&self, base: &NodeOptions, n: usize, members: usize) -> NodeOptions {
        let mut options = base.clone();
        let beside = |path: &std::path::Path, suffix: &str| {
            let mut name = path.file_name().unwrap_or_default().to_owned();
            name.push(suffix);
            path.with_file_name(name)
        };
        options.data_dir = beside(&base.data_dir, &format!("-{n}"));
        options.log = base.log.as_ref().map(|log| beside(log, &format!("-{n}")));
        if members > 1 {
            options.arguments.extend(["--set".to_owned(), format!("replicas={members}")]);
        }
        if let Some(first) = self.nodes.first() {
            options.arguments.extend(["--join".to_owned(), first.pd.to_string()]);
        }
        options
    }

    /// Where clients of PD go.
    pub fn pd(&self) -> SocketAddr {
        self.nodes[0].pd
    }

    /// The processes' ids.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.process.pid()).collect()
    }

    fn wait_until_replicated(&self, members: usize) -> Result<(), Failed> {
        let began = now();
        loop {
            let seen = regions(self.pd())?;
            let whole = |region: &pdpb::Region| {
                let voters = region.region.iter().flat_map(|region| &region.peers);
                region.pending_peers.is_empty()
                    && region.leader.is_some()
                    && voters.filter(|peer| peer.role() == metapb::PeerRole::Voter).count() == members
            };
            let missing = seen.iter().filter(|region| !whole(region)).count();
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

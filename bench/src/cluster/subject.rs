//! The cluster that is measured: how it is set up and filled, and how evenly it holds what is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use store::wire::proto::ringkeep::RegionState;

use super::report::NodeShare;
use super::{FIRST, NODES, Options};
use crate::Failed;
use crate::backlog::{page, samples};
use crate::clock::{now, pause};
use crate::process::{Cluster, Node};
use crate::random::Random;
use crate::resp::{acknowledgement, command};

/// Length of the values that are written first, bytes.
const VALUE_BYTES: usize = 4096;
/// Writes that are sent before their answers are read.
const PIPELINE: u64 = 64;
/// How often writes may be refused in a row.
const REFUSALS_MAX: u64 = 100;
/// What a node may differ from the mean, per cent.
const EVEN_PERCENT: f64 = 5.0;

/// The cluster.
pub(super) struct Subject {
    pub(super) cluster: Cluster,
}

/// Shorter silences than this are none to the scheduler.
const SILENCE_MIN_MS: u128 = 3000;

impl Subject {
    /// Starts the first nodes, has the scheduler balance them, and fills them.
    pub(super) fn start(options: &Options) -> Result<Self, Failed> {
        let mut node = options.node.clone();
        node.own_group = true;
        let own = format!("replicas={FIRST}");
        node.arguments = ["--set".to_owned(), own].into_iter().chain(node.arguments).collect();
        let cluster = Cluster::start_of(&node, NODES, FIRST)?;
        let down_ms = options.down.as_millis();
        let settings = [
            ("store_disconnected_ms", (down_ms / 2).max(SILENCE_MIN_MS).to_string()),
            ("store_unhealthy_ms", (down_ms * 3 / 4).max(SILENCE_MIN_MS).to_string()),
            ("store_down_ms", down_ms.max(SILENCE_MIN_MS).to_string()),
            ("region_size_floor_bytes", "1024".to_owned()),
            ("leader_tolerance", "0".to_owned()),
        ];
        for (name, value) in &settings {
            cluster.set(name, value)?;
        }
        cluster.switch("balance-region", true)?;
        let this = Self { cluster };
        this.divide(options.regions)?;
        this.fill(options)?;
        Ok(this)
    }

    /// Cuts the key space into about this many regions of what is written.
    fn divide(&self, regions: usize) -> Result<(), Failed> {
        let borders = (1..regions).map(|n| format!("{:04x}", n * 0x1_0000 / regions));
        for border in borders {
            let holder = self.cluster.region_states()?.into_iter().filter_map(|state| state.region);
            let key = border.as_bytes();
            let mut inside = holder.filter(|region| &region.start_key[..] < key);
            let is_in = |region: &store::wire::proto::metapb::Region| {
                region.end_key.is_empty() || key < &region.end_key[..]
            };
            let Some(region) = inside.find(is_in) else { continue };
            self.split(region.id, key)?;
        }
        Ok(())
    }

    /// Splits a region that another operator may be at work on.
    fn split(&self, region: u64, key: &[u8]) -> Result<(), Failed> {
        let began = now();
        loop {
            let before = self.cluster.region_states()?.len();
            let asked = self.cluster.split(region, key);
            while asked.is_ok() && began.elapsed() < super::ANSWERS_MAX {
                if self.cluster.region_states()?.len() > before {
                    return Ok(());
                }
                pause(Duration::from_millis(20));
            }
            if began.elapsed() > super::ANSWERS_MAX {
                return asked.and_then(|()| Err(Failed::new(format!("region {region} is not split"))));
            }
            pause(super::LOOK_EVERY);
        }
    }

    /// Writes values that cannot be compressed under keys that are spread evenly.
    fn fill(&self, options: &Options) -> Result<(), Failed> {
        let node = self.cluster.nodes.iter().flatten().next();
        let addr = node.ok_or_else(|| Failed::new("no node runs"))?.resp;
        let (mut random, records) = (Random::new(options.seed), options.fill_bytes / VALUE_BYTES as u64);
        let mut stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        let mut reading = BufReader::new(stream.try_clone()?);
        let mut value = vec![0; VALUE_BYTES];
        let (mut done, mut refusals, mut out) = (0, 0, Vec::new());
        while done < records {
            let count = PIPELINE.min(records - done);
            out.clear();
            for n in done..done + count {
                random.fill(&mut value);
                let place = n * 0x1_0000 / records;
                command(&mut out, &[b"SET", format!("{place:04x}:fill:{n}").as_bytes(), &value]);
            }
            stream.write_all(&out)?;
            let mut refused = None;
            for _ in 0..count {
                refused = acknowledgement(&mut reading)?.or(refused);
            }
            // While leaders move a write may be refused, and is written again.
            match refused {
                None => (done, refusals) = (done + count, 0),
                Some(said) if refusals == REFUSALS_MAX => {
                    return Err(Failed::new(format!("writes are refused while it is filled: {said}")));
                }
                Some(_) => {
                    refusals += 1;
                    pause(super::LOOK_EVERY);
                }
            }
        }
        Ok(())
    }

    /// Waits until what the scheduler knows of sizes is what was written: it is as old as the estimates of stores are, and a policy that is
    /// judged by bytes must have seen them.
    pub(super) fn wait_until_measured(&self) -> Result<(), Failed> {
        let (began, mut since, mut held) = (now(), now(), self.held_bytes()?);
        while since.elapsed() < super::STAYS {
            if began.elapsed() > super::ANSWERS_MAX {
                return Err(Failed::new("sizes go on changing although nothing is written"));
            }
            pause(super::LOOK_EVERY);
            let seen = self.held_bytes()?;
            if seen.abs_diff(held) > held / 100 {
                (since, held) = (now(), seen);
            }
        }
        Ok(())
    }

    pub(super) fn join(&mut self, n: usize) -> Result<(), Failed> {
        self.cluster.join(n)
    }

    pub(super) fn kill(&mut self, n: usize) {
        self.cluster.nodes[n] = None;
    }

    pub(super) fn restart(&mut self, n: usize) -> Result<(), Failed> {
        self.cluster.restart(n).map(drop)
    }

    pub(super) fn remove(&self, store: u64) -> Result<(), Failed> {
        self.cluster.remove_store(store)
    }

    pub(super) fn stores_of(&self, n: usize) -> Result<BTreeSet<u64>, Failed> {
        Ok(self.cluster.stores()?.get(n).into_iter().flatten().copied().collect())
    }

    /// Bytes of all replicas, as the scheduler knows them.
    pub(super) fn held_bytes(&self) -> Result<u64, Failed> {
        Ok(self.shares()?.iter().map(|share| share.bytes).sum())
    }

    /// Bytes of snapshots that each node has taken in since its start; 0 for one that does not run.
    pub(super) fn arrived_bytes(&self) -> Result<Vec<u64>, Failed> {
        let of = |node: &Option<Node>| -> Result<u64, Failed> {
            let Some(node) = node else { return Ok(0) };
            let page = page(node.status)?;
            let arrived = samples(&page, "ringkeep_snapshot_received_bytes_total");
            Ok(arrived.map(|(_, value)| value as u64).sum())
        };
        self.cluster.nodes.iter().map(of).collect()
    }

    /// Bytes of snapshots that nodes have taken in since they had taken in these.
    pub(super) fn arrived_since(&self, before: &[u64]) -> Result<u64, Failed> {
        let before = before.iter().copied().chain(std::iter::repeat(0));
        let after = self.arrived_bytes()?;
        Ok(after.iter().zip(before).map(|(after, before)| after.saturating_sub(before)).sum())
    }

    /// What each node holds and leads.
    pub(super) fn shares(&self) -> Result<Vec<NodeShare>, Failed> {
        let stores = self.cluster.stores()?;
        let place = |store: u64| stores.iter().position(|own| own.contains(&store));
        let mut shares: BTreeMap<usize, NodeShare> = BTreeMap::new();
        let known = stores.iter().enumerate().filter(|(_, own)| !own.is_empty());
        for (n, _) in known {
            shares.insert(n, NodeShare { node: n + 1, ..NodeShare::default() });
        }
        for state in self.cluster.region_states()? {
            let (size_bytes, leader) = (state.size_bytes, state.leader);
            let Some(region) = state.region else { continue };
            for peer in &region.peers {
                if let Some(share) = place(peer.store_id).and_then(|n| shares.get_mut(&n)) {
                    share.replicas += 1;
                    share.bytes += size_bytes;
                }
            }
            let leads = leader.and_then(|leader| place(leader.store_id));
            if let Some(share) = leads.and_then(|n| shares.get_mut(&n)) {
                share.leaders += 1;
            }
        }
        Ok(shares.into_values().collect())
    }

    /// Whether sizes and leaders of the nodes are even, every region is whole, and no operator runs.
    pub(super) fn is_even(&self) -> Result<bool, Failed> {
        Ok(is_even(&self.shares()?)
            && self.is_whole_without(&BTreeSet::new())?
            && self.cluster.operators()? == 0)
    }

    /// Whether every region has all of its replicas elsewhere than on these stores.
    pub(super) fn is_whole_without(&self, gone: &BTreeSet<u64>) -> Result<bool, Failed> {
        let is_whole = |state: &RegionState| {
            let Some(region) = &state.region else { return false };
            let elsewhere = region.peers.iter().all(|peer| !gone.contains(&peer.store_id));
            elsewhere && region.peers.len() == FIRST && state.pending.is_empty() && state.down.is_empty()
        };
        let states = self.cluster.region_states()?;
        Ok(!states.is_empty() && states.iter().all(is_whole))
    }

    /// What stands in the way, as far as it shows.
    pub(super) fn why_not(&self, shares: &[NodeShare]) -> String {
        let each: Vec<String> = shares
            .iter()
            .map(|it| format!("node {}: {} MiB, {} leaders", it.node, it.bytes >> 20, it.leaders))
            .collect();
        let operators =
            self.cluster.operators().map_or_else(|why| why.to_string(), |count| count.to_string());
        format!("{}; operators that run: {operators}", each.join(", "))
    }
}

/// Whether no node differs from the mean by more than is allowed, in bytes and in leaders; by one leader it may always.
pub(super) fn is_even(shares: &[NodeShare]) -> bool {
    let within = |of: fn(&NodeShare) -> u64, least: f64| {
        let mean = shares.iter().map(of).sum::<u64>() as f64 / shares.len().max(1) as f64;
        let allowed = (mean * EVEN_PERCENT / 100.0).max(least);
        shares.iter().all(|share| (of(share) as f64 - mean).abs() <= allowed)
    };
    let is_filled = shares.iter().any(|share| share.bytes > 0);
    shares.len() > 1 && is_filled && within(|share| share.bytes, 0.0) && within(|share| share.leaders, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(of: [(u64, u64); 4]) -> Vec<NodeShare> {
        let share = |(n, (bytes, leaders)): (usize, (u64, u64))| NodeShare {
            node: n + 1,
            bytes,
            leaders,
            replicas: 0,
        };
        of.into_iter().enumerate().map(share).collect()
    }

    #[test]
    fn even_is_within_five_per_cent_of_the_mean_or_one_leader() {
        assert!(is_even(&shares([(95, 9), (105, 11), (100, 10), (100, 10)])));
        assert!(!is_even(&shares([(94, 10), (106, 10), (100, 10), (100, 10)])), "bytes");
        assert!(!is_even(&shares([(100, 8), (100, 12), (100, 10), (100, 10)])), "leaders");
        assert!(
            !is_even(&shares([(100, 10), (100, 10), (100, 10), (0, 10)])),
            "one that has joined is empty"
        );
        assert!(!is_even(&shares([(0, 10), (0, 10), (0, 10), (0, 10)])), "no size is known yet");
        assert!(!is_even(&[]), "nothing is known");
    }
}

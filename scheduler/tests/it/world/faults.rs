//! What befalls the cluster: nodes die and return, are drained and taken back; regions split meanwhile.

use scheduler::change::split;
use scheduler::{Key, Lifecycle, Load, PeerId, RegionId};

use super::{Real, World};

impl World {
    pub(super) fn inflict(&mut self) {
        match self.draw(0, 99) {
            0..=3 => self.kill(),
            4..=7 => self.revive(),
            8 => self.drain(),
            9..=14 => self.split(),
            _ => {}
        }
    }

    /// One node at a time, and never while a region is short of healthy replicas: whoever kills two of three has no
    /// claim on the scheduler.
    fn kill(&mut self) {
        let wounded = self.nodes.values().any(|node| node.dead_since.is_some());
        let spare =
            self.nodes.values().filter(|node| !node.draining).count() as u64 > self.config.max_replicas;
        let sound = self.regions.values().all(|real| {
            let voters = real.region.peers.iter().filter(|peer| peer.will_vote()).count() as u64;
            voters == self.config.max_replicas && real.lagging.is_empty() && !real.region.is_joint()
        });
        if wounded || !spare || !sound || self.config.max_replicas == 1 {
            return;
        }
        let victim = self.draw(0, self.nodes.len() as u64 - 1) as usize;
        if let Some(node) = self.nodes.values_mut().nth(victim) {
            node.dead_since = Some(self.now);
            self.tally.deaths += 1;
        }
    }

    pub(super) fn revive(&mut self) {
        for node in self.nodes.values_mut() {
            node.dead_since = None;
        }
    }

    /// Drains a node, or takes it back: only if enough others are left.
    fn drain(&mut self) {
        let pick = self.draw(0, self.nodes.len() as u64 - 1) as usize;
        let others = self.nodes.values().filter(|node| !node.draining).count() as u64;
        let Some(node) = self.nodes.values_mut().nth(pick) else { return };
        if !node.draining && others <= self.config.max_replicas {
            return;
        }
        node.draining = !node.draining;
        self.tally.drains += 1;
        let lifecycle = if node.draining { Lifecycle::Offline } else { Lifecycle::Up };
        for store in node.stores.clone() {
            let mut descriptor = self.scheduler.cluster().store(store).expect("joined").descriptor.clone();
            descriptor.lifecycle = lifecycle;
            self.scheduler.put_store(descriptor, self.now).expect("known");
        }
    }

    /// A store asks for ids and splits one of its regions.
    fn split(&mut self) {
        let pick = self.draw(0, self.regions.len() as u64 - 1) as usize;
        let Some(real) = self.regions.values().nth(pick) else { return };
        let (Some(_), Ok(ids)) = (real.leader, self.scheduler.ask_split(&real.region)) else { return };
        let id = real.region.id;
        self.split_at(id, ids.region, &ids.peers);
    }

    pub(super) fn split_at(&mut self, id: RegionId, new: RegionId, peers: &[PeerId]) {
        let real = &self.regions[&id];
        let mut middle = real.region.range.start().to_vec();
        middle.push(128);
        let Ok((left, right)) = split(&real.region, &Key::from(middle), new, peers) else { return };
        for peer in peers {
            assert!(self.used_peers.insert(*peer), "seed {}: {peer} was used before", self.seed);
        }
        let twin = |peer: PeerId| real.region.peers.iter().position(|other| other.id == peer);
        let lagging =
            real.lagging.iter().filter_map(|(peer, until)| Some((peers[twin(*peer)?], *until))).collect();
        let leader = real.leader.and_then(twin).map(|place| peers[place]);
        let load = Load {
            read_bytes: real.load.read_bytes / 2,
            write_bytes: real.load.write_bytes / 2,
            ..real.load
        };
        let size_bytes = real.size_bytes / 2;
        self.regions.insert(new, Real { region: right, leader, term: 6, size_bytes, load, lagging });
        let real = self.regions.get_mut(&id).expect("known");
        (real.region, real.size_bytes, real.load) = (left, size_bytes, load);
        self.tally.splits += 1;
    }
}

//! Several replicas and the network between them, which a test may cut or make ignore messages of a name.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use raft::{ChangeStep, Config, MembershipChange, Message, NodeId, RoleKind};

use super::{Peer, course};
use crate::rng::Rng;

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Runs a scenario many times, with state machines that lag each time in another way.
pub(crate) fn with_every_lag(scenario: impl Fn()) {
    for seed in 0..100 {
        SEED.set(seed);
        scenario();
    }
    SEED.set(0);
}

/// Several peers and what lies between them.
pub(crate) struct Net {
    pub(crate) peers: BTreeMap<u64, Peer>,
    cut: BTreeSet<(u64, u64)>,
    ignored: BTreeSet<&'static str>,
    /// Everything delivered so far, as "name from>to".
    pub(crate) seen: Vec<String>,
    pub(crate) dropped: BTreeMap<&'static str, usize>,
    rng: Rng,
    /// State machines lag at random; otherwise each as its peer says.
    pub(crate) random_lag: bool,
}

impl Net {
    /// Voters `1..=n`; those in `dead` are black holes.
    pub(crate) fn new(n: u64, dead: &[u64]) -> Self {
        Self::with(&course(), n, dead)
    }

    pub(crate) fn with(config: &Config, n: u64, dead: &[u64]) -> Self {
        let voters: Vec<u64> = (1..=n).collect();
        let live = voters.iter().filter(|id| !dead.contains(id));
        Self::of(live.map(|id| Peer::with_log(config, *id, &voters, &[], (0, 0))))
    }

    pub(crate) fn of(peers: impl IntoIterator<Item = Peer>) -> Self {
        Self {
            peers: peers.into_iter().map(|peer| (peer.raft.id().0, peer)).collect(),
            cut: BTreeSet::new(),
            ignored: BTreeSet::new(),
            seen: Vec::new(),
            dropped: BTreeMap::new(),
            rng: Rng::new(SEED.get()),
            random_lag: true,
        }
    }

    pub(crate) fn peer(&mut self, id: u64) -> &mut Peer {
        self.peers.get_mut(&id).expect("a live peer")
    }

    /// Delivers, first in first out, until no member has anything to say. State machines lag behind at random, but have
    /// caught up in the end.
    pub(crate) fn send(&mut self, messages: Vec<Message>) {
        let mut queue = VecDeque::from(messages);
        let mut budget = 100_000;
        loop {
            let Some(message) = queue.pop_front() else {
                if self.random_lag {
                    queue.extend(self.peers.values_mut().flat_map(Peer::catch_up));
                }
                if queue.is_empty() { return } else { continue }
            };
            for peer in self.peers.values_mut() {
                if self.random_lag && peer.lags && self.rng.chance(200) {
                    queue.extend(peer.catch_up());
                }
            }
            budget -= 1;
            assert!(budget > 0, "the peers talk for ever");
            let (from, to, name) = (message.from.0, message.to.0, message.body.name());
            if self.cut.contains(&(from, to)) || self.ignored.contains(name) {
                continue;
            }
            let Some(peer) = self.peers.get_mut(&to) else { continue };
            self.seen.push(format!("{name} {from}>{to}"));
            peer.lags |= self.random_lag && self.rng.chance(500);
            let (out, result) = peer.try_step(message);
            if let Err(dropped) = result {
                *self.dropped.entry(dropped.name()).or_default() += 1;
            }
            queue.extend(out);
        }
    }

    pub(crate) fn campaign(&mut self, id: u64) {
        let out = self.peer(id).campaign();
        self.send(out);
    }

    /// Ticks one peer: with a heartbeat interval of one tick, a leader's heartbeat.
    pub(crate) fn tick(&mut self, id: u64) {
        let out = self.peer(id).tick();
        self.send(out);
    }

    /// Ticks every member at once.
    pub(crate) fn tick_all(&mut self) {
        let out = self.peers.values_mut().flat_map(Peer::tick).collect();
        self.send(out);
    }

    /// Ticks until it campaigns.
    pub(crate) fn time_out(&mut self, id: u64) {
        let term = self.peer(id).term();
        for _ in 0..20 {
            if self.peer(id).term() == term {
                self.tick(id);
            }
        }
    }

    pub(crate) fn propose(&mut self, id: u64, text: &str) -> bool {
        let accepted = self.peer(id).raft.propose(text.into()).is_ok();
        let out = self.peer(id).settle();
        self.send(out);
        accepted
    }

    pub(crate) fn transfer(&mut self, at: u64, target: u64) {
        // Some scenarios ask for what is refused; the outcome shows.
        let _refused = self.peer(at).raft.transfer(NodeId(target));
        let out = self.peer(at).settle();
        self.send(out);
    }

    pub(crate) fn change(&mut self, at: u64, step: ChangeStep) -> bool {
        let accepted = self.peer(at).raft.propose_change(&MembershipChange::one(step)).is_ok();
        let out = self.peer(at).settle();
        self.send(out);
        accepted
    }

    pub(crate) fn cut(&mut self, a: u64, b: u64) {
        self.cut.extend([(a, b), (b, a)]);
    }

    pub(crate) fn cut_one_way(&mut self, from: u64, to: u64) {
        self.cut.insert((from, to));
    }

    pub(crate) fn isolate(&mut self, id: u64) {
        let others: Vec<u64> = self.peers.keys().copied().filter(|other| *other != id).collect();
        others.into_iter().for_each(|other| self.cut(id, other));
    }

    pub(crate) fn ignore(&mut self, name: &'static str) {
        self.ignored.insert(name);
    }

    pub(crate) fn recover(&mut self) {
        self.cut.clear();
        self.ignored.clear();
    }

    pub(crate) fn roles(&self) -> Vec<RoleKind> {
        self.peers.values().map(Peer::role).collect()
    }

    pub(crate) fn leaders(&self) -> Vec<u64> {
        self.peers.iter().filter(|(_, peer)| peer.raft.is_leader()).map(|(id, _)| *id).collect()
    }
}

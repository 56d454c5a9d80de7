//! The network between stores and scheduler: reports one way, instructions the other, late, lost, doubled and reordered
//! while the world is faulty.

use scheduler::change::keeps_quorum;
use scheduler::operator::Unsafe;
use scheduler::{Action, Change, DownPeer, Instruction, RegionReport, StoreReport};

use super::{DELAY_MAX_MS, Real, World};

#[derive(Clone)]
pub(super) enum Message {
    Region(RegionReport),
    Store(StoreReport),
    Instruction(Instruction),
}

impl World {
    pub(super) fn report(&mut self) {
        let mut messages = Vec::new();
        for node in self.nodes.values().filter(|node| node.dead_since.is_none()) {
            messages.extend(node.stores.iter().map(|store| Message::Store(StoreReport::empty(*store))));
        }
        for real in self.regions.values() {
            let leader = real.leader.and_then(|leader| real.region.peer(leader));
            if leader.is_some_and(|leader| self.is_live(leader.store)) {
                messages.push(Message::Region(self.report_of(real)));
            }
        }
        messages.into_iter().for_each(|message| self.send(message));
    }

    fn report_of(&self, real: &Real) -> RegionReport {
        let mut report = RegionReport::new(real.region.clone(), real.leader);
        report.term = Some(real.term);
        report.size_bytes = real.size_bytes;
        report.load = real.load;
        report.pending = real.lagging.keys().copied().collect();
        for peer in &real.region.peers {
            if let Some(since) = self.node_of(peer.store).dead_since {
                report.down.push(DownPeer { peer: peer.id, down_ms: self.now.ms_since(since) });
            }
        }
        report
    }

    /// Into the network: while the world is faulty, one message in ten is lost, one in ten doubled, all are late.
    fn send(&mut self, message: Message) {
        if !self.faulty {
            self.post(message, 0);
            return;
        }
        if self.rng.one_in(10) {
            return;
        }
        if self.rng.one_in(10) {
            let delay = self.draw(0, DELAY_MAX_MS);
            self.post(message.clone(), delay);
        }
        let delay = self.draw(0, DELAY_MAX_MS);
        self.post(message, delay);
    }

    fn post(&mut self, message: Message, delay_ms: u64) {
        self.sent += 1;
        self.network.insert((self.now.plus_ms(delay_ms), self.sent), message);
    }

    pub(super) fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Message::Region(report) => self.deliver_report(report),
                Message::Store(report) => self.scheduler.report_store(report, self.now).expect("plausible"),
                Message::Instruction(instruction) => self.execute(&instruction),
            }
        }
    }

    fn deliver_report(&mut self, report: RegionReport) {
        match self.scheduler.report_region(report, self.now) {
            Ok(Some(instruction)) => self.send_instruction(instruction),
            Ok(None) => {}
            Err(_) => self.tally.stale_reports += 1,
        }
        self.check_map();
    }

    /// Every sending is judged by what the scheduler knows at that moment.
    pub(super) fn send_instruction(&mut self, instruction: Instruction) {
        let info = self
            .scheduler
            .cluster()
            .region(instruction.region)
            .expect("an instruction is for a known region");
        assert_eq!(instruction.epoch, info.region.epoch);
        assert_eq!(Some(instruction.leader.id), info.leader);
        let influence = scheduler::operator::Influence::new();
        let view = self.scheduler.view(&influence, self.now);
        if let Some(operator) = self.scheduler.operators().get(instruction.region) {
            let step = operator.current().expect("a running operator has a step");
            assert_eq!(step.check(info, &view), Ok::<(), Unsafe>(()), "seed {}: {step}", self.seed);
        }
        if let Action::Change(change @ (Change::Remove { .. } | Change::Demote { .. })) = &instruction.action
        {
            let after = change.apply(&info.region).expect("a fitting change");
            let healthy = |store| {
                let peer = info.region.peer_on(store).expect("a member");
                view.is_live(store) && !info.is_pending(peer.id) && !info.is_down(peer.id)
            };
            assert!(keeps_quorum(&after, healthy), "seed {}: {change:?} of {}", self.seed, info.region);
        }
        self.send(Message::Instruction(instruction));
    }
}

//! What a store in memory does for its regions: it carries out what they want, writes their logs, applies their entries, takes in and makes
//! snapshots.

use engine::lsm::{Cf, WriteBatch};
use raft::{Apply, Entry, HardState, Index, LogId, SnapshotReport, Term, Time};
use scheduler::{PeerId, Region, RegionId};
use store::region::apply::{describe_end, erase};
use store::region::effects::{Effects, Install};
use store::region::life::Life;
use store::region::merge::{self, MergeStep};
use store::region::message::Verdict;
use store::region::record::Descriptor;
use store::region::replica::Replica;
use store::region::split::Half;
use store::region::submit::TurnRoom;
use store::shard::halves::Begun;

use super::disk::Group;
use super::says::show;
use super::{BASE, Peer, Pending, Shipped, Store};

impl Store {
    /// Carries out what the regions want until nothing moves.
    pub(crate) fn settle(&mut self, shipped: &Shipped, now: Time) {
        self.table.mark_moved(|replica| replica.has_effects());
        for _ in 0..1000 {
            while !self.hold && !self.writes.is_empty() {
                self.write_one(shipped);
            }
            while !self.lag && !self.pending.is_empty() {
                self.apply_one(now);
            }
            let mut dirty = self.table.take_dirty();
            dirty.sort();
            if dirty.is_empty() {
                return self.table.check();
            }
            for id in dirty {
                let Some(replica) = self.table.get_mut(id) else { continue };
                let (peer, effects) = (replica.me(), replica.effects(&mut TurnRoom::unlimited()));
                self.table.publish_region(id);
                self.carry_out((id, peer), effects);
                self.notice(id);
            }
        }
        panic!("{} never rests", self.id);
    }

    pub(super) fn carry_out(&mut self, (id, peer): (RegionId, PeerId), effects: Effects<String, String>) {
        let Effects {
            send,
            write,
            apply,
            fetch,
            snapshots,
            reads,
            answers,
            death,
            events,
            released_bytes: _,
        } = effects;
        self.sent.extend(send);
        let blank = self.table.get(id).filter(|replica| replica.life() == Life::Initialising);
        let created = blank.filter(|it| self.groups.get(&id).is_none_or(|group| group.peer() != it.me()));
        let created = created.map(|it| Group::blank(it.record().encode()));
        self.writes.extend(write.map(|write| (write, created)));
        self.answer(answers);
        for (reader, outcome) in reads {
            let line = match outcome {
                Ok(()) => format!(
                    "{reader} is due at {}",
                    self.table.get(id).map_or(0, |one| one.applied_index().0)
                ),
                Err(refusal) => format!("{reader}: {}", show(&refusal)),
            };
            self.say(line);
        }
        let pending = apply.map(|apply| match apply {
            Apply::Entries(entries) => Pending::Entries(entries),
            Apply::FromLog { first, last } => Pending::FromLog(first, last),
        });
        self.pending.extend(pending.map(|pending| (id, peer, pending)));
        for wanted in fetch {
            let entries = self.entries(id, wanted.first, wanted.last);
            let replica = self.table.get_mut(id).expect("its effects were taken just now");
            replica.fetched(&wanted, entries);
            self.table.mark_dirty(id);
        }
        for wanted in snapshots {
            self.say(format!("{id} wants a snapshot for {}", wanted.to));
            self.wanted.push((id, wanted));
        }
        for event in events {
            self.say(format!("{id} {event:?}"));
        }
        if let Some(death) = death {
            if !death.applied {
                let first = death.record.encode();
                self.groups.entry(id).or_insert_with(|| Group::blank(Vec::new())).first = first;
                let batch = self.table.get(id).expect("its effects were taken just now").tombstone_batch();
                self.tree.write(&batch);
            }
            self.say(format!("{id} is a tombstone of {}", death.record.region.epoch));
            // One that was applied and is lost comes back when the removal is applied again.
            self.table.bury_region(death.record);
        }
    }

    /// Nothing if they have been cut off.
    pub(super) fn entries(&self, id: RegionId, first: Index, last: Index) -> Option<Vec<Entry>> {
        let group = &self.groups[&id];
        let there = first > group.base.index;
        let range = group.entries.iter().filter(|entry| entry.index >= first && entry.index <= last);
        there.then(|| range.cloned().collect())
    }

    pub(crate) fn write_one(&mut self, shipped: &Shipped) {
        let (write, created) = self.writes.pop_front().expect("a write in flight");
        let id = write.region();
        if self.table.peer_mut(id, write.peer()).is_none() {
            return;
        }
        if let Some(group) = created {
            self.groups.insert(id, group);
        }
        if let Some(install) = write.install() {
            self.install(id, &install.clone(), shipped);
        }
        if let Some(origin) = self.unlogged.remove(&id) {
            let first = self.table.get(id).expect("it is here").record().encode();
            let group = Group { first, hard: HardState::default(), base: BASE, entries: Vec::new(), origin };
            self.groups.insert(id, group);
        }
        let group = self.groups.get_mut(&id).expect("a log");
        group.hard = write.hard_state();
        if let Some(first) = write.entries().first() {
            group.entries.retain(|entry| entry.index < first.index);
            group.entries.extend_from_slice(write.entries());
        }
        let replica = self.table.peer_mut(id, write.peer()).unwrap_or_else(|| panic!("{id} is gone"));
        self.sent.extend(replica.durable(write));
        self.table.publish_region(id);
        self.table.mark_dirty(id);
        self.notice(id);
    }

    /// The tree first, in one batch; then the log.
    pub(super) fn install(&mut self, id: RegionId, install: &Install, shipped: &Shipped) {
        let mut batch = WriteBatch::new();
        if let Some(old_range) = &install.old_range {
            erase(&mut batch, &Region { range: old_range.clone(), ..install.record.region.clone() });
        }
        erase(&mut batch, &install.record.region);
        for source in self.table.ended_with(&install.record) {
            let at = self.table.get(source).expect("it is in the table").applied_id();
            let removed = self.table.take_in(source, id).expect("it is in the table");
            erase(&mut batch, removed.region());
            describe_end(&mut batch, removed.record(), at);
            self.say(format!("{} ends with it", removed.region()));
            self.leave(removed, false);
        }
        let data = shipped.get(&(id, install.last)).expect("the data came with the message");
        data.iter().for_each(|(key, value)| batch.put(Cf::Default, key, value));
        batch.mark(id.0, install.last.index.0);
        let descriptor = Descriptor { record: install.record.clone(), at: install.last, by_snapshot: true };
        batch.describe(id.0, &descriptor.encode());
        self.tree.write(&batch);
        self.flush();
        let group = self.groups.get_mut(&id).expect("a log");
        (group.base, group.entries) = (install.last, Vec::new());
        self.say(format!("{id} takes in the snapshot at {} {}", install.last, install.record.region));
    }

    pub(crate) fn apply_one(&mut self, now: Time) {
        let (id, peer, pending) = self.pending.pop_front().expect("something to apply");
        if self.table.peer_mut(id, peer).is_none() {
            return;
        }
        let entries = match pending {
            Pending::Entries(entries) => entries,
            Pending::FromLog(first, last) => self.entries(id, first, last).expect("the log has them"),
        };
        // A step of a merge is a piece of its own, as in a store.
        if let Some(place) = entries.iter().position(is_step).filter(|place| *place > 0 || entries.len() > 1)
        {
            let (before, rest) = entries.split_at(place.max(1));
            for part in [rest, before] {
                self.pending.push_front((id, peer, Pending::Entries(part.to_vec())));
            }
            return;
        }
        if let [entry] = &entries[..]
            && let Some((epoch, commit)) = MergeStep::commit_of(&entry.payload)
            && self.table.get(id).is_some_and(|it| it.region().epoch == epoch)
            && !self.bring(commit.source.region.id, commit.prepare, now)
        {
            panic!("{id} cannot take in {}, which has not its prepare here", commit.source.region.id);
        }
        let replica = self.table.get_mut(id).expect("it is here");
        let mut batch = WriteBatch::new();
        let mut applied = replica.apply(&entries, &mut batch).expect("readable entries");
        let (halves, taken) = (applied.take_halves(), applied.take_taken());
        self.table.end_taken(&taken, id, &mut batch);
        self.table.describe_halves(&halves, &mut batch);
        self.tree.write(&batch);
        for removed in self.table.bury_taken(&taken) {
            self.say(format!("{} was taken in by {id}", removed.region()));
            self.leave(removed, true);
        }
        let answers = self.table.get_mut(id).expect("it is here").applied(applied);
        self.answer(answers);
        self.table.publish_region(id);
        self.table.mark_dirty(id);
        self.notice(id);
        self.publish(id, halves, now);
    }

    /// Brings a region to the entry at which another takes it in.
    fn bring(&mut self, region: RegionId, prepare: LogId, now: Time) -> bool {
        let Some(replica) = self.table.get_mut(region) else { return false };
        if !replica.bring_to(prepare) {
            return false;
        }
        let (peer, first) = (replica.me(), Index(replica.applied_index().0 + 1));
        if first <= prepare.index {
            let others = std::mem::take(&mut self.pending);
            self.pending.push_front((region, peer, Pending::FromLog(first, prepare.index)));
            while !self.pending.is_empty() {
                self.apply_one(now);
            }
            self.pending = others;
        }
        self.table.get(region).is_some_and(|it| it.has_prepared(prepare))
    }

    /// What a region was split into comes into the table; where the region is led, its replicas campaign at once.
    pub(super) fn publish(&mut self, parent: RegionId, halves: Vec<Half>, now: Time) {
        if halves.is_empty() {
            return;
        }
        let leads = self.table.get(parent).is_some_and(Peer::is_leader);
        let (id, config, incarnation, started) =
            (self.id, self.config.clone(), self.incarnation, self.started);
        let begun = self.table.split_region(parent, halves, |stored| {
            Replica::new(id, stored, config.clone(), incarnation, started)
        });
        for Begun { region, unlogged, votes } in begun.expect("sound state") {
            if let Some(origin) = unlogged {
                self.unlogged.insert(region, Some(origin));
            }
            self.notice(region);
            let replica = self.table.get_mut(region).expect("it has begun");
            let line = format!("{parent} was split, and here is {}", replica.region());
            if leads && let Err(why) = replica.campaign(now) {
                self.say(format!("{region}: {why}"));
            }
            self.say(line);
            for message in votes {
                if self.table.admit(&message) == Verdict::Step {
                    let replica = self.table.get_mut(region).expect("it has begun");
                    let what = replica.step(now, message).map_or_else(|why| why.name(), |()| "taken");
                    self.say(format!("{region}: an early vote is {what}"));
                }
            }
        }
    }

    /// Makes a snapshot for every follower of a region that wants one.
    pub(crate) fn snapshot(&mut self, id: RegionId, shipped: &mut Shipped) {
        let wanted: Vec<_> = self.wanted.extract_if(.., |(region, _)| *region == id).collect();
        for (_, wanted) in wanted {
            let Some(replica) = self.table.get_mut(id) else { return };
            let index = replica.applied_index();
            let last = LogId { term: replica.term_at(index).unwrap_or(Term(0)), index };
            let region = replica.region().clone();
            shipped.insert((id, last), self.tree.of(&region));
            if let Err(refusal) = replica.send_snapshot(&wanted, last, &region) {
                self.say(refusal.to_string());
            }
        }
    }

    pub(crate) fn fail_snapshots(&mut self, id: RegionId) {
        for (region, wanted) in std::mem::take(&mut self.wanted) {
            if let Some(replica) = self.table.get_mut(region)
                && region == id
            {
                replica.report_snapshot(&wanted, SnapshotReport::Failed);
            }
        }
    }
}

fn is_step(entry: &Entry) -> bool {
    entry.payload.first() == Some(&merge::KIND)
}

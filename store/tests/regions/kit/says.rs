//! What a store in memory says: answers, and what is new about its regions. The scripts compare it word by word.

use raft::{AppendOutcome, Time};
use scheduler::RegionId;
use store::refusal::Refusal;
use store::region::life::Life;
use store::region::message::{Body, PeerMessage};

use super::Store;

impl Store {
    pub(super) fn answer(&mut self, answers: Vec<(String, Result<(), Refusal>)>) {
        for (waiter, outcome) in answers {
            let line = outcome.map_or_else(|refusal| show(&refusal), |()| "done".to_owned());
            self.say(format!("{waiter}: {line}"));
        }
    }

    /// Says what is new about a region's role, life and descriptor.
    pub(super) fn notice(&mut self, id: RegionId) {
        let Some(replica) = self.table.get(id) else { return };
        let role = match (replica.life(), replica.is_leader()) {
            (Life::Live, true) => format!("leads in term {}", replica.term()),
            (Life::Live, false) => "follows".to_owned(),
            (life, _) => life.to_string(),
        };
        let region = replica.region();
        let peers: Vec<String> = region.peers.iter().map(ToString::to_string).collect();
        let now = format!("{role} {} {}", region.epoch, peers.join(" "));
        let before = self.seen.insert(id, now.clone());
        if before.is_some_and(|before| before != now) {
            self.say(format!("{id} {now}"));
        }
    }

    pub(crate) fn say(&mut self, text: impl AsRef<str>) {
        self.said.push(format!("{}: {}", self.id.0, text.as_ref()));
    }

    pub(crate) fn status(&self, id: RegionId, now: Time) -> String {
        if let Some(record) = self.table.tombstone(id) {
            return format!("{id} tombstone of peer {} {}", record.me, record.region.epoch);
        }
        let Some(replica) = self.table.get(id) else { return format!("{id} absent") };
        let status = replica.status(now);
        format!(
            "{id} {} {:?} t{} last {} durable {} commit {} applied {} {} in flight {} bytes{}",
            replica.life(),
            status.role,
            status.term,
            status.last,
            status.stable,
            status.committed,
            status.applied,
            replica.region(),
            replica.inflight_bytes(),
            if replica.is_asleep() { " asleep" } else { "" }
        )
    }
}

/// A refusal in a word or two.
pub(crate) fn show(refusal: &Refusal) -> String {
    match refusal {
        Refusal::NotLeader { leader, .. } => {
            leader.map_or_else(|| "NotLeader".to_owned(), |leader| format!("NotLeader, {leader} is"))
        }
        Refusal::EpochNotMatch { current } => {
            let epochs: Vec<String> = current.iter().map(|region| region.epoch.to_string()).collect();
            format!("EpochNotMatch, now {}", epochs.join(" "))
        }
        Refusal::Busy { reason, .. } => format!("Busy, {reason}"),
        Refusal::KeyNotInRegion { .. } => "KeyNotInRegion".to_owned(),
        other => format!("{other:?}"),
    }
}

/// One line per message, with what matters to regions; `raft`'s own scripts show the rest.
pub(crate) fn show_message(message: &PeerMessage) -> String {
    let way = format!("{}>{} r{}", message.from.store.0, message.to.store.0, message.region.0);
    let Body::Raft(inner) = &message.body else { return format!("{way} removed {}", message.epoch) };
    let detail = match &inner.body {
        raft::Body::Append { prev, entries, commit } => {
            format!(" after {} +{} commit {commit}", prev.index, entries.len())
        }
        raft::Body::AppendReply(AppendOutcome::Matched(index)) => format!(" matched {index}"),
        raft::Body::AppendReply(AppendOutcome::Conflict { .. }) => " conflict".to_owned(),
        raft::Body::AppendReply(AppendOutcome::Blank { .. }) => " blank".to_owned(),
        raft::Body::Heartbeat(beat) => {
            format!(" commit {}{}", beat.commit, if beat.quiet { " quiet" } else { "" })
        }
        raft::Body::HeartbeatReply { round: _, quiet: true } => " quiet".to_owned(),
        raft::Body::Snapshot(snapshot) => format!(" {}", snapshot.last),
        raft::Body::PreVoteReply(answer) | raft::Body::VoteReply(answer) => {
            if answer.granted {
                " yes".to_owned()
            } else {
                " no".to_owned()
            }
        }
        raft::Body::ReadIndexReply { id: _, index } => {
            index.map_or(" none".to_owned(), |index| format!(" {index}"))
        }
        raft::Body::PreVote(_)
        | raft::Body::Vote(_)
        | raft::Body::HeartbeatReply { round: _, quiet: false }
        | raft::Body::TransferRequest { .. }
        | raft::Body::TimeoutNow { .. }
        | raft::Body::ReadIndex { .. }
        | raft::Body::Stale => String::new(),
    };
    format!("{way} t{} {}{detail}", inner.term, inner.body.name())
}

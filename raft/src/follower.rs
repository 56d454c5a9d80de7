//! What a member does at the word of its leader: take entries, commit, install a snapshot. Also whom it votes for.
//!
//! A candidate or a leader of an older term gets here after it became a follower, so these rules exist once.

use crate::core::{Core, Install};
use crate::entry::Entry;
use crate::error::Dropped;
use crate::id::{Index, LogId, NodeId, Term};
use crate::log::Offer;
use crate::message::{AppendOutcome, Beat, Body, Snapshot, VoteAnswer, VoteAsk};
use crate::planted;

/// Entries after `prev` (paper, 5.3).
pub(crate) fn on_append(
    core: &mut Core,
    from: NodeId,
    prev: LogId,
    entries: Vec<Entry>,
    commit: Index,
) -> Result<(), Dropped> {
    validate(core.term, prev, &entries)?;
    if core.membership.is_empty() {
        // The log alone would leave this member without the group's first membership.
        core.send_durable(from, Body::AppendReply(AppendOutcome::Blank { refused: prev.index }));
        return Ok(());
    }
    let committed = core.log.committed();
    if prev.index < committed && entries.last().is_none_or(|last| last.index <= committed) {
        // Late: everything in it is decided already.
        core.send_durable(from, Body::AppendReply(AppendOutcome::Matched(committed)));
        return Ok(());
    }
    // A prefix below the commit index agrees by leader completeness, even where the base hides its term.
    let unchecked = planted!(AppendSkipsPrevCheck) && prev.index <= core.log.last();
    let known = prev.index < core.log.base().index || core.log.holds(prev) || unchecked;
    if !known {
        let hint = core.log.agree_at_most(prev).max(core.log.committed_id());
        let lost = core.is_suspect();
        core.send_durable(
            from,
            Body::AppendReply(AppendOutcome::Conflict { refused: prev.index, hint, lost }),
        );
        return Ok(());
    }
    let matched = entries.last().map_or(prev.index, |last| last.index);
    let base = core.log.base().index;
    let entries = if prev.index < base { not_below(entries, base) } else { entries };
    if planted!(TruncateOnEveryAppend) && prev.index >= core.log.committed() {
        core.log.cut_after(prev.index, core.next_write());
    }
    if core.log.offer(entries, core.next_write()) == Offer::AgainstCommitted {
        return Err(Dropped::AgainstCommitted { committed });
    }
    core.log.commit_to(commit.min(matched));
    core.send_durable(from, Body::AppendReply(AppendOutcome::Matched(matched.max(base))));
    Ok(())
}

/// Leaves out what was cut off here, but keeps the entry at `base`: it proves that the rest fits.
fn not_below(mut entries: Vec<Entry>, base: Index) -> Vec<Entry> {
    entries.retain(|entry| entry.index >= base);
    entries
}

/// Entries must be contiguous after `prev`, with terms that never go back and never exceed the sender's.
pub(crate) fn validate(term: Term, prev: LogId, entries: &[Entry]) -> Result<(), Dropped> {
    let mut last = prev;
    if prev.index >= Index::LIMIT || (prev.index.0 == 0) != (prev.term.0 == 0) {
        return Err(Dropped::AbsurdNumber);
    }
    for entry in entries {
        if entry.index != last.index.next() || entry.term < last.term || entry.term.0 == 0 {
            return Err(Dropped::MalformedEntries);
        }
        last = entry.id();
    }
    if last.term > term || last.index >= Index::LIMIT { Err(Dropped::MalformedEntries) } else { Ok(()) }
}

/// The leader is alive.
pub(crate) fn on_heartbeat(core: &mut Core, from: NodeId, beat: Beat) -> Result<(), Dropped> {
    if core.promise.term == core.term {
        core.promise.fence = core.promise.fence.max(beat.fence);
    }
    core.heard_fence(beat.fence);
    let quiet = beat.quiet && core.is_at_rest() && core.log.last() == beat.commit;
    core.asleep = quiet;
    let result = if beat.commit <= core.log.last() {
        core.log.commit_to(beat.commit);
        Ok(())
    } else {
        if core.is_suspect() {
            // The leader will not send these again unless it is asked to.
            let hint = core.log.last_id();
            let outcome = AppendOutcome::Conflict { refused: beat.commit, hint, lost: true };
            core.send_durable(from, Body::AppendReply(outcome));
            Err(Dropped::BeyondDoubt { last: core.log.last_id() })
        } else {
            Err(Dropped::BeyondLog { last: core.log.last_id() })
        }
    };
    core.reply(from, Body::HeartbeatReply { round: beat.round, quiet });
    result
}

/// The state at an index, complete in the driver's hands.
pub(crate) fn on_snapshot(core: &mut Core, from: NodeId, snapshot: Box<Snapshot>) -> Result<(), Dropped> {
    let last = snapshot.last;
    let plausible =
        last.index.0 > 0 && last.term.0 > 0 && last.term <= core.term && last.index < Index::LIMIT;
    if !plausible || snapshot.membership.is_empty() || snapshot.membership.validate().is_err() {
        return Err(Dropped::MalformedSnapshot);
    }
    let committed = core.log.committed();
    if last.index <= committed && !planted!(SnapshotBelowCommitInstalled) {
        core.send_durable(from, Body::AppendReply(AppendOutcome::Matched(committed)));
        return Err(Dropped::OldSnapshot);
    }
    if core.log.holds(last) && !planted!(SnapshotBelowCommitInstalled) {
        // The log already leads there: committing is enough, and matched entries above stay.
        core.log.commit_to(last.index);
        core.send_durable(from, Body::AppendReply(AppendOutcome::Matched(last.index)));
        return Ok(());
    }
    if !snapshot.membership.contains(core.me()) {
        return Err(Dropped::NotInSnapshot);
    }
    core.log.restore(last, core.next_write());
    if !planted!(SnapshotKeepsOldMembership) {
        core.membership.clone_from(&snapshot.membership);
    }
    core.install = Install::Wanted(snapshot);
    core.send_durable(from, Body::AppendReply(AppendOutcome::Matched(last.index)));
    Ok(())
}

/// Whether the candidate's log and priority deserve a vote (paper, 5.4.1).
fn deserves(core: &Core, ask: &VoteAsk) -> bool {
    let mine = core.log.last_id();
    // A lower priority concedes nothing but a tie: a log that is strictly ahead must be able to win.
    ask.last > mine
        || (ask.last == mine && (ask.forced.is_some() || ask.priority >= core.identity.priority))
        || planted!(VoteIgnoresLog)
}

/// "Would you vote for me in `term`?" Changes no timer, no term and no vote.
pub(crate) fn on_pre_vote(core: &mut Core, from: NodeId, term: Term, ask: VoteAsk) {
    core.learn_commit(ask.commit);
    let commit = core.log.committed_id();
    if term > core.term && !core.withholds_vote() && deserves(core, &ask) {
        core.send_in_term(from, term, Body::PreVoteReply(VoteAnswer { granted: true, commit }));
    } else {
        // The refusal carries our own term, which frees a candidate that is behind.
        core.reply(from, Body::PreVoteReply(VoteAnswer { granted: false, commit }));
    }
}

/// "Vote for me", in the current term.
pub(crate) fn on_vote(core: &mut Core, from: NodeId, ask: VoteAsk) {
    core.learn_commit(ask.commit);
    let free = match core.vote {
        Some(voted) => voted == from || planted!(VoteTwice),
        None => core.leader.is_none(),
    };
    let granted = free && !core.withholds_vote() && deserves(core, &ask);
    if granted {
        core.cast_vote(from);
        core.reset_timer();
    }
    let commit = core.log.committed_id();
    core.send_durable(from, Body::VoteReply(VoteAnswer { granted, commit }));
}

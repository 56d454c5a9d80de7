//! Scenarios as text: `tests/scripts/*.txt`, one rule each.
//!
//! A script is a comment that says what it shows, then blocks: commands, a line `---`, and what happened. Nothing moves
//! by itself: messages wait in one queue until `deliver`, disks are instant unless `hold`. Run with
//! `RINGKEEP_REWRITE=1` to write what happened into the scripts, and read the difference before you keep it.
//!
//! | command | meaning |
//! |---|---|
//! | `group VOTERS [learn IDS] [options]` | starts a group; options: `pre-vote check-quorum lease=N quiet=N window=N uncommitted=N priority=ID:N` |
//! | `log ID TERMS [commit=N] [term=N]` | restarts a member with a stored log |
//! | `campaign ID`, `tick ID [N]`, `propose ID TEXT`, `transfer ID TARGET`, `read ID`, `lease ID`, `forget ID`, `wake ID`, `suspect ID` | inputs |
//! | `change ID add N \| learn N \| remove N \| leave`, several joined by `+` for a joint change, `explicit` before them for one that does not end by itself | a membership change |
//! | `deliver [FROM>TO]`, `lose [FROM>TO]`, `keep FROM>TO`, `replay` | deliver or lose what waits; put messages aside, bring them back |
//! | `copy FROM>TO` | put copies aside |
//! | `hold ID` / `write-one ID` / `write ID`, `hold-apply ID` / `apply-one ID` / `apply ID` | stop a disk or a state machine / let it catch up |
//! | `crash ID`, `restart ID [suspect=N]`, `flush ID`, `compact ID`, `clock N` | losing what was not written, and a member that is alone as far as is stored owes no other member a vote; making what is applied durable; cutting the log below it; nanoseconds pass |
//! | `snapshot-failed ID TO [N]`, `snapshot-sent ID TO [N]` | reports the Nth snapshot that was asked for, else the last, as lost or delivered |
//! | `resign ID`, `unreachable ID TO` | a leader steps down; its driver cannot reach a node |
//! | `status [ID]` | prints the state |

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::Path;

use raft::{
    AppendOutcome, Body, ChangeStep, Config, EntryKind, Event, HardState, Index, LogId, Membership,
    MembershipChange, Message, NodeId, Raft, ReadOutcome, RoleKind, SnapshotReport, Term, Time, Transition,
    Write,
};

use crate::kit::{Peer, State, course, entry};
use crate::play;

/// A member: the kit's peer, whose disk and state machine can be stopped.
struct Member {
    peer: Peer,
    hold: bool,
    writes: VecDeque<Write>,
    /// The role last reported.
    role: RoleKind,
}

struct Stage {
    config: Config,
    members: BTreeMap<u64, Member>,
    down: BTreeSet<u64>,
    queue: VecDeque<Message>,
    aside: Vec<Message>,
    now: Time,
    out: String,
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("not a number: {word}"))
}

fn ids(word: &str) -> Vec<u64> {
    word.split(',').map(number).collect()
}

fn option(words: &[&str], name: &str) -> Option<u64> {
    words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('=').map(number))
}

impl Stage {
    fn new() -> Self {
        Self {
            config: course(),
            members: BTreeMap::new(),
            down: BTreeSet::new(),
            queue: VecDeque::new(),
            aside: Vec::new(),
            now: Time(0),
            out: String::new(),
        }
    }

    fn say(&mut self, text: impl AsRef<str>) {
        writeln!(self.out, "{}", text.as_ref()).expect("writing to a string");
    }

    fn member(&mut self, id: u64) -> &mut Member {
        self.members.get_mut(&id).unwrap_or_else(|| panic!("no member {id}"))
    }

    fn raft(&mut self, id: u64) -> &mut Raft {
        &mut self.member(id).peer.raft
    }

    fn run(&mut self, line: &str) {
        let words: Vec<_> = line.split_whitespace().collect();
        let id = words.get(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let now = self.now;
        match words[0] {
            "group" => return self.group(&words[1..]),
            "log" => return self.stored(id, &words[2..]),
            "campaign" => self.input(id, |raft| raft.campaign(now).map_err(|refusal| refusal.to_string())),
            "tick" => (0..words.get(2).map_or(1, |n| number(n))).for_each(|_| {
                self.raft(id).tick(now);
                self.settle(id);
            }),
            "propose" => {
                let text = words[2..].join(" ");
                self.input(id, |raft| {
                    raft.propose(text.as_str().into()).map(drop).map_err(|r| r.to_string())
                });
            }
            "change" => {
                let change = change(&words[2..].join(" "));
                self.input(id, |raft| raft.propose_change(&change).map(drop).map_err(|r| r.to_string()));
            }
            "transfer" => {
                let target = NodeId(number(words[2]));
                self.input(id, |raft| raft.transfer(target).map_err(|refusal| refusal.to_string()));
            }
            "read" => self.input(id, |raft| raft.read_index().map(drop).map_err(|r| r.to_string())),
            "lease" => {
                let text = match self.raft(id).lease_read(now) {
                    Ok(index) => format!("{id}: lease read at {index}"),
                    Err(refusal) => format!("{id}: {refusal}"),
                };
                self.say(text);
            }
            "forget" => self.raft(id).forget_leader(now),
            "resign" => self.input(id, |raft| raft.resign(now).map_err(|refusal| refusal.to_string())),
            "unreachable" => self.raft(id).report_unreachable(NodeId(number(words[2]))),
            "wake" => drop(self.raft(id).wake()),
            "suspect" => drop(self.raft(id).suspect_leader(now)),
            "deliver" => return self.deliver(words.get(1).copied(), false),
            "lose" => return self.deliver(words.get(1).copied(), true),
            "keep" => return self.keep(words[1]),
            "replay" => {
                let aside = std::mem::take(&mut self.aside);
                return self.queue.extend(aside);
            }
            "hold" => self.member(id).hold = true,
            "hold-apply" => self.member(id).peer.lags = true,
            "write" => self.member(id).hold = false,
            "write-one" => {
                let member = self.member(id);
                let write = member.writes.pop_front().expect("a write in flight");
                let sent = member.peer.complete(write);
                self.queue.extend(sent);
            }
            "copy" => {
                let (from, to) = words[1].split_once('>').expect("FROM>TO");
                let waiting = self.queue.iter();
                let copies =
                    waiting.filter(|message| message.from.0 == number(from) && message.to.0 == number(to));
                self.aside.extend(copies.cloned().collect::<Vec<_>>());
            }
            "apply-one" => assert!(self.member(id).peer.apply_one(), "nothing to apply"),
            "apply" => self.member(id).peer.lags = false,
            "flush" => self.member(id).peer.flush(),
            "crash" => return self.crash(id),
            "restart" => self.restart(id, option(&words, "suspect").unwrap_or(0)),
            "compact" => self.member(id).peer.compact(),
            "clock" => self.now = self.now.after(id),
            "snapshot-failed" => self.report(id, &words[2..], SnapshotReport::Failed),
            "snapshot-sent" => self.report(id, &words[2..], SnapshotReport::Sent),
            "status" => return self.status(id),
            other => panic!("unknown command {other}"),
        }
        if self.members.contains_key(&id) && !self.down.contains(&id) {
            self.settle(id);
        }
    }

    fn group(&mut self, words: &[&str]) {
        let voters = ids(words[0]);
        let learners =
            words.iter().position(|word| *word == "learn").map_or_else(Vec::new, |at| ids(words[at + 1]));
        self.config = Config {
            pre_vote: words.contains(&"pre-vote"),
            check_quorum: words.contains(&"check-quorum"),
            lease_nanos: option(words, "lease").unwrap_or(0),
            quiet_after_ticks: option(words, "quiet").unwrap_or(0) as u32,
            inflight_messages_max: option(words, "window").unwrap_or(256) as usize,
            message_bytes_max: option(words, "window").map_or(1 << 20, |_| 1),
            entry_bytes_max: option(words, "uncommitted").unwrap_or(1 << 20),
            uncommitted_bytes_max: option(words, "uncommitted").unwrap_or(1 << 20),
            snapshot_ticks_max: 20,
            ..course()
        };
        self.config.validate().expect("a sound configuration");
        let membership = Membership::with_learners(
            voters.iter().map(|id| NodeId(*id)),
            learners.iter().map(|id| NodeId(*id)),
        );
        for id in voters.into_iter().chain(learners) {
            let stored = State { last: LogId::ZERO, membership: membership.clone() };
            self.start(id, stored, LogId::ZERO, Vec::new(), HardState::default(), 0);
        }
        for word in words.iter().filter_map(|word| word.strip_prefix("priority=")) {
            let (id, priority) = word.split_once(':').expect("priority=ID:N");
            self.raft(number(id)).set_priority(number(priority) as u32);
        }
    }

    fn stored(&mut self, id: u64, words: &[&str]) {
        let terms = if words[0] == "-" { Vec::new() } else { ids(words[0]) };
        let log: Vec<_> = (1..).zip(&terms).map(|(index, term)| entry(*term, index, "")).collect();
        let term = option(words, "term").or(terms.last().copied()).unwrap_or(0);
        let hard =
            HardState { term: Term(term), vote: None, commit: Index(option(words, "commit").unwrap_or(0)) };
        let membership = self.raft(id).membership().clone();
        let stored = State { last: LogId::ZERO, membership };
        self.start(id, stored, LogId::ZERO, log, hard, 0);
        self.settle(id);
    }

    fn start(
        &mut self,
        id: u64,
        stored: State,
        base: LogId,
        log: Vec<raft::Entry>,
        hard: HardState,
        suspect: u64,
    ) {
        let mut peer =
            Peer::restart_from((&self.config, self.now), id, stored, base, log, hard, Index(suspect));
        peer.now = self.now;
        let member = Member { peer, hold: false, writes: VecDeque::new(), role: RoleKind::Follower };
        self.members.insert(id, member);
    }

    fn input(&mut self, id: u64, input: impl FnOnce(&mut Raft) -> Result<(), String>) {
        if let Err(refusal) = input(self.raft(id)) {
            self.say(format!("{id}: {refusal}"));
        }
    }

    /// Reports on a snapshot that was asked for: the Nth, else the last.
    fn report(&mut self, id: u64, words: &[&str], report: SnapshotReport) {
        let peer = &mut self.member(id).peer;
        let mut wanted = peer.wanted.iter().filter(|wanted| wanted.to.0 == number(words[0]));
        let wanted = match words.get(1) {
            Some(nth) => wanted.nth(number(nth) as usize - 1),
            None => wanted.next_back(),
        };
        let wanted = *wanted.expect("a snapshot that was asked for");
        peer.raft.report_snapshot(&wanted, report);
    }

    /// Collects what a member has to do, and does as much as is allowed.
    fn settle(&mut self, id: u64) {
        let member = self.member(id);
        let mut sent = Vec::new();
        loop {
            if member.peer.raft.has_ready() {
                let (messages, write) = member.peer.take_ready();
                sent.extend(messages);
                member.writes.extend(write);
            } else if !member.hold
                && let Some(write) = member.writes.pop_front()
            {
                sent.extend(member.peer.complete(write));
            } else if member.peer.lags || !member.peer.apply_one() {
                break;
            }
        }
        let (reads, events) =
            (std::mem::take(&mut member.peer.reads), std::mem::take(&mut member.peer.events));
        let (now_role, term) = (member.peer.raft.role(), member.peer.raft.term());
        if std::mem::replace(&mut member.role, now_role) != now_role {
            self.say(format!("{id}: {now_role:?} in term {term}"));
        }
        for read in reads {
            self.say(match read {
                ReadOutcome::Ready { index, .. } => format!("{id}: read at {index}"),
                ReadOutcome::Failed { .. } => format!("{id}: read failed"),
            });
        }
        for event in events {
            self.say(match event {
                Event::Transfer { target, outcome } => format!("{id}: transfer to {target}: {outcome:?}"),
                Event::CaughtUp { learner, matched } => {
                    format!("{id}: learner {learner} has caught up at {matched}")
                }
            });
        }
        self.queue.extend(sent);
    }

    fn deliver(&mut self, link: Option<&str>, lose: bool) {
        let wanted = |message: &Message| {
            link.is_none_or(|link| {
                let (from, to) = link.split_once('>').expect("FROM>TO");
                (from == "*" || number(from) == message.from.0) && (to == "*" || number(to) == message.to.0)
            })
        };
        for _ in 0..500 {
            let Some(at) = self.queue.iter().position(wanted) else { return };
            let message = self.queue.remove(at).expect("a message");
            let text = show(&message);
            let to = message.to.0;
            if lose || self.down.contains(&to) || !self.members.contains_key(&to) {
                self.say(format!("{text}  (lost)"));
                continue;
            }
            let now = self.now;
            let result = self.raft(to).step(now, message);
            let note = result.err().map_or_else(String::new, |dropped| format!("  ({})", dropped.name()));
            self.say(format!("{text}{note}"));
            self.settle(to);
        }
        panic!("the members talk for ever");
    }

    fn keep(&mut self, link: &str) {
        let (from, to) = link.split_once('>').expect("FROM>TO");
        let (aside, rest): (VecDeque<_>, _) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|message: &Message| message.from.0 == number(from) && message.to.0 == number(to));
        self.queue = rest;
        self.aside.extend(aside);
    }

    fn crash(&mut self, id: u64) {
        self.down.insert(id);
        let member = self.member(id);
        let lost = member.writes.len();
        member.writes.clear();
        member.peer.pending.clear();
        self.say(format!("{id}: down, {lost} writes lost"));
    }

    fn restart(&mut self, id: u64, suspect: u64) {
        self.down.remove(&id);
        let peer = &self.members[&id].peer;
        let (stored, base, log, hard) = (peer.stored.clone(), peer.base, peer.log.clone(), peer.hard);
        self.start(id, stored, base, log, hard, suspect);
        let raft = self.raft(id);
        let membership = raft.membership();
        if membership.voters == [NodeId(id)] && membership.outgoing().is_empty() {
            // As a driver does that takes its member for the only voter.
            raft.forget_promise();
        }
    }

    fn status(&mut self, only: u64) {
        let now = self.now;
        let lines: Vec<_> = self
            .members
            .iter()
            .filter(|(id, _)| (only == 0 || only == **id) && !self.down.contains(id))
            .map(|(id, member)| {
                let status = member.peer.raft.status(now);
                let mut line = format!(
                    "{id}: {:?} t{} last {} durable {} commit {} applied {} {}",
                    status.role,
                    status.term,
                    status.last,
                    status.stable,
                    status.committed,
                    status.applied,
                    status.membership
                );
                if status.asleep {
                    line += " asleep";
                }
                if status.suspect {
                    line += " suspect";
                }
                if status.stalled_ticks > 0 {
                    write!(line, " stalled {}", status.stalled_ticks).expect("writing to a string");
                }
                for other in status.members.iter().filter(|other| other.id.0 != *id) {
                    write!(
                        line,
                        "\n   {} match {} next {} {:?}",
                        other.id, other.matched, other.next, other.mode
                    )
                    .expect("writing to a string");
                }
                line
            })
            .collect();
        lines.into_iter().for_each(|line| self.say(line));
    }
}

fn change(text: &str) -> MembershipChange {
    if text == "leave" {
        return MembershipChange::leave_joint();
    }
    let (text, explicit) = match text.strip_prefix("explicit ") {
        Some(steps) => (steps, true),
        None => (text, false),
    };
    let steps: Vec<_> = text
        .split('+')
        .map(|step| {
            let (verb, id) = step.trim().split_once(' ').expect("a verb and a node");
            let id = NodeId(number(id));
            match verb {
                "add" => ChangeStep::AddVoter(id),
                "learn" => ChangeStep::AddLearner(id),
                "remove" => ChangeStep::Remove(id),
                _ => panic!("unknown step {step}"),
            }
        })
        .collect();
    let transition = match (explicit, steps.len()) {
        (true, _) => Transition::JointExplicit,
        (false, 0 | 1) => Transition::Auto,
        (false, _) => Transition::Joint,
    };
    MembershipChange::many(steps, transition)
}

/// One line per message, with what matters in it.
fn show(message: &Message) -> String {
    let detail = match &message.body {
        Body::PreVote(ask) | Body::Vote(ask) => {
            let forced = if ask.forced.is_some() { " forced" } else { "" };
            format!(" last {} commit {}{forced}", ask.last, ask.commit)
        }
        Body::PreVoteReply(answer) | Body::VoteReply(answer) => {
            format!(" {}", if answer.granted { "yes" } else { "no" })
        }
        Body::Append { prev, entries, commit } => {
            let list: Vec<_> = entries
                .iter()
                .map(|entry| match entry.kind {
                    EntryKind::Membership => format!("{}:change", entry.id()),
                    EntryKind::Normal if entry.payload.is_empty() => entry.id().to_string(),
                    EntryKind::Normal => {
                        format!("{}:{}", entry.id(), String::from_utf8_lossy(&entry.payload))
                    }
                })
                .collect();
            format!(" after {prev} [{}] commit {commit}", list.join(" "))
        }
        Body::AppendReply(AppendOutcome::Matched(index)) => format!(" matched {index}"),
        Body::AppendReply(AppendOutcome::Conflict { refused, hint, lost }) => {
            format!(" conflict at {refused} hint {hint}{}", if *lost { " lost" } else { "" })
        }
        Body::AppendReply(AppendOutcome::Blank { refused }) => format!(" blank at {refused}"),
        Body::Heartbeat(beat) => {
            let quiet = if beat.quiet { " quiet" } else { "" };
            format!(" round {} commit {} fence {}{quiet}", beat.round, beat.commit, beat.fence)
        }
        Body::HeartbeatReply { round, quiet } => {
            format!(" round {round}{}", if *quiet { " quiet" } else { "" })
        }
        Body::Snapshot(snapshot) => format!(" {} {}", snapshot.last, snapshot.membership),
        Body::TransferRequest { target } => format!(" to {target}"),
        Body::TimeoutNow { fence } => format!(" fence {fence}"),
        Body::ReadIndex { .. } | Body::Stale => String::new(),
        Body::ReadIndexReply { index, .. } => index.map_or(" none".to_owned(), |index| format!(" {index}")),
    };
    format!("{}>{} t{} {}{detail}", message.from, message.to, message.term, message.body.name())
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

impl play::Stage for Stage {
    fn run(&mut self, line: &str) {
        Self::run(self, line);
    }

    fn take_said(&mut self) -> String {
        std::mem::take(&mut self.out)
    }
}

#[test]
fn scripts_show_what_happens() {
    play::play_all::<Stage>(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts"), 30);
}

//! Messages and entries in one line, and what a test asks of the messages that a replica sent.

use raft::{
    AppendOutcome, Beat, Body, Entry, EntryKind, GroupId, Index, LogId, Message, NodeId, Term, VoteAnswer,
    VoteAsk,
};

pub(crate) fn entry(term: u64, index: u64, text: &str) -> Entry {
    Entry { term: Term(term), index: Index(index), kind: EntryKind::Normal, payload: text.into() }
}

pub(crate) fn message(from: u64, to: u64, term: u64, body: Body) -> Message {
    Message { group: GroupId(1), from: NodeId(from), to: NodeId(to), term: Term(term), body }
}

/// `prev` is (term, index), as everywhere in these tests.
pub(crate) fn append(
    from: u64,
    to: u64,
    term: u64,
    prev: (u64, u64),
    entries: Vec<Entry>,
    commit: u64,
) -> Message {
    let body = Body::Append { prev: LogId::new(prev.0, prev.1), entries, commit: Index(commit) };
    message(from, to, term, body)
}

pub(crate) fn matched(from: u64, to: u64, term: u64, index: u64) -> Message {
    message(from, to, term, Body::AppendReply(AppendOutcome::Matched(Index(index))))
}

pub(crate) fn heartbeat(from: u64, to: u64, term: u64, commit: u64) -> Message {
    message(from, to, term, Body::Heartbeat(Beat { commit: Index(commit), round: 1, fence: 0, quiet: false }))
}

pub(crate) fn vote(from: u64, to: u64, term: u64, last: (u64, u64)) -> Message {
    let ask = VoteAsk { last: LogId::new(last.0, last.1), commit: LogId::ZERO, priority: 0, forced: None };
    message(from, to, term, Body::Vote(ask))
}

pub(crate) fn vote_reply(from: u64, to: u64, term: u64, granted: bool) -> Message {
    message(from, to, term, Body::VoteReply(VoteAnswer { granted, commit: LogId::ZERO }))
}

pub(crate) fn timeout_now(from: u64, to: u64, term: u64) -> Message {
    message(from, to, term, Body::TimeoutNow { fence: 0 })
}

/// Whether the vote in these messages was granted.
pub(crate) fn granted(messages: &[Message]) -> bool {
    let answers: Vec<_> = messages
        .iter()
        .filter_map(|message| match &message.body {
            Body::VoteReply(answer) => Some(answer.granted),
            _ => None,
        })
        .collect();
    assert_eq!(answers.len(), 1, "one answer: {messages:?}");
    answers[0]
}

/// The outcome of the append in these messages.
pub(crate) fn outcome(messages: &[Message]) -> AppendOutcome {
    let found = messages.iter().find_map(|message| match &message.body {
        Body::AppendReply(outcome) => Some(*outcome),
        _ => None,
    });
    found.expect("an append reply")
}

pub(crate) fn rejected(messages: &[Message]) -> bool {
    matches!(outcome(messages), AppendOutcome::Conflict { .. })
}

/// The messages of one name.
pub(crate) fn named<'a>(messages: &'a [Message], name: &str) -> Vec<&'a Message> {
    messages.iter().filter(|message| message.body.name() == name).collect()
}

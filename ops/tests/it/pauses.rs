//! Loops on a core of data: one over what a client has sent pauses, or is listed here with what bounds it.
//!
//! Looked at are the `for` loops of async code in the folders that clients' requests pass through. Those that wait for events (`loop`,
//! `while`) and those of code that cannot wait are not: the latter are bounded by what admits a request, and are paused around.

use crate::code::{Code, is_word, production, with};
use crate::tidy::assert_none;

/// What carries clients' requests on a core of data.
const FOLDERS: [&str; 3] = ["store/src/wire", "store/src/shard", "store/src/gateway"];

/// How async code begins.
const ASYNC: [&str; 5] = ["async fn ", "async{", "async move{", "async|", "async move|"];

/// A loop that does not pause by itself.
struct Audited {
    path: &'static str,
    /// As the compiler reads it.
    head: &'static str,
    bound: &'static str,
}

const fn audited(path: &'static str, head: &'static str, bound: &'static str) -> Audited {
    Audited { path, head, bound }
}

const AUDITED: &[Audited] = &[
    audited(
        "store/src/gateway/dispatch.rs",
        "for message in batches.drain(..).flatten()",
        "64 batches, each of one slice of another core, which took longer to make than it takes to hand on",
    ),
    audited(
        "store/src/gateway/join.rs",
        "for(pending,())in parts",
        "the regions of one command, each of which is waited for",
    ),
    audited(
        "store/src/gateway/join.rs",
        "for(pending,positions)in parts",
        "the regions of one command, each of which is waited for",
    ),
    audited(
        "store/src/gateway/locate.rs",
        "for located in answer.flatten().unwrap_or_default()",
        "the regions that one answer of the scheduler has",
    ),
    audited(
        "store/src/shard/installing.rs",
        "for group in groups",
        "the groups of a store, once at its start",
    ),
    audited(
        "store/src/shard/open.rs",
        "for group in installing::finish(&self.inner.log,&self.inner.tree,&groups).await?",
        "the groups of a store, once at its start",
    ),
    audited("store/src/shard/open.rs", "for region in regions", "the first regions, once in a store's life"),
    audited(
        "store/src/shard/remembered.rs",
        "for fault in examine(rt,dir).await?",
        "damaged files of a store",
    ),
    audited(
        "store/src/shard/remembered.rs",
        "for fault in inner.tree.check_tables().await",
        "damaged files of a store",
    ),
    audited("store/src/shard/remembered.rs", "for item in items", "damaged files of a store"),
    audited(
        "store/src/shard/remembered.rs",
        "for item in items.into_iter().filter(|item|item.file.stops)",
        "damaged files of a store",
    ),
    audited("store/src/shard/members.rs", "for(region,index)in whole", "for simulated runs only"),
    audited("store/src/shard/restart.rs", "for(group,entry)in piece", "one piece of the log"),
    audited("store/src/shard/shipping.rs", "for cf in families", "the families of a tree"),
    audited(
        "store/src/shard/space.rs",
        "for(part,fault)in[(Waits::Log,inner.log.lacks()),(Waits::Tree,inner.tree.lacks())]",
        "two",
    ),
    audited(
        "store/src/shard/staging.rs",
        "for name in rt.read_dir(&dir).await.map_err(|e|Fault::io(&dir,,&e))?",
        "files that a crash has left, each of which the disk removes",
    ),
    audited(
        "store/src/shard/staging.rs",
        "for path in paths",
        "files of a snapshot, each of which the disk removes",
    ),
    audited("store/src/shard/staging.rs", "for way in[Way::Out,Way::In]", "two"),
    audited(
        "store/src/shard/turn.rs",
        "for Committed{region,peer,entries}in committed",
        "groups of a store, which pause while they apply",
    ),
    audited("store/src/shard/turn.rs", "for part in parts", "parts of a turn, each of which the disk writes"),
    audited(
        "store/src/shard/turn.rs",
        "for group in behind",
        "groups of a store, which pause while they apply",
    ),
    audited(
        "store/src/shard/upkeep.rs",
        "for Cut{region,peer:_,base}in&cuts",
        "groups of a store, once a second",
    ),
    audited(
        "store/src/shard/upkeep.rs",
        "for Cut{region,peer,base}in cuts",
        "groups of a store, once a second",
    ),
    audited(
        "store/src/shard/upkeep.rs",
        "for store in inner.outbox.take_unreachable()",
        "the other stores of the cluster",
    ),
    audited("store/src/wire/grpc/client.rs", "for(name,value)in metadata", "what our own calls name"),
    audited(
        "store/src/wire/pd/client.rs",
        "for addr in addrs",
        "addresses of one host name, each of which is dialled",
    ),
    audited(
        "store/src/wire/pd/client.rs",
        "for place in self.places.list()",
        "nodes that may host the scheduler",
    ),
    audited("store/src/wire/pd/join.rs", "for _ in 1..DIAL_TRIES", "three"),
    audited(
        "store/src/wire/peer/open.rs",
        "for addr in rt.resolve(address).await?",
        "addresses of one host name",
    ),
    audited(
        "store/src/wire/peer/requests/asking.rs",
        "for reply in decode_answers_in_pieces(frame.payload,&budget).await?",
        "the answers of one frame, which are handed to who waits; decoding them pauses",
    ),
    audited(
        "store/src/wire/resp/clients.rs",
        "for entry in page.iter().filter(|entry|self.fits(server,entry))",
        "128 connections",
    ),
    audited("store/src/wire/resp/clients.rs", "for entry in&page", "128 connections"),
    audited(
        "store/src/wire/resp/walk.rs",
        "for submitted in running",
        "128 deletes that have been submitted",
    ),
];

/// Where the bracket that is open at `from` is closed, whichever kind it is.
fn end_of_block(text: &str, from: usize) -> usize {
    let mut depth = 0;
    let end = text[from..].find(|c| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        depth == 0
    });
    end.map_or(text.len(), |end| from + end + 1)
}

/// Where the pattern of a loop that begins at `from` ends; a pattern may have braces of its own.
fn end_of_pattern(text: &str, from: usize) -> Option<usize> {
    let mut depth = 0;
    text[from..].char_indices().map(|(at, c)| (from + at, c)).find_map(|(at, c)| {
        depth += i32::from(matches!(c, '(' | '[' | '{')) - i32::from(matches!(c, ')' | ']' | '}'));
        let is_word_in = text[at..].starts_with("in") && !text[at + 2..].starts_with(is_word);
        (depth == 0 && is_word_in && !text[..at].ends_with(is_word)).then_some(at)
    })
}

/// The first brace after `from` that no parenthesis or bracket encloses; none where the statement ends before.
fn brace_after(text: &str, from: usize) -> Option<usize> {
    let mut depth = 0;
    let at = text[from..].find(|c| {
        depth += i32::from(matches!(c, '(' | '[')) - i32::from(matches!(c, ')' | ']'));
        depth == 0 && matches!(c, '{' | ';')
    })?;
    text[from + at..].starts_with('{').then_some(from + at)
}

/// Where words of code begin, not the ends of longer ones.
fn places<'a>(text: &'a str, pattern: &'a str) -> impl Iterator<Item = usize> + 'a {
    let begins = |at: &usize| !text[..*at].ends_with(is_word);
    text.match_indices(pattern).map(|(at, _)| at).filter(begins)
}

/// The heads of the `for` loops without a pause in async code.
fn without_a_pause(code: &Code) -> Vec<String> {
    let text = code.text.as_str();
    let starts = ASYNC.iter().flat_map(|begins| places(text, begins));
    let blocks = starts.filter_map(|at| {
        let from = brace_after(text, at)?;
        Some((from, end_of_block(text, from)))
    });
    let blocks: Vec<(usize, usize)> = blocks.collect();
    let is_async = |at: &usize| blocks.iter().any(|(from, to)| (from..to).contains(&at));
    let mut heads = Vec::new();
    for begins in ["for ", "for(", "for&"] {
        for at in places(text, begins).filter(is_async) {
            let Some(body) = end_of_pattern(text, at).and_then(|pattern| brace_after(text, pattern)) else {
                continue;
            };
            let (head, inside) = (&text[at..body], &text[body..end_of_block(text, body)]);
            if !inside.contains(".tick()") && !inside.contains("yield_if_due()") {
                heads.push(head.to_owned());
            }
        }
    }
    heads
}

fn offenders(all: &[Code]) -> Vec<String> {
    let is_audited = |path: &str, head: &str| AUDITED.iter().any(|one| (one.path, one.head) == (path, head));
    let mut found = Vec::new();
    for code in all.iter().filter(|code| code.is_in(&FOLDERS)) {
        let path = code.path.to_str().expect("a plain path");
        let heads = without_a_pause(code).into_iter().filter(|head| !is_audited(path, head));
        found.extend(heads.map(|head| format!("{path}: {head}")));
    }
    found
}

#[test]
fn a_loop_over_what_a_client_sent_pauses_or_has_a_bound() {
    assert_none(
        &offenders(&production()),
        "tick a budget in the loop (`rt.budget()`), or list it with its bound",
    );
}

#[test]
fn every_audited_loop_is_there_and_has_a_bound() {
    let all = production();
    let is_there = |one: &Audited| {
        let code = all.iter().find(|code| code.path.to_str() == Some(one.path));
        code.is_some_and(|code| without_a_pause(code).iter().any(|head| head == one.head))
    };
    let stale: Vec<String> = AUDITED
        .iter()
        .filter(|one| one.bound.is_empty() || !is_there(one))
        .map(|one| format!("{}: {}", one.path, one.head))
        .collect();
    assert_none(&stale, "take it off the list");
}

#[test]
fn a_planted_loop_is_found() {
    let path = "store/src/wire/resp/exec.rs";
    let found = |added: &str| offenders(&with(path, added)).len();
    assert_eq!(found("async fn of_keys(keys: Vec<Bytes>) { for key in keys { look(&key); } }"), 1);
    assert_eq!(found("async fn of_pairs(pairs: Pairs) { for (key, _) in &pairs { look(key).await; } }"), 1);
    assert_eq!(
        found("fn spawned() { spawn(async move { for key in [1, 2].map(|n| { n }) { look(key) } }); }"),
        1
    );
    assert_eq!(
        found("async fn paused(keys: Keys) { for key in keys { look(&key); budget.tick().await; } }"),
        0
    );
    assert_eq!(found("fn cannot_wait(keys: Keys) { for key in keys { look(&key); } }"), 0);
}

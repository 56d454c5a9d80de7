//! Clients that share keys, and the histories of these keys.
//!
//! Each second has keys of its own, which all of these clients read, write, add to and delete, one at a time and several at once, at whichever
//! node. A history is judged as a whole ([`crate::judge`]) once no answer to it can be outstanding, and forgotten then: a long run
//! holds a minute of them. An operation whose answer was not heard may happen at any later time, so a second's keys have few of these.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::client::Shared;
use super::connection::{AFTER_FAILURE, ANSWER_MAX, Connection, Reply, STAY, Said};
use crate::clock::{now, pause};
use crate::judge::{Action, Asked, Heard, History};
use crate::random::{Random, mix};

/// How long clients use the same keys.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds after which nothing is outstanding: an answer comes within [`ANSWER_MAX`], or its client gives up.
const ROUNDS_OPEN: u64 = 4 * ANSWER_MAX.as_secs() / ROUND.as_secs();
/// Keys of a round that hold text, and keys that hold numbers.
const TEXTS: u64 = 12;
const COUNTERS: u64 = 4;
/// Keys of one command that reads or writes several.
const SEVERAL: u64 = 3;
/// Between two operations of a client: what is judged is how they meet, and not how many they are.
const BREATH: Duration = Duration::from_millis(1);

/// What all clients have done and heard.
#[derive(Debug)]
pub(super) struct Ledger {
    began: Instant,
    rounds: Mutex<Rounds>,
}

#[derive(Debug, Default)]
struct Rounds {
    /// Those that were not judged yet.
    open: BTreeMap<u64, History>,
    /// What those that were judged counted.
    counts: Counts,
}

/// Numbers of operations, over all rounds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) answered: u64,
    pub(super) lost: u64,
}

/// An operation that was asked for, in its round.
struct Noted(u64, Asked);

impl Ledger {
    pub(super) fn new() -> Self {
        Self { began: now(), rounds: Mutex::default() }
    }

    fn round(&self) -> u64 {
        self.began.elapsed().as_secs() / ROUND.as_secs()
    }

    fn rounds(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().expect("no client panics with it")
    }

    fn ask(&self, round: u64, asks: &[(String, Action)]) -> Vec<Noted> {
        let mut rounds = self.rounds();
        let history = rounds.open.entry(round).or_default();
        let note = |(key, action): &(String, Action)| Noted(round, history.ask(key, action.clone(), None));
        asks.iter().map(note).collect()
    }

    fn hear(&self, noted: Vec<Noted>, heard: Vec<Heard>) {
        let mut rounds = self.rounds();
        for (Noted(round, asked), heard) in noted.into_iter().zip(heard) {
            // One that was judged already had this answer outstanding, and was judged so.
            if let Some(history) = rounds.open.get_mut(&round) {
                history.hear(&asked, heard);
            }
        }
    }

    fn refuse(&self, noted: Vec<Noted>) {
        let mut rounds = self.rounds();
        for Noted(round, asked) in noted {
            if let Some(history) = rounds.open.get_mut(&round) {
                history.refused(&asked);
            }
        }
    }

    /// Judges and forgets the rounds to which no answer is outstanding; all of them at the end.
    ///
    /// # Errors
    /// The first key whose history cannot have happened.
    pub(super) fn judge(&self, all: bool) -> Result<(), String> {
        let until = if all { u64::MAX } else { self.round().saturating_sub(ROUNDS_OPEN) };
        let over = {
            let mut rounds = self.rounds();
            let later = rounds.open.split_off(&until);
            std::mem::replace(&mut rounds.open, later)
        };
        for history in over.values() {
            history.judge()?;
            let mut rounds = self.rounds();
            rounds.counts.answered += history.answered;
            rounds.counts.lost += history.lost();
        }
        Ok(())
    }

    /// Of the rounds that were judged.
    pub(super) fn counts(&self) -> Counts {
        self.rounds().counts
    }
}

/// Uses the keys of each round until it is asked to stop, and returns what cannot be: an answer that no client should see.
pub(super) fn run(id: usize, seed: u64, shared: &Shared, ledger: &Ledger) -> Option<String> {
    let (mut random, mut written) = (Random::new(seed), 0);
    while !shared.stop.load(Ordering::Acquire) {
        let node = shared.nodes[random.below(shared.nodes.len() as u64) as usize];
        let Ok(mut connection) = Connection::open(node) else {
            pause(AFTER_FAILURE);
            continue;
        };
        for _ in 0..STAY {
            if shared.stop.load(Ordering::Acquire) {
                break;
            }
            let round = ledger.round();
            let asks = draw(&mut random, round, || {
                written += 1;
                format!("{id}/{written}")
            });
            let noted = ledger.ask(round, &asks);
            match connection.ask(&words(&asks)) {
                Said::Done(reply) => match heard(&asks, &reply) {
                    Some(heard) => ledger.hear(noted, heard),
                    None => return Some(format!("{asks:?} was answered with {reply:?}")),
                },
                Said::Refused => {
                    ledger.refuse(noted);
                    pause(AFTER_FAILURE);
                }
                Said::Unknown => {}
                Said::Broken => break,
                Said::Wrong(text) => return Some(format!("{asks:?} was answered with \"{text}\"")),
            }
            pause(BREATH);
        }
    }
    None
}

/// The hash spreads the keys of a round over all regions.
fn name(round: u64, kind: &str, key: u64) -> String {
    format!("{:02x}:shared:{round}:{kind}{key}", mix(round << 32 | key) & 0xff)
}

/// The next operation, or several that are one command.
fn draw(random: &mut Random, round: u64, mut value: impl FnMut() -> String) -> Vec<(String, Action)> {
    let text = |random: &mut Random| name(round, "t", random.below(TEXTS));
    let counter = |random: &mut Random| name(round, "n", random.below(COUNTERS));
    let several = |random: &mut Random| {
        let first = random.below(TEXTS);
        (0..SEVERAL).map(move |n| name(round, "t", (first + n) % TEXTS))
    };
    match random.below(12) {
        0..3 => vec![(text(random), Action::Set(value()))],
        3 => vec![(text(random), Action::Swap(None, value()))],
        4 => vec![(text(random), Action::Delete)],
        5 | 6 => vec![(counter(random), Action::Increment)],
        7 => several(random).map(|key| (key, Action::Set(value()))).collect(),
        8 => several(random).map(|key| (key, Action::Get)).collect(),
        9 => vec![(counter(random), Action::Get)],
        _ => vec![(text(random), Action::Get)],
    }
}

fn words(asks: &[(String, Action)]) -> Vec<&[u8]> {
    let command: &str = match (asks.len(), &asks[0].1) {
        (1, Action::Get) => "GET",
        (_, Action::Get) => "MGET",
        (1, Action::Set(_)) => "SET",
        (_, Action::Set(_)) => "MSET",
        (_, Action::Delete) => "DEL",
        (_, Action::Increment) => "INCR",
        (_, Action::Swap(..)) => "SETNX",
    };
    let mut words = vec![command.as_bytes()];
    for (key, action) in asks {
        words.push(key.as_bytes());
        match action {
            Action::Set(value) | Action::Swap(_, value) => words.push(value.as_bytes()),
            Action::Get | Action::Delete | Action::Increment => {}
        }
    }
    words
}

/// What each operation was answered; nothing if no such command has this answer.
fn heard(asks: &[(String, Action)], reply: &Reply) -> Option<Vec<Heard>> {
    let text = |value: &Option<Vec<u8>>| {
        Heard::Value(value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned()))
    };
    let one = |heard| Some(vec![heard]);
    match (&asks[0].1, reply) {
        (Action::Get, Reply::Value(value)) if asks.len() == 1 => one(text(value)),
        (Action::Get, Reply::Values(values)) if asks.len() == values.len() => {
            Some(values.iter().map(text).collect())
        }
        (Action::Set(_), Reply::Status(ok)) if ok == "OK" => Some(vec![Heard::Done; asks.len()]),
        (Action::Delete, Reply::Integer(number @ 0..=1)) => one(Heard::Existed(*number == 1)),
        (Action::Increment, Reply::Integer(number)) => one(Heard::Integer(*number)),
        (Action::Swap(..), Reply::Integer(1)) => one(Heard::Done),
        (Action::Swap(..), Reply::Integer(0)) => one(Heard::Existed(true)),
        (Action::Get | Action::Set(_) | Action::Delete | Action::Increment | Action::Swap(..), _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> String {
        "k".to_owned()
    }

    #[test]
    fn what_several_clients_heard_is_judged_together() {
        let ledger = Ledger::new();
        let set = ledger.ask(0, &[(key(), Action::Set("a".to_owned()))]);
        ledger.hear(set, vec![Heard::Done]);
        let lost = ledger.ask(0, &[(key(), Action::Set("b".to_owned()))]);
        let refused = ledger.ask(0, &[(key(), Action::Set("c".to_owned()))]);
        ledger.refuse(refused);
        for value in ["a", "b"] {
            let get = ledger.ask(0, &[(key(), Action::Get)]);
            ledger.hear(get, vec![Heard::Value(Some(value.to_owned()))]);
        }
        assert_eq!(ledger.judge(true), Ok(()), "the write without an answer happened late");
        let counts = ledger.counts();
        assert_eq!((counts.answered, counts.lost), (3, 1));
        ledger.hear(lost, vec![Heard::Done]);

        for value in ["a", "b", "a"] {
            let ask = ledger.ask(7, &[(key(), Action::Set(value.to_owned()))]);
            ledger.hear(ask, vec![Heard::Done]);
        }
        let get = ledger.ask(7, &[(key(), Action::Get)]);
        ledger.hear(get, vec![Heard::Value(Some("b".to_owned()))]);
        assert_eq!(ledger.judge(false), Ok(()), "an answer may be outstanding");
        let why = ledger.judge(true).unwrap_err();
        assert!(why.contains("k cannot have happened"), "{why}");
    }

    #[test]
    fn every_operation_has_its_words_and_its_answers() {
        let mut random = Random::new(1);
        let mut seen = BTreeMap::<String, usize>::new();
        for _ in 0..2000 {
            let asks = draw(&mut random, 3, || "v".to_owned());
            let words = words(&asks);
            let command = String::from_utf8_lossy(words[0]).into_owned();
            let pairs = matches!(command.as_str(), "SET" | "MSET" | "SETNX");
            assert_eq!(words.len(), 1 + asks.len() * (1 + usize::from(pairs)), "{command}");
            let fits = [
                Reply::Status("OK".to_owned()),
                Reply::Integer(1),
                Reply::Value(None),
                Reply::Values(vec![None; asks.len()]),
            ];
            let fits = fits.iter().filter(|reply| heard(&asks, reply).is_some()).count();
            // A single GET and an MGET of one key are distinguished by what was asked.
            assert_eq!(fits, if command == "GET" { 2 } else { 1 }, "{command}");
            *seen.entry(command).or_default() += 1;
        }
        let commands: Vec<&str> = seen.keys().map(String::as_str).collect();
        assert_eq!(commands, ["DEL", "GET", "INCR", "MGET", "MSET", "SET", "SETNX"]);
    }
}

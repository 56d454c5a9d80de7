//! Histories that can have happened, and such that cannot.

use super::judge::{Action, Asked, Heard, History};
use crate::random::Random;

fn value(text: &str) -> Heard {
    Heard::Value(Some(text.to_owned()))
}

#[test]
fn one_after_the_other_is_judged_by_the_order() {
    let mut history = History::default();
    let set = history.ask("k", Action::Set("1".into()), None);
    history.hear(&set, Heard::Done);
    let get = history.ask("k", Action::Get, None);
    history.hear(&get, value("1"));
    assert_eq!(history.judge(), Ok(()));
    let stale = history.ask("k", Action::Get, None);
    history.hear(&stale, Heard::Value(None));
    assert!(history.judge().is_err(), "an acknowledged write is gone");
}

#[test]
fn what_overlaps_may_have_any_order() {
    let mut history = History::default();
    let (one, two) =
        (history.ask("k", Action::Set("1".into()), None), history.ask("k", Action::Set("2".into()), None));
    history.hear(&two, Heard::Done);
    history.hear(&one, Heard::Done);
    let get = history.ask("k", Action::Get, None);
    history.hear(&get, value("2"));
    assert_eq!(history.judge(), Ok(()));
    let other = history.ask("k", Action::Get, None);
    history.hear(&other, value("1"));
    assert!(history.judge().is_err(), "it was one of them, and no write came since");
}

#[test]
fn a_connection_is_served_in_its_order() {
    let judged = |in_order: bool| {
        let mut history = History::default();
        let set = history.ask("k", Action::Set("1".into()), None);
        let get = history.ask("k", Action::Get, in_order.then_some(&set));
        history.hear(&get, Heard::Value(None));
        history.hear(&set, Heard::Done);
        history.judge()
    };
    assert_eq!(judged(false), Ok(()));
    assert!(judged(true).is_err(), "the read overtook the write before it");
}

#[test]
fn a_lost_write_happens_at_most_once_and_within_its_life() {
    let read = |texts: &[&str]| {
        let mut history = History::default();
        history.ask("n", Action::Increment, None);
        history.life_ends();
        for text in texts {
            let get = history.ask("n", Action::Get, None);
            let heard = if text.is_empty() { Heard::Value(None) } else { value(text) };
            history.hear(&get, heard);
        }
        history.judge()
    };
    assert_eq!(read(&[""]), Ok(()));
    assert_eq!(read(&["1"]), Ok(()));
    assert!(read(&["2"]).is_err(), "it counted twice");
    assert!(read(&["", "1"]).is_err(), "it happened after the end of its life");
}

#[test]
fn a_swap_is_done_where_it_fits_and_says_what_there_is_where_it_does_not() {
    let judged = |expected: Option<&str>, heard: Option<Heard>, then: Option<&str>| {
        let mut history = History::default();
        let set = history.ask("k", Action::Set("1".into()), None);
        history.hear(&set, Heard::Done);
        let swap = history.ask("k", Action::Swap(expected.map(str::to_owned), "2".into()), None);
        if let Some(heard) = heard {
            history.hear(&swap, heard);
        }
        let get = history.ask("k", Action::Get, None);
        history.hear(&get, Heard::Value(then.map(str::to_owned)));
        history.judge().is_ok()
    };
    assert!(judged(Some("1"), Some(Heard::Done), Some("2")));
    assert!(!judged(Some("1"), Some(Heard::Done), Some("1")));
    assert!(!judged(None, Some(Heard::Done), Some("2")), "the key was there");
    assert!(judged(None, Some(Heard::Existed(true)), Some("1")));
    assert!(judged(Some("0"), Some(value("1")), Some("1")));
    assert!(!judged(Some("0"), Some(value("0")), Some("1")));
    assert!(!judged(Some("1"), Some(value("1")), Some("1")), "it fitted");
    assert!(judged(Some("1"), None, Some("2")) && judged(Some("1"), None, Some("1")));
    assert!(judged(Some("0"), None, Some("1")) && !judged(Some("0"), None, Some("2")));
}

#[test]
fn additions_without_an_answer_happen_any_number_of_times() {
    for happened in 0..=40 {
        let mut history = History::default();
        (0..30).for_each(|_| drop(history.ask("n", Action::Increment, None)));
        let get = history.ask("n", Action::Get, None);
        history.hear(&get, value(&happened.to_string()));
        let get = history.ask("n", Action::Get, None);
        history.hear(&get, value("30"));
        assert_eq!(history.judge().is_ok(), (1..=30).contains(&happened), "{happened} of 30");
    }
}

#[test]
fn what_was_refused_has_not_happened() {
    let mut history = History::default();
    let set = history.ask("k", Action::Set("1".into()), None);
    history.refused(&set);
    let get = history.ask("k", Action::Get, None);
    history.hear(&get, Heard::Value(None));
    assert_eq!(history.judge(), Ok(()));
    let get = history.ask("k", Action::Get, None);
    history.hear(&get, value("1"));
    assert!(history.judge().is_err());
}

#[test]
fn a_value_that_was_not_written_is_noticed() {
    let mut history = History::default();
    let get = history.ask("k", Action::Get, None);
    history.hear(&get, value("from nowhere"));
    assert!(history.judge().is_err());
}

#[test]
fn many_writes_without_an_answer_are_judged_all_the_same() {
    let judged = |last: &str| {
        let mut history = History::default();
        for n in 0..40 {
            history.ask("k", Action::Set(format!("lost {n}")), None);
            history.ask("k", Action::Swap(Some(format!("lost {n}")), format!("swapped {n}")), None);
            let set = history.ask("k", Action::Set(format!("set {n}")), None);
            history.hear(&set, Heard::Done);
        }
        for n in [39, 3, 20] {
            let get = history.ask("k", Action::Get, None);
            history.hear(&get, value(&format!("swapped {n}")));
        }
        let get = history.ask("k", Action::Get, None);
        history.hear(&get, value(last));
        history.judge()
    };
    assert_eq!(judged("lost 30"), Ok(()));
    assert!(judged("lost 20").is_err(), "it was written once, and swapped");
    assert!(judged("set 30").is_err(), "it was acknowledged before others were");
}

#[test]
fn a_history_with_too_many_orders_is_no_history_that_can_have_happened() {
    let mut history = History::default();
    // Twenty-four additions that overlap, each of which hears the number of one that was before all of them.
    let asked: Vec<Asked> = (0..24).map(|_| history.ask("n", Action::Increment, None)).collect();
    let sets: Vec<Asked> = (0..24).map(|n| history.ask("n", Action::Set(n.to_string()), None)).collect();
    asked.iter().for_each(|asked| history.hear(asked, Heard::Integer(7)));
    sets.iter().for_each(|asked| history.hear(asked, Heard::Done));
    let why = history.judge_within(1000).expect_err("only one addition can follow the value 6");
    assert!(why.contains("orders"), "{why}");
}

/// One operation of a small random history.
#[derive(Debug)]
struct Small {
    action: Action,
    called: u64,
    /// When its answer came; without an answer, when it can no longer happen.
    returned: u64,
    heard: Option<Heard>,
    behind: Option<usize>,
}

/// What an operation does, and what it is answered.
fn run(action: &Action, value: &mut Option<String>) -> Option<Heard> {
    match action {
        Action::Get => Some(Heard::Value(value.clone())),
        Action::Set(new) => {
            *value = Some(new.clone());
            Some(Heard::Done)
        }
        Action::Delete => Some(Heard::Existed(value.take().is_some())),
        Action::Increment => {
            let next = value.as_deref().map_or(Some(0), |text| text.parse::<i64>().ok())? + 1;
            *value = Some(next.to_string());
            Some(Heard::Integer(next))
        }
        Action::Swap(expected, new) if *expected == *value => {
            *value = Some(new.clone());
            Some(Heard::Done)
        }
        Action::Swap(..) => Some(Heard::Value(value.clone())),
    }
}

/// Every order, without a thought.
fn can_have_happened(all: &[Small], done: &mut Vec<bool>, value: &Option<String>) -> bool {
    let open: Vec<usize> = (0..all.len()).filter(|n| !done[*n]).collect();
    if open.iter().all(|n| all[*n].heard.is_none()) {
        return true;
    }
    let soonest = open.iter().map(|n| all[*n].returned).min().unwrap_or(u64::MAX);
    open.into_iter().any(|n| {
        let one = &all[n];
        if one.called > soonest || one.behind.is_some_and(|before| !done[before]) {
            return false;
        }
        done[n] = true;
        let mut after = value.clone();
        let answer = run(&one.action, &mut after);
        let fits = answer.is_some() && (one.heard.is_none() || one.heard == answer);
        let is_in_the_way = one.heard.is_none() && one.returned == soonest;
        let possible = (fits && can_have_happened(all, done, &after))
            || (is_in_the_way && can_have_happened(all, done, value));
        done[n] = false;
        possible
    })
}

/// A history that happened, of which one answer in a few histories is another one.
fn draw(random: &mut Random) -> (History, Vec<Small>) {
    let (mut history, mut small, mut asked) = (History::default(), Vec::<Small>::new(), Vec::<Asked>::new());
    let (mut value, mut moment, mut running) = (None, 0, Vec::<(usize, Option<Option<Heard>>)>::new());
    let count = 4 + random.below(5) as usize;
    while small.len() < count || !running.is_empty() {
        let pick = random.below(running.len().max(1) as u64) as usize;
        match random.below(4) {
            0 | 1 if small.len() < count => {
                let text = random.below(3).to_string();
                let action = match random.below(6) {
                    0 | 1 => Action::Set(text),
                    2 => Action::Get,
                    3 => Action::Delete,
                    4 => Action::Increment,
                    _ => Action::Swap((random.below(4) > 0).then(|| random.below(3).to_string()), text),
                };
                let last = running.last().map(|(n, _)| *n);
                let behind = last.filter(|_| random.below(4) == 0 && action != Action::Get);
                asked.push(history.ask("k", action.clone(), behind.map(|n| &asked[n])));
                moment += 1;
                small.push(Small { action, called: moment, returned: u64::MAX, heard: None, behind });
                running.push((small.len() - 1, None));
            }
            2 if !running.is_empty() => {
                let (n, outcome) = &mut running[pick];
                let waits = small[*n].behind.is_some_and(|_| random.below(2) == 0);
                if outcome.is_none() && !waits && random.below(4) > 0 {
                    *outcome = Some(run(&small[*n].action, &mut value));
                }
            }
            3 if !running.is_empty() => {
                let (n, outcome) = running.remove(pick);
                match outcome {
                    Some(Some(heard)) if random.below(3) > 0 => {
                        let heard = if random.below(5) == 0 {
                            Heard::Value(Some(random.below(3).to_string()))
                        } else {
                            heard
                        };
                        history.hear(&asked[n], heard.clone());
                        moment += 1;
                        (small[n].heard, small[n].returned) = (Some(heard), moment);
                    }
                    Some(_) | None => {}
                }
            }
            // What was drawn cannot be done now.
            0.. => {}
        }
        if random.below(30) == 0 {
            history.life_ends();
            moment += 1;
            running.clear();
            small.iter_mut().filter(|one| one.returned == u64::MAX).for_each(|one| one.returned = moment);
        }
    }
    (history, small)
}

#[test]
fn small_histories_are_judged_as_by_trying_every_order() {
    let mut random = Random::new(1);
    let mut possible = 0;
    for n in 0..20_000 {
        let (history, small) = draw(&mut random);
        // A read without an answer says nothing, and is left out.
        let judged = history.judge();
        let expected = can_have_happened(&small, &mut vec![false; small.len()], &None);
        assert_eq!(judged.is_ok(), expected, "history {n}: {judged:?}\n{small:#?}");
        possible += usize::from(expected);
    }
    assert!((8_000..18_000).contains(&possible), "{possible} of 20,000 can have happened");
}

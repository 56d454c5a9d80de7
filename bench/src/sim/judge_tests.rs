//! Histories that can have happened, and such that cannot.

use super::judge::{Action, Heard, History};

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

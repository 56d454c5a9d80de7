//! Shapes and bounds of what the console is answered, on the largest that a cluster may have.

use store::wire::pd::ask::{NoAnswer, SchedulerPlace};
use store::wire::proto::metapb::{Peer, Region};
use store::wire::proto::ringkeep::{
    DownPeer, HeatColumn, HeatResponse, Load, OperatorState, RegionCell, RegionMapResponse, RegionState,
    StoreState,
};

use super::shape::{self, Keys};
use super::wish::HEATS;

/// Longer than any answer of the scheduler.
const ANSWER_MAX: usize = 640 << 10;

fn load() -> Option<Load> {
    Some(Load { read_bytes: u64::MAX, write_bytes: u64::MAX, read_ops: u32::MAX, write_ops: u32::MAX })
}

fn long_key() -> bytes::Bytes {
    vec![0xff; 8 << 10].into()
}

#[test]
fn keys_are_text_that_is_cut_and_escaped() {
    let cell = |start: &[u8], shortened| {
        let cells = vec![RegionCell { start: start.to_vec().into(), shortened, ..RegionCell::default() }];
        let shown = shape::map(&RegionMapResponse { cells, regions: 1 }, Keys::Shown);
        let start = &shown["cells"][0]["start"];
        (start["text"].as_str().expect("text").to_owned(), start["cut"].as_bool().expect("a bool"))
    };
    assert_eq!(cell(b"", false), (String::new(), false));
    assert_eq!(cell(b"<b>\x00\xff\"", false), ("<b>\\x00\\xff\\\"".to_owned(), false));
    assert_eq!(cell(b"k", true), ("k".to_owned(), true));
    assert_eq!(cell(&[b'k'; 65], false), ("k".repeat(64), true));
}

#[test]
fn keys_that_are_hidden_are_nowhere_in_the_answer() {
    let key = |text: &str| bytes::Bytes::copy_from_slice(text.as_bytes());
    let cells = vec![RegionCell { start: key("secret"), regions: 1, ..RegionCell::default() }];
    let map = shape::map(&RegionMapResponse { cells, regions: 1 }, Keys::Hidden);
    let region = Region { id: 7, start_key: key("secret"), end_key: key("secret2"), ..Region::default() };
    let state = RegionState { region: Some(region), ..RegionState::default() };
    let regions = shape::regions(&[state], None, Keys::Hidden);
    let columns = vec![HeatColumn { ago_minutes: 0, values: vec![1, 2] }];
    let heat = shape::heat(&HeatResponse { borders: vec![key(""), key("secret")], columns }, 0, Keys::Hidden);
    let steps = vec!["split at [\"secret\"]".to_owned(), "promote peer 3".to_owned()];
    let (operators, _) =
        shape::operators(&[OperatorState { steps, ..OperatorState::default() }], Keys::Hidden);
    assert_eq!(operators[0]["steps"][1], "promote peer 3");
    for shown in [map, regions, heat, operators.into()] {
        let text = shown.to_string();
        assert!(!text.contains("secret") && text.len() > 40, "{text}");
    }
}

#[test]
fn lists_have_a_bound_and_say_what_they_leave_out() {
    let stores: Vec<StoreState> = (1..=10_000)
        .map(|store| StoreState { store, health: "up".to_owned(), load: load(), ..StoreState::default() })
        .collect();
    let (shown, left_out) = shape::stores(&stores);
    assert_eq!((shown.len(), left_out), (512, 9488));
    assert!(serde_json::Value::from(shown).to_string().len() < ANSWER_MAX);
    let steps = vec!["x".repeat(10_000); 1000];
    let operators = vec![OperatorState { steps, ..OperatorState::default() }; 1000];
    let (shown, left_out) = shape::operators(&operators, Keys::Shown);
    assert_eq!((shown.len(), left_out, &shown[0]["steps_in_all"]), (64, 936, &1000.into()));
    assert!(serde_json::Value::from(shown).to_string().len() < ANSWER_MAX);
}

/// A scheduler that began a moment ago knows of no silence before that.
#[test]
fn a_store_is_shown_with_when_it_was_heard_and_not_once_it_is_gone() {
    let store = |store, health: &str, heard| StoreState {
        store,
        health: health.to_owned(),
        heard,
        silent_ms: 12_400,
        misses_reports: health == "up",
        ..StoreState::default()
    };
    let all = [store(1, "up", true), store(2, "disconnected", false), store(3, "tombstone", false)];
    let (shown, left_out) = shape::stores(&all);
    assert_eq!((shown.len(), left_out), (2, 0), "who is gone is not shown, and not left out either");
    assert_eq!((&shown[0]["state"], &shown[0]["heard"]), (&"silent".into(), &"last heard 12 s ago".into()));
    assert_eq!(
        (&shown[1]["words"], &shown[1]["silent_ms"]),
        (&"does not answer".into(), &serde_json::Value::Null)
    );
    assert_eq!(shown[1]["heard"], "not heard since this scheduler began");
}

#[test]
fn the_largest_answers_are_short_enough_to_be_sent_every_few_seconds() {
    let cell = RegionCell {
        start: long_key(),
        shortened: true,
        first_region: u64::MAX,
        regions: u64::MAX,
        load: load(),
        leader_store: u64::MAX,
        ..RegionCell::default()
    };
    let map = shape::map(&RegionMapResponse { cells: vec![cell; 256], regions: u64::MAX }, Keys::Shown);
    assert!(map.to_string().len() < ANSWER_MAX, "{}", map.to_string().len());
    let peers: Vec<Peer> = (0..1000).map(|id| Peer { id, store_id: id, ..Peer::default() }).collect();
    let region = Region { id: 1, start_key: long_key(), end_key: long_key(), peers, ..Region::default() };
    let down = (0..1000).map(|peer| DownPeer { peer, down_ms: 1 }).collect();
    let state = RegionState { region: Some(region), load: load(), down, ..RegionState::default() };
    let regions = shape::regions(&vec![state; 256], Some(1), Keys::Shown);
    assert!(regions.to_string().len() < ANSWER_MAX, "{}", regions.to_string().len());
    let columns = vec![HeatColumn { ago_minutes: 59, values: vec![u64::MAX; 256] }; 60];
    for of in 0..HEATS.len() {
        let answer = HeatResponse { borders: vec![long_key(); 256], columns: columns.clone() };
        let heat = shape::heat(&answer, of, Keys::Shown);
        assert!(heat.to_string().len() < ANSWER_MAX, "{}", heat.to_string().len());
    }
}

#[test]
fn a_scheduler_that_is_elsewhere_or_silent_is_said_in_words() {
    assert_eq!(shape::place(&SchedulerPlace::Here)["words"], "The scheduler is on this node.");
    let there = SchedulerPlace::Elsewhere(vec!["10.0.0.2:20160".to_owned(), "10.0.0.3:20160".to_owned()]);
    let said = shape::place(&there);
    assert!(said["words"].as_str().is_some_and(|words| words.contains("10.0.0.2:20160")), "{said}");
    let silent = NoAnswer { place: Some(there), code: None, why: "nothing listens there".to_owned() };
    let said = shape::silence(&silent);
    let words = said["words"].as_str().expect("words");
    assert!(words.contains("does not answer: nothing listens there. It was last"), "{words}");
    assert_eq!((&said["here"], &said["error"]), (&false.into(), &"nothing listens there".into()));
}

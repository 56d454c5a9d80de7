//! The queue of writes in flight beside a list of all of them, and the cases that its shape could get wrong.

use engine::lsm::Until;
use engine::rt::rng::Rng;

use super::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// One command that sets a key.
fn put(inflight: &mut InFlight, key: &str, value: &str) -> CommandNo {
    let command = inflight.begin_command();
    inflight.begin_write(bytes(key), Some(bytes(value).into()));
    command
}

#[test]
fn the_last_write_in_flight_is_what_is_known() {
    let mut inflight = InFlight::default();
    let first = put(&mut inflight, "k", "1");
    let second = inflight.begin_command();
    inflight.begin_write(bytes("k"), None);
    assert_eq!(inflight.known(b"k"), Known::Absent);
    assert_eq!(inflight.end(first), 2);
    assert_eq!(inflight.known(b"k"), Known::Absent, "the second write is still in flight");
    assert_eq!(inflight.bytes(), 1);
    assert_eq!(inflight.end(second), 1);
    assert_eq!(inflight.known(b"k"), Known::Nothing);
    assert!(inflight.is_empty());
    assert_eq!(inflight.bytes(), 0);
    inflight.check();
}

#[test]
fn a_deleted_range_hides_what_came_before_it_and_not_what_came_after() {
    let mut inflight = InFlight::default();
    let old = put(&mut inflight, "b", "old");
    let range = inflight.begin_command();
    inflight.begin_range(bytes("a"), bytes("c"));
    put(&mut inflight, "bb", "new");
    assert_eq!(inflight.known(b"b"), Known::Absent);
    assert_eq!(inflight.known(b"ba"), Known::Absent, "never written, but inside the range");
    assert_eq!(inflight.known(b"bb"), Known::Value(bytes("new").into()));
    assert_eq!(inflight.known(b"c"), Known::Nothing);
    inflight.end(old);
    inflight.end(range);
    assert_eq!(inflight.known(b"ba"), Known::Nothing);
    assert_eq!(inflight.known(b"bb"), Known::Value(bytes("new").into()));
}

#[test]
fn nothing_is_known_after_everything_was_forgotten() {
    let mut inflight = InFlight::default();
    put(&mut inflight, "b", "old");
    inflight.begin_range(bytes("x"), bytes("z"));
    assert_eq!(inflight.known(b"y"), Known::Absent);
    put(&mut inflight, "c", "not indexed");
    inflight.clear();
    for key in [b"b", b"c", b"y"] {
        assert_eq!(inflight.known(key), Known::Nothing);
    }
    assert_eq!(inflight.bytes(), 0);
    inflight.check();
}

/// A value that was never proposed must not be computed from, and what it hid is known again.
#[test]
fn a_command_that_is_given_up_has_not_been() {
    let mut inflight = InFlight::default();
    put(&mut inflight, "k", "proposed");
    let given_up = put(&mut inflight, "k", "given up");
    let last = put(&mut inflight, "l", "behind it");
    assert_eq!(inflight.known(b"k"), Known::Value(bytes("given up").into()));
    assert_eq!(inflight.give_up(given_up), "kgiven up".len());
    assert_eq!(inflight.known(b"k"), Known::Value(bytes("proposed").into()));
    assert_eq!(inflight.give_up(last), "lbehind it".len());
    assert_eq!(inflight.known(b"l"), Known::Nothing);
    inflight.check();
}

#[test]
fn no_question_has_more_to_catch_up_with_than_the_bound() {
    let mut inflight = InFlight::default();
    let command = inflight.begin_command();
    for n in 0..3 * AHEAD_MAX {
        inflight.begin_write(bytes(&n.to_string()), None);
        assert!(inflight.steps.len() - inflight.indexed <= AHEAD_MAX);
    }
    assert_eq!(inflight.indexed, 2 * AHEAD_MAX);
    for key in [0, 2 * AHEAD_MAX - 1, 2 * AHEAD_MAX, 3 * AHEAD_MAX - 1] {
        assert_eq!(inflight.known(key.to_string().as_bytes()), Known::Absent, "{key}");
    }
    inflight.end(command);
    assert!(inflight.steps.capacity() < 2 * KEPT_MAX, "an empty queue keeps {}", inflight.steps.capacity());
}

/// All writes in flight in a list, which is searched from its end.
#[derive(Default)]
struct Model {
    commands: Vec<(CommandNo, Vec<Step>)>,
}

impl Model {
    fn known(&self, key: &[u8]) -> Known {
        let steps = self.commands.iter().flat_map(|(_, steps)| steps).rev();
        for step in steps {
            match step {
                Step::Put(at, value) if at == key => return Known::Value(value.clone()),
                Step::Delete(at) if at == key => return Known::Absent,
                Step::DeleteRange(start, end) if within(key, start, end) => return Known::Absent,
                Step::Put(..) | Step::Delete(_) | Step::DeleteRange(..) => {}
            }
        }
        Known::Nothing
    }

    fn bytes(&self) -> usize {
        self.commands.iter().flat_map(|(_, steps)| steps).map(Step::bytes).sum()
    }
}

fn clone(step: &Step) -> Step {
    match step {
        Step::Put(key, value) => Step::Put(key.clone(), value.clone()),
        Step::Delete(key) => Step::Delete(key.clone()),
        Step::DeleteRange(start, end) => Step::DeleteRange(start.clone(), end.clone()),
    }
}

#[test]
fn the_queue_does_what_a_list_of_all_writes_does() {
    for seed in 0..200 {
        let rng = Rng::new(seed);
        let (mut inflight, mut model) = (InFlight::default(), Model::default());
        let key = || bytes(&format!("{:02}", rng.below(20)));
        // Some runs ask seldom, so that much is not in the index when they do.
        let questions = rng.below(4);
        for step in 0..400 {
            match rng.below(10) {
                0..=3 => {
                    let command = inflight.begin_command();
                    model.commands.push((command, Vec::new()));
                }
                4 | 5 if !model.commands.is_empty() => {
                    let (command, steps) = model.commands.remove(0);
                    assert_eq!(inflight.end(command), steps.iter().map(Step::bytes).sum::<usize>());
                }
                6 if rng.below(4) == 0 && !model.commands.is_empty() => {
                    let place = rng.below(model.commands.len() as u64) as usize;
                    let (command, steps) = model.commands.remove(place);
                    assert_eq!(inflight.give_up(command), steps.iter().map(Step::bytes).sum::<usize>());
                }
                7 if rng.below(30) == 0 => {
                    inflight.clear();
                    model.commands.clear();
                }
                _ => {}
            }
            if let Some((_, steps)) = model.commands.last_mut() {
                let step = match rng.below(8) {
                    0 => Step::Delete(key()),
                    1 => Step::DeleteRange(key(), if rng.below(4) == 0 { Bytes::new() } else { key() }),
                    2 => Step::Put(key(), TimedValue { value: bytes("v"), until: Until(rng.below(9)) }),
                    _ => Step::Put(key(), bytes(&step.to_string()).into()),
                };
                steps.push(clone(&step));
                match step {
                    Step::Put(key, value) => inflight.begin_write(key, Some(value)),
                    Step::Delete(key) => inflight.begin_write(key, None),
                    Step::DeleteRange(start, end) => inflight.begin_range(start, end),
                }
            }
            if rng.below(4) < questions {
                let key = key();
                assert_eq!(inflight.known(&key), model.known(&key), "seed {seed}, step {step}, {key:?}");
            }
            inflight.check();
            assert_eq!((inflight.bytes(), inflight.is_empty()), (model.bytes(), model.commands.is_empty()));
        }
    }
}

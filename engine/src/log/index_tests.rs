//! The index against the simplest thing that could be true, and the promise that recovery rests on: replaying from any
//! segment that purge would still keep gives the same groups.

use std::collections::BTreeMap;

use super::*;
use crate::log::Batch;
use crate::log::format::EntryRef;
use crate::log::group::Slot;
use crate::log::purge::needed_from;
use crate::rt::rng::Rng;

type Entries = BTreeMap<u64, (u64, Vec<u8>)>;

/// What a group should look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    mark: Option<Position>,
    entries: Entries,
    states: BTreeMap<u8, Vec<u8>>,
}

/// Puts one random change into both.
fn change(rng: &Rng, models: &mut BTreeMap<u64, Model>, batch: &mut Batch) {
    let group = rng.below(4);
    match rng.below(12) {
        0 => {
            batch.remove(group);
            models.remove(&group);
            return;
        }
        1 => {
            let to = Position { index: rng.below(50), term: 9 };
            batch.reset(group, to.index, to.term);
            let model = models.entry(group).or_default();
            model.entries.clear();
            model.mark = Some(to);
            return;
        }
        _ => {}
    }
    let model = models.entry(group).or_default();
    let last = model.entries.last_key_value().map(|(last, _)| *last).or(model.mark.map(|mark| mark.index));
    match rng.below(4) {
        0 => {
            let value = vec![rng.below(256) as u8; rng.below(20) as usize];
            batch.put_state(group, rng.below(3) as u8, &value);
            // The tag is drawn again for the model from the same batch, by decoding it.
            let Some(Ok(Item::State { tag, .. })) = items(batch.body()).last() else { panic!("a state") };
            model.states.insert(tag, value);
        }
        1 if last.is_some() => {
            let first = model.entries.first_key_value().map(|(first, _)| first - 1);
            let floor = first.or(model.mark.map(|mark| mark.index)).unwrap_or(0);
            let to = Position { index: floor + rng.below(last.unwrap() - floor + 2), term: 1 + rng.below(5) };
            batch.compact(group, to.index, to.term);
            model.entries.retain(|index, _| *index > to.index);
            model.mark = Some(to);
        }
        _ => {
            let floor = model.mark.map_or(1, |mark| mark.index + 1);
            let next = last.map_or(1 + rng.below(10), |last| last + 1);
            let first = next.saturating_sub(rng.below(4)).max(floor.min(next));
            let entries: Vec<_> = (0..1 + rng.below(5))
                .map(|_| (rng.below(9), vec![rng.below(256) as u8; rng.below(30) as usize]))
                .collect();
            let refs = entries.iter().map(|(term, payload)| EntryRef { term: *term, kind: 0, payload });
            batch.append(group, first, refs);
            model.entries.retain(|index, _| *index < first);
            model.entries.extend((first..).zip(entries));
        }
    }
}

/// What the index says, read through the bodies as the log does.
fn seen(index: &Index, bodies: &BTreeMap<RecordAt, Vec<u8>>) -> BTreeMap<u64, Model> {
    let entry = |(at, slot): (u64, &Slot)| {
        let payload = bodies[&slot.at][slot.payload.range()].to_vec();
        (at, (slot.term, payload))
    };
    let model = |group: &Group| Model {
        mark: group.mark(),
        entries: group.slots().map(entry).collect(),
        states: group.states().map(|(tag, value)| (tag, value.to_vec())).collect(),
    };
    index.groups().map(|(id, group)| (id, model(group))).collect()
}

/// What purge writes for one group of a segment.
fn moved(index: &Index, bodies: &BTreeMap<RecordAt, Vec<u8>>, group: u64, segment: SegmentNo) -> Batch {
    let live = index.group(group).unwrap().live_in(segment);
    let mut batch = Batch::new();
    if let Some(mark) = live.mark {
        batch.compact(group, mark.index, mark.term);
    }
    for (tag, value) in &live.states {
        batch.put_state(group, *tag, value);
    }
    for (at, slot) in &live.entries {
        let payload = &bodies[&slot.at][slot.payload.range()];
        batch.moved(group, *at, [EntryRef { term: slot.term, kind: slot.kind, payload }]);
    }
    batch
}

#[test]
fn replay_from_the_first_needed_segment_gives_the_same_groups() {
    for seed in 0..300 {
        let rng = Rng::new(seed);
        let (mut index, mut models) = (Index::default(), BTreeMap::new());
        let mut bodies = BTreeMap::<RecordAt, Vec<u8>>::new();
        let mut at = RecordAt { segment: SegmentNo(1), block: 1 };
        let mut moves = 0;
        for _ in 0..150 {
            let mut batch = Batch::new();
            let oldest = needed_from(&index.uses(), at.segment);
            let idle = index.groups().find(|(_, g)| g.uses().iter().any(|(of, _)| *of == oldest));
            match idle.map(|(id, _)| id).filter(|_| rng.below(3) == 0) {
                Some(group) => {
                    moves += 1;
                    batch = moved(&index, &bodies, group, oldest);
                }
                None => {
                    for _ in 0..=rng.below(3) {
                        change(&rng, &mut models, &mut batch);
                    }
                }
            }
            assert_eq!(index.misuse(batch.body()), None, "seed {seed}");
            index.apply(at, batch.body()).unwrap();
            bodies.insert(at, batch.into_body().to_vec());
            index.groups().for_each(|(_, group)| group.check());
            assert_eq!(seen(&index, &bodies), models, "seed {seed} at {at:?}");
            at.block += 1;
            if rng.below(6) == 0 {
                at = RecordAt { segment: SegmentNo(at.segment.0 + 1), block: 1 };
            }

            let mut replayed = Index::default();
            let needed = needed_from(&index.uses(), at.segment);
            for (at, body) in bodies.iter().filter(|(at, _)| at.segment >= needed) {
                replayed.apply(*at, body).unwrap();
            }
            assert_eq!(replayed.first_hole(), None, "seed {seed}");
            let same = |(id, model): (u64, Model)| (model != Model::default()).then_some((id, model));
            let replayed: BTreeMap<_, _> = seen(&replayed, &bodies).into_iter().filter_map(same).collect();
            let models: BTreeMap<_, _> = models.clone().into_iter().filter_map(same).collect();
            assert_eq!(replayed, models, "seed {seed} from {needed:?}");
        }
        assert!(moves > 0, "seed {seed} moved nothing");
    }
}

#[test]
fn an_append_that_leaves_a_hole_is_noticed_across_the_items_of_a_batch() {
    let entry = EntryRef { term: 1, kind: 0, payload: b"" };
    let mut index = Index::default();
    let mut batch = Batch::new();
    batch.append(1, 5, [entry, entry]);
    index.apply(RecordAt { segment: SegmentNo(1), block: 1 }, batch.body()).unwrap();

    let hole = |fill: fn(&mut Batch, EntryRef<'_>)| {
        let mut batch = Batch::new();
        fill(&mut batch, entry);
        index.misuse(batch.body()).is_some()
    };
    assert!(!hole(|batch, entry| batch.append(1, 7, [entry])));
    assert!(hole(|batch, entry| batch.append(1, 8, [entry])));
    assert!(!hole(|batch, entry| batch.append(2, 8, [entry])));
    assert!(hole(|batch, _| batch.compact(1, 3, 1)));
    assert!(!hole(|batch, _| batch.compact(1, 4, 1)));
    let after_reset = hole(|batch, entry| {
        batch.reset(1, 20, 1);
        batch.append(1, 22, [entry]);
    });
    assert!(after_reset);
    let after_removal = hole(|batch, entry| {
        batch.remove(1);
        batch.append(1, 22, [entry]);
    });
    assert!(!after_removal);
}

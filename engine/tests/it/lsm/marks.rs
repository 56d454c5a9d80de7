//! How far in the log the tables reach, and what the caller keeps about each group, against a map: groups that advance, are described
//! anew, are forgotten and return, flushes, reopenings and power cuts at any moment. A state says at which index it was written, and
//! is never found beside another one than the map has.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use engine::lsm::{Tree, WriteBatch};
use engine::rt::Rt;
use engine::rt::sim::{Options, World};

use super::model::Dice;
use super::world::open;

const GROUPS: u64 = 4;

/// By group: the index, and the state.
type Marks = BTreeMap<u64, (u64, Option<Vec<u8>>)>;

fn found(tree: &Tree) -> Marks {
    let state = |group| tree.state(group).map(|state| state.to_vec());
    tree.flushed_indexes().into_iter().map(|(group, index)| (group, (index, state(group)))).collect()
}

/// What was asked for, in order: the map after every flush that was begun, and which of them is durable for certain.
#[derive(Default)]
struct Past {
    now: Marks,
    begun: Vec<Marks>,
    durable: usize,
    returns: u64,
    described: u64,
}

impl Past {
    /// A batch of a few marks, and its effect.
    fn batch(&mut self, dice: &mut Dice) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for _ in 0..1 + dice.roll(3) {
            let group = 1 + dice.roll(GROUPS);
            if dice.roll(4) == 0 {
                batch.forget(group);
                self.now.remove(&group);
                if dice.roll(2) == 0 {
                    // It returns at once, and begins far below where it was.
                    batch.mark(group, 1);
                    self.now.insert(group, (1, None));
                    self.returns += 1;
                }
            } else {
                let (before, mut state) = self.now.get(&group).cloned().unwrap_or_default();
                let index = before + 1 + dice.roll(50);
                batch.mark(group, index);
                if dice.roll(3) == 0 {
                    state = Some(index.to_le_bytes().to_vec());
                    batch.describe(group, &index.to_le_bytes());
                    self.described += 1;
                }
                self.now.insert(group, (index, state));
            }
        }
        batch
    }
}

async fn live(rt: Rt, past: Rc<RefCell<Past>>, dice: u64) {
    let mut dice = Dice(engine::rt::rng::Rng::new(dice));
    let tree = open(&rt).await;
    let found = found(&tree);
    {
        let mut past = past.borrow_mut();
        let known = past.durable.checked_sub(1).map(|at| past.begun[at].clone()).unwrap_or_default();
        let possible = past.begun[past.durable..].contains(&found) || found == known;
        assert!(possible, "found {found:?}, last durable {known:?}, begun {:?}", &past.begun[past.durable..]);
        // The log would be replayed; here what was lost is simply begun anew.
        *past = Past { now: found, returns: past.returns, described: past.described, ..Past::default() };
        let now = past.now.clone();
        past.begun.push(now);
        past.durable = 1;
    }
    for _ in 0..60 {
        let batch = past.borrow_mut().batch(&mut dice);
        tree.write(&batch).unwrap();
        if dice.roll(4) == 0 {
            let number = {
                let mut past = past.borrow_mut();
                let now = past.now.clone();
                past.begun.push(now);
                past.begun.len()
            };
            tree.flush().await.unwrap();
            let mut past = past.borrow_mut();
            past.durable = number;
            assert_eq!(self::found(&tree), past.now);
        }
    }
}

#[test]
fn marks_equal_the_map_whatever_is_forgotten_and_returns() {
    let (mut cut, mut returns, mut described) = (0, 0, 0);
    for seed in 0..60 {
        let world = World::new(seed, Options::default());
        let past = Rc::new(RefCell::new(Past::default()));
        for _ in 0..4 {
            let (past, dice) = (past.clone(), world.random());
            let running = world.node(0).start(0, move |rt| live(rt, past, dice));
            world.run_for(Duration::from_micros(world.below(40_000)));
            world.node(0).crash();
            cut += u64::from(world.block_on(running).is_none());
        }
        let (last, dice) = (past.clone(), world.random());
        let running = world.node(0).start(0, move |rt| live(rt, last, dice));
        world.block_on(running).unwrap();
        returns += past.borrow().returns;
        described += past.borrow().described;
    }
    assert!(
        cut > 60 && returns > 500 && described > 500,
        "{cut} lives cut, {returns} returns, {described} states"
    );
}

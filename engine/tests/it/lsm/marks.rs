//! How far in the log the tables reach, against a map: groups that advance, are forgotten and return, flushes, reopenings and
//! power cuts at any moment.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use engine::lsm::WriteBatch;
use engine::rt::Rt;
use engine::rt::sim::{Options, World};

use super::model::Dice;
use super::world::open;

const GROUPS: u64 = 4;

type Marks = BTreeMap<u64, u64>;

/// What was asked for, in order: the map after every flush that was begun, and which of them is durable for certain.
#[derive(Default)]
struct Past {
    now: Marks,
    begun: Vec<Marks>,
    durable: usize,
    returns: u64,
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
                    self.now.insert(group, 1);
                    self.returns += 1;
                }
            } else {
                let index = self.now.get(&group).copied().unwrap_or(0) + 1 + dice.roll(50);
                batch.mark(group, index);
                self.now.insert(group, index);
            }
        }
        batch
    }
}

async fn live(rt: Rt, past: Rc<RefCell<Past>>, dice: u64) {
    let mut dice = Dice(dice);
    let tree = open(&rt).await;
    let found: Marks = tree.flushed_indexes().into_iter().collect();
    {
        let mut past = past.borrow_mut();
        let known = past.durable.checked_sub(1).map(|at| past.begun[at].clone()).unwrap_or_default();
        let possible = past.begun[past.durable..].contains(&found) || found == known;
        assert!(possible, "found {found:?}, last durable {known:?}, begun {:?}", &past.begun[past.durable..]);
        // The log would be replayed; here what was lost is simply begun anew.
        *past = Past { now: found, returns: past.returns, ..Past::default() };
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
            assert_eq!(tree.flushed_indexes().into_iter().collect::<Marks>(), past.now);
        }
    }
}

#[test]
fn marks_equal_the_map_whatever_is_forgotten_and_returns() {
    let (mut cut, mut returns) = (0, 0);
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
    }
    assert!(cut > 60 && returns > 500, "{cut} lives cut, {returns} returns");
}

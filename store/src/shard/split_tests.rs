//! Regions of one store are split while their keys are written, and the power goes at every single change of the disk: whatever was
//! acknowledged is there, the regions cover the key space once, and no split that was seen is gone.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use engine::rt::Rt;
use engine::rt::local::oneshot;
use scheduler::operator::OperatorId;
use scheduler::{Epoch, Key, KeyRange, NewRegion, Peer, PeerId, Region, RegionId, StoreId};

use super::Shard;
use super::descriptor_tests::{DIR, cut_at_every_change, options, submit};
use super::reply::Reply;
use crate::plant::{Bug, plant};
use crate::refusal::Refusal;
use crate::request::{Op, Out};

fn region() -> Region {
    Region {
        id: RegionId(10),
        range: KeyRange::new("", "").unwrap(),
        epoch: Epoch::FIRST,
        peers: vec![Peer::voter(PeerId(20), StoreId(1))],
    }
}

/// What was acknowledged or seen, over all lives.
#[derive(Debug, Default)]
struct Seen {
    values: BTreeMap<Bytes, Bytes>,
    regions: usize,
    lives: u64,
    /// Ids are never used twice.
    next_id: u64,
}

/// Repeats a write that meets a region that has just been split, as a gateway does.
async fn put(shard: &Shard, rt: &Rt, seen: &RefCell<Seen>, key: &'static str) {
    let lives = seen.borrow().lives;
    let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from(format!("{lives:>900}")));
    loop {
        match submit(shard, Op::Put { key: key.clone(), value: value.clone() }).await {
            Ok(_) => break,
            Err(
                Refusal::EpochNotMatch { .. } | Refusal::NotLeader { .. } | Refusal::KeyNotInRegion { .. },
            ) => {
                rt.sleep(Duration::from_millis(1)).await;
            }
            Err(refusal) => panic!("{key:?}: {refusal:?}"),
        }
    }
    seen.borrow_mut().values.insert(key, value);
}

/// Splits the region that has `key`, right behind a write that is not proposed yet, and waits until that is seen.
async fn split(shard: &Shard, rt: &Rt, seen: &RefCell<Seen>, key: &str) {
    let key = Key::from(key);
    let regions = shard.published();
    let region =
        regions.iter().find(|region| region.range.contains(&key)).expect("some region has it").clone();
    if *region.range.start() == key {
        return;
    }
    let id = seen.borrow().next_id;
    seen.borrow_mut().next_id += 2;
    let (answer, pending) = oneshot();
    let written = Bytes::from_static(b"a");
    let value = Bytes::from(format!("{:>900}", seen.borrow().lives));
    shard.submit(None, Op::Put { key: written, value }, Reply::local(answer));
    let new = NewRegion { region: RegionId(id), peers: vec![PeerId(id + 1)] };
    shard
        .split(region.id, region.epoch, OperatorId(1), &[key], &[new])
        .expect("a leader that is current splits");
    pending.await.expect("an answer").expect("it was proposed before the split");
    while shard.published().len() == regions.len() {
        assert_eq!(shard.stopped(), None);
        rt.sleep(Duration::from_millis(1)).await;
    }
    seen.borrow_mut().regions = regions.len() + 1;
}

/// The regions lie side by side from one end of the key space to the other.
fn covers_once(regions: &[Region]) -> bool {
    let joined = regions.windows(2).all(|pair| pair[0].range.end() == pair[1].range.start());
    let (first, last) = (regions.first(), regions.last());
    joined
        && first.is_some_and(|region| region.range.start().as_bytes().is_empty())
        && last.is_some_and(|region| region.range.end().as_bytes().is_empty())
}

/// A store opens, has what was acknowledged, is split under writes, and closes.
async fn live(rt: Rt, seen: Rc<RefCell<Seen>>) {
    rt.create_dir_all(Path::new("/data")).await.unwrap();
    let shard = Shard::open(&rt, Path::new(DIR), options(), vec![region()]).await.unwrap();
    let (turns, ticks, upkeep) = (shard.clone(), shard.clone(), shard.clone());
    rt.spawn(async move { turns.run().await });
    rt.spawn(async move { ticks.tick_loop().await });
    rt.spawn(async move { upkeep.upkeep_loop().await });
    while !shard.is_ready() {
        assert_eq!(shard.stopped(), None);
        rt.sleep(Duration::from_millis(1)).await;
    }
    let regions = shard.published();
    assert!(covers_once(&regions), "{regions:?}");
    let known = seen.borrow().regions;
    // A split that was proposed when the power went may have been applied.
    assert!(regions.len() == known || regions.len() == known + 1, "{known} were seen: {regions:?}");
    let values = seen.borrow().values.clone();
    for (key, value) in values {
        let found = submit(&shard, Op::Get { key: key.clone() }).await;
        let Ok(Out::Value(Some(found))) = found else { panic!("{key:?} is {found:?}") };
        let lives = |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().trim().parse::<u64>().unwrap();
        assert!(lives(&found) >= lives(&value), "{key:?} is of an older life");
    }
    {
        let mut seen = seen.borrow_mut();
        seen.lives += 1;
        seen.regions = regions.len();
        // Ids that the life before may have used are not used again.
        seen.next_id += 100;
    }
    let borders = [["f", "p"], ["k", "t"], ["d", "m"], ["h", "w"]];
    let [first, second] = borders[(seen.borrow().lives % 4) as usize];
    put(&shard, &rt, &seen, "b").await;
    put(&shard, &rt, &seen, "q").await;
    split(&shard, &rt, &seen, first).await;
    put(&shard, &rt, &seen, "g").await;
    put(&shard, &rt, &seen, "e").await;
    split(&shard, &rt, &seen, second).await;
    put(&shard, &rt, &seen, "x").await;
    shard.check_state();
    // Every other life ends by a kill, with whatever the tree has in memory.
    if seen.borrow().lives.is_multiple_of(2) {
        shard.close(Duration::from_secs(1)).await.unwrap();
    }
}

fn cut_around_splits() -> u64 {
    cut_at_every_change(700, || Seen { regions: 1, next_id: 100, ..Seen::default() }, live)
}

#[test]
fn both_halves_survive_wherever_the_power_goes() {
    let points = cut_around_splits();
    assert!(points > 30, "only {points} changes");
}

#[test]
fn halves_apart_from_their_split_are_caught() {
    let mut unnoticed = Vec::new();
    for bug in Bug::SPLIT_ON_DISK {
        let planted = move || {
            plant(Some(bug));
            cut_around_splits()
        };
        if std::thread::spawn(planted).join().is_ok() {
            unnoticed.push(bug);
        }
    }
    assert!(unnoticed.is_empty(), "{unnoticed:?} went unnoticed");
}

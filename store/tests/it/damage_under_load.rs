//! Starts of a whole node after damage to what it left when it was killed under load: the sweep of [`damage`](crate::damage), and logs that
//! have lost more than their last second.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use engine::log::plant::{Bug, plant};
use engine::rt::Rt;
use engine::rt::sim::{Options, World};

use crate::damage::{Case, DIR, Files, Found, Pairs, Prepared, flipped_ends, judge, sweep, write};
use crate::real::{self, ROOT, Real};

/// Starts the node with segments that are not full within a second.
async fn start_with_long_segments(rt: &Rt) -> Result<Real, String> {
    let mut setup = real::setup(Path::new(DIR));
    setup.config.log.segment_bytes = 384 << 10;
    real::start(rt, setup).await
}

/// A directory whose node was killed in its first life while clients wrote to both of its stores all the time, and what it held a second and
/// a bit before.
fn killed_under_load() -> (Prepared, Files) {
    const LOAD: Duration = Duration::from_millis(2500);
    const BEFORE_THE_END: Duration = Duration::from_millis(1300);
    let world = World::new(76, Options::default());
    let node = world.node(0);
    let disk = node.clone();
    let life = node.start(ROOT, move |rt| async move {
        let real = start_with_long_segments(&rt).await.unwrap();
        let mut known = Pairs::new();
        write(&real.gateway, 1, 0..10, &mut known).await;
        let known = Rc::new(RefCell::new(known));
        // Each client writes keys of one region, which are dealt out to both stores, and more often than a store asks whether it is idle.
        // At the end it waits for an answer, and of that key nothing is known.
        for client in 0..6 {
            let (gateway, rt_of_client, known) = (real.gateway.clone(), rt.clone(), known.clone());
            rt.spawn(async move {
                for n in (225 + 12 * client..).step_by(75) {
                    let mut pairs = Pairs::new();
                    write(&gateway, 8, n..n + 1, &mut pairs).await;
                    known.borrow_mut().append(&mut pairs);
                    rt_of_client.sleep(Duration::from_millis(85)).await;
                }
            });
        }
        rt.sleep(LOAD - BEFORE_THE_END).await;
        let before = disk.disk().contents();
        rt.sleep(BEFORE_THE_END).await;
        (before, known.take())
    });
    let (before, known) = world.block_on(life).unwrap();
    node.kill();
    // No earlier life has left anything older.
    (Prepared { older: Files::new(), now: node.disk().contents(), known }, before)
}

/// Zeros from the last record on that is older than the last second, in each segment of a log that was written in it.
fn zeroed_ends(prepared: &Prepared, before: &Files) -> Vec<Case> {
    let ends = |bytes: &[u8]| {
        4096 * bytes.chunks(4096).rposition(|block| block[..4] != [0; 4]).map_or(0, |at| at + 1)
    };
    let is_segment = |path: &&PathBuf| path.extension().is_some_and(|kind| kind == "seg");
    let case = |path: &PathBuf| {
        let (from, now) = (ends(before.get(path)?).saturating_sub(4096), ends(&prepared.now[path]));
        let mut files = prepared.now.clone();
        files.get_mut(path)?[from..now].fill(0);
        let what = format!("bytes from {from} to {now} zeroed");
        (from < now).then(|| Case { what, paths: vec![path.clone()], files })
    };
    prepared.now.keys().filter(is_segment).filter_map(case).collect()
}

/// Zeros in each log from the last record on that `END` vouches for.
fn without_the_last_witnessed(prepared: &Prepared) -> Vec<Case> {
    let number =
        |slot: &[u8], at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("eight bytes"));
    let case = |store: u64| {
        let log = Path::new(DIR).join(format!("store-{store}/log"));
        let end = &prepared.now[&log.join("END")];
        let newest = end.chunks(4096).max_by_key(|slot| number(slot, 24))?;
        let path = log.join(format!("{:016}.seg", number(newest, 32)));
        let from =
            usize::try_from(number(newest, 40)).ok()?.checked_sub(4096).filter(|from| *from >= 4096)?;
        let mut files = prepared.now.clone();
        files.get_mut(&path)?[from..].fill(0);
        Some(Case { what: format!("zeroed from byte {from} on"), paths: vec![path], files })
    };
    [1, 2].into_iter().filter_map(case).collect()
}

/// Whether a start with one of these takes less than was acknowledged for everything.
fn loses(cases: &[Case], known: &Pairs, bug: Option<Bug>) -> bool {
    plant(bug);
    let lost = cases.iter().any(|case| judge(&case.files, known).is_err());
    plant(None);
    lost
}

/// The sweep would be green for ever if nothing could be lost in it: a few of its cases are enough to see that it is not.
#[test]
fn a_bug_of_the_end_of_a_log_is_caught_by_the_sweep() {
    let (prepared, _) = killed_under_load();
    // A record that was acknowledged is damaged, and cut as one that never was.
    let flipped = flipped_ends(&prepared);
    assert!(flipped.len() < 20 && !loses(&flipped, &prepared.known, None));
    assert!(loses(&flipped, &prepared.known, Some(Bug::FlipTakenForTorn)));
    // The end is gone that was said to be there.
    let gone = without_the_last_witnessed(&prepared);
    assert!(!gone.is_empty() && !loses(&gone, &prepared.known, None));
    let found = judge(&gone[0].files, &prepared.known);
    assert!(matches!(found, Ok(Found::Refused(_))), "{found:?}");
}

#[test]
fn damage_after_a_kill_under_load_is_named_or_loses_nothing() {
    let (prepared, before) = killed_under_load();
    let zeroed = zeroed_ends(&prepared, &before);
    assert!(zeroed.len() >= 2, "each store has a segment that was written in its last second");
    let witnessed = without_the_last_witnessed(&prepared);
    let (cases, refused) = sweep(&prepared, zeroed.into_iter().chain(witnessed).collect());
    assert!(cases > 100 && refused > cases / 2, "{refused} of {cases}");
}

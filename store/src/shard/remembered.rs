//! DAMAGE: the files of a store in which damage was found, for the starts to come.
//!
//! ```text
//! DAMAGE     text, in the store's directory, replaced as a whole; absent while nothing is damaged
//!   damage 2                                             format version
//!   1764361234 serves tree/0000000012.table a frame's checksum does not match (block at offset 4096)
//!                                                        when it was found (Unix time, seconds), what the store does with it
//!                                                        (serves or stops), the file, what is wrong
//!   sum 9d1c03fe                                         CRC-32 over every byte before this line, hexadecimal
//! ```
//!
//! Version 1 had no word between time and file, and was of files with which the store serves.
//!
//! Damage that a read met would otherwise be forgotten by a restart until a read comes by that place again, and the node would be
//! ready meanwhile. Damage that a compaction met, or other work that the store cannot do without, has stopped the store; a start
//! would open it again and stop again whenever that work comes by. So a start refuses to open it, which fences it
//! ([`check_opens`]). A file is forgotten once it is gone. One that was repaired in place is remembered until DAMAGE is removed,
//! because a start reads no whole files. A DAMAGE that cannot be read is itself reported as damaged, and left as it is.
//!
//! Invariant: the list is a copy of what [`Health`] knows, never the other way round after the start, so there is one truth.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use engine::error::{Fault, FaultKind, Result};
use engine::rt::Rt;
use futures_util::future::select;

use super::Shard;
use super::health::{DamagedFile, Event, Health};

const FILE: &str = "DAMAGE";
const HEAD: &str = "damage 2\n";
const HEAD_1: &str = "damage 1\n";
/// The words for what a store does with a damaged file.
const SERVES: &str = "serves";
const STOPS: &str = "stops";

/// What a start adds to what an earlier one has found.
const FOUND_BEFORE: &str = " (found before this start; if the file was repaired, remove DAMAGE)";

/// When what could not be written down is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// One remembered file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    /// Unix time, seconds.
    since_seconds: u64,
    file: DamagedFile,
}

/// What was remembered of a store, kept in step with its health.
#[derive(Debug, Default)]
struct Remembered(Vec<Item>);

/// What lies in a store's directory.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// No file, because nothing is damaged.
    Nothing,
    /// A list.
    Items(Vec<Item>),
    /// A file that is no list; one sentence says why.
    Unreadable(String),
}

/// Whether the store in `dir` may be opened: no earlier run had to stop because of a damaged file that is still there.
///
/// # Errors
/// The damage, with the file and what to do. A passing shortage.
pub(super) async fn check_opens(rt: &Rt, dir: &Path) -> Result<()> {
    let Found::Items(items) = find(rt, dir).await? else { return Ok(()) };
    // The run that wrote the list may have been killed before its name was durable, and it is not written again while it stays true.
    rt.sync_dir(dir).await.map_err(|error| Fault::io(dir, "syncing the directory", &error))?;
    for item in items.into_iter().filter(|item| item.file.stops) {
        if exists(rt, &item.file.path).await? {
            return Err(item.fault());
        }
    }
    Ok(())
}

/// Reports to `health` the damage that earlier runs of the store in `dir` have found.
///
/// # Errors
/// A passing shortage.
pub(super) async fn recall(rt: &Rt, dir: &Path, health: &Health) -> Result<()> {
    for fault in examine(rt, dir).await? {
        health.enter(Event::Damaged(&fault));
    }
    Ok(())
}

/// The damage that earlier runs of the store in `dir` have found, as far as the files are still there. A list that cannot be read is
/// itself damaged.
///
/// # Errors
/// A passing shortage.
pub async fn examine(rt: &Rt, dir: &Path) -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    match find(rt, dir).await? {
        Found::Nothing => {}
        Found::Items(items) => {
            for item in items {
                if exists(rt, &item.file.path).await? {
                    faults.push(item.fault());
                }
            }
        }
        Found::Unreadable(why) => {
            let what = format!("{why}, so it is not known which files were damaged; remove it once none is");
            faults.push(Fault::corruption(&dir.join(FILE), what));
        }
    }
    Ok(faults)
}

impl Shard {
    /// Looks at the ends of all tables once, then writes down what is damaged whenever that changes, until the store stops.
    pub async fn remember_loop(&self, dir: &Path) {
        let inner = &*self.inner;
        for fault in inner.tree.check_tables().await {
            match fault.kind {
                // One that has stopped meanwhile has closed its tables.
                FaultKind::Corruption | FaultKind::Io | FaultKind::Denied | FaultKind::Foreign
                    if !inner.health.has_stopped() =>
                {
                    inner.health.enter(Event::Damaged(&fault));
                }
                FaultKind::Corruption | FaultKind::Io | FaultKind::Denied | FaultKind::Foreign => break,
                // Whoever reads the table next finds out.
                FaultKind::Short(_) | FaultKind::Locked | FaultKind::Poisoned | FaultKind::TooLarge => {}
            }
        }
        let mut remembered = None;
        loop {
            match keep(&inner.rt, dir, &inner.health, &mut remembered).await {
                Ok(()) if inner.health.has_stopped() => return,
                Ok(()) => inner.health.changed_damage().await,
                Err(fault) => {
                    let file = fault.path.display();
                    tracing::warn!(store = self.store().0, %file, what = fault.what, "damage is not remembered");
                    let (again, changed) = (pin!(inner.rt.sleep(AGAIN)), pin!(inner.health.changed_damage()));
                    select(again, changed).await;
                    // What has stopped it is tried on, for as long as the node runs.
                    if inner.health.has_closed() {
                        return;
                    }
                }
            }
        }
    }
}

/// Writes down what `health` knows, if it is not what the list in `dir` says, which is read the first time. One that cannot be read
/// stays as it is, because what was in it is not known.
async fn keep(rt: &Rt, dir: &Path, health: &Health, remembered: &mut Option<Remembered>) -> Result<()> {
    let file = dir.join(FILE);
    let kept = match remembered {
        Some(kept) => kept,
        None => match find(rt, dir).await? {
            Found::Nothing => remembered.insert(Remembered::default()),
            Found::Items(items) => remembered.insert(Remembered(items)),
            Found::Unreadable(_) => return Ok(()),
        },
    };
    let items = kept.brought_up_to(health.damaged(), rt.wall().as_secs());
    if items == kept.0 {
        return Ok(());
    }
    if items.is_empty() {
        rt.remove(&file).await.map_err(|error| Fault::io(&file, "removing it", &error))?;
    } else {
        let text = render(dir, &items);
        rt.replace_small(&file, text.as_bytes())
            .await
            .map_err(|error| Fault::io(&file, "writing it", &error))?;
    }
    kept.0 = items;
    Ok(())
}

impl Item {
    /// What a start says of it.
    fn fault(self) -> Fault {
        Fault::corruption(&self.file.path, self.file.what + FOUND_BEFORE)
    }
}

impl Remembered {
    /// The list of these files: with what is remembered of them, and as found `now` (Unix time, seconds) where nothing is.
    fn brought_up_to(&self, damaged: Vec<DamagedFile>, now: u64) -> Vec<Item> {
        let item = |file: DamagedFile| {
            let known = self.0.iter().find(|item| item.file.path == file.path);
            // A client's read may have found it before it stopped the store.
            if let Some(known) = known.filter(|known| known.file.stops || !file.stops) {
                return known.clone();
            }
            let what = file.what.strip_suffix(FOUND_BEFORE).unwrap_or(&file.what).replace('\n', " ");
            Item { since_seconds: now, file: DamagedFile { what, ..file } }
        };
        damaged.into_iter().map(item).collect()
    }
}

/// # Errors
/// A passing shortage.
async fn find(rt: &Rt, dir: &Path) -> Result<Found> {
    let path = dir.join(FILE);
    let read = async {
        if !exists(rt, &path).await? {
            return Ok(None);
        }
        rt.read_small(&path).await.map(Some).map_err(|error| Fault::io(&path, "reading it", &error))
    };
    match read.await {
        Ok(None) => Ok(Found::Nothing),
        Ok(Some(bytes)) => Ok(match parse(dir, &bytes) {
            Some(items) => Found::Items(items),
            None => Found::Unreadable("its checksum does not match, or it is of another version".to_owned()),
        }),
        Err(short) if short.is_passing() => Err(short),
        Err(fault) => Ok(Found::Unreadable(fault.what)),
    }
}

async fn exists(rt: &Rt, path: &Path) -> Result<bool> {
    rt.exists(path).await.map_err(|error| Fault::io(path, "looking it up", &error))
}

fn render(dir: &Path, items: &[Item]) -> String {
    let mut text = HEAD.to_owned();
    for Item { since_seconds, file: DamagedFile { path, what, stops } } in items {
        let word = if *stops { STOPS } else { SERVES };
        let path = path.strip_prefix(dir).unwrap_or(path);
        // The directory itself.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        text.push_str(&format!("{since_seconds} {word} {} {what}\n", path.display()));
    }
    let sum = crc32fast::hash(text.as_bytes());
    text.push_str(&format!("sum {sum:08x}\n"));
    text
}

fn parse(dir: &Path, bytes: &[u8]) -> Option<Vec<Item>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, sum) = text.strip_suffix('\n')?.rsplit_once("sum ")?;
    if sum.len() != 8 || u32::from_str_radix(sum, 16).ok()? != crc32fast::hash(body.as_bytes()) {
        return None;
    }
    let (lines, has_word) = match body.strip_prefix(HEAD) {
        Some(lines) => (lines, true),
        None => (body.strip_prefix(HEAD_1)?, false),
    };
    let item = |line: &str| {
        let (since, rest) = line.split_once(' ')?;
        let (word, rest) = if has_word { rest.split_once(' ')? } else { (SERVES, rest) };
        let stops = match word {
            SERVES => false,
            STOPS => true,
            _ => return None,
        };
        let (path, what) = rest.split_once(' ')?;
        let path = if path == "." { dir.to_owned() } else { dir.join(path) };
        Some(Item {
            since_seconds: since.parse().ok()?,
            file: DamagedFile { path, what: what.to_owned(), stops },
        })
    };
    lines.lines().map(item).collect()
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use engine::rt::sim;
    use scheduler::StoreId;

    use super::*;

    fn items(dir: &Path) -> Vec<Item> {
        let item = |n: u64, stops| {
            let path = dir.join(format!("tree/{n:010}.table"));
            let what = format!("a frame's checksum does not match (block at offset {n})");
            Item { since_seconds: 1_764_000_000 + n, file: DamagedFile { path, what, stops } }
        };
        vec![item(1, false), item(2, true)]
    }

    const VERSION_ONE: &str = include_str!("../../tests/fixtures/damage-v1");
    const VERSION_TWO: &str = include_str!("../../tests/fixtures/damage-v2");

    #[test]
    fn version_two_is_what_it_was_and_every_flipped_bit_is_noticed() {
        let dir = Path::new("/d/store-1");
        assert_eq!(render(dir, &items(dir)), VERSION_TWO);
        assert_eq!(parse(dir, VERSION_TWO.as_bytes()), Some(items(dir)));
        let whole = VERSION_TWO.as_bytes();
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            let said = parse(dir, &bad);
            assert!(said.is_none() || said == Some(items(dir)), "bit {bit}: {said:?}");
        }
        for len in 0..whole.len() {
            assert_eq!(parse(dir, &whole[..len]), None, "length {len}");
        }
    }

    #[test]
    fn version_one_was_of_files_with_which_the_store_serves() {
        let dir = Path::new("/d/store-1");
        let mut known = items(dir);
        known.iter_mut().for_each(|item| item.file.stops = false);
        assert_eq!(parse(dir, VERSION_ONE.as_bytes()), Some(known));
    }

    #[test]
    fn the_directory_itself_has_a_line() {
        let dir = Path::new("/d/store-1");
        let file = DamagedFile { path: dir.to_owned(), what: "no such index".to_owned(), stops: true };
        let items = vec![Item { since_seconds: 7, file }];
        assert_eq!(parse(dir, render(dir, &items).as_bytes()), Some(items));
    }

    /// What stops the store after a read has found it is written down once more, and stays so.
    #[test]
    fn a_stop_is_written_down_although_the_damage_was_known() {
        sim::run(1, |rt| async move {
            let dir = Path::new("/data");
            rt.create_dir_all(dir).await.unwrap();
            let table = dir.join("3.table");
            rt.replace_small(&table, b"x").await.unwrap();
            let (health, mut remembered) = (health_of(&[(&table, "bad block")]), None);
            keep(&rt, dir, &health, &mut remembered).await.unwrap();
            check_opens(&rt, dir).await.expect("a read has met it");
            health.enter(Event::Failed(&Fault::corruption(&table, "bad block at 7")));
            keep(&rt, dir, &health, &mut remembered).await.unwrap();
            for _ in 0..2 {
                let fault = check_opens(&rt, dir).await.expect_err("it has stopped the store");
                assert!(
                    fault.path == table && fault.what.starts_with("bad block at 7 (found before"),
                    "{fault}"
                );
                keep(&rt, dir, &recalled(&rt, dir).await, &mut None).await.unwrap();
            }
            rt.remove(&table).await.unwrap();
            check_opens(&rt, dir).await.expect("what is gone is forgotten");
        });
    }

    /// The run that has found the damage is killed at every change that it makes on the disk. A start that hears of it refuses to open
    /// the store, and so does the one after a power cut.
    #[test]
    fn a_fence_that_a_start_has_met_outlives_a_power_cut() {
        let (dir, table) = (Path::new("/data"), Path::new("/data/3.table"));
        let mut fenced = 0;
        for point in 0.. {
            let options = sim::Options::default();
            let disk = sim::DiskOptions { crash: sim::CrashMode::Lose, ..options.disk.clone() };
            let world = sim::World::new(point, sim::Options { disk, ..options });
            let node = world.node(0);
            let made = node.start(0, move |rt| async move {
                rt.create_dir_all(dir).await.unwrap();
                rt.replace_small(table, b"x").await.unwrap();
            });
            world.block_on(made).unwrap();
            node.disk().stop_at(node.disk().changes() + point);
            let written = Rc::new(Cell::new(false));
            let over = written.clone();
            let writing = node.start(0, move |rt| async move {
                let health = Health::new(StoreId(1));
                health.enter(Event::Failed(&Fault::corruption(table, "bad block at 7")));
                keep(&rt, dir, &health, &mut None).await.unwrap();
                over.set(true);
            });
            world.run_until(Duration::from_secs(5), || written.get() || node.disk().has_stopped());
            drop(writing);
            node.kill();
            let opens = || {
                let opening = node.start(0, move |rt| async move { check_opens(&rt, dir).await.is_ok() });
                world.block_on(opening).expect("it is not killed")
            };
            let before = opens();
            node.crash();
            assert!(before || !opens(), "killed at change {point}: the damage is forgotten");
            fenced += u32::from(!before);
            if written.get() {
                break;
            }
        }
        assert!(fenced > 1, "only {fenced} starts hear of the damage");
    }

    fn health_of(faults: &[(&Path, &str)]) -> Health {
        let health = Health::new(StoreId(1));
        faults.iter().for_each(|(path, what)| health.enter(Event::Damaged(&Fault::corruption(path, *what))));
        health
    }

    async fn recalled(rt: &Rt, dir: &Path) -> Health {
        let health = Health::new(StoreId(1));
        recall(rt, dir, &health).await.unwrap();
        health
    }

    #[test]
    fn damage_is_recalled_until_the_file_is_gone() {
        sim::run(1, |rt| async move {
            let dir = Path::new("/data");
            rt.create_dir_all(&dir.join("tree")).await.unwrap();
            let [first, second] = [1, 2].map(|n| dir.join(format!("tree/{n}.table")));
            rt.replace_small(&first, b"x").await.unwrap();
            rt.replace_small(&second, b"x").await.unwrap();
            let health = health_of(&[(&first, "a\nbad block"), (&second, "no footer")]);
            keep(&rt, dir, &health, &mut None).await.unwrap();
            let written = rt.read_small(&dir.join(FILE)).await.unwrap();

            rt.sleep(Duration::from_secs(5)).await;
            let health = recalled(&rt, dir).await;
            let problem = health.report().problem().unwrap();
            assert_eq!(health.report().damaged_files, 2);
            assert!(problem.contains("tree/1.table is damaged: a bad block (found before"), "{problem}");
            keep(&rt, dir, &health, &mut None).await.unwrap();
            let again = rt.read_small(&dir.join(FILE)).await.unwrap();
            assert_eq!(again, written, "what was found stays as it was found, and when");

            rt.remove(&first).await.unwrap();
            let health = recalled(&rt, dir).await;
            assert_eq!(health.report().damaged_files, 1);
            keep(&rt, dir, &health, &mut None).await.unwrap();
            let left = rt.read_small(&dir.join(FILE)).await.unwrap();
            assert!(!String::from_utf8(left).unwrap().contains("1.table"), "what is gone is forgotten");

            rt.remove(&second).await.unwrap();
            let health = recalled(&rt, dir).await;
            assert_eq!(health.report().damaged_files, 0);
            keep(&rt, dir, &health, &mut None).await.unwrap();
            assert!(!rt.exists(&dir.join(FILE)).await.unwrap());
        });
    }

    #[test]
    fn a_list_that_cannot_be_read_is_reported_and_not_written_over() {
        sim::run(1, |rt| async move {
            let dir = Path::new("/data");
            rt.create_dir_all(dir).await.unwrap();
            let (file, nonsense) = (dir.join(FILE), b"damage 1\nnonsense");
            rt.replace_small(&file, nonsense).await.unwrap();
            let health = recalled(&rt, dir).await;
            let problem = health.report().problem().unwrap();
            assert!(problem.contains("/data/DAMAGE is damaged"), "{problem}");
            health.enter(Event::Damaged(&Fault::corruption(&dir.join("tree/3.table"), "bad")));
            keep(&rt, dir, &health, &mut None).await.unwrap();
            assert_eq!(rt.read_small(&file).await.unwrap(), nonsense);
        });
    }
}

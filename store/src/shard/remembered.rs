//! DAMAGE: the files of a store in which damage was found, for the starts to come.
//!
//! ```text
//! DAMAGE     text, in the store's directory, replaced as a whole; absent while nothing is damaged
//!   damage 1                                             format version
//!   1764361234 tree/0000000012.table a frame's checksum does not match (block at offset 4096)
//!                                                        when it was found (Unix time, seconds), the file, what is wrong
//!   sum 9d1c03fe                                         CRC-32 over every byte before this line, hexadecimal
//! ```
//!
//! Damage that a read met would otherwise be forgotten by a restart until a read comes by that place again, and the node would be
//! ready meanwhile. A file is forgotten once it is gone. One that was repaired in place is remembered until DAMAGE is removed,
//! because a start reads no whole files. A DAMAGE that cannot be read is itself reported as damaged, and left as it is.
//!
//! Invariant: the list is a copy of what [`Health`] knows, never the other way round after the start, so there is one truth.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use engine::error::{Fault, FaultKind, Result};
use engine::rt::Rt;
use futures_util::future::select;

use super::Shard;
use super::health::{Event, Health};

const FILE: &str = "DAMAGE";
const HEAD: &str = "damage 1\n";

/// What a start adds to what an earlier one has found.
const FOUND_BEFORE: &str = " (found before this start; if the file was repaired, remove DAMAGE)";

/// When what could not be written down is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// One remembered file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    /// Unix time, seconds.
    since_seconds: u64,
    path: PathBuf,
    what: String,
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
                if exists(rt, &item.path).await? {
                    faults.push(Fault::corruption(&item.path, item.what + FOUND_BEFORE));
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
                FaultKind::Corruption | FaultKind::Io | FaultKind::Foreign if !inner.health.has_stopped() => {
                    inner.health.enter(Event::Damaged(&fault));
                }
                FaultKind::Corruption | FaultKind::Io | FaultKind::Foreign => return,
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
                    if inner.health.has_stopped() {
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

impl Remembered {
    /// The list of these files: with what is remembered of them, and as found `now` (Unix time, seconds) where nothing is.
    fn brought_up_to(&self, damaged: Vec<(PathBuf, String)>, now: u64) -> Vec<Item> {
        let item = |(path, what): (PathBuf, String)| {
            let known = self.0.iter().find(|item| item.path == path);
            let what = what.strip_suffix(FOUND_BEFORE).unwrap_or(&what).replace('\n', " ");
            known.cloned().unwrap_or(Item { since_seconds: now, path, what })
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
    for Item { since_seconds, path, what } in items {
        let path = path.strip_prefix(dir).unwrap_or(path).display();
        text.push_str(&format!("{since_seconds} {path} {what}\n"));
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
    let item = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let since_seconds = words.next()?.parse().ok()?;
        let (path, what) = (dir.join(words.next()?), words.next()?.to_owned());
        Some(Item { since_seconds, path, what })
    };
    body.strip_prefix(HEAD)?.lines().map(item).collect()
}

#[cfg(test)]
mod tests {
    use engine::rt::sim;
    use scheduler::StoreId;

    use super::*;

    fn items(dir: &Path) -> Vec<Item> {
        let item = |n: u64| Item {
            since_seconds: 1_764_000_000 + n,
            path: dir.join(format!("tree/{n:010}.table")),
            what: format!("a frame's checksum does not match (block at offset {n})"),
        };
        vec![item(1), item(2)]
    }

    const VERSION_ONE: &str = include_str!("../../tests/fixtures/damage-v1");

    #[test]
    fn version_one_is_what_it_was_and_every_flipped_bit_is_noticed() {
        let dir = Path::new("/d/store-1");
        assert_eq!(render(dir, &items(dir)), VERSION_ONE);
        assert_eq!(parse(dir, VERSION_ONE.as_bytes()), Some(items(dir)));
        let whole = VERSION_ONE.as_bytes();
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

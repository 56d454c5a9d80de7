//! LINEAGE: what was drawn at the latest openings of a store ([`Lineage`]).
//!
//! ```text
//! LINEAGE    text, in the store's directory, replaced as a whole by each start; absent before the first start by a version that draws
//!   lineage 1                     format version
//!   opening 7 9d1c03fe11223344    the number of an opening, what was drawn for it, hexadecimal; the oldest first
//!   sum 9d1c03fe                  CRC-32 over every byte before this line, hexadecimal
//! ```
//!
//! Invariants: an opening is in the file before any other store hears of it; only what the log counts durably is in it. One that is gone or
//! damaged says nothing: it is begun anew, and meanwhile the count of the openings decides alone. A store that was refused as an older copy
//! is [remembered](super::remembered) as such by this file's name, so removing both it and DAMAGE lets it try again.

use std::fmt::Write as _;
use std::path::Path;

use engine::error::{Fault, Result};
use engine::rt::Rt;
use scheduler::StoreId;

use crate::region::lineage::{Lineage, Opening};

/// The name of the file.
pub(super) const FILE: &str = "LINEAGE";
const HEAD: &str = "lineage 1\n";

/// Draws for opening `number` of the store in `dir`, and remembers it. Where a shortage keeps that from being written, the store says of
/// itself what it could say before.
///
/// # Errors
/// Those of the disk.
pub(super) async fn count(rt: &Rt, dir: &Path, number: u64) -> Result<Lineage> {
    let path = dir.join(FILE);
    let before = read(rt, &path).await?;
    let mut next = before;
    if !next.push(Opening { number, drawn: rt.random().max(1) }) {
        // On a full disk this opening is not counted, and it is the one before, as far as others know.
        return Ok(before);
    }
    match rt.replace_small(&path, render(&next).as_bytes()).await {
        Ok(()) => Ok(next),
        Err(error) => match Fault::io(&path, "writing it", &error) {
            short if short.is_passing() => {
                tracing::warn!(file = %path.display(), %error, "this opening cannot be distinguished from that of a copy");
                Ok(before)
            }
            fault => Err(fault),
        },
    }
}

/// The fault of a store that another one has refused as an older copy of itself: what was acknowledged since is not in `dir`, and no
/// later start changes that. So it is remembered, as damage is, and the next start fences the store.
pub(super) fn disowned(dir: &Path, store: StoreId, said: &str) -> Fault {
    let what = format!(
        "this directory is an older copy of {store}, without what was acknowledged since ({said}); put the newer directory back, or take the \
         store out with `ringkeep ctl store remove {}`, empty the directory and join again",
        store.0
    );
    Fault::foreign(&dir.join(FILE), what)
}

async fn read(rt: &Rt, path: &Path) -> Result<Lineage> {
    Ok(find(rt, path).await?.unwrap_or_else(|| {
        tracing::warn!(file = %path.display(), "it is damaged and begun anew");
        Lineage::default()
    }))
}

/// What is in the file, which may be absent; nothing if it is damaged.
async fn find(rt: &Rt, path: &Path) -> Result<Option<Lineage>> {
    match rt.read_small(path).await {
        Ok(bytes) => Ok(parse(&bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Some(Lineage::default())),
        Err(error) => Err(Fault::io(path, "reading it", &error)),
    }
}

/// What is to be said of the file of the store in `dir`, if anything is: a start goes on with a damaged one.
///
/// # Errors
/// It cannot be read, so a start would refuse the store.
pub async fn examine(rt: &Rt, dir: &Path) -> Result<Option<String>> {
    let path = dir.join(FILE);
    let is_whole = find(rt, &path).await?.is_some();
    Ok((!is_whole).then(|| format!("{}: it is damaged, and the next start begins it anew", path.display())))
}

fn render(lineage: &Lineage) -> String {
    let mut text = HEAD.to_owned();
    for Opening { number, drawn } in lineage.iter() {
        text.push_str(&format!("opening {number} {drawn:016x}\n"));
    }
    let sum = crc32fast::hash(text.as_bytes());
    writeln!(text, "sum {sum:08x}").expect("writing into a string has no way to fail");
    text
}

fn parse(bytes: &[u8]) -> Option<Lineage> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lineage = Lineage::default();
    for line in text.lines().filter_map(|line| line.strip_prefix("opening ")) {
        let (number, drawn) = line.split_once(' ')?;
        let opening = Opening { number: number.parse().ok()?, drawn: u64::from_str_radix(drawn, 16).ok()? };
        lineage.push(opening).then_some(())?;
    }
    // There is one way to write it, so anything else is damage.
    (render(&lineage).as_bytes() == bytes).then_some(lineage)
}

#[cfg(test)]
mod tests {
    use engine::rt::sim;

    use super::*;

    #[test]
    fn each_opening_is_there_at_the_next_one_and_damage_begins_anew() {
        sim::run(1, |rt| async move {
            let dir = Path::new("/data");
            rt.create_dir_all(dir).await.unwrap();
            let first = count(&rt, dir, 4).await.unwrap();
            let second = count(&rt, dir, 6).await.unwrap();
            assert_eq!(second.drawn_for(4), first.drawn_for(4));
            assert!(first.drawn_for(4) != 0 && second.drawn_for(6) != 0);
            assert_eq!(count(&rt, dir, 6).await.unwrap(), second, "it is counted already");
            let path = dir.join(FILE);
            let good = rt.read_small(&path).await.unwrap();
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(parse(&bad), None, "bit {bit}");
            }
            assert_eq!(examine(&rt, dir).await.unwrap(), None);
            rt.replace_small(&path, b"lineage 1\n").await.unwrap();
            assert!(examine(&rt, dir).await.unwrap().is_some_and(|said| said.contains(FILE)));
            let anew = count(&rt, dir, 7).await.unwrap();
            assert_eq!(anew.iter().map(|opening| opening.number).collect::<Vec<_>>(), [7]);
        });
    }

    #[test]
    fn version_one_is_what_it_was() {
        let mut lineage = Lineage::default();
        assert!(lineage.push(Opening { number: 7, drawn: 0x11 }));
        let text = "lineage 1\nopening 7 0000000000000011\nsum ";
        assert!(render(&lineage).starts_with(text), "{}", render(&lineage));
        assert_eq!(parse(render(&lineage).as_bytes()), Some(lineage));
    }
}

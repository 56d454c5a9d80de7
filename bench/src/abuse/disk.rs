//! Large values, and moments at which they expire, while others keep the node's disk busy with writes that they sync.
//!
//! A command of some bytes that sets when a value expires reads the value and writes it again, so while the log waits for the disk few bytes of
//! input come to many that are held. How long the bystander waits is up to the disk then, and is not judged.

use std::fs::File;
use std::io::{BufReader, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cases::{BIG_BYTES, Target, packed};
use super::mixed::skip_answer;
use crate::Failed;
use crate::clock::now;
use crate::random::Random;

/// The case's name.
pub(super) const DISK: &str = "disk";

const CONNECTIONS: u64 = 24;
const KEYS: u64 = 16;
/// Values have room for what is appended.
const VALUE_BYTES: usize = BIG_BYTES - (64 << 10);
/// Others who write, and how much they sync at once.
const WRITERS: usize = 2;
const PIECE_BYTES: usize = 16 << 20;
/// A writer's file is written over from its beginning when it is this long.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Asks for so long; the bytes that were sent.
pub(super) fn ask(target: Target, each: Duration) -> Result<u64, Failed> {
    let pid =
        target.pid.ok_or_else(|| Failed::new("the node does not run here, so its disk is not known"))?;
    let beside = data_dir(pid)?;
    let began = now();
    let write = |number| {
        let path = beside.join(format!("abuse-disk-{number}"));
        std::thread::spawn(move || keep_busy(&path, began, each))
    };
    let writing: Vec<_> = (0..WRITERS).map(write).collect();
    let ask = |seed| std::thread::spawn(move || one(target, began, each, Random::new(seed)));
    let asking: Vec<_> = (0..CONNECTIONS).map(ask).collect();
    let mut sent = 0;
    for thread in asking.into_iter().chain(writing) {
        sent += thread.join().map_err(|_| Failed::new("a client panicked"))??;
    }
    Ok(sent)
}

/// Where the node has its data: the directory above that of an open file of a store.
fn data_dir(pid: u32) -> Result<PathBuf, Failed> {
    for file in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A descriptor may be closed meanwhile.
        let Ok(path) = std::fs::read_link(file?.path()) else { continue };
        let is_of_store = |dir: &&Path| {
            dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("store-")) && dir.is_dir()
        };
        if let Some(above) = path.ancestors().find(is_of_store).and_then(Path::parent) {
            return Ok(above.to_owned());
        }
    }
    Err(Failed::new("no open file of the node lies in the directory of a store"))
}

/// Writes and syncs for so long, and removes what was written; no bytes of the node's.
fn keep_busy(path: &Path, began: Instant, each: Duration) -> Result<u64, Failed> {
    let (mut file, mut piece) = (File::create(path)?, vec![0; PIECE_BYTES]);
    Random::new(1).fill(&mut piece);
    let write = |file: &mut File| -> std::io::Result<()> {
        while began.elapsed() < each {
            if file.stream_position()? >= FILE_BYTES_MAX {
                file.rewind()?;
            }
            file.write_all(&piece)?;
            file.sync_data()?;
        }
        Ok(())
    };
    let written = write(&mut file);
    std::fs::remove_file(path)?;
    written?;
    Ok(0)
}

fn one(target: Target, began: Instant, each: Duration, mut random: Random) -> Result<u64, Failed> {
    let mut stream = target.connect()?;
    let mut answers = BufReader::with_capacity(1 << 20, stream.try_clone()?);
    let mut value = vec![0; VALUE_BYTES];
    random.fill(&mut value);
    let mut sent = 0;
    while began.elapsed() < each {
        let request = request(&mut random, &value);
        stream.write_all(&request)?;
        sent += request.len() as u64;
        skip_answer(&mut answers)?;
    }
    Ok(sent)
}

fn request(random: &mut Random, value: &[u8]) -> Vec<u8> {
    let number = random.below(KEYS);
    // All over the store, so that every core has some.
    let first = u8::try_from(number * 16).unwrap_or(u8::MAX);
    let key = [&[first][..], b":abuse:disk"].concat();
    let soon = (100_000 + random.below(100_000)).to_string();
    match random.below(4) {
        0 => packed(&[b"SET", &key, value]),
        1 => packed(&[b"APPEND", &key, b"x"]),
        2 => packed(&[b"PEXPIRE", &key, soon.as_bytes()]),
        _ => packed(&[b"GETEX", &key, b"PX", soon.as_bytes()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_request_comes_and_the_disk_of_a_process_is_found() {
        let (mut random, value) = (Random::new(1), vec![b'v'; 10]);
        let kinds: std::collections::BTreeSet<_> = (0..200)
            .filter_map(|_| {
                let text = String::from_utf8_lossy(&request(&mut random, &value)).into_owned();
                text.split("\r\n").nth(2).map(str::to_owned)
            })
            .collect();
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["APPEND", "GETEX", "PEXPIRE", "SET"]);
        let dir = std::env::temp_dir().join(format!("ringkeep-abuse-{}", std::process::id()));
        let log = dir.join("store-1").join("log");
        std::fs::create_dir_all(&log).unwrap();
        let open = File::create(log.join("segment")).unwrap();
        assert_eq!(data_dir(std::process::id()).unwrap(), dir.canonicalize().unwrap());
        drop(open);
        assert!(data_dir(std::process::id()).is_err());
        let busy = dir.join("busy");
        assert_eq!(keep_busy(&busy, now(), Duration::from_millis(50)).unwrap(), 0);
        assert!(!busy.exists());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

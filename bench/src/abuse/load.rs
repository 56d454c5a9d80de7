//! Ordinary writes, as many as the node takes, and a start after them: work that asks for nothing special must fit into the node's memory,
//! and so must the recovery of what it has left in the log when the node is killed.

use std::io::{BufRead, BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::cases::{Target, packed};
use super::watch::Resident;
use super::{CaseReport, Failed};
use crate::clock::{now, pause};
use crate::process::{Node, NodeOptions, Starting};

/// The name of the case that starts the node again; the others leave it as it is.
pub(super) const RECOVERY: &str = "recovery";
/// What the recovery does, for whoever looks on.
pub(super) const RECOVERY_WHAT: &str =
    "SIGKILL after ordinary writes, and the memory of the start that follows";

const CONNECTIONS: u64 = 64;
const PIPELINE: u64 = 16;
const VALUE_BYTES: usize = 1 << 10;
/// How long a node is watched after it serves, because its start goes on in the background.
const WATCHED_AFTER: Duration = Duration::from_secs(2);

/// Writes new keys for so long; the bytes that were sent.
pub(super) fn write(target: Target, each: Duration) -> Result<u64, Failed> {
    let (sent, began) = (Arc::new(AtomicU64::new(0)), now());
    let writers: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            let sent = sent.clone();
            std::thread::spawn(move || -> Result<(), Failed> {
                let mut stream = target.connect()?;
                let mut answers = BufReader::new(stream.try_clone()?);
                let (mut round, mut line) = (0, String::new());
                while began.elapsed() < each {
                    let requests = requests(number, round);
                    stream.write_all(&requests)?;
                    for _ in 0..PIPELINE {
                        line.clear();
                        answers.read_line(&mut line)?;
                        // Taken, or refused for now.
                        if !line.starts_with('+') && !line.starts_with("-TRYAGAIN") {
                            return Err(Failed::new(format!("a SET was answered {line:?}")));
                        }
                    }
                    sent.fetch_add(requests.len() as u64, Relaxed);
                    round += 1;
                }
                Ok(())
            })
        })
        .collect();
    for writer in writers {
        writer.join().map_err(|_| Failed::new("a writer panicked"))??;
    }
    Ok(sent.load(Relaxed))
}

/// What a writer sends at once. Its keys lie all over the store, and its values do not pack.
fn requests(number: u64, round: u64) -> Vec<u8> {
    let mut requests = Vec::new();
    for place in 0..PIPELINE {
        let mut state =
            ((round * PIPELINE + place) * CONNECTIONS + number).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let key = format!("{state:016x}");
        let value: Vec<u8> = (0..VALUE_BYTES / 8)
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .collect();
        requests.extend(packed(&[b"SET", key.as_bytes(), &value]));
    }
    requests
}

/// Kills a node that is full of ordinary writes, and watches the start that follows. Returns what it saw, and the node.
pub(super) fn recover(
    mut node: Node,
    options: &NodeOptions,
    target: Target,
    each: Duration,
) -> Result<(CaseReport, Node), Failed> {
    let sent_bytes = write(target, each)?;
    node.process.kill();
    let starting = Starting::spawn(options)?;
    let resident = Resident::watch(starting.pid());
    let node = starting.ready(options)?;
    pause(WATCHED_AFTER);
    let report = CaseReport {
        case: RECOVERY.to_owned(),
        peak_resident_bytes: Some(resident.stop()),
        bystander_requests: 0,
        bystander_p99_ms: 0.0,
        bystander_max_ms: 0.0,
        sent_bytes,
        failed: None,
    };
    Ok((report, node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_write_has_a_key_of_its_own_and_a_value_that_does_not_pack() {
        let mut keys = std::collections::BTreeSet::new();
        for (number, round) in [(0, 0), (1, 0), (0, 1), (CONNECTIONS - 1, 7)] {
            let bytes = requests(number, round);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            keys.extend(text.split("$16\r\n").skip(1).map(|rest| rest[..16].to_owned()));
            let kinds: std::collections::BTreeSet<u8> = bytes.iter().copied().collect();
            assert_eq!(kinds.len(), 256, "a value has all bytes");
        }
        assert_eq!(keys.len() as u64, 4 * PIPELINE);
    }
}

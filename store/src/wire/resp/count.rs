//! How many keys there are: by walking, or about.
//!
//! What cannot be counted because a store cannot be read is an error of `DBSIZE`; `INFO` shows what is known instead, and why.

use super::request::Error;
use super::server::Server;
use super::settings::{Measured, Section, Wanted};
use super::walk::{KEYS_PER_STEP, after, step};
use crate::process;
use crate::request::Scan;

/// What `INFO` says that has to be asked for.
pub(super) async fn measure(server: &Server, wanted: &Wanted) -> Measured {
    let resident_bytes = match wanted.has(Section::Memory) {
        true => server.rt.blocking(process::resident_bytes).await.ok().flatten(),
        false => None,
    };
    let counted = match wanted.has(Section::Keyspace) {
        true if wanted.count_keys => Some(count(server).await),
        true => Some(count_few(server).await),
        false => None,
    };
    let (keys, uncounted) = match counted {
        Some(Ok(keys)) => (Some(keys), None),
        // A store that cannot be read takes nothing else of `INFO` away.
        Some(Err(error)) => (Some(trees_estimate(server)), Some(error)),
        None => (None, None),
    };
    Measured { keys, uncounted, resident_bytes }
}

/// About how many keys there are: exact as long as one step reaches them all, from there on what the trees estimate.
async fn count_few(server: &Server) -> Result<u64, Error> {
    let first = Scan { limit: KEYS_PER_STEP, key_only: true, ..Scan::default() };
    let found = step(server, first).await?.len();
    Ok(if found < KEYS_PER_STEP { found as u64 } else { trees_estimate(server).max(found as u64) })
}

/// How many keys the trees of the node estimate, some seconds ago.
fn trees_estimate(server: &Server) -> u64 {
    server.config.board.as_ref().map_or(0, |board| board.read().iter().map(|core| core.keys).sum())
}

/// How many keys there are, by walking over them.
pub(super) async fn count(server: &Server) -> Result<u64, Error> {
    let budget = server.rt.budget();
    let mut rest = Scan { limit: KEYS_PER_STEP, key_only: true, ..Scan::default() };
    let mut keys = 0;
    loop {
        let found = step(server, rest.clone()).await?;
        keys += found.len() as u64;
        match found.last() {
            Some((last, _)) if found.len() >= KEYS_PER_STEP => rest.start = after(last),
            Some(_) | None => return Ok(keys),
        }
        budget.tick().await;
    }
}

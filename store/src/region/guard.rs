//! May this request run here? The checks of a client's route against the region as it is, in the order that clients expect:
//! store, region, leader, peer, term, epoch, keys.

use scheduler::epoch::Command;
use scheduler::{Epoch, Peer, PeerId, Region, StoreId};

use crate::refusal::Refusal;
use crate::request::Route;

/// What the guard has to know about the peer here.
#[derive(Clone, Copy, Debug)]
pub struct Here<'a> {
    /// This store.
    pub store: StoreId,
    /// The region as it is.
    pub region: &'a Region,
    /// Our peer.
    pub me: PeerId,
    /// Our term.
    pub term: u64,
    /// Who leads, if known.
    pub leader: Option<Peer>,
}

/// Checks a client's route. Reads and writes of keys check the range part of the epoch, as [`Command::Data`] says.
pub fn admit(here: Here<'_>, route: &Route) -> Result<(), Refusal> {
    if route.store_id != 0 && route.store_id != here.store.0 {
        return Err(Refusal::StoreNotMatch { asked: route.store_id, actual: here.store.0 });
    }
    lead(here)?;
    if route.peer_id != 0 && route.peer_id != here.me.0 {
        return Err(Refusal::PeerNotMatch { asked: route.peer_id, actual: here.me.0 });
    }
    // A term one behind is what a client sees right after an election; two behind is another leadership.
    if route.term != 0 && route.term + 1 < here.term {
        return Err(Refusal::StaleCommand);
    }
    let asked = Epoch::new(route.conf_ver, route.version);
    if here.region.epoch.admit(Command::Data, asked).is_err() {
        return Err(Refusal::EpochNotMatch { current: vec![here.region.clone()] });
    }
    Ok(())
}

/// Checks that our peer leads.
pub fn lead(here: Here<'_>) -> Result<(), Refusal> {
    match here.leader {
        Some(leader) if leader.id == here.me => Ok(()),
        leader => Err(Refusal::NotLeader { region_id: here.region.id.0, leader }),
    }
}

/// Checks that a key belongs to the region.
pub fn covers(region: &Region, key: &[u8]) -> Result<(), Refusal> {
    if region.range.contains(key) {
        return Ok(());
    }
    Err(Refusal::KeyNotInRegion { key: key.to_vec().into(), region: Box::new(region.clone()) })
}

/// Checks that `[start, end)` lies inside the region; an empty `end` means no bound.
pub fn covers_range(region: &Region, start: &[u8], end: &[u8]) -> Result<(), Refusal> {
    covers(region, start)?;
    let last = region.range.end().as_bytes();
    let inside = last.is_empty() || (!end.is_empty() && end <= last);
    if inside {
        return Ok(());
    }
    Err(Refusal::KeyNotInRegion { key: end.to_vec().into(), region: Box::new(region.clone()) })
}

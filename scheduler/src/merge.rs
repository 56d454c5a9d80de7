//! Which two regions may become one, and what comes of them: one rule for the scheduler that wants a merge and for the stores that carry
//! it out.
//!
//! The *target* keeps its id, its peers and its log, and takes the range of the *source* over, which ends. The data stay where they are:
//! on every store that has a replica of the one there has to be one of the other, so nothing is moved. The version of the result is above
//! both: whatever was thought out against either of them is refused from then on, and of two descriptors that cover a key the newer one is
//! the one with the higher version, as after a split.

use std::fmt;

use crate::epoch::Command;
use crate::id::{RegionId, StoreId};
use crate::range::KeyRange;
use crate::region::{Peer, Region, Role};

/// Why two regions do not become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotMerged {
    /// They do not touch.
    Apart {
        /// The region that was to be taken in.
        source: RegionId,
        /// The one that was to take it in.
        target: RegionId,
    },
    /// One of them is in a joint configuration, or has a learner.
    Changing {
        /// Which.
        region: RegionId,
    },
    /// A store has a peer of one of them only.
    StoresDiffer {
        /// The store.
        store: StoreId,
    },
}

impl fmt::Display for NotMerged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart { source, target } => write!(f, "{source} and {target} are no neighbours"),
            Self::Changing { region } => {
                write!(
                    f,
                    "the peers of {region} do not all vote yet; it is merged when its change of peers is done"
                )
            }
            Self::StoresDiffer { store } => {
                write!(
                    f,
                    "{store} has a peer of one of the regions only; move the peers of the smaller one first"
                )
            }
        }
    }
}

impl std::error::Error for NotMerged {}

/// The ranges of two regions that touch, as one.
#[must_use]
pub fn joined(one: &KeyRange, other: &KeyRange) -> Option<KeyRange> {
    let touch = |left: &KeyRange, right: &KeyRange| !left.end().is_empty() && left.end() == right.start();
    let (left, right) = if touch(one, other) {
        (one, other)
    } else if touch(other, one) {
        (other, one)
    } else {
        return None;
    };
    KeyRange::new(left.start().clone(), right.end().clone()).ok()
}

/// Whether `target` may take `source` in, both as they are.
///
/// # Errors
/// [`NotMerged`] says what is in the way.
pub fn may_merge(source: &Region, target: &Region) -> Result<(), NotMerged> {
    if source.id == target.id || joined(&source.range, &target.range).is_none() {
        return Err(NotMerged::Apart { source: source.id, target: target.id });
    }
    let all_vote = |region: &&Region| region.peers.iter().all(|peer| peer.role == Role::Voter);
    if let Some(region) = [source, target].into_iter().find(|region| !all_vote(region)) {
        return Err(NotMerged::Changing { region: region.id });
    }
    let alone = |one: &Region, other: &Region| {
        one.peers.iter().map(|peer: &Peer| peer.store).find(|store| other.peer_on(*store).is_none())
    };
    match alone(source, target).or_else(|| alone(target, source)) {
        Some(store) => Err(NotMerged::StoresDiffer { store }),
        None => Ok(()),
    }
}

/// What `target` is once it has taken `source` in.
///
/// # Errors
/// [`NotMerged`] if they do not touch.
pub fn merged(source: &Region, target: &Region) -> Result<Region, NotMerged> {
    let apart = NotMerged::Apart { source: source.id, target: target.id };
    let range = joined(&source.range, &target.range).ok_or(apart)?;
    let mut epoch = target.epoch;
    epoch.version = epoch.version.max(source.epoch.version);
    Ok(Region { id: target.id, range, epoch: epoch.after(Command::CommitMerge), peers: target.peers.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Epoch;
    use crate::id::PeerId;

    fn region(id: u64, start: &str, end: &str, version: u64) -> Region {
        let peers = (1..=3).map(|n| Peer::voter(PeerId(10 * id + n), StoreId(n))).collect();
        let range = KeyRange::new(start, end).expect("a range");
        Region { id: RegionId(id), range, epoch: Epoch::new(4, version), peers }
    }

    #[test]
    fn neighbours_become_one_on_either_side_under_a_version_above_both() {
        for (source, target, start, end) in [
            (region(1, "", "m", 9), region(2, "m", "", 3), "", ""),
            (region(1, "m", "t", 9), region(2, "c", "m", 3), "c", "t"),
        ] {
            assert_eq!(may_merge(&source, &target), Ok(()));
            let one = merged(&source, &target).expect("they touch");
            assert_eq!((one.id, one.epoch, &one.peers), (target.id, Epoch::new(4, 10), &target.peers));
            assert_eq!(one.range, KeyRange::new(start, end).expect("a range"));
        }
    }

    #[test]
    fn what_does_not_touch_or_does_not_lie_together_stays_two() {
        let (source, target) = (region(1, "", "c", 1), region(2, "m", "", 1));
        let apart = NotMerged::Apart { source: RegionId(1), target: RegionId(2) };
        assert_eq!(may_merge(&source, &target), Err(apart));
        assert_eq!(merged(&source, &target), Err(apart));
        // An open end touches nothing.
        assert!(may_merge(&region(1, "m", "", 1), &region(2, "", "c", 1)).is_err());
        let (source, target) = (region(1, "", "m", 1), region(2, "m", "", 1));
        let mut learns = target.clone();
        learns.peers[1].role = Role::Learner;
        assert_eq!(may_merge(&source, &learns), Err(NotMerged::Changing { region: RegionId(2) }));
        let mut moved = target.clone();
        moved.peers[1].store = StoreId(7);
        assert_eq!(may_merge(&source, &moved), Err(NotMerged::StoresDiffer { store: StoreId(2) }));
        let mut more = target;
        more.peers.push(Peer::voter(PeerId(99), StoreId(9)));
        assert_eq!(may_merge(&source, &more), Err(NotMerged::StoresDiffer { store: StoreId(9) }));
    }
}

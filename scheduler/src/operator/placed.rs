//! Which regions a person has placed, and when.
//!
//! Who moves a region, or its leadership, by hand has a reason that no policy knows. A policy that found the place uneven would undo it
//! with its next round, so such a region has a rest from balance ([`REST_MS`]): long enough for the person to see what it does, and to switch
//! the policy off where it is meant to last. What is repaired, drained, evicted or split does not wait for it, nor does what another person asks.
//!
//! Invariant: no more than [`PLACED_MAX`] regions are remembered; the one that was placed first is forgotten for another one. They are not
//! part of the state that survives the scheduler's host.

use std::collections::BTreeMap;

use crate::id::RegionId;
use crate::time::Time;

/// For how long no policy moves a region for balance that a person has placed.
pub const REST_MS: u64 = 600_000;
/// Maximum number of regions that have a rest.
pub const PLACED_MAX: usize = 1024;

/// The regions that have a rest.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    at: BTreeMap<RegionId, Time>,
}

impl Placed {
    /// A person has placed a region.
    pub(super) fn note(&mut self, region: RegionId, now: Time) {
        self.at.retain(|_, at| now.ms_since(*at) < REST_MS);
        if self.at.len() == PLACED_MAX && !self.at.contains_key(&region) {
            let first = self.at.iter().min_by_key(|(region, at)| (**at, **region)).map(|(region, _)| *region);
            first.map(|first| self.at.remove(&first));
        }
        self.at.insert(region, now);
    }

    /// How long a region has its rest still; none if it has none.
    #[must_use]
    pub fn rest_ms(&self, region: RegionId, now: Time) -> Option<u64> {
        let at = self.at.get(&region)?;
        REST_MS.checked_sub(now.ms_since(*at)).filter(|left| *left > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_ends_and_the_first_is_forgotten_for_one_too_many() {
        let mut placed = Placed::default();
        for n in 0..PLACED_MAX as u64 {
            placed.note(RegionId(n), Time(1_000 + n));
        }
        let now = Time(10_000);
        assert_eq!(placed.rest_ms(RegionId(0), now), Some(REST_MS - 9_000));
        assert_eq!(placed.rest_ms(RegionId(PLACED_MAX as u64), now), None);
        placed.note(RegionId(PLACED_MAX as u64), now);
        assert_eq!(placed.rest_ms(RegionId(0), now), None, "it was the first");
        assert_eq!(placed.at.len(), PLACED_MAX);
        // Once more is no more.
        placed.note(RegionId(1), now);
        assert_eq!(placed.rest_ms(RegionId(1), now), Some(REST_MS));
        assert_eq!(placed.at.len(), PLACED_MAX);
        placed.note(RegionId(5_000), Time(now.0 + REST_MS));
        assert_eq!(placed.rest_ms(RegionId(1), Time(now.0 + REST_MS)), None);
        assert_eq!(placed.at.len(), 1, "those whose rest is over are forgotten");
    }
}

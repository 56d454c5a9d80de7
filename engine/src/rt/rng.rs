//! SplitMix64: small, fast, and good enough for jitter, ids and simulated chance. Not for secrets. Public, because the random
//! tests of this crate and of those above it draw from it, too; code on a core asks [`Rt`](super::Rt).

use std::cell::Cell;

/// A stream of numbers that its seed decides.
#[derive(Debug)]
pub struct Rng(Cell<u64>);

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.0.set(state);
        mix(state)
    }
}

#[cfg(feature = "sim")]
impl Rng {
    /// An independent stream, named so that draws in one place do not shift those in another.
    pub fn fork(&self, name: u64) -> Self {
        Self::new(mix(self.next() ^ mix(name)))
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`.
    pub fn between(&self, (low, high): (u64, u64)) -> u64 {
        low + self.below(high.saturating_sub(low).saturating_add(1))
    }

    /// True with this probability. Draws nothing when the answer is certain.
    pub fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && (self.next() >> 11) as f64 / ((1u64 << 53) as f64) < probability
    }
}

pub(crate) fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

//! Randomness as an argument: a seeded generator, so that equal inputs give equal decisions.

/// SplitMix64 (Steele, Lea and Flood, 2014): 64 bits of state, one add and three multiplies a number. Policies need
/// spread, not secrecy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng(u64);

impl Rng {
    /// The generator of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number in `0..bound`, or `None` where there is none.
    pub fn below(&mut self, bound: usize) -> Option<usize> {
        // The high half of a 64x64 product is uniform up to a bias of bound / 2^64, far below what matters here.
        let wide = u128::from(self.next()) * bound as u128;
        (bound > 0).then_some((wide >> 64) as usize)
    }

    /// True once in `n` times on average; never for zero.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_below_the_bound_and_cover_it() {
        let mut rng = Rng::new(7);
        let mut seen = [0_u32; 10];
        for _ in 0..10_000 {
            seen[rng.below(10).expect("ten choices")] += 1;
        }
        assert!(seen.iter().all(|hits| (800..1200).contains(hits)), "{seen:?}");
        assert_eq!(rng.below(0), None);
        assert_eq!(Rng::new(3).next(), Rng::new(3).next());
    }
}

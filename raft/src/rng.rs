//! The only randomness in the crate: a SplitMix64 sequence, seeded by the driver.

/// Steele, Lea and Flood's SplitMix64: one word of state, good enough for election jitter.
#[derive(Clone, Debug)]
pub(crate) struct SplitMix(u64);

impl SplitMix {
    /// A sequence that differs for every combination of the three numbers.
    pub(crate) fn new(group: u64, node: u64, incarnation: u64) -> Self {
        let mut mix = Self(group);
        mix.0 = mix.next() ^ node;
        mix.0 = mix.next() ^ incarnation;
        mix
    }

    /// The next word.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which must not be zero. The bias of the remainder is below 2^-40 for tick counts.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(self.next() % u64::from(bound)).unwrap_or(0)
    }
}

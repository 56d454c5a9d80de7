//! How requests spread over records: uniform, zipfian, scrambled zipfian and latest, as YCSB defines them.
//!
//! The zipfian numbers come from the rejection-free method of Gray et al., "Quickly Generating Billion-Record Synthetic
//! Databases" (SIGMOD 1994), with YCSB's constant 0.99.

use crate::random::{Random, mix};

/// The skew that YCSB uses.
const THETA: f64 = 0.99;

/// Ranks from 0, the most popular, to `items - 1`, with frequency proportional to 1/(rank+1)^0.99.
#[derive(Clone, Debug)]
pub struct Zipfian {
    items: u64,
    zeta_two: f64,
    zeta_items: f64,
    alpha: f64,
    eta: f64,
}

impl Zipfian {
    /// Over `items` ranks, at least 1. Costs one pass over them.
    pub fn new(items: u64) -> Self {
        let mut this = Self {
            items: 0,
            zeta_two: zeta(0, 2, 0.0),
            zeta_items: 0.0,
            alpha: 1.0 / (1.0 - THETA),
            eta: 0.0,
        };
        this.grow(items.max(1));
        this
    }

    /// Over more ranks than before; costs one step for each new one.
    pub fn grow(&mut self, items: u64) {
        if items <= self.items {
            return;
        }
        self.zeta_items = zeta(self.items, items, self.zeta_items);
        self.items = items;
        self.eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - self.zeta_two / self.zeta_items);
    }

    /// The next rank.
    pub fn next(&self, random: &mut Random) -> u64 {
        let point = random.unit();
        let scaled = point * self.zeta_items;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(THETA) {
            return 1.min(self.items - 1);
        }
        let rank = (self.items as f64 * (self.eta * point - self.eta + 1.0).powf(self.alpha)) as u64;
        rank.min(self.items - 1)
    }
}

/// The sum of 1/k^theta for k in `(from, to]`, on top of `sum`.
fn zeta(from: u64, to: u64, sum: f64) -> f64 {
    (from..to).fold(sum, |sum, rank| sum + 1.0 / ((rank + 1) as f64).powf(THETA))
}

/// Which of the existing records a request is for.
#[derive(Clone, Debug)]
pub enum Distribution {
    /// Every record alike.
    Uniform,
    /// Some records far more than others, and those spread over the whole key space.
    Zipfian(Zipfian),
    /// The newest records most.
    Latest(Zipfian),
}

impl Distribution {
    /// A record below `records`, which is at least 1.
    pub fn next(&mut self, random: &mut Random, records: u64) -> u64 {
        match self {
            Distribution::Uniform => random.below(records),
            Distribution::Zipfian(zipfian) => mix(zipfian.next(random)) % records,
            Distribution::Latest(zipfian) => {
                zipfian.grow(records);
                records - 1 - zipfian.next(random).min(records - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipfian_frequencies_follow_the_law() {
        let (items, draws) = (1000, 400_000);
        let zipfian = Zipfian::new(items);
        let mut random = Random::new(3);
        let mut seen = vec![0u32; items as usize];
        for _ in 0..draws {
            seen[zipfian.next(&mut random) as usize] += 1;
        }
        let total = zeta(0, items, 0.0);
        for rank in [0, 1] {
            let expected = f64::from(draws) / ((rank + 1) as f64).powf(THETA) / total;
            let ratio = f64::from(seen[rank]) / expected;
            assert!((0.97..1.03).contains(&ratio), "rank {rank}: {ratio}");
        }
        // The method approximates the tail; the share of the top tenth is what skew means to a cache.
        let top: u32 = seen[..100].iter().sum();
        let expected = zeta(0, 100, 0.0) / total;
        let share = f64::from(top) / f64::from(draws);
        assert!((share - expected).abs() < 0.03, "{share} against {expected}");
    }

    #[test]
    fn growing_equals_starting_large() {
        let mut grown = Zipfian::new(10);
        grown.grow(5000);
        let fresh = Zipfian::new(5000);
        let (mut a, mut b) = (Random::new(5), Random::new(5));
        for _ in 0..1000 {
            assert_eq!(grown.next(&mut a), fresh.next(&mut b));
        }
    }

    #[test]
    fn every_choice_exists_and_latest_prefers_the_new() {
        let mut random = Random::new(9);
        for records in [1, 2, 3, 1000] {
            for mut distribution in [
                Distribution::Uniform,
                Distribution::Zipfian(Zipfian::new(records)),
                Distribution::Latest(Zipfian::new(records)),
            ] {
                assert!((0..1000).all(|_| distribution.next(&mut random, records) < records));
            }
        }
        let mut latest = Distribution::Latest(Zipfian::new(1000));
        let newest = (0..1000).filter(|_| latest.next(&mut random, 1000) >= 900).count();
        assert!(newest > 500, "{newest} of 1000 draws in the newest tenth");
    }
}

//! Whole numbers of any length, as far as [`long_double`](super::long_double) needs them.
//!
//! Nothing is fast here but what is short: a product takes the lengths of both factors, and a quotient has few more than
//! [`QUOTIENT_BITS`]. Whoever calls bounds the lengths.

use std::cmp::Ordering;
use std::fmt;

/// A quotient of at least this many bits says how it is to be rounded, together with whether anything is left.
pub(super) const QUOTIENT_BITS: usize = 66;

/// A whole number of any length; the lowest 32 bits come first, and the highest word is not zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Natural(Vec<u32>);

impl From<u64> for Natural {
    fn from(number: u64) -> Self {
        Self(vec![number as u32, (number >> 32) as u32]).trimmed()
    }
}

impl Natural {
    fn trimmed(mut self) -> Self {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }

    pub(super) fn power_of_ten(mut power: u64) -> Self {
        let mut number = Self(vec![1]);
        while power >= 9 {
            number.multiply_add(1_000_000_000, 0);
            power -= 9;
        }
        number.multiply_add(10u32.pow(power as u32), 0);
        number
    }

    /// How many bits it has.
    pub(super) fn bits(&self) -> usize {
        self.0.last().map_or(0, |top| 32 * self.0.len() - top.leading_zeros() as usize)
    }

    pub(super) fn has_bit(&self, place: usize) -> bool {
        self.0.get(place / 32).is_some_and(|word| word >> (place % 32) & 1 == 1)
    }

    pub(super) fn has_any_below(&self, place: usize) -> bool {
        let words = (place / 32).min(self.0.len());
        let rest = self.0.get(words).filter(|_| place / 32 == words);
        self.0[..words].iter().any(|word| *word != 0)
            || rest.is_some_and(|word| word & ((1 << (place % 32)) - 1) != 0)
    }

    /// 64 bits from this place on; a place below the first one shifts them up.
    pub(super) fn bits_from(&self, place: i32) -> u64 {
        let word = |at: usize| u128::from(self.0.get(at).copied().unwrap_or(0));
        let from = |at: usize| word(at) | word(at + 1) << 32 | word(at + 2) << 64;
        let distance = place.unsigned_abs();
        if place < 0 {
            return (from(0) as u64) << distance;
        }
        (from(distance as usize / 32) >> (distance % 32)) as u64
    }

    pub(super) fn multiply_add(&mut self, factor: u32, summand: u32) {
        let mut carry = u64::from(summand);
        for word in &mut self.0 {
            carry += u64::from(*word) * u64::from(factor);
            *word = carry as u32;
            carry >>= 32;
        }
        if carry > 0 {
            self.0.push(carry as u32);
        }
    }

    pub(super) fn times(&self, other: &Self) -> Self {
        let mut product = vec![0u32; self.0.len() + other.0.len()];
        for (at, one) in self.0.iter().enumerate() {
            let mut carry = 0u64;
            for (place, two) in product[at..].iter_mut().zip(other.0.iter().chain([&0])) {
                carry += u64::from(*one) * u64::from(*two) + u64::from(*place);
                *place = carry as u32;
                carry >>= 32;
            }
        }
        Self(product).trimmed()
    }

    pub(super) fn shifted_left(&self, places: usize) -> Self {
        let (words, bits) = (places / 32, places % 32);
        let mut shifted = vec![0; words];
        let mut carry = 0u64;
        for word in &self.0 {
            carry |= u64::from(*word) << bits;
            shifted.push(carry as u32);
            carry >>= 32;
        }
        shifted.push(carry as u32);
        Self(shifted).trimmed()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()) + 1, 0);
        let mut carry = 0u64;
        for (at, word) in self.0.iter_mut().enumerate() {
            carry += u64::from(*word) + u64::from(other.0.get(at).copied().unwrap_or(0));
            *word = carry as u32;
            carry >>= 32;
        }
        *self = std::mem::take(self).trimmed();
    }

    /// Takes away a number that is not larger.
    pub(super) fn subtract(&mut self, other: &Self) {
        let mut borrow = 0i64;
        for (at, word) in self.0.iter_mut().enumerate() {
            borrow += i64::from(*word) - i64::from(other.0.get(at).copied().unwrap_or(0));
            *word = borrow as u32;
            borrow >>= 32;
        }
        *self = std::mem::take(self).trimmed();
    }

    /// The quotient, of few more than [`QUOTIENT_BITS`], and whether anything is left.
    pub(super) fn divided_by(mut self, divisor: &Self) -> (Self, bool) {
        let mut quotient = 0u128;
        for place in (0..=QUOTIENT_BITS + 1).rev() {
            let part = divisor.shifted_left(place);
            if self >= part {
                self.subtract(&part);
                quotient |= 1 << place;
            }
        }
        let words = [0, 32, 64, 96].map(|bits| (quotient >> bits) as u32);
        (Self(words.to_vec()).trimmed(), self.bits() > 0)
    }
}

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_length = self.0.len().cmp(&other.0.len());
        by_length.then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()))
    }
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Natural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut rest, mut groups) = (self.clone(), Vec::new());
        while rest.bits() > 0 {
            let mut left = 0u64;
            for word in rest.0.iter_mut().rev() {
                left = left << 32 | u64::from(*word);
                *word = (left / 1_000_000_000) as u32;
                left %= 1_000_000_000;
            }
            groups.push(left);
            rest = rest.trimmed();
        }
        write!(f, "{}", groups.pop().unwrap_or(0))?;
        groups.iter().rev().try_for_each(|group| write!(f, "{group:09}"))
    }
}

#[cfg(test)]
mod tests {
    use engine::rt::rng::Rng;

    use super::*;

    fn natural(number: u128) -> Natural {
        Natural((0..4).map(|word| (number >> (32 * word)) as u32).collect()).trimmed()
    }

    /// Where 128 bits are enough, they say what is right.
    #[test]
    fn short_numbers_are_computed_as_the_processor_does() {
        let rng = Rng::new(3);
        for _ in 0..5000 {
            let any = |bits: u32| u128::from(rng.next()) >> (rng.next() % u64::from(bits));
            let (one, other) = (any(64), any(64) + 1);
            let mut sum = natural(one);
            sum.add(&natural(other));
            assert_eq!(sum, natural(one + other));
            sum.subtract(&natural(one));
            assert_eq!(sum, natural(other));
            assert_eq!(natural(one).times(&natural(other)), natural(one * other));
            assert_eq!(natural(one).cmp(&natural(other)), one.cmp(&other));
            assert_eq!((one * other).to_string(), natural(one * other).to_string());
            let shift = rng.next() as usize % 60;
            assert_eq!(natural(one).shifted_left(shift), natural(one << shift));
            let (quotient, is_more) = natural(one * other).divided_by(&natural(other << 32));
            assert_eq!((quotient, is_more), (natural(one >> 32), one & 0xFFFF_FFFF != 0));
            let wide = natural(one * other);
            assert_eq!(wide.bits_from(shift as i32), ((one * other) >> shift) as u64);
            assert_eq!(wide.has_any_below(shift), (one * other) & ((1 << shift) - 1) != 0);
            assert_eq!(wide.has_bit(shift), (one * other) >> shift & 1 == 1);
        }
        assert_eq!(Natural::power_of_ten(30), natural(10u128.pow(30)));
    }
}

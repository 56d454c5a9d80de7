//! Numbers as `INCRBYFLOAT` has them: the `long double` of x86-64, in which Redis reads, adds and prints.
//!
//! A finite one is a sign, 64 bits and a power of two. Redis prints 17 digits behind the point, so what people write with few digits
//! comes back as they would write it: 5 and 0.1 make 5.1. Numbers of 53 bits would show where they end (5.09999999999999964), and decimal
//! ones of any length differ from Redis where 64 bits end. The language has no such type, so this computes it: exactly, in whole numbers
//! of any length, rounded once to the nearest, ties to even.
//!
//! Pure. Bounds: a text of [`TEXT_BYTES_MAX`] and the powers that a `long double` has, so no whole number has more than about 34,000 bits.

use std::cmp::Ordering;
use std::fmt;

use super::natural::{self, Natural};

/// Longest text that is read as a number, and longer than any that is printed, bytes.
pub const TEXT_BYTES_MAX: usize = 5 * 1024 - 1;

/// The power of two of the smallest numbers, normal or not, and that of the largest.
const POWER_MIN: i32 = -16_445;
const POWER_MAX: i32 = 16_320;
/// Decimal digits before the point above which a number is too large, and zeros behind it above which it is too small.
const DIGITS_MAX: i64 = 4940;
/// Digits behind the point that are printed.
const PRECISION: usize = 17;

/// A number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongDouble {
    /// `mantissa` times two to the `power`.
    Finite {
        /// Whether it is below zero, or the zero that is.
        negative: bool,
        /// The highest bit is set, unless this is zero or one of the smallest numbers.
        mantissa: u64,
        /// At least that of the smallest numbers.
        power: i32,
    },
    /// Infinity, of either sign.
    Infinite,
}

impl LongDouble {
    /// Reads what the C library reads, all of `text`: decimal and hexadecimal, with or without a point, an exponent and a sign.
    /// Nothing for anything else, and for what is too large or so small that it would be zero.
    pub fn read(text: &[u8]) -> Option<Self> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let (negative, digits) = match text {
            [b'-', digits @ ..] => (true, digits),
            [b'+', digits @ ..] => (false, digits),
            digits => (false, digits),
        };
        if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
            return Some(LongDouble::Infinite);
        }
        let (number, mantissa_is_zero) = match digits {
            [b'0', b'x' | b'X', digits @ ..] => Scientific::read(digits, 16, b'p')?.hexadecimal(negative),
            digits => Scientific::read(digits, 10, b'e')?.decimal(negative),
        };
        let is_zero = matches!(number, Some(LongDouble::Finite { mantissa: 0, .. }));
        number.filter(|_| is_zero == mantissa_is_zero)
    }

    /// The sum; nothing if it is infinite or none.
    pub fn plus(self, other: Self) -> Option<Self> {
        let (Self::Finite { .. }, Self::Finite { .. }) = (self, other) else { return None };
        let ((one_negative, one, one_power), (two_negative, two, two_power)) = (self.parts(), other.parts());
        if one == 0 && two == 0 {
            return Some(Self::zero(one_negative && two_negative));
        }
        // A zero has no power that the other would have to be brought to.
        let power = match (one, two) {
            (0, _) => two_power,
            (_, 0) => one_power,
            (_, _) => one_power.min(two_power),
        };
        let whole = |mantissa: u64, of: i32| match mantissa {
            0 => Natural::default(),
            mantissa => Natural::from(mantissa).shifted_left((of - power) as usize),
        };
        let (mut one, mut two, mut negative) = (whole(one, one_power), whole(two, two_power), one_negative);
        if one_negative == two_negative {
            one.add(&two);
        } else {
            match one.cmp(&two) {
                Ordering::Equal => return Some(Self::zero(false)),
                Ordering::Greater => one.subtract(&two),
                Ordering::Less => {
                    two.subtract(&one);
                    (one, negative) = (two, two_negative);
                }
            }
        }
        Self::rounded(negative, &one, power, false)
    }

    fn parts(self) -> (bool, u64, i32) {
        match self {
            Self::Finite { negative, mantissa, power } => (negative, mantissa, power),
            Self::Infinite => unreachable!("an infinite number is not computed with"),
        }
    }

    fn zero(negative: bool) -> Self {
        Self::Finite { negative, mantissa: 0, power: POWER_MIN }
    }

    /// The nearest number to `whole` times two to the `power`, or to a little more than that if there `is_more`. Nothing if it is too large.
    fn rounded(negative: bool, whole: &Natural, power: i32, is_more: bool) -> Option<Self> {
        let drop = (whole.bits() as i32 - 64).max(POWER_MIN - power);
        let (mut mantissa, mut power) = (whole.bits_from(drop), power + drop);
        if drop > 0 {
            let half = whole.has_bit(drop as usize - 1);
            let more = is_more || whole.has_any_below(drop as usize - 1);
            if half && (more || mantissa & 1 == 1) {
                mantissa = mantissa.wrapping_add(1);
                if mantissa == 0 {
                    (mantissa, power) = (1 << 63, power + 1);
                }
            }
        }
        (power <= POWER_MAX).then_some(Self::Finite { negative, mantissa, power })
    }
}

impl fmt::Display for LongDouble {
    /// As Redis prints it: 17 digits behind the point, without the zeros at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self::Finite { negative, mantissa, power } = self else { return f.write_str("inf") };
        let text = if power >= 0 {
            Natural::from(mantissa).shifted_left(power as usize).to_string()
        } else {
            fraction(mantissa, power.unsigned_abs())
        };
        if negative && text != "0" {
            f.write_str("-")?;
        }
        f.write_str(&text)
    }
}

/// `mantissa` over two to the `power`.
fn fraction(mantissa: u64, power: u32) -> String {
    let unit = 10u128.pow(PRECISION as u32);
    // Below 2 to the 121st, so what is divided by more than that is rounded to nothing.
    let scaled = u128::from(mantissa) * unit;
    let (mut whole, half) = match power {
        0..=126 => (scaled >> power, 1u128 << power >> 1),
        _ => (0, u128::MAX),
    };
    if power <= 126 {
        let rest = scaled - (whole << power);
        if rest > half || (rest == half && whole & 1 == 1) {
            whole += 1;
        }
    }
    let text = format!("{}.{:0PRECISION$}", whole / unit, whole % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A text taken apart.
struct Scientific<'a> {
    /// Digits without leading zeros, before and behind the point.
    before: &'a [u8],
    behind: &'a [u8],
    exponent: i64,
}

impl<'a> Scientific<'a> {
    /// Reads digits of `base` with at most one point, and an exponent after `mark`.
    fn read(text: &'a [u8], base: u32, mark: u8) -> Option<Self> {
        let digits = |text: &[u8]| text.iter().take_while(|byte| char::from(**byte).is_digit(base)).count();
        let (before, mut rest) = text.split_at(digits(text));
        let mut behind = &rest[..0];
        if let [b'.', after @ ..] = rest {
            (behind, rest) = after.split_at(digits(after));
        }
        if before.is_empty() && behind.is_empty() {
            return None;
        }
        let exponent = match rest {
            [] => 0,
            [first, exponent @ ..] if first.eq_ignore_ascii_case(&mark) => read_exponent(exponent)?,
            _ => return None,
        };
        let zeros = before.iter().take_while(|byte| **byte == b'0').count();
        Some(Self { before: &before[zeros..], behind, exponent })
    }

    /// All digits as one number, taken up as many at a time as a word has.
    fn whole(&self, base: u32) -> Natural {
        let mut whole = Natural::default();
        let (mut gathered, mut unit) = (0, 1);
        for byte in self.before.iter().chain(self.behind) {
            let digit = char::from(*byte).to_digit(base).expect("digits alone were taken");
            (gathered, unit) = (gathered * base + digit, unit * base);
            if unit > u32::MAX / base {
                whole.multiply_add(unit, gathered);
                (gathered, unit) = (0, 1);
            }
        }
        whole.multiply_add(unit, gathered);
        whole
    }

    /// The number, and whether it is written as zero.
    fn hexadecimal(&self, negative: bool) -> (Option<LongDouble>, bool) {
        let whole = self.whole(16);
        if whole.bits() == 0 {
            return (Some(LongDouble::zero(negative)), true);
        }
        let power = self.exponent.saturating_sub(4 * self.behind.len() as i64);
        let top = power.saturating_add(whole.bits() as i64);
        let number = match top {
            -16_500..=16_500 => LongDouble::rounded(negative, &whole, power as i32, false),
            _ => None,
        };
        (number, false)
    }

    /// The number, and whether it is written as zero.
    fn decimal(&self, negative: bool) -> (Option<LongDouble>, bool) {
        let whole = self.whole(10);
        if whole.bits() == 0 {
            return (Some(LongDouble::zero(negative)), true);
        }
        let leading = match self.before {
            [] => -(self.behind.iter().take_while(|byte| **byte == b'0').count() as i64),
            before => before.len() as i64,
        };
        if !(-DIGITS_MAX - 30..=DIGITS_MAX).contains(&self.exponent.saturating_add(leading)) {
            return (None, false);
        }
        let tens = self.exponent - self.behind.len() as i64;
        let scale = Natural::power_of_ten(tens.unsigned_abs());
        let number = if tens >= 0 {
            LongDouble::rounded(negative, &whole.times(&scale), 0, false)
        } else {
            let more_bits = (natural::QUOTIENT_BITS + scale.bits()) as i32 - whole.bits() as i32;
            let dividend = whole.shifted_left(more_bits.max(0) as usize);
            let divisor = scale.shifted_left((-more_bits).max(0) as usize);
            let (quotient, is_more) = dividend.divided_by(&divisor);
            LongDouble::rounded(negative, &quotient, -more_bits, is_more)
        };
        (number, false)
    }
}

/// A decimal exponent, as far as it may matter.
fn read_exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let sum =
        digits.iter().fold(0i64, |sum, byte| sum.saturating_mul(10).saturating_add((byte - b'0').into()));
    let sum = sum.min(1 << 40);
    Some(if negative { -sum } else { sum })
}

#[cfg(test)]
mod tests {
    use engine::rt::rng::Rng;

    use super::*;

    fn sum(one: &str, other: &str) -> Option<String> {
        let read = |text: &str| LongDouble::read(text.as_bytes()).unwrap_or_else(|| panic!("{text}"));
        read(one).plus(read(other)).map(|sum| sum.to_string())
    }

    /// As Redis 7.0 answers on x86-64.
    #[test]
    fn sums_are_those_of_long_doubles() {
        for (one, other, expected) in [
            ("5", "0.1", "5.1"),
            ("10.50", "0.1", "10.6"),
            ("3.0e3", "200", "3200"),
            ("0.1", "0.2", "0.3"),
            ("1e18", "0.1", "1000000000000000000.125"),
            ("1", "1e-17", "1.00000000000000001"),
            ("1", "-1", "0"),
            ("-0", "-0", "0"),
            ("1e-300", "0", "0"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("18446744073709551616", "1", "18446744073709551616"),
            ("18446744073709551616", "3", "18446744073709551620"),
            ("0x1.8p3", "0X.8", "12.5"),
            // Halves, with and without a trace of more.
            ("9223372036854775808.5", "0", "9223372036854775808"),
            ("9223372036854775808.50000000000000000000000000001", "0", "9223372036854775809"),
            ("3814697265625e-18", "0", "0.00000381469726562"),
            ("11444091796875e-18", "0", "0.00001144409179688"),
        ] {
            assert_eq!(sum(one, other).as_deref(), Some(expected), "{one} + {other}");
            let turned = |text: &str| format!("-{text}").replacen("--", "", 1);
            let expected = if expected == "0" { "0".to_owned() } else { turned(expected) };
            assert_eq!(sum(&turned(one), &turned(other)), Some(expected), "-{one} - {other}");
        }
        assert_eq!(sum("1.1e4932", "1.1e4932"), None);
        assert_eq!(sum("inf", "-1"), None);
    }

    #[test]
    fn only_what_the_c_library_reads_whole_is_a_number() {
        for text in [
            "",
            " 1",
            "1 ",
            "\t1",
            "+",
            "-",
            ".",
            "e5",
            "1e",
            "1e+",
            "0x",
            "0x.",
            "0x1p",
            "1.2.3",
            "1,5",
            "nan",
            "NaN",
            "--1",
            "1e4933",
            "-1e99999999999999999999",
            "1e-4970",
            "1e-99999999999999999999",
            "infinit",
            "1\0",
            "0x1p16384",
        ] {
            assert_eq!(LongDouble::read(text.as_bytes()), None, "{text:?}");
        }
        for text in [
            "1.",
            ".5",
            "+1",
            "01",
            "1e5",
            "1E-5",
            "0e99999999",
            "-0.0",
            "Inf",
            "-INFINITY",
            "0x1p-16445",
            "1e4932",
        ] {
            assert!(LongDouble::read(text.as_bytes()).is_some(), "{text:?}");
        }
        let longest = |digits| [b"0.".to_vec(), vec![b'7'; digits]].concat();
        assert!(LongDouble::read(&longest(TEXT_BYTES_MAX - 2)).is_some());
        assert!(LongDouble::read(&longest(TEXT_BYTES_MAX - 1)).is_none());
    }

    /// What has 53 bits is exact, and a decimal text that is long enough is read as what it stands for.
    #[test]
    fn doubles_are_read_and_printed_as_they_are() {
        let rng = Rng::new(1);
        for _ in 0..2000 {
            let number = f64::from_bits(rng.next());
            if !number.is_normal() {
                continue;
            }
            let read = LongDouble::read(format!("{number:e}").as_bytes()).expect("a number");
            let exactly = LongDouble::read(format!("{number:.1100}").as_bytes()).expect("a number");
            let LongDouble::Finite { mantissa, power, .. } = exactly else { panic!("{number} is finite") };
            assert!(mantissa.trailing_zeros() >= 11, "{number}");
            let LongDouble::Finite { mantissa: near, power: there, .. } = read else {
                panic!("{number} is finite")
            };
            assert!(power == there && mantissa.abs_diff(near) <= 1 << 11, "{number}");
        }
        for _ in 0..2000 {
            let number = f64::from(rng.next() as i32) / f64::from(1 << (rng.next() % 5));
            let text = number.to_string();
            assert_eq!(LongDouble::read(text.as_bytes()).expect("a number").to_string(), text);
        }
    }
}

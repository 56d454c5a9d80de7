//! Parts and bits of a value: what `GETRANGE`, `GETBIT`, `BITCOUNT` and `BITPOS` say of it.
//!
//! Ends of a range count from the end of the value where they are negative, and are cut off where there is no value any more. How long
//! it is is not known when the command is read, so the ends are kept as they came; what lies beyond any value counts as the same place.
//!
//! Pure. What takes longest looks at eight bytes at a time, so the longest value costs about as much as a copy of it.

use std::ops::Range;

use super::frame::integer;
use super::request::{CommandLine, Error};

/// A range of a value, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValuePart {
    start: i32,
    end: i32,
}

/// What the ends of a range count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Bits, the highest of a byte first.
    Bits,
}

/// What `BITPOS` looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitSearch {
    on: bool,
    part: ValuePart,
    unit: Unit,
    /// Without an end of its own the value goes on with clear bits.
    has_end: bool,
}

impl ValuePart {
    const WHOLE: ValuePart = ValuePart { start: 0, end: -1 };
    const NOTHING: ValuePart = ValuePart { start: 1, end: 0 };

    /// From `start` to `end`. Two ends that both count from the end of the value, in the wrong order, are no part of any.
    pub fn new(start: i64, end: i64) -> Self {
        if start < 0 && end < 0 && start > end { Self::NOTHING } else { Self::kept(start, end) }
    }

    fn kept(start: i64, end: i64) -> Self {
        let kept = |end: i64| end.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        Self { start: kept(start), end: kept(end) }
    }

    /// Reads `BITCOUNT key [start end [BYTE | BIT]]`.
    pub fn to_count(request: &CommandLine<'_>) -> Result<(Self, Unit), Error> {
        match request.count() {
            2 => Ok((Self::WHOLE, Unit::Bytes)),
            4 | 5 => {
                let (start, end) = (request.integer(2)?, request.integer(3)?);
                Ok((Self::new(start, end), unit(request, 4)?))
            }
            _no_such_form => Err(Error::SYNTAX),
        }
    }

    /// The places of a value of `len` that belong to it.
    fn within(self, len: usize) -> Range<usize> {
        let len = len as i64;
        let place = |end: i32| if end < 0 { (len + i64::from(end)).max(0) } else { end.into() };
        let (start, end) = (place(self.start), place(self.end).min(len - 1));
        if start <= end { start as usize..end as usize + 1 } else { 0..0 }
    }

    /// This part of `value`.
    pub fn of(self, value: &[u8]) -> &[u8] {
        &value[self.within(value.len())]
    }

    fn bits(self, value: &[u8], unit: Unit) -> Range<usize> {
        match unit {
            Unit::Bits => self.within(8 * value.len()),
            Unit::Bytes => {
                let bytes = self.within(value.len());
                8 * bytes.start..8 * bytes.end
            }
        }
    }

    /// How many bits of this part of `value` are set.
    pub fn count_bits(self, value: &[u8], unit: Unit) -> usize {
        let Some(edges) = Edges::of(self.bits(value, unit)) else { return 0 };
        let ones = |byte: u8| byte.count_ones() as usize;
        match edges.last - edges.first {
            0 => ones(value[edges.first] & edges.in_first & edges.in_last),
            _ => {
                let between = &value[edges.first + 1..edges.last];
                let words = between.chunks_exact(8);
                let rest: usize = words.remainder().iter().map(|byte| ones(*byte)).sum();
                ones(value[edges.first] & edges.in_first)
                    + words.map(|word| as_word(word).count_ones() as usize).sum::<usize>()
                    + rest
                    + ones(value[edges.last] & edges.in_last)
            }
        }
    }
}

/// The bit of `value` at `place`, which may lie behind its end.
pub fn bit(value: &[u8], place: usize) -> bool {
    value.get(place / 8).is_some_and(|byte| byte & (0x80 >> (place % 8)) != 0)
}

impl BitSearch {
    /// Reads `BITPOS key bit [start [end [BYTE | BIT]]]`.
    pub fn read(request: &CommandLine<'_>) -> Result<Self, Error> {
        let on = match integer(request.arg(2)) {
            Some(bit @ (0 | 1)) => bit == 1,
            Some(_) => return Err(Error::constant("ERR The bit argument must be 1 or 0.")),
            None => return Err(Error::NOT_AN_INTEGER),
        };
        let count = request.count();
        if count > 6 {
            return Err(Error::SYNTAX);
        }
        let start = if count > 3 { request.integer(3)? } else { 0 };
        let unit = unit(request, 5)?;
        let end = if count > 4 { request.integer(4)? } else { -1 };
        Ok(Self { on, part: ValuePart::kept(start, end), unit, has_end: count > 4 })
    }

    /// The place of the first such bit in `value`; -1 if there is none. A value that is not there is all clear bits.
    pub fn run(self, value: Option<&[u8]>) -> i64 {
        let Some(value) = value else { return if self.on { -1 } else { 0 } };
        let bits = self.part.bits(value, self.unit);
        let found = match Edges::of(bits) {
            None => None,
            Some(edges) => {
                edges.find(value, self.on).or((!self.on && !self.has_end).then_some(8 * value.len()))
            }
        };
        found.map_or(-1, |place| place as i64)
    }
}

fn unit(request: &CommandLine<'_>, index: usize) -> Result<Unit, Error> {
    match () {
        () if index >= request.count() || request.is(index, "BYTE") => Ok(Unit::Bytes),
        () if request.is(index, "BIT") => Ok(Unit::Bits),
        () => Err(Error::SYNTAX),
    }
}

fn as_word(eight: &[u8]) -> u64 {
    u64::from_ne_bytes(eight.try_into().expect("chunks of eight have eight bytes"))
}

/// The bytes of a range of bits, and which bits of the first and the last one belong to it.
struct Edges {
    first: usize,
    last: usize,
    in_first: u8,
    in_last: u8,
}

impl Edges {
    fn of(bits: Range<usize>) -> Option<Self> {
        let last_bit = bits.end.checked_sub(1).filter(|_| !bits.is_empty())?;
        Some(Self {
            first: bits.start / 8,
            last: last_bit / 8,
            in_first: 0xff >> (bits.start % 8),
            in_last: 0xff << (7 - last_bit % 8),
        })
    }

    fn find(&self, value: &[u8], on: bool) -> Option<usize> {
        let wanted = |at: usize| {
            let byte = if on { value[at] } else { !value[at] };
            let first = if at == self.first { self.in_first } else { 0xff };
            let last = if at == self.last { self.in_last } else { 0xff };
            byte & first & last
        };
        let place = |at: usize| 8 * at + wanted(at).leading_zeros() as usize;
        if wanted(self.first) != 0 {
            return Some(place(self.first));
        }
        let between = &value[(self.first + 1).min(self.last)..self.last];
        let without = if on { 0 } else { u64::MAX };
        let skipped = between.chunks_exact(8).take_while(|word| as_word(word) == without).count();
        (self.first + 1 + 8 * skipped..=self.last).find(|at| wanted(*at) != 0).map(place)
    }
}

#[cfg(test)]
mod tests {
    use engine::rt::rng::Rng;

    use super::*;

    #[test]
    fn ends_are_those_of_redis() {
        for (start, end, part) in [
            (0, -1, "value"),
            (0, 0, "v"),
            (-3, -2, "lu"),
            (-2, -3, ""),
            (3, 1, ""),
            (-100, 1, "va"),
            (0, -100, "v"),
            (-100, -200, ""),
            (2, i64::MAX, "lue"),
            (i64::MIN, i64::MAX, "value"),
            (i64::MAX, i64::MAX, ""),
            (-1 << 40, (-1 << 40) - 1, ""),
        ] {
            assert_eq!(ValuePart::new(start, end).of(b"value"), part.as_bytes(), "{start} {end}");
        }
        assert_eq!(ValuePart::new(0, 0).of(b""), b"");
    }

    /// Bit by bit.
    #[test]
    fn bits_are_counted_and_found_as_one_would_by_hand() {
        let rng = Rng::new(7);
        for _ in 0..3000 {
            let fill = [0, 0xff, 0x10][rng.next() as usize % 3];
            let mut value = vec![fill; rng.next() as usize % 40];
            if let Some(byte) = value.last_mut() {
                *byte = rng.next() as u8;
            }
            let bits = 8 * value.len();
            let range = [rng.next() as usize % (bits + 9), rng.next() as usize % (bits + 9)];
            let part = ValuePart::new(range[0] as i64, range[1] as i64);
            let inside: Vec<usize> = (range[0]..=range[1]).filter(|place| *place < bits).collect();
            let ones = inside.iter().filter(|place| bit(&value, **place)).count();
            assert_eq!(part.count_bits(&value, Unit::Bits), ones, "{value:?} {range:?}");
            for on in [false, true] {
                let search = BitSearch { on, part, unit: Unit::Bits, has_end: true };
                let first = inside.iter().find(|place| bit(&value, **place) == on);
                assert_eq!(
                    search.run(Some(&value)),
                    first.map_or(-1, |place| *place as i64),
                    "{value:?} {range:?} {on}"
                );
            }
        }
    }
}

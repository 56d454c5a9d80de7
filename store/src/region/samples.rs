//! Samples of what is asked of a region: where its load lies, and so where a cut would leave some of it on either side.
//!
//! A sample is a key, or the first and the last key of a range. Requests are taken at random distances, so that the pattern of a client
//! does not meet a pattern here, and each as often as it weighs, because what is to be cut in two is work. The latest ones are kept in a
//! ring, so they speak of the last seconds, whatever came before.
//!
//! Each key among the samples could be the border. It is judged by how many lie below it, how many from it on, and how many reach across and
//! would cost both parts something: the best border leaves the most to the lesser side. If that is next to nothing, no border helps.
//!
//! What holds: a sample costs no allocation once the ring has been filled; there are [`SAMPLES_MAX`] of two keys, [`KEY_BYTES_MAX`]
//! at most; of one request no more than [`OF_ONE_REQUEST_MAX`] are taken, however many keys it has.

use scheduler::{Key, KeyRange, LoadCut};

/// Samples that are kept of a region.
pub const SAMPLES_MAX: usize = 128;
/// With fewer, nothing is said.
const SAMPLES_MIN: usize = 48;
/// Of a longer key its beginning is kept; it counts where it lies, and is no border.
pub const KEY_BYTES_MAX: usize = 256;
/// Samples of one request.
const OF_ONE_REQUEST_MAX: usize = 16;
/// A border leaves this share of the load to either side, percent.
const SIDE_MIN_PERCENT: usize = 20;
/// No more than this share of the requests reaches across a border, percent.
const ACROSS_MAX_PERCENT: usize = 50;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touched<'a> {
    /// One key.
    Key(&'a [u8]),
    /// All keys from the first to the last one; without a last one to the end of the region.
    Range(&'a [u8], Option<&'a [u8]>),
}

/// Samples of one region.
#[derive(Debug)]
pub struct Samples {
    ring: Vec<Sample>,
    /// Where the next one goes once the ring is full.
    next: usize,
    /// What weighs this much passes before the next one is taken.
    left: u64,
    /// How much weight there is for each sample on average.
    every: u64,
    random: u64,
}

#[derive(Debug, Default)]
struct Sample {
    first: Vec<u8>,
    last: Last,
    last_key: Vec<u8>,
    is_short: bool,
}

/// Where a sample ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Last {
    /// With its first key.
    #[default]
    First,
    /// With another one.
    Key,
    /// With the region.
    Unbounded,
}

impl Samples {
    /// None yet. Where they are taken depends on `seed` alone.
    pub fn new(seed: u64) -> Self {
        let ring = Vec::with_capacity(SAMPLES_MAX);
        Self { ring, next: 0, left: 0, every: 1, random: seed | 1 }
    }

    /// From now on one is taken for about this much weight.
    pub fn take_every(&mut self, weight: u64) {
        self.every = weight.max(1);
        self.left = self.left.min(2 * self.every);
    }

    /// A request for `keys` keys, or ranges, that weighs `weight` altogether; `nth` says which they are.
    pub fn see<'a>(&mut self, keys: usize, weight: u64, nth: impl Fn(usize) -> Touched<'a>) {
        let mut at = 0;
        for _ in 0..OF_ONE_REQUEST_MAX {
            if self.left >= weight - at {
                self.left -= weight - at;
                return;
            }
            at += self.left;
            let place = usize::try_from(u128::from(at) * keys as u128 / u128::from(weight)).unwrap_or(0);
            self.take(nth(place.min(keys - 1)));
            at += 1;
            self.left = self.distance();
        }
    }

    /// How much passes between two samples.
    fn distance(&mut self) -> u64 {
        // Xorshift: what matters is that no client counts in its steps.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % (2 * self.every - 1)
    }

    fn take(&mut self, asked: Touched<'_>) {
        if self.ring.len() < SAMPLES_MAX {
            self.ring.push(Sample::default());
            self.next = self.ring.len() - 1;
        }
        let sample = &mut self.ring[self.next];
        self.next = (self.next + 1) % SAMPLES_MAX;
        let keep = |kept: &mut Vec<u8>, key: &[u8]| {
            kept.clear();
            kept.extend_from_slice(&key[..key.len().min(KEY_BYTES_MAX)]);
        };
        let (first, last) = match asked {
            Touched::Key(key) => (key, Last::First),
            Touched::Range(first, None) => (first, Last::Unbounded),
            Touched::Range(first, Some(last)) => {
                keep(&mut sample.last_key, last);
                (first, Last::Key)
            }
        };
        keep(&mut sample.first, first);
        (sample.last, sample.is_short) = (last, first.len() > KEY_BYTES_MAX);
    }

    /// Where a region of this range could be cut; `may_cut` says where a region may begin at all.
    pub fn cut(&self, range: &KeyRange, may_cut: impl Fn(&[u8]) -> bool) -> LoadCut {
        // After a split the samples of the other part lie outside.
        let inside = |sample: &&Sample| range.contains(&sample.first);
        let samples: Vec<&Sample> = self.ring.iter().filter(inside).collect();
        if samples.len() < SAMPLES_MIN {
            return LoadCut::Unknown;
        }
        let mut firsts: Vec<&Sample> = samples.clone();
        firsts.sort_unstable_by(|one, other| one.first.cmp(&other.first));
        // Those without an end are below no border.
        let mut lasts: Vec<&[u8]> = samples.iter().filter_map(|sample| sample.last()).collect();
        lasts.sort_unstable();
        let mut best: Option<(usize, &[u8])> = None;
        for (below, pair) in firsts.windows(2).enumerate() {
            let (before, border) = (&pair[0].first, pair[1]);
            let is_border = before < &border.first && !border.is_short && may_cut(&border.first);
            if !is_border {
                continue;
            }
            let from_it_on = samples.len() - below - 1;
            let left = lasts.partition_point(|last| *last < &border.first[..]);
            let across = samples.len() - from_it_on - left;
            let lesser = left.min(from_it_on);
            let is_parted = across * 100 <= samples.len() * ACROSS_MAX_PERCENT;
            if is_parted && best.is_none_or(|(most, _)| lesser > most) {
                best = Some((lesser, &border.first[..]));
            }
        }
        let percent = |part: usize| part * 100 / samples.len();
        match best {
            Some((lesser, border)) if percent(lesser) >= SIDE_MIN_PERCENT => LoadCut::At(Key::from(border)),
            best => {
                let of_one_key = percent(most_of_one_key(&firsts));
                if of_one_key > 100 - 2 * SIDE_MIN_PERCENT {
                    return LoadCut::OneKey(of_one_key as u64);
                }
                LoadCut::Lopsided(percent(best.map_or(0, |(lesser, _)| lesser)) as u64)
            }
        }
    }
}

impl Sample {
    fn last(&self) -> Option<&[u8]> {
        match self.last {
            Last::First => Some(&self.first),
            Last::Key => Some(&self.last_key),
            Last::Unbounded => None,
        }
    }
}

/// How many samples the most frequent single key has. They are sorted.
fn most_of_one_key(firsts: &[&Sample]) -> usize {
    let single = |sample: &&&Sample| sample.last == Last::First;
    let of_one = |same: &[&Sample]| same.iter().filter(single).count();
    firsts.chunk_by(|one, other| one.first == other.first).map(of_one).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(samples: &Samples) -> LoadCut {
        samples.cut(&KeyRange::new("a", "z").unwrap(), |_| true)
    }

    fn key(n: u64) -> Vec<u8> {
        format!("k{n:04}").into_bytes()
    }

    /// Of `count` requests, each for the key that `draw` names.
    fn of_keys(count: u64, draw: impl Fn(u64) -> u64) -> Samples {
        let mut samples = Samples::new(7);
        samples.take_every(count / 100);
        for n in 0..count {
            let key = key(draw(n));
            samples.see(1, 1, |_| Touched::Key(&key));
        }
        samples
    }

    /// Which of a thousand keys is cut at.
    fn at(cut: LoadCut) -> u64 {
        let LoadCut::At(key) = cut else { panic!("{cut:?}") };
        String::from_utf8(key.as_bytes()[1..].to_vec()).unwrap().parse().unwrap()
    }

    #[test]
    fn a_load_is_cut_where_it_lies_and_not_where_the_keys_do() {
        // Evenly over a thousand keys, and over the first tenth of them.
        assert!((350..650).contains(&at(cut(&of_keys(10_000, |n| n * 7919 % 1000)))));
        assert!((35..65).contains(&at(cut(&of_keys(10_000, |n| n * 7919 % 100)))));
        // Two clients that take turns, one with a key of its own.
        let turns = of_keys(10_000, |n| if n % 2 == 0 { 500 } else { n * 7919 % 1000 });
        assert!((500..540).contains(&at(cut(&turns))), "{:?}", cut(&turns));
    }

    #[test]
    fn a_key_that_has_nearly_all_of_the_load_is_no_reason_to_cut() {
        assert_eq!(cut(&of_keys(10_000, |_| 500)), LoadCut::OneKey(100));
        let nearly = cut(&of_keys(10_000, |n| if n % 10 == 0 { n * 7919 % 1000 } else { 500 }));
        assert!(matches!(nearly, LoadCut::OneKey(80..=97)), "{nearly:?}");
        // The first key of the region is no border, and what lies above one that is may be all.
        let first = cut(&of_keys(10_000, |n| u64::from(n % 10 == 0)));
        assert!(matches!(first, LoadCut::OneKey(80..=97)), "{first:?}");
    }

    #[test]
    fn too_few_samples_say_nothing_and_those_of_another_part_do_not_count() {
        assert_eq!(cut(&of_keys(40, |n| n)), LoadCut::Unknown);
        let samples = of_keys(10_000, |n| n * 7919 % 1000);
        let part = KeyRange::new("k0000", "k0100").unwrap();
        assert_eq!(samples.cut(&part, |_| true), LoadCut::Unknown);
        let half = KeyRange::new("k0000", "k0600").unwrap();
        assert!((200..400).contains(&at(samples.cut(&half, |_| true))));
    }

    #[test]
    fn where_most_requests_reach_across_every_border_nothing_is_cut() {
        let ranges = |from: fn(u64) -> u64, to: fn(u64) -> Option<u64>| {
            let mut samples = Samples::new(7);
            for n in 0..200 {
                let (first, last) = (key(from(n)), to(n).map(key));
                samples.see(1, 1, |_| Touched::Range(&first, last.as_deref()));
            }
            cut(&samples)
        };
        assert_eq!(ranges(|n| n, |_| Some(900)), LoadCut::Lopsided(0));
        assert_eq!(ranges(|n| n, |_| None), LoadCut::Lopsided(0));
        let short = ranges(|n| n * 37 % 200, |n| Some(n * 37 % 200 + 10));
        assert!((60..140).contains(&at(short)));
    }

    #[test]
    fn a_border_is_whole_and_one_that_a_region_may_begin_at() {
        let samples = of_keys(10_000, |n| n * 7919 % 1000);
        let odd = samples.cut(&KeyRange::new("a", "z").unwrap(), |key| key.last().unwrap() % 2 == 1);
        assert_eq!(at(odd) % 2, 1);
        let mut long = Samples::new(7);
        for n in 0..200 {
            let mut key = key(n);
            key.resize(KEY_BYTES_MAX + 1, b'x');
            long.see(1, 1, |_| Touched::Key(&key));
        }
        assert_eq!(cut(&long), LoadCut::Lopsided(0));
    }

    #[test]
    fn what_weighs_more_is_taken_more_often_and_a_long_request_not_without_end() {
        let mut samples = Samples::new(7);
        samples.take_every(100);
        for n in 0..3_000 {
            let key = key(n % 300);
            // The lower half of the keys weighs next to nothing.
            samples.see(1, if n % 300 < 150 { 1 } else { 30 }, |_| Touched::Key(&key));
        }
        assert!((200..250).contains(&at(cut(&samples))), "{:?}", cut(&samples));
        let mut samples = Samples::new(7);
        let keys: Vec<Vec<u8>> = (0..100_000).map(key).collect();
        samples.see(keys.len(), 100_000, |n| Touched::Key(&keys[n]));
        assert_eq!(samples.ring.len(), OF_ONE_REQUEST_MAX);
    }

    #[test]
    fn a_full_ring_allocates_nothing() {
        let mut samples = of_keys(1_000, |_| 1);
        let before: Vec<*const u8> = samples.ring.iter().map(|sample| sample.first.as_ptr()).collect();
        for n in 0..10_000 {
            let key = key(n);
            samples.see(1, 1, |_| Touched::Key(&key));
        }
        let after: Vec<*const u8> = samples.ring.iter().map(|sample| sample.first.as_ptr()).collect();
        assert!(after.starts_with(&before) && after.len() == SAMPLES_MAX);
    }
}

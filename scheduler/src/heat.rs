//! Where the load of the last hour was: reads and writes per key range and minute, in bounded memory.
//!
//! The key space is cut into at most [`BUCKETS`] ranges at starts of regions, and each minute is a column with a mean for every range. As
//! long as there are no more regions than that each has a range of its own; of more, as many that lie side by side share one. The borders
//! stay where they are while that is still about so. When they are drawn anew, what older columns have of a range is shared evenly by the
//! ranges that it became, so a column's sum stays what it was.
//!
//! ```text
//!   look ─▶ see(start, load), in key order ─▶ the borders are good ─▶ take
//!    ▲                                    └─▶ they are not: a second pass draws others ─▶ redraw ─┐
//!    └────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! What holds: borders ascend, and the first one is the empty key; every column has a place for every range; there are at most
//! [`COLUMNS`] columns. So it takes [`BYTES_MAX`] at most, whatever the number of regions and the length of keys: a border is the beginning
//! of a region's first key, cut off at [`BORDER_BYTES`].
//!
//! It is soft state like the map: a scheduler that begins has no past.

use std::collections::VecDeque;

use crate::load::Load;
use crate::range::Key;
use crate::time::Time;

/// Minutes that are kept.
pub const COLUMNS: usize = 60;
/// Ranges of the key space at most.
pub const BUCKETS: usize = 256;
/// Maximum length of a border, bytes.
pub const BORDER_BYTES: usize = 64;
/// What it takes at most, bytes: every sum of every column, and the borders.
pub const BYTES_MAX: usize =
    (COLUMNS + 1) * BUCKETS * size_of::<Sums>() + BUCKETS * (BORDER_BYTES + size_of::<Key>());

const MINUTE_MS: u64 = 60_000;

/// Rates that were added up; divided by how often that was done they are a mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Reads per second.
    pub read_ops: u64,
    /// Writes per second.
    pub write_ops: u64,
    /// Bytes read per second.
    pub read_bytes: u64,
    /// Bytes written per second.
    pub write_bytes: u64,
}

/// One minute.
#[derive(Clone, Debug)]
struct Column {
    /// By the host's clock.
    minute: u64,
    /// How often it was looked.
    looks: u64,
    sums: Vec<Sums>,
}

/// A minute as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Minute {
    /// How many minutes ago it was; 0 is the one that is not over.
    pub ago: u64,
    /// The mean of each range, in the order of the borders.
    pub means: Vec<Sums>,
}

/// The history; see the module's text.
#[derive(Clone, Debug)]
pub struct Heat {
    borders: Vec<Key>,
    /// Oldest first.
    columns: VecDeque<Column>,
}

/// One pass over the regions.
#[derive(Clone, Debug)]
pub struct Look {
    regions: u64,
    /// How many regions begin in each range.
    counts: Vec<u64>,
    sums: Vec<Sums>,
}

/// Borders that are drawn during a pass over regions.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// One border for this many regions.
    every: u64,
    seen: u64,
    borders: Vec<Key>,
}

impl Sums {
    fn add(&mut self, other: Self) {
        let Self { read_ops, write_ops, read_bytes, write_bytes } = other;
        self.read_ops = self.read_ops.saturating_add(read_ops);
        self.write_ops = self.write_ops.saturating_add(write_ops);
        self.read_bytes = self.read_bytes.saturating_add(read_bytes);
        self.write_bytes = self.write_bytes.saturating_add(write_bytes);
    }

    fn map(self, change: impl Fn(u64) -> u64) -> Self {
        Self {
            read_ops: change(self.read_ops),
            write_ops: change(self.write_ops),
            read_bytes: change(self.read_bytes),
            write_bytes: change(self.write_bytes),
        }
    }

    /// The `part`-th of `parts` shares, which together are the whole.
    fn share(self, part: u64, parts: u64) -> Self {
        self.map(|whole| whole / parts + u64::from(part < whole % parts))
    }
}

impl From<Load> for Sums {
    fn from(load: Load) -> Self {
        let Load { read_bytes, write_bytes, read_ops, write_ops } = load;
        Self { read_ops: read_ops.into(), write_ops: write_ops.into(), read_bytes, write_bytes }
    }
}

impl Default for Heat {
    fn default() -> Self {
        Self { borders: vec![Key::empty()], columns: VecDeque::new() }
    }
}

impl Heat {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where each range begins.
    #[must_use]
    pub fn borders(&self) -> &[Key] {
        &self.borders
    }

    /// The minutes that were looked at, oldest first.
    pub fn minutes(&self, now: Time) -> impl Iterator<Item = Minute> {
        let present = now.0 / MINUTE_MS;
        self.columns.iter().map(move |column| Minute {
            ago: present.saturating_sub(column.minute),
            means: column.sums.iter().map(|sums| sums.map(|sum| sum / column.looks)).collect(),
        })
    }

    /// Begins a pass.
    #[must_use]
    pub fn look(&self) -> Look {
        let ranges = self.borders.len();
        Look { regions: 0, counts: vec![0; ranges], sums: vec![Sums::default(); ranges] }
    }

    /// A region of the pass that begins at `start`.
    pub fn see(&self, look: &mut Look, start: &[u8], load: Load) {
        let range = range_of(&self.borders, start);
        look.regions += 1;
        look.counts[range] += 1;
        look.sums[range].add(load.into());
    }

    /// What other borders are to be drawn with, where a pass has found that they are not good any more.
    #[must_use]
    pub fn drawing(&self, look: &Look) -> Option<Drawing> {
        let every = look.regions.div_ceil(BUCKETS as u64);
        let is_good = match every {
            0 => true,
            1 => look.counts.iter().all(|count| *count == 1),
            every => {
                let ranges = look.regions.div_ceil(every);
                look.counts.iter().all(|count| *count <= 2 * every) && 2 * look.counts.len() as u64 >= ranges
            }
        };
        (!is_good).then(|| Drawing { every, seen: 0, borders: vec![Key::empty()] })
    }

    /// Takes a pass in that was made with these borders; one without a region says nothing.
    pub fn take(&mut self, look: &Look, now: Time) {
        if look.regions == 0 {
            return;
        }
        let minute = now.0 / MINUTE_MS;
        if self.columns.back().is_none_or(|last| last.minute != minute) {
            let sums = vec![Sums::default(); self.borders.len()];
            self.columns.push_back(Column { minute, looks: 0, sums });
        }
        while self.columns.len() > COLUMNS {
            self.columns.pop_front();
        }
        if let Some(column) = self.columns.back_mut() {
            column.looks += 1;
            column.sums.iter_mut().zip(&look.sums).for_each(|(sum, seen)| sum.add(*seen));
        }
    }

    /// Goes on with the borders that were drawn.
    pub fn redraw(&mut self, drawing: Drawing) {
        let borders = drawing.borders;
        if borders == self.borders {
            return;
        }
        for column in &mut self.columns {
            let mut sums = vec![Sums::default(); borders.len()];
            for (at, whole) in column.sums.iter().enumerate() {
                let first = range_of(&borders, &self.borders[at]);
                // The last of the new ranges that begins before the old one ends.
                let last = match self.borders.get(at + 1) {
                    Some(end) => borders.partition_point(|border| border < end) - 1,
                    None => borders.len() - 1,
                };
                let parts = (last - first + 1) as u64;
                for (part, sum) in (0..).zip(&mut sums[first..=last]) {
                    sum.add(whole.share(part, parts));
                }
            }
            column.sums = sums;
        }
        self.borders = borders;
    }
}

impl Drawing {
    /// A region of the second pass, in key order.
    pub fn see(&mut self, start: &[u8]) {
        let begins = self.seen.is_multiple_of(self.every);
        self.seen += 1;
        let border = shortened(start);
        // Regions whose first keys begin alike share a range.
        let is_new = self.borders.last().is_none_or(|last| last.as_bytes() < border);
        if begins && is_new && self.borders.len() < BUCKETS {
            self.borders.push(Key::from(border));
        }
    }
}

/// The beginning of a key that is enough to show where it lies.
#[must_use]
pub fn shortened(key: &[u8]) -> &[u8] {
    &key[..key.len().min(BORDER_BYTES)]
}

/// The range that has the key.
fn range_of(borders: &[Key], key: &[u8]) -> usize {
    // The first border is the empty key, so there is one at or before every key.
    borders.partition_point(|border| border.as_bytes() <= key).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(read_ops: u32, write_ops: u32) -> Load {
        Load { read_ops, write_ops, read_bytes: 10 * u64::from(read_ops), write_bytes: 7 }
    }

    /// One pass over regions with these starts, after another border was drawn where that was due. Whether it was.
    fn pass(heat: &mut Heat, starts: &[Vec<u8>], load: impl Fn(usize) -> Load, now: Time) -> bool {
        let look = |heat: &Heat| {
            let mut look = heat.look();
            starts.iter().enumerate().for_each(|(at, start)| heat.see(&mut look, start, load(at)));
            look
        };
        let drawing = heat.drawing(&look(heat));
        let is_due = drawing.is_some();
        if let Some(mut drawing) = drawing {
            starts.iter().for_each(|start| drawing.see(start));
            heat.redraw(drawing);
        }
        heat.take(&look(heat), now);
        is_due
    }

    /// That many regions, the first of which begins at the empty key.
    fn starts(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|at| if at == 0 { Vec::new() } else { format!("key{at:06}").into_bytes() }).collect()
    }

    fn read_ops(heat: &Heat, now: Time) -> Vec<u64> {
        heat.minutes(now).map(|minute| minute.means.iter().map(|mean| mean.read_ops).sum()).collect()
    }

    #[test]
    fn each_region_has_a_range_while_there_are_few() {
        let mut heat = Heat::new();
        assert!(pass(&mut heat, &starts(5), |at| load(at as u32, 0), Time(0)));
        assert!(!pass(&mut heat, &starts(5), |at| load(at as u32, 0), Time(1)));
        assert_eq!(heat.borders().len(), 5);
        assert_eq!(heat.borders()[3], Key::from("key000003"));
        for at in 0..200 {
            assert!(!pass(&mut heat, &starts(5), |at| load(at as u32, 0), Time(60_000 + at)));
        }
        let minutes: Vec<Minute> = heat.minutes(Time(60_500)).collect();
        assert_eq!(minutes.iter().map(|minute| minute.ago).collect::<Vec<_>>(), [1, 0]);
        for minute in &minutes {
            // Also the first, before which no region was known.
            assert_eq!(minute.means.iter().map(|mean| mean.read_ops).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        }
        assert_eq!(minutes[1].means[3], Sums { read_ops: 3, write_ops: 0, read_bytes: 30, write_bytes: 7 });
    }

    #[test]
    fn what_was_seen_of_a_region_is_shared_by_its_parts() {
        let mut heat = Heat::new();
        pass(&mut heat, &[b"".to_vec(), b"m".to_vec()], |_| load(0, 0), Time(0));
        let both = [b"".to_vec(), b"m".to_vec()];
        pass(&mut heat, &both, |at| load([101, 7][at], 0), Time(60_000));
        let three = [b"".to_vec(), b"d".to_vec(), b"m".to_vec()];
        assert!(pass(&mut heat, &three, |_| load(0, 0), Time(120_000)));
        let minutes: Vec<Minute> = heat.minutes(Time(120_000)).collect();
        let ops = |minute: &Minute| minute.means.iter().map(|mean| mean.read_ops).collect::<Vec<_>>();
        assert_eq!((minutes[1].ago, ops(&minutes[1])), (1, vec![51, 50, 7]));
    }

    #[test]
    fn ten_thousand_regions_keep_within_the_bounds_and_lose_nothing() {
        let mut heat = Heat::new();
        let now = |minute: u64| Time(minute * 60_000);
        for minute in 0..3 * COLUMNS as u64 {
            // They split and split, and sixty minutes later no column knows the first borders.
            let count = 100 + 60 * minute as usize;
            let drawn = pass(&mut heat, &starts(count), |_| load(3, 1), now(minute));
            assert!(heat.borders().len() <= BUCKETS && heat.borders().is_sorted());
            assert_eq!(heat.borders()[0], Key::empty());
            let minutes: Vec<Minute> = heat.minutes(now(minute)).collect();
            assert_eq!(minutes.len(), COLUMNS.min(minute as usize + 1));
            assert!(minutes.iter().all(|minute| minute.means.len() == heat.borders().len()));
            assert_eq!(read_ops(&heat, now(minute)).last(), Some(&(3 * count as u64)), "drawn anew: {drawn}");
            let first = minute.saturating_sub(COLUMNS as u64 - 1) as usize;
            assert_eq!(read_ops(&heat, now(minute))[0], 3 * (100 + 60 * first as u64));
        }
        let count = 10_840;
        let mut look = heat.look();
        starts(count).iter().for_each(|start| heat.see(&mut look, start, load(1, 1)));
        let most = look.counts.iter().max().expect("ranges");
        assert!(heat.borders().len() > BUCKETS / 4 && *most <= 2 * count.div_ceil(BUCKETS) as u64, "{most}");
    }

    #[test]
    fn borders_stay_where_they_are_while_regions_split_here_and_there() {
        let mut heat = Heat::new();
        let mut regions = starts(1000);
        assert!(pass(&mut heat, &regions, |_| load(1, 1), Time(0)));
        let before = heat.borders().to_vec();
        for split in 0..50 {
            regions.push(format!("key{:06}m", split * 20).into_bytes());
            regions.sort();
            assert!(!pass(&mut heat, &regions, |_| load(1, 1), Time(split)));
        }
        assert_eq!(heat.borders(), before);
    }

    #[test]
    fn long_keys_are_cut_and_what_begins_alike_shares_a_range() {
        let mut heat = Heat::new();
        let key = |last: u8| [vec![b'k'; 8000], vec![last]].concat();
        let regions = [Vec::new(), key(1), key(2), b"z".to_vec()];
        pass(&mut heat, &regions, |_| load(5, 0), Time(0));
        assert_eq!(
            heat.borders().iter().map(|border| border.len()).collect::<Vec<_>>(),
            [0, BORDER_BYTES, 1]
        );
        pass(&mut heat, &regions, |_| load(5, 0), Time(60_000));
        let last = heat.minutes(Time(60_000)).last().expect("a minute");
        assert_eq!(last.means.iter().map(|mean| mean.read_ops).collect::<Vec<_>>(), [5, 10, 5]);
        const { assert!(BYTES_MAX < 600 << 10) };
    }

    #[test]
    fn minutes_without_a_look_have_no_column() {
        let mut heat = Heat::new();
        assert!(heat.drawing(&heat.look()).is_none());
        heat.take(&heat.look(), Time(0));
        assert_eq!(heat.minutes(Time(0)).count(), 0);
        for minute in [0, 1, 5] {
            pass(&mut heat, &starts(2), |_| load(1, 1), Time(minute * 60_000));
        }
        let ago: Vec<u64> = heat.minutes(Time(7 * 60_000)).map(|minute| minute.ago).collect();
        assert_eq!(ago, [7, 6, 2]);
    }
}

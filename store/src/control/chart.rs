//! The key space as a picture: in a bounded number of cells now, and per range and minute for the last hour.
//!
//! Both are walks over the map that pause, and take memory by the number of cells and not of regions. The history is sampled every ten
//! seconds as long as the scheduler is hosted here; its bound is [`scheduler::heat::BYTES_MAX`].

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use scheduler::heat::{BUCKETS, Look, Minute, shortened};
use scheduler::{Key, Load, RegionId, RegionInfo, StoreId, View};

use super::overview::live_voters;
use super::{Control, time};

/// How often loads are sampled.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// Regions that lie side by side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionCell {
    /// Where the first one begins, cut off where it is long.
    pub start: Bytes,
    /// Whether it was cut off.
    pub shortened: bool,
    /// The first one.
    pub first: RegionId,
    /// How many they are.
    pub regions: u64,
    /// Bytes of data.
    pub size_bytes: u64,
    /// Keys.
    pub keys: u64,
    /// What clients read and write there.
    pub load: Load,
    /// The store that leads most of them, and how many.
    pub leader: Option<(StoreId, u64)>,
    /// How many stores lead any of them.
    pub leaders: u64,
    /// Regions without a known leader.
    pub leaderless: u64,
    /// Regions with fewer live voters than they should have.
    pub short: u64,
    /// Regions without a majority.
    pub unavailable: u64,
}

/// Cells that are being filled in key order.
struct Filling {
    /// Regions of a cell.
    every: u64,
    cells: Vec<RegionCell>,
    /// Who leads how many in the last cell.
    leads: BTreeMap<StoreId, u64>,
}

impl Filling {
    fn see(&mut self, view: &View<'_>, info: &RegionInfo) {
        if self.cells.last().is_none_or(|cell| cell.regions >= self.every) {
            self.finish();
            let start = info.region.range.start().as_bytes();
            let shown = shortened(start);
            self.cells.push(RegionCell {
                start: Bytes::copy_from_slice(shown),
                shortened: shown.len() < start.len(),
                first: info.id(),
                ..RegionCell::default()
            });
        }
        let Some(cell) = self.cells.last_mut() else { return };
        let (live, voters) = (live_voters(view, info), info.region.voters().count() as u64);
        cell.regions += 1;
        cell.size_bytes = cell.size_bytes.saturating_add(info.size_bytes);
        cell.keys = cell.keys.saturating_add(info.keys);
        cell.load = sum(cell.load, info.load);
        cell.leaderless += u64::from(info.leader.is_none());
        cell.short += u64::from(live < view.config.max_replicas);
        cell.unavailable += u64::from(live < voters / 2 + 1);
        if let Some(store) = info.leader_store() {
            *self.leads.entry(store).or_default() += 1;
        }
    }

    /// Ends the last cell.
    fn finish(&mut self) {
        let leads = std::mem::take(&mut self.leads);
        let Some(cell) = self.cells.last_mut() else { return };
        cell.leaders = leads.len() as u64;
        // Of several that lead as many, the first by id.
        cell.leader = leads.into_iter().rev().max_by_key(|(_, count)| *count);
    }
}

fn sum(one: Load, other: Load) -> Load {
    Load {
        read_bytes: one.read_bytes.saturating_add(other.read_bytes),
        write_bytes: one.write_bytes.saturating_add(other.write_bytes),
        read_ops: one.read_ops.saturating_add(other.read_ops),
        write_ops: one.write_ops.saturating_add(other.write_ops),
    }
}

impl Control {
    /// All regions in at most `cells` cells, of which there are [`BUCKETS`] at most; how many regions there are.
    pub async fn region_map(&self, cells: usize) -> (Vec<RegionCell>, u64) {
        let cells = cells.clamp(1, BUCKETS) as u64;
        let regions = self.map(|map| map.len() as u64);
        let every = regions.div_ceil(cells).max(1);
        let mut filling = Filling { every, cells: Vec::new(), leads: BTreeMap::new() };
        let mut seen = 0;
        self.walk(|view, info| {
            seen += 1;
            // What has been split meanwhile is in the last cell.
            if seen > cells * every {
                filling.every = u64::MAX;
            }
            filling.see(view, info);
        })
        .await;
        filling.finish();
        (filling.cells, seen)
    }

    /// Where each range of the history begins, and its minutes, oldest first.
    pub fn heat(&self) -> (Vec<Key>, Vec<Minute>) {
        let heat = self.0.heat.borrow();
        (heat.borders().to_vec(), heat.minutes(time(&self.0.rt)).collect())
    }

    /// Samples loads as long as the scheduler is hosted here.
    pub(super) async fn heat_loop(&self) {
        loop {
            self.0.rt.sleep(SAMPLE_EVERY).await;
            if self.is_retired() {
                return;
            }
            self.sample().await;
        }
    }

    async fn sample(&self) {
        let mut look = self.look().await;
        let drawing = self.0.heat.borrow().drawing(&look);
        if let Some(mut drawing) = drawing {
            self.walk(|_, info| drawing.see(info.region.range.start())).await;
            self.0.heat.borrow_mut().redraw(drawing);
            look = self.look().await;
        }
        self.0.heat.borrow_mut().take(&look, time(&self.0.rt));
    }

    /// One pass over all regions.
    async fn look(&self) -> Look {
        let mut look = self.0.heat.borrow().look();
        self.walk(|_, info| self.0.heat.borrow().see(&mut look, info.region.range.start(), info.load)).await;
        look
    }
}

//! What befalls disks: slow, hung, full, failing and damaged ones, and empty ones in the place of others.
//!
//! Faults stay within what a cluster can survive: one disk at a time is damaged, fails or is replaced, and only while every region has a
//! voter on every node, so that two of them have everything that was acknowledged. A store that fails or is damaged may refuse
//! everything; what it answers must be right.

use std::path::PathBuf;
use std::time::Duration;

use engine::rt::sim::{DiskFault, DiskOp};

use super::nodes::NODES;
use super::run::Run;

/// The last of what was asked of a slow disk takes so long at most.
const LAST_SLOW: Duration = Duration::from_secs(7);
/// A change of members that is in flight is seen by then, if it is ever made.
const IN_FLIGHT: Duration = Duration::from_secs(3);

impl Run {
    /// One disk, or two, are slow for a while.
    pub(super) fn slow_disks(&mut self, first: usize, second: usize) -> Result<(), String> {
        let factor = 10 + self.world.below(300);
        self.record(format!("the disks of the nodes {first} and {second} are {factor} times slower"));
        let slow = |run: &mut Self, factor: u64| {
            for number in [first, second] {
                run.nodes.node(number).disk().slow(factor);
            }
            run.slow = factor > 1;
        };
        self.tally.bad_disks += 1;
        slow(self, factor);
        self.pass(self.draw_ms(300, 4000))?;
        slow(self, 1);
        self.slow_until = self.world.now() + LAST_SLOW;
        self.record("the disks are fast again".to_owned());
        Ok(())
    }

    /// Nothing that is asked of a disk is done for a while.
    pub(super) fn hang_disk(&mut self, number: usize) -> Result<(), String> {
        self.record(format!("the disk of node {number} hangs"));
        self.tally.bad_disks += 1;
        self.slow = true;
        self.nodes.node(number).disk().hang();
        self.pass(self.draw_ms(200, 4000))?;
        self.record(format!("the disk of node {number} goes on"));
        self.nodes.node(number).disk().unhang(&self.world);
        self.pass(Duration::from_millis(200))?;
        self.slow = false;
        Ok(())
    }

    /// A disk has hardly any room left for a while.
    pub(super) fn fill_disk(&mut self, number: usize) -> Result<(), String> {
        let bytes = self.world.below(300) << 10;
        self.record(format!("the disk of node {number} has {bytes} bytes left"));
        self.tally.bad_disks += 1;
        self.slow = true;
        self.nodes.node(number).disk().leave(bytes);
        self.pass(self.draw_ms(500, 5000))?;
        if self.world.below(3) == 0 {
            self.end(number, self.draw_ms(10, 500))?;
            self.pass(self.draw_ms(500, 3000))?;
        }
        self.record(format!("the disk of node {number} has room again"));
        self.nodes.node(number).disk().set_capacity(u64::MAX);
        self.pass(Duration::from_millis(500))?;
        self.slow = false;
        Ok(())
    }

    /// A write or a sync fails. The store stops, and comes back from what its disk has.
    pub(super) fn fail_disk(&mut self, number: usize) -> Result<(), String> {
        if !self.nodes.is_up(number) {
            return Ok(());
        }
        let op = if self.world.below(2) == 0 { DiskOp::Write } else { DiskOp::Sync };
        let (after, path) = (self.world.below(20), if self.world.below(2) == 0 { "log" } else { "tree" });
        self.record(format!("a {op:?} below {path} fails on node {number}, after {after} others"));
        self.tally.bad_disks += 1;
        self.begin_fault(number);
        self.nodes.node(number).disk().fail(DiskFault::on(op).path(path).after(after));
        self.pass(self.draw_ms(500, 4000))?;
        self.nodes.node(number).disk().heal();
        self.end(number, self.draw_ms(10, 1000))?;
        self.end_fault()
    }

    /// A table file is damaged; the node serves what it can until its disk is replaced. It has to be: after a compaction that met the
    /// damage no start opens the store.
    pub(super) fn damage_disk(&mut self, number: usize) -> Result<(), String> {
        self.pass(IN_FLIGHT)?;
        let disk = self.nodes.node(number).disk();
        let is_table = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "table");
        let tables: Vec<PathBuf> = disk.files().into_iter().filter(is_table).collect();
        let may_be_replaced = self.nodes.may_replace_disk(number);
        if tables.is_empty() || !self.is_whole() || !self.nodes.is_up(number) || !may_be_replaced {
            return Ok(());
        }
        let path = tables[self.world.below(tables.len() as u64) as usize].clone();
        let at = self.world.below(disk.read(&path).len() as u64);
        let bit = self.world.below(8);
        self.record(format!("bit {bit} of byte {at} of {} flips on node {number}", path.display()));
        self.tally.bad_disks += 1;
        self.begin_fault(number);
        self.nodes.node(number).disk().rot(&path, at, 1 << bit);
        self.pass(self.draw_ms(500, 4000))?;
        self.replace_disk(number)?;
        self.end_fault()
    }

    /// A node loses its disk with everything on it, and comes back as another one.
    pub(super) fn lose_disk(&mut self, number: usize) -> Result<(), String> {
        self.pass(IN_FLIGHT)?;
        match self.is_whole() && self.nodes.is_up(number) {
            true => self.replace_disk(number),
            false => Ok(()),
        }
    }

    fn replace_disk(&mut self, number: usize) -> Result<(), String> {
        if !self.nodes.may_replace_disk(number) {
            return self.end(number, Duration::from_millis(10));
        }
        self.end_one(number, true);
        self.nodes.replace_disk(number);
        self.record(format!(
            "the disk of node {number} is replaced, its stores are {:?}",
            self.nodes.stores(number)
        ));
        self.tally.new_disks += 1;
        self.pass(self.draw_ms(10, 3000))?;
        self.start_one(number);
        Ok(())
    }

    /// From now on the store of a node may refuse and stop for reasons of its own.
    fn begin_fault(&mut self, number: usize) {
        (self.faulty, self.slow) = (Some(number), true);
        self.shared.faulty.set(true);
    }

    /// The node is whole again. Calls that were on their way may still say what it said.
    fn end_fault(&mut self) -> Result<(), String> {
        self.faulty = None;
        self.pass(Duration::from_secs(10))?;
        self.slow = false;
        self.shared.faulty.set(false);
        debug_assert!((0..NODES).all(|number| self.nodes.is_up(number)), "all nodes are up again");
        Ok(())
    }
}

//! Which segments may go, and what must move or be flushed first. Pure.
//!
//! Segments go from the oldest on, whole. A segment with nothing live goes at once. While the log is larger than its target,
//! the oldest segments are emptied: a group with little left there is rewritten at the tail, a group with much is a
//! [`Straggler`], which the store flushes and compacts. So an idle group costs a small rewrite now and then and never pins the
//! log, and a busy one is asked to flush before it does.

use std::collections::BTreeMap;

use super::format::SegmentNo;
use super::group::Use;

/// When to empty segments that still hold something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PurgeLimits {
    /// Segments in use (without spares) above which the oldest are emptied.
    pub segments_target: usize,
    /// A group with at most this much in the oldest segment is rewritten, bytes.
    pub rewrite_group_bytes_max: u64,
    /// The most that one purge rewrites, bytes.
    pub rewrite_bytes_max: u64,
}

impl Default for PurgeLimits {
    fn default() -> Self {
        Self { segments_target: 4, rewrite_group_bytes_max: 64 << 10, rewrite_bytes_max: 8 << 20 }
    }
}

/// A group that keeps an old segment alive and is too large there to be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Straggler {
    /// The group.
    pub group: u64,
    /// What it has in the segment, bytes.
    pub bytes: u64,
}

/// What the planner sees of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupUse<'a> {
    pub(crate) group: u64,
    pub(crate) uses: &'a [(SegmentNo, Use)],
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    /// What each group has in a segment that is to be emptied by rewriting.
    pub(crate) rewrite: Vec<(u64, SegmentNo)>,
    /// Groups that stand in the way, largest first.
    pub(crate) stragglers: Vec<Straggler>,
}

/// The first segment that is still needed: everything below may go.
pub(crate) fn needed_from(live: &BTreeMap<SegmentNo, Use>, active: SegmentNo) -> SegmentNo {
    live.first_key_value().map_or(active, |(oldest, _)| (*oldest).min(active))
}

/// Decides what to rewrite and whom to flush. `oldest` is the oldest segment that is still needed.
pub(crate) fn plan(
    groups: &[GroupUse<'_>],
    oldest: SegmentNo,
    active: SegmentNo,
    limits: &PurgeLimits,
) -> Plan {
    let mut plan = Plan::default();
    let mut budget = limits.rewrite_bytes_max;
    let mut in_use = usize::try_from(active.0 - oldest.0 + 1).expect("segments are few");
    let mut segment = oldest;
    while in_use > limits.segments_target && segment < active {
        let here: Vec<(u64, u64)> = groups
            .iter()
            .filter_map(|g| Some((g.group, g.uses.iter().find(|(of, _)| *of == segment)?.1.bytes)))
            .collect();
        let large = |bytes: u64| bytes > limits.rewrite_group_bytes_max;
        let small_bytes: u64 = here.iter().map(|(_, bytes)| *bytes).filter(|bytes| !large(*bytes)).sum();
        if small_bytes > budget {
            // Many small groups: flush the largest of them instead of copying the log over and over.
            plan.stragglers.extend(here.iter().map(|&(group, bytes)| Straggler { group, bytes }));
            break;
        }
        let stuck = here.iter().filter(|(_, bytes)| large(*bytes));
        plan.stragglers.extend(stuck.map(|&(group, bytes)| Straggler { group, bytes }));
        if !plan.stragglers.is_empty() {
            // Moving the small ones frees nothing until the large ones are gone, so it can wait.
            break;
        }
        budget -= small_bytes;
        plan.rewrite.extend(here.iter().map(|&(group, _)| (group, segment)));
        segment = SegmentNo(segment.0 + 1);
        in_use -= 1;
    }
    plan.stragglers.sort_by_key(|straggler| std::cmp::Reverse(straggler.bytes));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PurgeLimits =
        PurgeLimits { segments_target: 2, rewrite_group_bytes_max: 100, rewrite_bytes_max: 250 };

    fn used(segment: u64, bytes: u64) -> (SegmentNo, Use) {
        (SegmentNo(segment), Use { items: 1, bytes })
    }

    fn planned(groups: &[(u64, Vec<(SegmentNo, Use)>)], oldest: u64, active: u64) -> Plan {
        let groups: Vec<_> = groups.iter().map(|(group, uses)| GroupUse { group: *group, uses }).collect();
        plan(&groups, SegmentNo(oldest), SegmentNo(active), &LIMITS)
    }

    #[test]
    fn a_small_log_is_left_alone() {
        assert_eq!(planned(&[(1, vec![used(4, 50)])], 4, 5), Plan::default());
    }

    #[test]
    fn an_idle_group_is_moved_out_of_every_segment_above_the_target() {
        let plan = planned(&[(1, vec![used(2, 50), used(3, 10)]), (2, vec![used(5, 90)])], 2, 5);
        assert_eq!(plan.rewrite, [(1, SegmentNo(2)), (1, SegmentNo(3))]);
        assert_eq!(plan.stragglers, []);
    }

    #[test]
    fn a_large_group_is_to_be_flushed_and_nothing_is_copied_meanwhile() {
        let plan = planned(&[(1, vec![used(2, 50)]), (2, vec![used(2, 101)]), (3, vec![used(2, 500)])], 2, 5);
        assert_eq!(plan.rewrite, []);
        assert_eq!(plan.stragglers, [Straggler { group: 3, bytes: 500 }, Straggler { group: 2, bytes: 101 }]);
    }

    #[test]
    fn segments_before_a_straggler_are_still_emptied() {
        let plan = planned(&[(1, vec![used(2, 50)]), (2, vec![used(3, 101)])], 2, 5);
        assert_eq!(plan.rewrite, [(1, SegmentNo(2))]);
        assert_eq!(plan.stragglers, [Straggler { group: 2, bytes: 101 }]);
    }

    #[test]
    fn too_many_small_groups_are_flushed_instead_of_copied() {
        let groups: Vec<_> = (0..3).map(|group| (group, vec![used(2, 90 + group)])).collect();
        let plan = planned(&groups, 2, 5);
        assert_eq!(plan.rewrite, []);
        assert_eq!(plan.stragglers.iter().map(|s| s.group).collect::<Vec<_>>(), [2, 1, 0]);
    }

    #[test]
    fn the_segment_that_is_written_is_always_needed() {
        assert_eq!(needed_from(&BTreeMap::new(), SegmentNo(7)), SegmentNo(7));
        assert_eq!(needed_from(&BTreeMap::from([used(3, 1)]), SegmentNo(7)), SegmentNo(3));
    }
}

//! Bugs planted on purpose: each is one wrong line, and some test must fail with it.
//!
//! The shipped code has no switches for this. A copy of the crate is made, the line is replaced, and the copy's tests
//! are run: `RINGKEEP_PLANT=all cargo test -p ringkeep-scheduler planted`, or the name of one bug instead of `all`.
//! Without the variable only this is checked: that each line to replace still occurs exactly once, so that the list
//! cannot rot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

struct Bug {
    name: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
}

const BUGS: [Bug; 53] = [
    Bug {
        name: "unsigned_difference",
        file: "src/balance/region.rs",
        right: "let difference = source_bytes.saturating_sub(target_bytes);",
        wrong: "let difference = source_bytes.abs_diff(target_bytes) as i64;",
    },
    Bug {
        name: "difference_above_one_region_size_only",
        file: "src/balance/region.rs",
        right: "if difference > needed { Ok(()) }",
        wrong: "if difference > weight { Ok(()) }",
    },
    Bug {
        name: "target_on_a_node_that_holds_the_region",
        file: "src/filter.rs",
        right: ".any(|other| other == store || (node.is_some() && self.cluster.node_of(other) == node))",
        wrong: ".any(|other| other == store || (node.is_none() && self.cluster.node_of(other) == node))",
    },
    Bug {
        name: "remove_before_transfer",
        file: "src/operator/build.rs",
        right: "steps.extend(transfer);\n        steps.push(remove);",
        wrong: "steps.push(remove);\n        steps.extend(transfer);",
    },
    Bug {
        name: "remove_the_leader",
        file: "src/operator/safe.rs",
        right: "if info.leader == Some(peer) { Err(Unsafe::Leads(peer)) }",
        wrong: "if info.leader.is_none() { Err(Unsafe::Leads(peer)) }",
    },
    Bug {
        name: "stale_only_if_both_parts_are_lower",
        file: "src/epoch.rs",
        right: "self.conf_ver < other.conf_ver || self.version < other.version",
        wrong: "self.conf_ver < other.conf_ver && self.version < other.version",
    },
    Bug {
        name: "deposed_leader_is_believed",
        file: "src/cluster/mod.rs",
        right: "if reported < term {",
        wrong: "if reported < term && report.leader.is_none() {",
    },
    Bug {
        name: "counting_a_peer_twice",
        file: "src/cluster/mod.rs",
        right: "self.unlink(slot);\n        let entry = self.entries.get_mut(slot);\n        entry.info",
        wrong: "let entry = self.entries.get_mut(slot);\n        entry.info",
    },
    Bug {
        name: "a_lagging_newcomer_counts_as_arrived",
        file: "src/operator/step.rs",
        right: "region.peer(*peer).is_some_and(Peer::will_vote) && caught_up(*peer),",
        wrong: "region.peer(*peer).is_some_and(Peer::will_vote),",
    },
    Bug {
        name: "quorum_not_asked",
        file: "src/operator/safe.rs",
        right: "if keeps_quorum(&after, healthy) { Ok(()) }",
        wrong: "if keeps_quorum(&after, |_| true) { Ok(()) }",
    },
    Bug {
        name: "outdated_operator_goes_on",
        file: "src/operator/mod.rs",
        right: "info.region.epoch.conf_ver > self.origin.conf_ver.saturating_add(own)",
        wrong: "info.region.epoch.conf_ver > self.origin.conf_ver.saturating_add(own + 8)",
    },
    Bug {
        name: "operators_time_out_on_reports_only",
        file: "src/scheduler/round.rs",
        right: "self.end_overdue(now);",
        wrong: "self.end_overdue(Time(0));",
    },
    Bug {
        name: "a_newcomer_that_died_is_waited_for",
        file: "src/operator/mod.rs",
        right: "let unfit = newcomers.filter(|store| view.may_hold(*store).is_err());",
        wrong: "let unfit = newcomers.filter(|store| view.may_hold(*store).is_err() && store.0 == u64::MAX);",
    },
    Bug {
        name: "a_silent_leader_is_waited_for",
        file: "src/operator/mod.rs",
        right: "info.leader_store().filter(|store| !view.is_live(*store));",
        wrong: "info.leader_store().filter(|store| store.0 == u64::MAX);",
    },
    Bug {
        name: "a_peer_on_a_dead_store_gets_a_vote",
        file: "src/operator/safe.rs",
        right: "if !view.is_live(held.store) {",
        wrong: "if held.store.0 == u64::MAX {",
    },
    Bug {
        name: "a_living_copy_goes_for_a_dead_vote",
        file: "src/check/replica.rs",
        right: "(is_alone && enough).then_some(silent)",
        wrong: "(is_alone && enough && silent.0 == u64::MAX).then_some(silent)",
    },
    Bug {
        name: "load_moves_whatever_sizes_say",
        file: "src/balance/shift.rs",
        right: "return Err(Reason::SizesWouldSpread);",
        wrong: "let _ = Reason::SizesWouldSpread;",
    },
    Bug {
        name: "an_exchange_counts_one_way_only",
        file: "src/balance/shift.rs",
        right: "map(|home| out.against(home));",
        wrong: "map(|_| Shift { bytes: 0, ..out });",
    },
    Bug {
        name: "any_store_of_a_node_is_a_sibling",
        file: "src/operator/safe.rs",
        right: "if view.node_is_taken(&info.region, store, Some(leaving)) {",
        wrong: "if view.node_is_taken(&info.region, StoreId(u64::MAX), Some(leaving)) {",
    },
    Bug {
        name: "a_sibling_on_another_node",
        file: "src/operator/safe.rs",
        right: "if !view.same_node(store, leaving) {",
        wrong: "if store == leaving {",
    },
    Bug {
        name: "leader_stays_where_the_replica_leaves",
        file: "src/operator/build.rs",
        right: "if info.leader == Some(leaver.id) {\n            steps.push(Step::TransferLeader { peer: newcomer.id",
        wrong: "if info.leader.is_none() {\n            steps.push(Step::TransferLeader { peer: newcomer.id",
    },
    Bug {
        name: "a_learner_gets_a_vote_beside_its_sibling",
        file: "src/check/replica.rs",
        right: "let fit = is_alone && view",
        wrong: "let fit = (is_alone || true) && view",
    },
    Bug {
        name: "a_core_gives_a_region_that_it_follows",
        file: "src/balance/core.rs",
        right: "return Err(Reason::Follows);",
        wrong: "let _ = Reason::Follows;",
    },
    Bug {
        name: "a_move_that_leaves_more_than_half",
        file: "src/balance/core.rs",
        right: "let most = difference / 4 * 3;",
        wrong: "let most = difference;",
    },
    Bug {
        name: "load_is_compared_right_after_a_move",
        file: "src/balance/core.rs",
        right: "|info: &RegionInfo| !rests && !cut.contains(&info.id())",
        wrong: "|info: &RegionInfo| (!rests || true) && !cut.contains(&info.id())",
    },
    Bug {
        name: "small_regions_go_where_a_large_one_should",
        file: "src/balance/core.rs",
        right: "} else if weight < least {",
        wrong: "} else if weight < least.min(0) {",
    },
    Bug {
        name: "a_moment_of_load_splits",
        file: "src/check/split.rs",
        right: "if busy_ms < BUSY_MS {",
        wrong: "if busy_ms < 1 {",
    },
    Bug {
        name: "a_single_store_splits_for_load",
        file: "src/check/split.rs",
        right: "(count > 1).then(||",
        wrong: "(count > 0).then(||",
    },
    Bug {
        name: "regions_multiply_with_the_load",
        file: "src/check/split.rs",
        right: ".unwrap_or(i64::MAX) > worth);",
        wrong: ".unwrap_or(i64::MAX) > worth.min(0));",
    },
    Bug {
        name: "a_part_is_as_busy_as_the_whole_was",
        file: "src/scheduler/mod.rs",
        right: "before.filter(|(incarnation, _)| *incarnation == Incarnation::of(info));",
        wrong: "before.filter(|(incarnation, _)| incarnation.version > 0);",
    },
    Bug {
        name: "what_moved_for_load_goes_back_for_size",
        file: "src/balance/core.rs",
        right: "is_settled(info) && evens_out(",
        wrong: "(is_settled(info) || true) && evens_out(",
    },
    Bug {
        name: "sizes_drive_loads_apart",
        file: "src/balance/core.rs",
        right: "and_then(|shift| judge.permits_for_size(&shift, stores));",
        wrong: "map(|_| ());",
    },
    Bug {
        name: "load_waits_for_sizes",
        file: "src/balance/shift.rs",
        right: "!config.is_enabled(Policy::BalanceRegion) && !config.is_enabled(Policy::HotRegion)",
        wrong: "config.is_enabled(Policy::BalanceRegion) && !config.is_enabled(Policy::BalanceRegion)",
    },
    Bug {
        name: "a_split_whose_new_part_reports_first_counts_as_cancelled",
        file: "src/scheduler/mod.rs",
        right: "match operator.makes(by) || operator.ends_in(by) {",
        wrong: "match operator.makes(by) && operator.region == by || operator.ends_in(by) {",
    },
    Bug {
        name: "a_merge_that_is_done_counts_as_cancelled",
        file: "src/scheduler/mod.rs",
        right: "match operator.makes(by) || operator.ends_in(by) {",
        wrong: "match operator.makes(by) || operator.ends_in(by) && operator.region == by {",
    },
    Bug {
        name: "the_neighbour_of_a_merge_is_free",
        file: "src/operator/mod.rs",
        right: "std::iter::once(self.region).chain(self.merges_into())",
        wrong: "std::iter::once(self.region).chain(self.merges_into().filter(|_| self.steps.is_empty()))",
    },
    Bug {
        name: "what_merges_into_a_region_is_not_its_operator",
        file: "src/operator/running.rs",
        right: "operator.merges_into().map(|into| self.held.insert(into, operator.region));",
        wrong: "operator.merges_into().map(|into| self.held.remove(&into));",
    },
    Bug {
        name: "a_merge_into_what_has_changed",
        file: "src/operator/safe.rs",
        right: "view.cluster.region(into.id).filter(|known| known.region.epoch == into.epoch);",
        wrong: "view.cluster.region(into.id).filter(|known| known.region.epoch.version > 0);",
    },
    Bug {
        name: "a_merge_in_vain_is_waited_for",
        file: "src/operator/safe.rs",
        right: "    if current != epoch {",
        wrong: "    if current.conf_ver > epoch.conf_ver {\n        return Ok(());\n    }\n    if current != epoch {",
    },
    Bug {
        name: "a_merge_in_vain_is_begun_again_at_once",
        file: "src/check/merge.rs",
        right: "let was_in_vain = ended.operator.policy == Policy::MergeCheck && ended.outcome != Outcome::Success;",
        wrong: "let was_in_vain = ended.operator.policy == Policy::MergeCheck && ended.outcome == Outcome::Success;",
    },
    Bug {
        name: "a_part_of_a_split_is_merged_at_once",
        file: "src/scheduler/mod.rs",
        right: "let is_cut = self.prepared && self.cluster.shows_cut(&report.region);",
        wrong: "let is_cut = !self.prepared && self.cluster.shows_cut(&report.region);",
    },
    Bug {
        name: "a_merge_leaves_a_store_without_a_region",
        file: "src/check/merge.rs",
        right: "match info.region.peers.iter().find(|peer| left(peer.store) < 1) {",
        wrong: "match info.region.peers.iter().find(|peer| left(peer.store) < 0) {",
    },
    Bug {
        name: "merges_leave_fewer_regions_than_stores",
        file: "src/check/merge.rs",
        right: "    if regions <= stores {",
        wrong: "    if regions < stores {",
    },
    Bug {
        name: "merges_of_one_round_go_too_far",
        file: "src/check/merge.rs",
        right: "let max = max.min(regions.saturating_sub(stores).max(1));",
        wrong: "let max = max.min(regions.max(stores));",
    },
    Bug {
        name: "what_a_person_has_placed_is_balanced",
        file: "src/balance/mod.rs",
        right: "Some(left_ms) => Err(Reason::Placed(left_ms)),",
        wrong: "Some(left_ms) => Ok(drop(Reason::Placed(left_ms))),",
    },
    Bug {
        name: "a_split_by_a_person_is_a_place",
        file: "src/operator/mod.rs",
        right: "self.steps.iter().any(|step| !matches!(step, Step::Split { .. }))",
        wrong: "!self.steps.is_empty()",
    },
    Bug {
        name: "no_difference_in_size_is_tolerated",
        file: "src/balance/region.rs",
        right: "weight.saturating_mul(2).max(board.mean_bytes() / 100 * TOLERANCE_PERCENT)",
        wrong: "weight.saturating_mul(2).max(board.mean_bytes() / 1000 * TOLERANCE_PERCENT)",
    },
    Bug {
        name: "what_waits_for_the_smallest_store_goes_elsewhere",
        file: "src/balance/region.rs",
        right: "if open < waiting || lacks(open.0) => open,",
        wrong: "if open < waiting || open.0 > 0 => open,",
    },
    Bug {
        name: "what_waits_for_the_smallest_store_waits_although_another_lacks_it",
        file: "src/balance/region.rs",
        right: "if open < waiting || lacks(open.0) => open,",
        wrong: "if open < waiting => open,",
    },
    Bug {
        name: "any_region_goes_where_it_is_not_lacking",
        file: "src/balance/region.rs",
        right: "let is_short = lacks(target_bytes)",
        wrong: "let is_short = target_bytes > 0 || lacks(target_bytes)",
    },
    Bug {
        name: "balance_moves_what_is_drained",
        file: "src/balance/region.rs",
        right: ".and_then(|()| stays_whole(view, info))",
        wrong: ".map(|()| drop(stays_whole(view, info)))",
    },
    Bug {
        name: "timestamp_at_the_saved_bound",
        file: "src/tso.rs",
        right: "if physical_ms >= self.window_end_ms {",
        wrong: "if physical_ms > self.window_end_ms {",
    },
    Bug {
        name: "ids_handed_out_twice",
        file: "src/state.rs",
        right: "self.image.next_id = end;",
        wrong: "self.image.next_id = end - 1;",
    },
];

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn planted_bugs_are_still_where_they_are_planted() {
    for bug in &BUGS {
        let text = fs::read_to_string(home().join(bug.file)).expect("a source file");
        assert_eq!(text.matches(bug.right).count(), 1, "{}: in {}", bug.name, bug.file);
        assert_ne!(bug.right, bug.wrong);
    }
}

#[test]
fn planted_bugs_are_caught() {
    let Ok(wanted) = std::env::var("RINGKEEP_PLANT") else { return };
    let bugs: Vec<&Bug> = BUGS.iter().filter(|bug| wanted == "all" || wanted == bug.name).collect();
    assert!(!bugs.is_empty(), "there is no planted bug named {wanted}");
    let garden = std::env::temp_dir().join(format!("ringkeep-planted-{}", std::process::id()));
    copy(&home().join("src"), &garden.join("src"));
    copy(&home().join("tests"), &garden.join("tests"));
    fs::write(garden.join("Cargo.toml"), MANIFEST).expect("a writable folder");
    let survivors: Vec<&str> =
        bugs.into_iter().filter(|bug| survives(bug, &garden)).map(|bug| bug.name).collect();
    fs::remove_dir_all(&garden).expect("our own folder");
    assert!(survivors.is_empty(), "no test noticed {survivors:?}");
}

const MANIFEST: &str = r#"[package]
name = "planted"
version = "0.0.0"
edition = "2024"
[lib]
name = "scheduler"
doctest = false
[profile.test]
opt-level = 1
debug = false
[workspace]
"#;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a writable folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a copied file");
        }
    }
}

/// Whether all tests pass with the bug in place.
fn survives(bug: &Bug, garden: &Path) -> bool {
    let file = garden.join(bug.file);
    let text = fs::read_to_string(&file).expect("copied");
    fs::write(&file, text.replace(bug.right, bug.wrong)).expect("our own file");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--offline", "--no-fail-fast", "--", "--skip", "planted"]).current_dir(garden);
    cargo.env("CARGO_TARGET_DIR", garden.join("target")).env_remove("RINGKEEP_PLANT");
    let output = cargo.output().expect("cargo runs");
    fs::write(&file, text).expect("our own file");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let ran = said.contains("test result:");
    assert!(ran, "{} does not compile: {said}", bug.name);
    !said.contains("test result: FAILED")
}

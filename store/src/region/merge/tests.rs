//! What the rules of a merge say, each step judged by records alone: bytes, epochs, what is remembered, and who may go on.

use scheduler::{KeyRange, Peer, PeerId, Region, StoreId};

use super::*;

fn record(id: u64, start: &str, end: &str, version: u64) -> RegionRecord {
    let peers = (1..=3).map(|n| Peer::voter(PeerId(10 * id + n), StoreId(n))).collect();
    let range = KeyRange::new(start, end).unwrap();
    let region = Region { id: RegionId(id), range, epoch: Epoch::new(4, version), peers };
    RegionRecord { region, me: PeerId(10 * id + 1), tombstone: false, merges: Merges::default() }
}

fn step(record: &RegionRecord, what: MergeWhat) -> MergeStep {
    MergeStep { region: record.region.id, epoch: record.region.epoch, what }
}

const PREPARE: LogId = LogId::new(6, 70);

/// The source as it is since its prepare, and the target.
fn prepared() -> (RegionRecord, RegionRecord) {
    let (source, target) = (record(1, "", "m", 9), record(2, "m", "", 3));
    let what = MergeWhat::Prepare { target: RegionId(2), epoch: target.region.epoch };
    let mut source = step(&source, what).judge(&source).unwrap();
    source.merges.waits.iter_mut().for_each(|waits| waits.prepare = PREPARE);
    (source, target)
}

fn committed() -> (RegionRecord, RegionRecord) {
    let (source, target) = prepared();
    let commit = MergeWhat::Commit(Commit { source: source.clone(), prepare: PREPARE });
    let merged = step(&target, commit).judge(&target).unwrap();
    (source, merged)
}

#[test]
fn a_step_reads_back_and_a_cut_one_does_not() {
    let (source, target) = prepared();
    let steps = [
        MergeWhat::Prepare { target: RegionId(2), epoch: target.region.epoch },
        MergeWhat::Commit(Commit { source, prepare: PREPARE }),
        MergeWhat::Rollback { prepare: PREPARE },
        MergeWhat::Refuse,
    ];
    for what in steps {
        let whole = step(&target, what);
        let bytes = whole.encode();
        assert_eq!((bytes[0], MergeStep::decode(&bytes[1..])), (KIND, Ok(whole.clone())));
        for cut in 1..bytes.len() {
            assert!(MergeStep::decode(&bytes[1..cut]) != Ok(whole.clone()), "cut at {cut} of {whole:?}");
        }
        assert!(MergeStep::decode(&[&bytes[1..], &[0]].concat()) != Ok(whole));
    }
}

/// Logs outlive versions: these are the bytes of the first version that had merges.
#[test]
fn the_bytes_of_a_step_stay_as_they_are() {
    let (_, target) = prepared();
    let hex =
        |what| step(&target, what).encode().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let head = "020000000000000004000000000000000300000000000000";
    assert_eq!(hex(MergeWhat::Refuse), format!("050104{head}"));
    let prepare = "06000000000000004600000000000000";
    assert_eq!(hex(MergeWhat::Rollback { prepare: PREPARE }), format!("050103{head}{prepare}"));
    let of_target = MergeWhat::Prepare { target: RegionId(9), epoch: Epoch::new(5, 6) };
    let epoch = "090000000000000005000000000000000600000000000000";
    assert_eq!(hex(of_target), format!("050101{head}{epoch}"));
    let (source, _) = prepared();
    let record: String = source.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex(MergeWhat::Commit(Commit { source, prepare: PREPARE })),
        format!("050102{head}{prepare}{record}")
    );
}

#[test]
fn the_source_stops_under_both_parts_of_another_epoch_and_the_target_grows_above_both() {
    let (source, target) = prepared();
    assert_eq!(source.region.epoch, Epoch::new(5, 10));
    let waits = source.merges.waits.unwrap();
    assert_eq!((waits.target, waits.epoch, waits.prepare), (RegionId(2), target.region.epoch, PREPARE));
    let (_, merged) = committed();
    assert_eq!((merged.region.range.clone(), merged.region.epoch), (KeyRange::full(), Epoch::new(4, 11)));
    assert_eq!(merged.merges.taken, [Taken { region: RegionId(1), version: 11 }]);
    assert_eq!(merged.merges.of_half(), merged.merges, "what is split off knows it, too");
}

#[test]
fn whatever_comes_second_is_refused_by_the_epoch() {
    let (source, target) = prepared();
    let commit = step(&target, MergeWhat::Commit(Commit { source: source.clone(), prepare: PREPARE }));
    let refuse = step(&target, MergeWhat::Refuse);
    let (merged, refused) = (commit.judge(&target).unwrap(), refuse.judge(&target).unwrap());
    for (second, after) in [(&commit, &merged), (&refuse, &merged), (&commit, &refused), (&refuse, &refused)]
    {
        assert!(matches!(second.judge(after), Err(Refusal::EpochNotMatch { current: _ })), "{second:?}");
    }
    let rollback = step(&source, MergeWhat::Rollback { prepare: PREPARE });
    let gone_on = rollback.judge(&source).unwrap();
    assert_eq!((gone_on.region.epoch, gone_on.merges.waits), (Epoch::new(5, 11), None));
    assert!(rollback.judge(&gone_on).is_err());
    let other = step(&source, MergeWhat::Rollback { prepare: LogId::new(6, 71) });
    assert!(matches!(other.judge(&source), Err(Refusal::Invalid(_))), "of another merge");
}

#[test]
fn a_source_goes_on_only_where_its_target_is_known_to_have_left_without_it() {
    let (source, target) = prepared();
    let (id, waits) = (source.region.id, source.merges.waits.unwrap());
    let by = |other: &RegionRecord| waits.fate_by(id, other);
    assert_eq!(by(&target), Fate::Open);
    let older = record(2, "m", "", 2);
    assert_eq!(by(&older), Fate::Unknown, "the target lags here");
    let mut left = step(&target, MergeWhat::Refuse).judge(&target).unwrap();
    assert_eq!(by(&left), Fate::Refused);
    left.tombstone = true;
    assert_eq!(by(&left), Fate::Unknown, "it may have missed its end");
    assert_eq!(by(&record(7, "", "m", 99)), Fate::Unknown, "another region");
    let (_, merged) = committed();
    assert_eq!(by(&merged), Fate::Unknown, "it has taken the source in");
    // Split since, so that it does not cover the source's range any more.
    let mut split = merged.clone();
    split.region.range = KeyRange::new("x", "").unwrap();
    split.region.epoch.version += 1;
    assert_eq!(by(&split), Fate::Unknown);
    // The target itself was taken in by another, before or after it took the source in.
    let mut above = record(7, "", "", 50);
    above.merges.taken = vec![Taken { region: RegionId(2), version: 50 }];
    assert_eq!(by(&above), Fate::Refused);
    above.merges.taken.push(Taken { region: id, version: 40 });
    assert_eq!(by(&above), Fate::Unknown);
}

#[test]
fn what_is_remembered_is_bounded_and_what_was_forgotten_is_not_taken_for_what_never_was() {
    let mut target = record(2, "m", "", 3);
    for round in 0..40 {
        let mut source = record(100 + round, "", "m", 9);
        source.region.epoch = Epoch::new(1, target.region.epoch.version);
        let what = MergeWhat::Commit(Commit { source, prepare: PREPARE });
        target = step(&target, what).judge(&target).unwrap();
        target.region.range = KeyRange::new("m", "").unwrap();
    }
    assert_eq!(target.merges.taken.len(), TAKEN_MAX);
    assert!(target.merges.has_taken(RegionId(139)) && !target.merges.has_taken(RegionId(100)));
    let waits =
        |version| AwaitsMerge { target: RegionId(2), epoch: Epoch::new(4, version), prepare: PREPARE };
    assert_eq!(waits(3).fate_by(RegionId(100), &target), Fate::Unknown, "it was taken in, and is forgotten");
    assert_eq!(waits(30).fate_by(RegionId(55), &target), Fate::Refused);
    let bytes = target.encode();
    assert_eq!(RegionRecord::decode(&bytes), Ok(target));
}

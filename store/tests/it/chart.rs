//! The key space as the console draws it: ten thousand regions in a bounded number of cells, and where their load was.

use std::path::Path;
use std::time::Duration;

use engine::rt::Rt;
use engine::rt::sim::{Options, World};
use scheduler::heat::{BUCKETS, COLUMNS};
use scheduler::{Load, NodeId, Peer, PeerId, RegionReport, StoreDescriptor, StoreId, StoreReport};
use store::control::{Beat, Control, Member};
use store::wire::board::CoreReport;

use crate::grpc::{beat, open_control, region};
use crate::page::{page, sum};

const MIB: u64 = 1 << 20;

async fn control(rt: &Rt) -> Control {
    let dir = Path::new("/data");
    rt.create_dir_all(dir).await.expect("a directory");
    let member = Member {
        name: "pd-1".to_owned(),
        member_id: 11,
        client_urls: vec!["http://127.0.0.1:1".to_owned()],
        cluster_id: 7,
        first_free_id: 12,
        next_id_min: 0,
    };
    open_control(rt, dir, member).await.expect("it opens")
}

/// This many regions, each of a mebibyte that is read three times a second and written once.
fn regions(count: u64) -> Vec<RegionReport> {
    let border =
        |at: u64| if at == 0 || at == count { Vec::new() } else { format!("key{at:06}").into_bytes() };
    let load = Load { read_ops: 3, write_ops: 1, read_bytes: 300, write_bytes: 100 };
    (0..count)
        .map(|at| {
            let report = region(1000 + at, &border(at), &border(at + 1));
            RegionReport { size_bytes: MIB, keys: 10, load, ..report }
        })
        .collect()
}

/// A replica of the only region lags, and no store is away: that is an ailment after ten minutes.
#[test]
fn a_replica_that_lags_for_long_is_an_ailment_and_a_number() {
    let lags = |is_behind: bool| -> Beat {
        let mut report = regions(1).remove(0);
        report.region.peers.push(Peer::voter(PeerId(5001), StoreId(2)));
        report.pending = if is_behind { vec![PeerId(5001)] } else { Vec::new() };
        let mut beat = beat("127.0.0.1:1".parse().expect("an address"), vec![report]);
        let mut other = beat.stores[0].clone();
        other.descriptor = StoreDescriptor::new(StoreId(2), NodeId(90), "127.0.0.1:2");
        (other.report, other.regions) = (StoreReport::empty(StoreId(2)), Vec::new());
        beat.stores.push(other);
        beat
    };
    let options = Options { time_max: Duration::from_secs(2 * 3600), ..Options::default() };
    let world = World::new(92, options);
    let looking = world.node(0).start(0, move |rt| async move {
        let control = control(&rt).await;
        let name = "ringkeep_scheduler_regions_lagging";
        let mut seen = Vec::new();
        for (seconds, is_behind) in [(590, true), (20, true), (1, false)] {
            for _ in 0..seconds {
                control.take(lags(is_behind)).await;
                rt.sleep(Duration::from_secs(1)).await;
            }
            let report = CoreReport { scheduler: Some(control.numbers()), ..CoreReport::default() };
            seen.push((control.standing().await.lagging, sum(&page(&[report], &[name]), name, "")));
        }
        assert_eq!(control.refused_reports(), 0);
        assert_eq!(seen, [(0, 0.0), (1, 1.0), (0, 0.0)]);
    });
    world.block_on(looking).expect("it ends");
}

/// Runs `look` with a scheduler that has heard of this number of regions.
fn with_regions<F>(count: u64, look: impl FnOnce(Rt, Control) -> F + 'static)
where
    F: Future<Output = ()> + 'static,
{
    // More than the hour that is looked at.
    let options = Options { time_max: Duration::from_secs(2 * 3600), ..Options::default() };
    let world = World::new(91, options);
    let looking = world.node(0).start(0, move |rt| async move {
        let control = control(&rt).await;
        control.take(beat("127.0.0.1:1".parse().expect("an address"), regions(count))).await;
        assert_eq!(control.refused_reports(), 0);
        look(rt, control).await;
    });
    world.block_on(looking).expect("it ends");
}

#[test]
fn ten_thousand_regions_are_a_bounded_number_of_cells_that_have_all_of_them() {
    with_regions(10_000, |_, control| async move {
        for (wanted, most) in [(256, 256), (usize::MAX, BUCKETS), (10, 10), (1, 1), (0, 1)] {
            let (cells, regions) = control.region_map(wanted).await;
            assert!(cells.len() <= most && cells.len() * 2 >= most, "{wanted}: {}", cells.len());
            assert_eq!((regions, cells.iter().map(|cell| cell.regions).sum::<u64>()), (10_000, 10_000));
            assert_eq!(cells.iter().map(|cell| cell.size_bytes).sum::<u64>(), 10_000 * MIB);
            assert_eq!(cells.iter().map(|cell| u64::from(cell.load.read_ops)).sum::<u64>(), 30_000);
            assert!(cells.is_sorted_by_key(|cell| cell.start.clone()) && cells[0].start.is_empty());
            for cell in &cells {
                let leader = cell.leader.expect("each is led");
                assert_eq!((leader.1, cell.leaders, cell.leaderless), (cell.regions, 1, 0));
            }
        }
    });
}

#[test]
fn a_few_regions_have_a_cell_each() {
    with_regions(5, |_, control| async move {
        let (cells, regions) = control.region_map(256).await;
        assert_eq!((cells.len(), regions), (5, 5));
        let firsts: Vec<u64> = cells.iter().map(|cell| cell.first.0).collect();
        assert_eq!(firsts, [1000, 1001, 1002, 1003, 1004]);
        assert_eq!(&cells[4].start[..], b"key000004");
    });
}

#[test]
fn loads_are_sampled_as_long_as_the_scheduler_is_here() {
    with_regions(10_000, |rt, control| async move {
        assert!(control.heat().1.is_empty(), "nothing was looked at yet");
        rt.sleep(Duration::from_secs(150)).await;
        let (borders, minutes) = control.heat();
        assert!(borders.len() <= BUCKETS && borders.len() > BUCKETS / 2, "{}", borders.len());
        assert!((3..=4).contains(&minutes.len()), "{}", minutes.len());
        for minute in &minutes {
            assert_eq!(minute.means.len(), borders.len());
            assert_eq!(minute.means.iter().map(|mean| mean.read_ops).sum::<u64>(), 30_000);
            assert_eq!(minute.means.iter().map(|mean| mean.write_bytes).sum::<u64>(), 1_000_000);
        }
        control.retire();
        rt.sleep(Duration::from_secs(300)).await;
        assert_eq!(control.heat().1.len(), minutes.len(), "one that is retired looks no more");
    });
}

#[test]
fn an_hour_is_kept() {
    with_regions(20, |rt, control| async move {
        rt.sleep(Duration::from_secs(70 * 60)).await;
        let (borders, minutes) = control.heat();
        assert_eq!((borders.len(), minutes.len()), (20, COLUMNS));
        assert_eq!((minutes[0].ago, minutes[COLUMNS - 1].ago), (COLUMNS as u64 - 1, 0));
    });
}

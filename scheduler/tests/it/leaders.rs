//! Balance-leader, under the names of the course's tests.
#![expect(non_snake_case, reason = "the tests keep the names under which the course knows them")]

use scheduler::Lifecycle;

use crate::kit::{Mock, transferred};

fn mock(leaders: &[u64]) -> Mock {
    let mut mock = Mock::new(3);
    set(&mut mock, leaders);
    mock
}

fn set(mock: &mut Mock, leaders: &[u64]) {
    for (id, count) in (1..).zip(leaders) {
        mock.leader_store(id, *count);
    }
}

#[test]
fn TestBalanceLimit() {
    let mut mock = mock(&[1, 0, 0, 0]);
    mock.config.max_replicas = 4;
    mock.leader_region(1, &[1, 2, 3, 4]);
    assert_eq!(mock.balance_leader(), None);
    set(&mut mock, &[16, 0, 0, 0]);
    assert!(mock.balance_leader().is_some());
    set(&mut mock, &[7, 8, 9, 10]);
    mock.leader_region(1, &[4, 1, 2, 3]);
    assert_eq!(mock.balance_leader(), None);
    set(&mut mock, &[7, 8, 9, 18]);
    assert!(mock.balance_leader().is_some());
}

#[test]
fn TestBalanceLeaderScheduleStrategy() {
    // Counts are equal and sizes far apart: counts decide.
    let mut mock = mock(&[10, 10, 10]);
    let mut large = mock.region(1, &[1, 2, 3]);
    large.size_bytes = 10_000 << 20;
    mock.report(large);
    assert_eq!(mock.balance_leader(), None);
}

#[test]
fn TestBalanceLeaderTolerantRatio() {
    let mut mock = mock(&[14, 10, 10]);
    mock.leader_region(1, &[1, 2, 3]);
    assert_eq!(mock.balance_leader(), None);
    set(&mut mock, &[20, 10, 10]);
    assert_eq!(mock.balance_leader(), None, "exactly the tolerance");
    set(&mut mock, &[21, 10, 10]);
    assert!(mock.balance_leader().is_some());
}

#[test]
fn TestBalanceFilter() {
    let mut mock = mock(&[1, 2, 3, 16]);
    mock.config.max_replicas = 4;
    mock.leader_region(1, &[4, 1, 2, 3]);
    assert_eq!(mock.balance_leader().map(|operator| transferred(&operator)), Some(1));
    mock.set_lifecycle(4, Lifecycle::Offline);
    assert_eq!(mock.balance_leader().map(|operator| transferred(&operator)), Some(1), "source offline");
    mock.set_lifecycle(4, Lifecycle::Up);
    mock.silent_for(1, 5_000_000_000);
    assert_eq!(mock.balance_leader().map(|operator| transferred(&operator)), Some(2), "store 1 down");
    mock.set_busy(2, true);
    assert_eq!(mock.balance_leader().map(|operator| transferred(&operator)), Some(3), "store 2 busy");
    mock.silent_for(3, 30_000);
    assert_eq!(mock.balance_leader(), None, "store 3 disconnected");
}

#[test]
fn TestBalanceSelector() {
    // Leaders of stores 1 to 4, stores of region 1 and of region 2 (the first one leads), expected target.
    let rows = [
        // Out of the store with the most leaders, to the follower with the fewest.
        ([1, 2, 3, 16], [4, 2, 3], [3, 1, 2], Some(2)),
        // Nothing can go out of store 4, but store 1 can be helped.
        ([1, 14, 15, 16], [4, 2, 3], [3, 1, 2], Some(1)),
        // Store 4 leads nothing and store 1 follows nothing: the next ones are looked at.
        ([1, 2, 15, 16], [3, 2, 4], [1, 2, 3], Some(2)),
        ([9, 10, 10, 11], [4, 2, 3], [1, 2, 3], None),
        ([11, 10, 10, 9], [4, 2, 3], [1, 2, 3], None),
        ([11, 13, 0, 16], [4, 2, 3], [1, 2, 3], Some(3)),
    ];
    for (leaders, one, two, expected) in rows {
        let mut mock = mock(&leaders);
        mock.leader_region(1, &one);
        mock.leader_region(2, &two);
        assert_eq!(mock.balance_leader().map(|operator| transferred(&operator)), expected, "{leaders:?}");
    }
}

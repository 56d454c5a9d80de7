//! Promises about queues, within a core and between two.

use std::time::Duration;

use super::Stage;
use crate::rt::chan::{Closed, TrySend, queue};

pub(super) async fn a_queue_keeps_order_and_its_bound(stage: Stage) {
    let (tx, rx) = queue(3);
    for n in 0..3 {
        tx.try_send(n).unwrap();
    }
    assert!(matches!(tx.try_send(3), Err(TrySend::Full(3))));
    assert_eq!(tx.len(), 3);
    let feeder = stage.rt.spawn(async move { tx.send(3).await });
    let mut batch = Vec::new();
    while batch.len() < 4 {
        assert!(rx.recv_batch(&mut batch, 2).await);
    }
    assert_eq!(batch, [0, 1, 2, 3]);
    assert_eq!(feeder.await, Ok(()));
    assert_eq!(rx.try_recv(), None);
}

pub(super) async fn a_queue_says_when_the_other_side_is_gone(_: Stage) {
    let (tx, rx) = queue(2);
    tx.try_send(1).unwrap();
    drop(tx);
    assert_eq!((rx.recv().await, rx.recv().await), (Some(1), None));
    assert!(!rx.recv_batch(&mut Vec::new(), 9).await);
    let (tx, rx) = queue(2);
    drop(rx);
    assert_eq!(tx.send(1).await, Err(Closed));
    assert!(matches!(tx.try_send(2), Err(TrySend::Closed(2))));
}

pub(super) async fn two_cores_play_ping_pong(stage: Stage) {
    let (to, from_here) = queue::<u32>(1);
    let (back, here) = queue(1);
    let echo = stage.start_sibling(move |rt| async move {
        assert_eq!(rt.core(), 1);
        while let Some(n) = from_here.recv().await {
            back.send(n + 1).await.unwrap();
        }
        "done"
    });
    assert_eq!(stage.rt.core(), 0);
    let mut n = 0;
    while n < 500 {
        to.send(n).await.unwrap();
        n = here.recv().await.unwrap();
    }
    drop(to);
    assert_eq!(echo.await, "done");
}

pub(super) async fn a_full_queue_makes_the_other_core_wait(stage: Stage) {
    let (to, inbox) = queue::<u32>(4);
    let received = stage.start_sibling(move |rt| async move {
        let mut received = Vec::new();
        while inbox.recv_batch(&mut received, 3).await {
            rt.sleep(Duration::from_micros(100)).await;
        }
        received
    });
    for n in 0..200 {
        to.send(n).await.unwrap();
        assert!(to.len() <= 4);
    }
    drop(to);
    assert!(received.await.into_iter().eq(0..200));
}

//! Promises about the cores of a process: how they start, how they end, and what of them is heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::{MISSING_CPU, Stage, small_core};
use crate::rt::chan::{Closed, queue};
use crate::rt::{CoreError, CoreOptions};

pub(super) async fn a_core_returns_what_its_main_future_returns(stage: Stage) {
    let handles: Vec<_> = (1..4)
        .map(|index| {
            stage.rt.add_core(index, &small_core(), |rt| async move {
                rt.sleep(Duration::from_micros(100)).await;
                10 * rt.core()
            })
        })
        .collect();
    for (handle, given) in handles.into_iter().zip([10, 20, 30]) {
        assert_eq!(handle.core() * 10, given);
        assert_eq!(handle.ended(&stage.rt).await, Ok(given));
    }
}

pub(super) async fn a_core_that_panics_is_reported_and_the_others_go_on(stage: Stage) {
    let (held, inbox) = queue::<u32>(1);
    let panics = stage.rt.add_core(1, &small_core(), |rt| async move {
        let _held = held;
        rt.sleep(Duration::from_micros(100)).await;
        assert_ne!(rt.core(), 1, "a deliberate panic");
    });
    let lives = stage.rt.add_core(2, &small_core(), |rt| async move {
        rt.sleep(Duration::from_millis(3)).await;
        "well"
    });
    match panics.ended(&stage.rt).await {
        Err(CoreError::Panicked { core: 1, why }) => assert!(why.contains("a deliberate panic"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(inbox.recv().await, None, "what the core held is let go");
    assert_eq!(lives.ended(&stage.rt).await, Ok("well"));
}

pub(super) async fn a_core_that_cannot_be_pinned_is_reported(stage: Stage) {
    let ran = Arc::new(AtomicBool::new(false));
    let runs = ran.clone();
    let options = CoreOptions { cpu: Some(MISSING_CPU), ..small_core() };
    let refused = stage.rt.add_core(1, &options, |_| async move { runs.store(true, Ordering::Relaxed) });
    let error = refused.ended(&stage.rt).await.expect_err("this host has no such CPU");
    assert!(matches!(error, CoreError::NotStarted { core: 1, cpu: Some(MISSING_CPU), .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("core 1") && text.contains(&format!("CPU {MISSING_CPU}")), "{text}");
    assert!(text.contains("sched_setaffinity"), "{text}");
    assert!(!ran.load(Ordering::Relaxed), "it never ran");
}

pub(super) async fn a_core_that_has_ended_runs_no_task_and_its_number_is_free(stage: Stage) {
    for round in 0..3 {
        let ticks = Arc::new(AtomicU64::new(0));
        let counted = ticks.clone();
        let core = stage.rt.add_core(1, &small_core(), move |rt| async move {
            let ticking = rt.clone();
            rt.spawn(async move {
                loop {
                    counted.fetch_add(1, Ordering::Relaxed);
                    ticking.sleep(Duration::from_micros(200)).await;
                }
            });
            rt.sleep(Duration::from_millis(2)).await;
            round
        });
        assert_eq!(core.ended(&stage.rt).await, Ok(round));
        let seen = ticks.load(Ordering::Relaxed);
        assert!(seen > 0, "the task ran while the core did");
        stage.rt.sleep(Duration::from_millis(2)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), seen, "and not any longer");
    }
}

pub(super) async fn messages_of_each_core_keep_their_order(stage: Stage) {
    const EACH: u64 = 300;
    let (to, inbox) = queue::<(usize, u64)>(8);
    let senders: Vec<_> = (1..4)
        .map(|index| {
            let to = to.clone();
            stage.rt.add_core(index, &small_core(), move |rt| async move {
                for number in 0..EACH {
                    to.send((rt.core(), number)).await.expect("the receiver is open");
                }
            })
        })
        .collect();
    drop(to);
    let mut next = [0u64; 4];
    while let Some((core, number)) = inbox.recv().await {
        assert_eq!(number, next[core], "core {core}");
        next[core] += 1;
    }
    assert_eq!(next, [0, EACH, EACH, EACH], "nothing is lost");
    for sender in senders {
        sender.ended(&stage.rt).await.expect("it sends and ends");
    }
}

pub(super) async fn a_core_that_ends_closes_what_leads_to_it(stage: Stage) {
    let (to, inbox) = queue::<u32>(1);
    let core = stage.rt.add_core(1, &small_core(), |_| async move { inbox.recv().await });
    to.send(7).await.expect("it takes one");
    assert_eq!(core.ended(&stage.rt).await, Ok(Some(7)));
    assert_eq!(to.send(8).await, Err(Closed));
}

pub(super) async fn a_core_starts_further_cores(stage: Stage) {
    let first = stage.rt.add_core(1, &small_core(), |rt| async move {
        let second = rt.add_core(2, &small_core(), |rt| async move { rt.core() });
        second.ended(&rt).await
    });
    assert_eq!(first.ended(&stage.rt).await, Ok(Ok(2)));
}

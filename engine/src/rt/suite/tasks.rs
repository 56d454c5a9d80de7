//! Promises about time and tasks.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::Stage;
use crate::rt::local::{Bell, oneshot};

const MILLI: Duration = Duration::from_millis(1);

pub(super) async fn sleeping_takes_at_least_as_long_as_asked(stage: Stage) {
    let rt = &stage.rt;
    let wall = rt.wall();
    assert!(wall > Duration::from_secs(1_600_000_000));
    for millis in [1, 0, 5] {
        let began = rt.now();
        rt.sleep(millis * MILLI).await;
        assert!(rt.now().since(began) >= millis * MILLI);
    }
    assert!(rt.wall() > wall);
}

pub(super) async fn boot_time_is_never_slower(stage: Stage) {
    let rt = &stage.rt;
    let (boot, began) = (rt.boot_time(), rt.now());
    rt.sleep(5 * MILLI).await;
    let passed = rt.now().since(began);
    // The rates are the same; what is allowed for is the time between two readings.
    assert!(rt.boot_time().since(boot) >= passed && passed >= 5 * MILLI);
}

pub(super) async fn the_recent_time_is_between_the_last_look_and_now(stage: Stage) {
    let rt = &stage.rt;
    for millis in [0, 1, 5] {
        let before = rt.now();
        assert!(before <= rt.recent() && rt.recent() <= rt.now());
        rt.sleep(millis * MILLI).await;
        // Whatever woke the sleeper has looked at the clock, no earlier than the sleep ended.
        assert!(rt.recent().since(before) >= millis * MILLI);
    }
}

pub(super) async fn sleeping_for_nothing_lets_others_run(stage: Stage) {
    let ran = Rc::new(Cell::new(false));
    let set = ran.clone();
    let _task = stage.rt.spawn(async move { set.set(true) });
    // However many turns the other task has to wait for, it gets one in the end.
    while !ran.get() {
        stage.rt.sleep(Duration::ZERO).await;
    }
}

pub(super) async fn waiting_can_be_limited(stage: Stage) {
    let rt = &stage.rt;
    assert_eq!(rt.timeout(MILLI, std::future::pending::<()>()).await, None);
    assert_eq!(rt.timeout(Duration::from_secs(3600), rt.sleep(MILLI)).await, Some(()));
    assert_eq!(rt.timeout(Duration::ZERO, async { 3 }).await, Some(3), "what is ready is never late");
}

pub(super) async fn sleepers_wake_in_the_order_of_their_deadlines(stage: Stage) {
    let woken = Rc::new(RefCell::new(Vec::new()));
    // Every step of a prime's multiples is taken once, so that each deadline lies before some and behind others.
    let tasks: Vec<_> = (1..=47u32)
        .map(|n| (n * 20) % 47)
        .map(|step| {
            let (rt, woken) = (stage.rt.clone(), woken.clone());
            stage.rt.spawn(async move {
                rt.sleep((step + 1) * MILLI).await;
                woken.borrow_mut().push(step);
            })
        })
        .collect();
    for task in tasks {
        task.await;
    }
    assert_eq!(*woken.borrow(), (0..47).collect::<Vec<_>>());
}

pub(super) async fn a_sleep_may_be_looked_at_often_and_left(stage: Stage) {
    let rt = &stage.rt;
    let (began, mut long, mut short) =
        (rt.now(), Box::pin(rt.sleep(Duration::from_secs(3600))), Box::pin(rt.sleep(3 * MILLI)));
    let mut looks = 0;
    // Whoever watches several things looks at all of them whenever one has moved.
    while rt.now().since(began) < 2 * MILLI {
        poll_fn(|cx| {
            assert!(long.as_mut().poll(cx).is_pending());
            let over = short.as_mut().poll(cx).is_ready();
            assert!(!over || rt.now().since(began) >= 3 * MILLI);
            Poll::Ready(())
        })
        .await;
        looks += 1;
    }
    drop(short);
    assert!(looks > 1);
    // The one that was left was the earliest, and others do not depend on it.
    rt.sleep(MILLI).await;
    let sleeping = rt.clone();
    let mut moved = Box::pin(async move { sleeping.sleep(2 * MILLI).await });
    poll_fn(|cx| {
        assert!(moved.as_mut().poll(cx).is_pending());
        Poll::Ready(())
    })
    .await;
    // A sleeper goes to whoever looked last.
    let woken = rt.spawn(moved);
    woken.await;
    assert_eq!(rt.timeout(MILLI, long).await, None);
}

pub(super) async fn a_busy_task_with_a_budget_leaves_room_for_timers(stage: Stage) {
    let rt = stage.rt.clone();
    let busy = Rc::new(Cell::new(true));
    let (ticking, ticker) = (busy.clone(), rt.clone());
    let ticks = rt.spawn(async move {
        let mut ticks = 0;
        while ticking.get() {
            ticker.sleep(MILLI).await;
            ticks += 1;
        }
        ticks
    });
    let (began, budget) = (rt.now(), rt.budget());
    while rt.now().since(began) < 300 * MILLI {
        std::hint::black_box((0..100u64).sum::<u64>());
        budget.tick().await;
    }
    busy.set(false);
    // Starved by the executor's own turns, the timer would tick about three times; alone, three hundred.
    let ticks = ticks.await;
    assert!(ticks >= 30, "only {ticks} ticks of 1 ms in 300 ms");
}

pub(super) async fn tasks_give_results_and_run_on_when_let_go(stage: Stage) {
    let rt = &stage.rt;
    let tasks: Vec<_> = (0..10).map(|n| rt.spawn(async move { n * n })).collect();
    let mut sum = 0;
    for task in tasks {
        sum += task.await;
    }
    assert_eq!(sum, 285);
    let (answer, answered) = oneshot();
    let sleeper = rt.clone();
    drop(rt.spawn(async move {
        sleeper.sleep(MILLI).await;
        answer.send(5);
    }));
    assert_eq!(answered.await, Some(5));
}

pub(super) async fn blocking_work_returns_values_and_turns_panics_into_errors(stage: Stage) {
    let rt = &stage.rt;
    assert_eq!(rt.blocking(|| 6 * 7).await.unwrap(), 42);
    for _ in 0..5 {
        assert!(rt.blocking(|| panic!("on purpose")).await.map(|(): ()| ()).is_err());
    }
    assert_eq!(rt.blocking(|| "still there").await.unwrap(), "still there");
}

pub(super) async fn a_one_shot_answers_or_says_that_no_answer_comes(stage: Stage) {
    let (answer, answered) = oneshot();
    let rt = stage.rt.clone();
    let _task = stage.rt.spawn(async move {
        rt.sleep(MILLI).await;
        answer.send(1);
    });
    assert_eq!(answered.await, Some(1));
    let (answer, answered) = oneshot::<u32>();
    drop(answer);
    assert_eq!(answered.await, None);
}

pub(super) async fn whoever_answers_hears_that_no_task_waits_any_more(stage: Stage) {
    let (answer, answered) = oneshot::<u32>();
    let working = stage.rt.spawn(async move { poll_fn(|cx| answer.poll_left(cx)).await });
    stage.rt.sleep(MILLI).await;
    drop(answered);
    working.await;
}

pub(super) async fn a_bell_lets_one_through(stage: Stage) {
    let bell = Rc::new(Bell::default());
    bell.ring();
    bell.ring();
    bell.wait().await;
    let (ringer, rt) = (bell.clone(), stage.rt.clone());
    let _task = stage.rt.spawn(async move {
        rt.sleep(MILLI).await;
        ringer.ring();
    });
    bell.wait().await;
}

//! What an idle core costs: the kicker wakes it many times a second, and most stores are idle most of the time.

use std::time::Duration;

use engine::rt::{CoreOptions, start_core};

/// The share of a CPU that an idle core may take, in thousandths.
const IDLE_MILLI_MAX: u128 = 10;

/// CPU time that this thread has used.
fn thread_cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills `time`, which outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
#[expect(clippy::print_stderr, reason = "the figure is what the test is for")]
fn an_idle_core_takes_less_than_a_hundredth_of_a_cpu() {
    let (used, passed) = start_core(&CoreOptions::default(), |rt| async move {
        rt.sleep(Duration::from_millis(100)).await;
        let (cpu, began) = (thread_cpu(), rt.now());
        rt.sleep(Duration::from_secs(3)).await;
        (thread_cpu() - cpu, rt.now().since(began))
    })
    .unwrap();
    let milli = used.as_micros() * 1000 / passed.as_micros();
    eprintln!("an idle core used {used:?} in {passed:?}: {milli} thousandths of a CPU");
    assert!(milli < IDLE_MILLI_MAX, "{milli} thousandths");
}

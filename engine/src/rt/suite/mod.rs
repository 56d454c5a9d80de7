//! The promises of the seam, as tests that run in both worlds. A promise that is not here is not a promise.
//!
//! In the native world each runs once, on real files and sockets. In the simulation each runs under many seeds.

mod cores;
mod files;
mod net;
mod queues;
mod tasks;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;

use super::{CoreOptions, Rt, sim, start_core};

/// Seeds that each promise runs under.
const SEEDS: u64 = 25;

/// A CPU that no host of these tests has.
const MISSING_CPU: usize = 1000;

/// What a promise is given: core 0 of a process, and an empty directory.
struct Stage {
    rt: Rt,
    dir: PathBuf,
}

type Local<T> = Pin<Box<dyn Future<Output = T>>>;
type Promise = fn(Stage) -> Local<()>;

impl Stage {
    /// Starts core 1 and returns what its main future returns.
    fn start_sibling<T, F, M>(&self, main: M) -> Local<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
        M: FnOnce(Rt) -> F + Send + 'static,
    {
        let (rt, handle) = (self.rt.clone(), self.rt.add_core(1, &small_core(), main));
        Box::pin(async move { handle.ended(&rt).await.expect("the sibling ends well") })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

fn small_core() -> CoreOptions {
    CoreOptions { io_memory_bytes: 1 << 20, ..CoreOptions::default() }
}

fn keep_on_native(promise: Promise) {
    // Beside the test binary: a real disk, where a temporary directory may be memory that knows no direct IO.
    let binary = std::env::current_exe().unwrap();
    let dir = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
    let path = dir.path().to_owned();
    start_core(&small_core(), move |rt| promise(Stage { rt, dir: path })).unwrap();
}

fn keep_in_simulation(promise: Promise) {
    for seed in 0..SEEDS {
        let world = sim::World::new(seed, sim::Options::default());
        let node = world.node(0);
        node.set_cpus(MISSING_CPU);
        let kept = node.start(0, |rt| async move {
            let dir = PathBuf::from("/promise");
            rt.create_dir_all(&dir).await.unwrap();
            promise(Stage { rt, dir }).await;
        });
        assert_eq!(world.block_on(kept), Some(()));
    }
}

/// Names each promise once and makes a test of it for each world.
macro_rules! promises {
    ($($group:ident: $($name:ident)+;)+) => {
        mod on_native {
            $($(#[test] fn $name() { super::keep_on_native(|stage| Box::pin(super::$group::$name(stage))); })+)+
        }
        mod in_simulation {
            $($(#[test] fn $name() { super::keep_in_simulation(|stage| Box::pin(super::$group::$name(stage))); })+)+
        }
    };
}

promises! {
    cores:
        a_core_returns_what_its_main_future_returns
        a_core_that_panics_is_reported_and_the_others_go_on
        a_core_that_cannot_be_pinned_is_reported
        a_core_that_has_ended_runs_no_task_and_its_number_is_free
        messages_of_each_core_keep_their_order
        a_core_that_ends_closes_what_leads_to_it
        a_core_starts_further_cores;
    files:
        a_file_keeps_what_was_written
        a_read_is_short_only_at_the_end
        opening_says_what_is_wrong
        a_length_can_be_cut_and_grown
        writes_in_parallel_all_land
        a_write_whose_caller_left_ends_whole
        urgent_writes_land_whole_and_alone
        an_urgent_write_that_cannot_be_done_says_why
        names_follow_their_files
        a_file_lives_as_long_as_its_last_name
        a_small_file_is_replaced_whole
        a_directory_is_locked_once
        a_directory_is_known_again_and_its_room
        a_file_is_known_by_whatever_name;
    tasks:
        sleeping_takes_at_least_as_long_as_asked
        boot_time_is_never_slower
        the_recent_time_is_between_the_last_look_and_now
        sleeping_for_nothing_lets_others_run
        waiting_can_be_limited
        sleepers_wake_in_the_order_of_their_deadlines
        a_sleep_may_be_looked_at_often_and_left
        a_busy_task_with_a_budget_leaves_room_for_timers
        tasks_give_results_and_run_on_when_let_go
        blocking_work_returns_values_and_turns_panics_into_errors
        a_one_shot_answers_or_says_that_no_answer_comes
        whoever_answers_hears_that_no_task_waits_any_more
        a_bell_lets_one_through;
    queues:
        a_queue_keeps_order_and_its_bound
        a_queue_says_when_the_other_side_is_gone
        two_cores_play_ping_pong
        a_full_queue_makes_the_other_core_wait;
    net:
        a_stream_carries_bytes_both_ways_after_half_of_it_closed
        both_ends_of_a_stream_name_the_addresses_in_use
        two_tasks_share_a_stream
        a_dropped_stream_ends_for_the_peer
        a_port_without_listener_refuses
        a_port_is_taken_once_unless_it_is_shared
        an_abandoned_accept_loses_no_connection
        a_stream_goes_on_at_another_core
        a_stream_that_no_core_takes_in_is_closed
        a_name_leads_to_addresses
        a_core_that_ends_takes_its_connections_and_its_io_along;
}

/// Polls a future once and drops it: a caller that lost interest.
async fn poll_once_and_leave<F: Future>(future: F) {
    let mut future = Box::pin(future);
    std::future::poll_fn(|cx| {
        let _ = future.as_mut().poll(cx);
        std::task::Poll::Ready(())
    })
    .await;
}

/// Writes blocks that hold `value` in every byte.
async fn write_blocks(rt: &Rt, path: &Path, value: u8, blocks: usize) -> super::File {
    let file = rt.open(path, super::OpenMode::Create).await.unwrap();
    let mut buf = rt.alloc(blocks * super::BLOCK_BYTES);
    buf.fill(value);
    file.write_at(buf, 0).await.unwrap();
    file
}

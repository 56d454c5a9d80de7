//! Memory that is free again: how much of it stays with the process.
//!
//! The allocator keeps what is freed for a while, because a memtable that begins needs what one that was flushed has left, and the kernel
//! would clear it again page by page. On a node with little memory that adds up beyond what the node may have, although hardly more than
//! half is in use. So a thread of its own looks at what is resident, and close to the node's memory returns to the kernel what is free.
//!
//! It never touches what is in use: where that alone is too much, giving back helps nothing and is tried seldom, until more is resident.

use std::io;
use std::time::Duration;

/// How long freed memory stays with the process. A memtable that fills more slowly than this does not notice what the kernel takes back.
const FREED_MEMORY_KEPT: Duration = Duration::from_secs(10);
/// The same on a node with little memory, where a gigabyte a second of large values would be beyond its bound between two looks.
const FREED_MEMORY_KEPT_SHORT: Duration = Duration::from_millis(20);

/// How often the resident memory is looked at while less than half of the node's memory is resident, and above that: a node that is sent
/// large values or bounds allocates and frees a gigabyte a second. The first is for a node of [`SMALL_BYTES`]; with more memory it is
/// longer in proportion, up to a second, so that an idle node is not waked for it.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LOOK_SELDOM: Duration = Duration::from_secs(1);
const SMALL_BYTES: u64 = 256 << 20;
const LOOK_OFTEN: Duration = Duration::from_millis(25);

/// Above this share of the node's memory it is given back: what is allocated between two looks comes on top.
const FULL: (u64, u64) = (7, 8);

/// How many looks are left out after one that found little to give back, unless more than little has come meanwhile.
const LOOKS_LEFT_OUT: u32 = 10;

/// What is little: this share of the node's memory.
const LITTLE_SHARE: u64 = 16;

/// Below this a node has little memory, bytes.
const LITTLE_MEMORY_BYTES: u64 = 1 << 30;

/// Lets the allocator keep what is freed, as long as no more than `memory_bytes` are resident.
///
/// Where there is little memory it is kept for a moment only, and there are no huge pages, because a piece of one that is in use keeps 2 MiB:
/// of 349 MiB that a node of 256 MiB had resident while values of 4 MiB were written and read on two cores, 98 had never been written to.
///
/// # Errors
/// If no thread can be started.
#[expect(clippy::disallowed_methods, reason = "a plain thread that sleeps between two looks, never a core")]
pub(crate) fn keep_freed_up_to(memory_bytes: u64) -> io::Result<()> {
    let has_little = memory_bytes < LITTLE_MEMORY_BYTES;
    if has_little && let Err(error) = engine::host::avoid_huge_pages() {
        tracing::warn!(
            "huge pages cannot be avoided, so more memory than memory_bytes may be resident: {error}"
        );
    }
    engine::host::keep_freed_memory(if has_little { FREED_MEMORY_KEPT_SHORT } else { FREED_MEMORY_KEPT });
    let mut keeper = Keeper::new(memory_bytes);
    std::thread::Builder::new().name("rk-memory".into()).spawn(move || {
        let mut pause = LOOK_EVERY;
        loop {
            std::thread::sleep(pause);
            pause = keeper.look(store::resident_bytes, engine::host::release_freed_memory);
        }
    })?;
    Ok(())
}

struct Keeper {
    memory_bytes: u64,
    left_out: u32,
    /// What the last release left resident.
    left_bytes: u64,
}

impl Keeper {
    fn new(memory_bytes: u64) -> Self {
        Self { memory_bytes, left_out: 0, left_bytes: 0 }
    }

    /// In this time no more comes than half of the node's memory.
    fn look_every(&self) -> Duration {
        let times = u32::try_from(self.memory_bytes / SMALL_BYTES).unwrap_or(u32::MAX).max(1);
        LOOK_EVERY.saturating_mul(times).min(LOOK_SELDOM)
    }

    /// Looks, and releases free memory where that is due. Returns when to look again.
    fn look(&mut self, mut resident_bytes: impl FnMut() -> Option<u64>, release: impl FnOnce()) -> Duration {
        let little = self.memory_bytes / LITTLE_SHARE;
        let before = resident_bytes().unwrap_or(0);
        if self.left_out > 0 && before < self.left_bytes + little {
            self.left_out -= 1;
            return LOOK_OFTEN;
        }
        self.left_out = 0;
        if before <= self.memory_bytes / FULL.1 * FULL.0 {
            return if before < self.memory_bytes / 2 { self.look_every() } else { LOOK_OFTEN };
        }
        release();
        self.left_bytes = resident_bytes().unwrap_or(before);
        if before.saturating_sub(self.left_bytes) < little {
            self.left_out = LOOKS_LEFT_OUT;
        }
        LOOK_OFTEN
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// How often something was released in this many looks, and the most that was resident, where a release leaves `live` bytes and
    /// `growth` come between two looks.
    fn releases(memory_bytes: u64, live: u64, growth: u64, looks: u32) -> (u32, u64) {
        let mut keeper = Keeper::new(memory_bytes);
        let (resident, count, most) = (Cell::new(live), Cell::new(0), Cell::new(0));
        for _ in 0..looks {
            resident.set(resident.get() + growth);
            most.set(most.get().max(resident.get()));
            keeper.look(
                || Some(resident.get()),
                || {
                    count.set(count.get() + 1);
                    resident.set(live);
                },
            );
        }
        (count.get(), most.get())
    }

    #[test]
    fn what_is_free_stays_until_the_process_has_about_what_it_may() {
        assert_eq!(releases(256, 96, 1, 100), (0, 196));
        assert_eq!(releases(256, 96, 8, 170), (10, 232), "each after 17 looks");
    }

    #[test]
    fn where_nothing_is_free_giving_back_is_tried_seldom() {
        assert_eq!(releases(256, 300, 0, 110).0, 10);
    }

    /// Nothing was free when it was tried; what comes and is freed right afterwards does not wait for the looks that are left out.
    #[test]
    fn what_comes_after_a_vain_release_is_given_back() {
        let mut keeper = Keeper::new(256);
        let (resident, released) = (Cell::new(240), Cell::new(0));
        let mut look = |live: u64| {
            keeper.look(
                || Some(resident.get()),
                || {
                    released.set(released.get() + 1);
                    resident.set(live);
                },
            );
        };
        look(236);
        look(236);
        assert_eq!(released.get(), 1, "it was in vain, so it is not tried again at once");
        resident.set(252);
        look(200);
        assert_eq!((released.get(), resident.get()), (2, 200));
    }

    #[test]
    fn a_process_that_has_much_of_what_it_may_have_is_looked_at_often() {
        let pause = |resident| Keeper::new(256).look(|| resident, || ());
        let pauses = [None, Some(127), Some(128), Some(300)].map(pause);
        assert_eq!(pauses, [LOOK_EVERY, LOOK_EVERY, LOOK_OFTEN, LOOK_OFTEN]);
        let every = |memory_bytes: u64| Keeper::new(memory_bytes).look(|| Some(1), || ());
        assert_eq!([128 << 20, 256 << 20, 512 << 20].map(every), [1, 1, 2].map(|times| times * LOOK_EVERY));
        assert_eq!(every(12 << 30), LOOK_SELDOM);
    }
}

//! Connections migrate to the core that owns their keys.
//!
//! A command for another core's key costs both cores a message, often a wake-up, and the client a wait. A connection whose
//! commands all go to one other core is better served there, so it migrates: between two commands, with everything answered,
//! its socket and what is known of it go to the other core, and the client notices nothing.
//!
//! It migrates only while the owner of the keys has time to spare, the time in which it blocks in the write call of its log
//! included. Where it has none, the cores that speak with its clients take work off it, and everything stays as it is.
//!
//! Invariants: what migrates has no command in flight and no reply unsent; a connection is open on one core at a time, or on
//! its way; each further migration of one connection takes twice as long a streak, and there are at most [`MIGRATIONS_MAX`]; a
//! core whose drain has begun is not migrated to, except by what is on its way already.

use std::cell::RefCell;
use std::time::Duration;

use engine::rt::{CpuClock, Detached, Mono};

use super::client::Packed;
use super::connections::Connections;

/// Commands in a row for one other core after which a connection is to migrate there.
const STREAK: u32 = 8;
/// Migrations of one connection.
const MIGRATIONS_MAX: u8 = 8;
/// How long a sample of another core's load is good.
const SAMPLE_TIME: Duration = Duration::from_millis(5);
/// Connections that may migrate to a core after a sample, before their weight shows in the next one.
const MIGRATIONS_PER_SAMPLE: u32 = 32;
/// A core that is this busy takes no more, percent.
const BUSY_PERCENT: u128 = 95;

/// A connection on its way.
#[derive(Debug)]
pub(crate) struct Migrating {
    pub(crate) stream: Detached,
    pub(crate) client: Packed,
    /// What the client has sent and no core has started yet.
    pub(crate) input: Vec<u8>,
    pub(crate) migrations: u8,
}

/// What one core has sampled of the others' loads.
#[derive(Debug, Default)]
pub(crate) struct Loads(RefCell<Vec<Option<Sample>>>);

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Mono,
    cpu: Duration,
    /// Connections that may still go there.
    room: u32,
}

impl Loads {
    /// Whether one more connection may go to `core`.
    pub(crate) fn take_room(&self, connections: &Connections, core: usize, now: Mono) -> bool {
        let Some(cpu) = connections.cpu_clock(core).and_then(CpuClock::read) else {
            return false;
        };
        let samples = &mut *self.0.borrow_mut();
        samples.resize(samples.len().max(core + 1), None);
        let sample = samples[core].get_or_insert(Sample { at: now, cpu, room: 0 });
        if now.since(sample.at) >= SAMPLE_TIME {
            *sample =
                Sample { at: now, cpu, room: room(cpu.saturating_sub(sample.cpu), now.since(sample.at)) };
        }
        let fits = sample.room > 0;
        sample.room = sample.room.saturating_sub(1);
        fits
    }
}

fn room(busy: Duration, time: Duration) -> u32 {
    if busy.as_nanos() * 100 < time.as_nanos() * BUSY_PERCENT { MIGRATIONS_PER_SAMPLE } else { 0 }
}

/// Where the commands of one connection go.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    core: u16,
    migrations: u8,
    streak: u32,
}

impl Affinity {
    /// Of a connection that has migrated this often.
    pub(crate) fn after(migrations: u8) -> Self {
        Self { migrations, ..Self::default() }
    }

    /// How often the connection will have migrated after one more time.
    pub(crate) fn next_migrations(&self) -> u8 {
        self.migrations.saturating_add(1)
    }

    /// Of a connection that stays here for good.
    pub(crate) fn settled() -> Self {
        Self::after(MIGRATIONS_MAX)
    }

    /// A command went to that core, or to none but this one. Returns where the connection is to migrate, at the end of a streak.
    pub(crate) fn saw(&mut self, forwarded: Option<usize>) -> Option<usize> {
        let Some(core) = forwarded.and_then(|core| u16::try_from(core).ok()) else {
            self.streak = 0;
            return None;
        };
        self.streak = if core == self.core { self.streak + 1 } else { 1 };
        self.core = core;
        if self.migrations >= MIGRATIONS_MAX || self.streak < STREAK << self.migrations {
            return None;
        }
        self.streak = 0;
        Some(usize::from(core))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many commands for core 1 the connection is to migrate.
    fn streak(affinity: &mut Affinity) -> Option<u32> {
        (1..100_000).find(|_| affinity.saw(Some(1)) == Some(1))
    }

    #[test]
    fn a_streak_makes_a_connection_migrate_and_each_time_it_takes_a_longer_one() {
        let mut affinity = Affinity::default();
        assert_eq!(streak(&mut affinity), Some(STREAK));
        assert_eq!(streak(&mut affinity), Some(STREAK), "it has not migrated, so it tries again");
        let mut migrated = Affinity::after(affinity.next_migrations());
        assert_eq!(streak(&mut migrated), Some(2 * STREAK));
        assert_eq!(streak(&mut Affinity::settled()), None);
    }

    #[test]
    fn a_command_for_another_core_ends_a_streak() {
        let mut affinity = Affinity::default();
        for other in [None, Some(2)] {
            assert!((1..STREAK).all(|_| affinity.saw(Some(1)).is_none()));
            assert_eq!(affinity.saw(other), None);
        }
        assert_eq!(streak(&mut affinity), Some(STREAK));
    }

    #[test]
    fn only_a_core_with_time_to_spare_is_migrated_to() {
        let (ms, percent) = (Duration::from_millis, |n: u32| Duration::from_micros(100) * n);
        assert_eq!(room(percent(0), ms(10)), MIGRATIONS_PER_SAMPLE);
        assert_eq!(room(percent(94), ms(10)), MIGRATIONS_PER_SAMPLE);
        assert_eq!(room(percent(95), ms(10)), 0);
        assert_eq!(room(percent(100), ms(10)), 0);
    }
}

//! Connections move to the core that owns their keys.
//!
//! A command for another core's key costs both cores a letter, often a wake-up, and the client a wait. A connection whose
//! commands all go to one other core is better served there, so it moves: between two commands, with everything answered, its
//! socket and what is known of it travel to the other core, and the client notices nothing.
//!
//! It moves only while the owner of the keys has time to spare, the time in which it stands still for its log included. Where
//! it has none, the cores that speak with its clients take work off it, and everything stays as it is.
//!
//! Invariants: what travels has no command under way and no reply unsent; a connection is open on one core at a time, or on
//! its way; each further move of one connection takes twice as long a streak, and there are [`MOVES_MAX`]; a core whose drain
//! has begun, or that holds as many connections as it may, is not moved to, except by what is on its way already.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use engine::rt::chan::{Receiver, Sender, TrySend, queue};
use engine::rt::{CpuClock, Detached, Mono, Rt};

use super::client::Travelling;

/// Commands in a row for one other core after which a connection wants to move there.
const STREAK: u32 = 8;
/// Moves of one connection.
const MOVES_MAX: u8 = 8;
/// Connections that may be on their way to one core.
const ON_THE_WAY_MAX: usize = 64;
/// How long a look at another core's load is good.
const LOOK: Duration = Duration::from_millis(5);
/// Connections that may move to a core after a look, before their weight shows in the next one.
const MOVES_PER_LOOK: u32 = 32;
/// A core that is this busy takes no more, percent.
const BUSY_PERCENT: u128 = 95;

/// A connection on its way.
#[derive(Debug)]
pub(crate) struct Moved {
    pub(crate) stream: Detached,
    pub(crate) client: Travelling,
    /// What the client has sent and nobody has begun yet.
    pub(crate) input: Vec<u8>,
    pub(crate) moves: u8,
}

/// The ways between the cores of a node. The default leads nowhere.
#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<[Door]>);

#[derive(Debug)]
struct Door {
    to: Sender<Moved>,
    inbox: Mutex<Option<Receiver<Moved>>>,
    clock: OnceLock<CpuClock>,
    /// Connections open on the core.
    open: AtomicUsize,
    /// The core's drain has begun.
    closed: AtomicBool,
}

impl Doors {
    /// Between `cores` cores.
    pub fn new(cores: usize) -> Self {
        let door = |_| {
            let (to, inbox) = queue(ON_THE_WAY_MAX);
            Door {
                to,
                inbox: Mutex::new(Some(inbox)),
                clock: OnceLock::new(),
                open: AtomicUsize::new(0),
                closed: AtomicBool::new(false),
            }
        };
        Self((0..cores).map(door).collect())
    }

    /// Opens this core's door; what arrives there, if there is a door that nobody has opened yet.
    pub(crate) fn open(&self, rt: &Rt) -> Option<Receiver<Moved>> {
        let door = self.0.get(rt.core())?;
        let _ = door.clock.set(rt.cpu_clock());
        door.inbox.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A connection is open on `core` from now on.
    pub(crate) fn begun(&self, core: usize) {
        if let Some(door) = self.0.get(core) {
            door.open.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A connection is open on `core` no longer.
    pub(crate) fn ended(&self, core: usize) {
        if let Some(door) = self.0.get(core) {
            door.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Lets nobody in at `core` any more.
    pub(crate) fn close(&self, core: usize) {
        if let Some(door) = self.0.get(core) {
            door.closed.store(true, Ordering::Release);
        }
    }

    /// Whether `core` serves, and fewer connections than `connections_max`.
    pub(crate) fn has_room(&self, core: usize, connections_max: usize) -> bool {
        let has_room = |door: &Door| {
            !door.closed.load(Ordering::Acquire) && door.open.load(Ordering::Relaxed) < connections_max
        };
        self.0.get(core).is_some_and(has_room)
    }

    /// Sends a connection to `core`; it comes back if that core does not take it.
    pub(crate) fn send(&self, core: usize, moved: Moved) -> Result<(), Box<Moved>> {
        let open = |door: &&Door| !door.closed.load(Ordering::Acquire);
        let Some(door) = self.0.get(core).filter(open) else { return Err(Box::new(moved)) };
        door.to.try_send(moved).map_err(|refused| match refused {
            TrySend::Full(moved) | TrySend::Closed(moved) => Box::new(moved),
        })
    }
}

/// What one core has seen of the others' loads.
#[derive(Debug, Default)]
pub(crate) struct Loads(RefCell<Vec<Option<Look>>>);

#[derive(Clone, Copy, Debug)]
struct Look {
    at: Mono,
    cpu: Duration,
    /// Connections that may still go there.
    room: u32,
}

impl Loads {
    /// Whether one more connection may go to `core`.
    pub(crate) fn take_room(&self, doors: &Doors, core: usize, now: Mono) -> bool {
        let Some(cpu) = doors.0.get(core).and_then(|door| door.clock.get()).and_then(CpuClock::read) else {
            return false;
        };
        let looks = &mut *self.0.borrow_mut();
        looks.resize(looks.len().max(core + 1), None);
        let look = looks[core].get_or_insert(Look { at: now, cpu, room: 0 });
        if now.since(look.at) >= LOOK {
            *look = Look { at: now, cpu, room: room(cpu.saturating_sub(look.cpu), now.since(look.at)) };
        }
        let fits = look.room > 0;
        look.room = look.room.saturating_sub(1);
        fits
    }
}

fn room(busy: Duration, time: Duration) -> u32 {
    if busy.as_nanos() * 100 < time.as_nanos() * BUSY_PERCENT { MOVES_PER_LOOK } else { 0 }
}

/// Where the commands of one connection go.
#[derive(Debug, Default)]
pub(crate) struct Homing {
    core: u16,
    moves: u8,
    streak: u32,
}

impl Homing {
    /// Of a connection that has moved so often.
    pub(crate) fn after(moves: u8) -> Self {
        Self { moves, ..Self::default() }
    }

    /// How often the connection will have moved when it has moved once more.
    pub(crate) fn next_moves(&self) -> u8 {
        self.moves.saturating_add(1)
    }

    /// Of a connection that stays here for good.
    pub(crate) fn settled() -> Self {
        Self::after(MOVES_MAX)
    }

    /// A command went to that core, or to none but this. Where the connection wants to move, at the end of a streak.
    pub(crate) fn saw(&mut self, forwarded: Option<usize>) -> Option<usize> {
        let Some(core) = forwarded.and_then(|core| u16::try_from(core).ok()) else {
            self.streak = 0;
            return None;
        };
        self.streak = if core == self.core { self.streak + 1 } else { 1 };
        self.core = core;
        if self.moves >= MOVES_MAX || self.streak < STREAK << self.moves {
            return None;
        }
        self.streak = 0;
        Some(usize::from(core))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many commands for core 1 the connection wants to move.
    fn streak(homing: &mut Homing) -> Option<u32> {
        (1..100_000).find(|_| homing.saw(Some(1)) == Some(1))
    }

    #[test]
    fn a_streak_makes_a_connection_move_and_every_move_asks_for_a_longer_one() {
        let mut homing = Homing::default();
        assert_eq!(streak(&mut homing), Some(STREAK));
        assert_eq!(streak(&mut homing), Some(STREAK), "it has not moved, so it tries again");
        let mut moved = Homing::after(homing.next_moves());
        assert_eq!(streak(&mut moved), Some(2 * STREAK));
        assert_eq!(streak(&mut Homing::settled()), None);
    }

    #[test]
    fn a_command_for_somebody_else_ends_a_streak() {
        let mut homing = Homing::default();
        for other in [None, Some(2)] {
            assert!((1..STREAK).all(|_| homing.saw(Some(1)).is_none()));
            assert_eq!(homing.saw(other), None);
        }
        assert_eq!(streak(&mut homing), Some(STREAK));
    }

    #[test]
    fn only_a_core_that_serves_and_is_not_full_is_moved_to() {
        let doors = Doors::new(2);
        assert!(doors.has_room(1, 1) && !doors.has_room(2, 1));
        doors.begun(1);
        assert!(!doors.has_room(1, 1) && doors.has_room(1, 2));
        doors.ended(1);
        assert!(doors.has_room(1, 1));
        doors.close(1);
        assert!(!doors.has_room(1, 1) && doors.has_room(0, 1));
    }

    #[test]
    fn only_a_core_with_time_to_spare_is_moved_to() {
        let (ms, percent) = (Duration::from_millis, |n: u32| Duration::from_micros(100) * n);
        assert_eq!(room(percent(0), ms(10)), MOVES_PER_LOOK);
        assert_eq!(room(percent(94), ms(10)), MOVES_PER_LOOK);
        assert_eq!(room(percent(95), ms(10)), 0);
        assert_eq!(room(percent(100), ms(10)), 0);
    }
}

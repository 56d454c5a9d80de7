//! What happened in a run, for people: its options and its events with their times.
//!
//! A failing seed says this beside what is wrong. A panic takes the run with it, so the story of the run that goes on is also kept for
//! its thread ([`current`]); it is replaced when another run begins there.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

thread_local! {
    static CURRENT: RefCell<Option<Story>> = const { RefCell::new(None) };
}

/// The story of one run. Clones are the same story.
#[derive(Clone, Debug, Default)]
pub struct Story(Rc<RefCell<Told>>);

#[derive(Debug, Default)]
struct Told {
    options: String,
    events: Vec<(Duration, String)>,
}

impl Story {
    /// The run begins with these options, on this thread.
    pub(super) fn begins(&self, options: String) {
        self.0.borrow_mut().options = options;
        CURRENT.set(Some(self.clone()));
    }

    /// Something happens at a time of the world.
    pub(super) fn add(&self, at: Duration, event: String) {
        self.0.borrow_mut().events.push((at, event));
    }

    /// The options, then one line per event.
    pub fn text(&self) -> String {
        let Told { options, events } = &*self.0.borrow();
        let lines = events.iter().map(|(at, event)| format!("{:>9.3} s  {event}\n", at.as_secs_f64()));
        format!("{options}\n{}", lines.collect::<String>())
    }
}

/// The story of the run that was begun last on this thread, as far as it went.
pub fn current() -> Option<String> {
    CURRENT.with_borrow(|current| current.as_ref().map(Story::text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_is_kept_for_its_thread_until_the_next_begins() {
        let story = Story::default();
        story.begins("leases of 800 ms".to_owned());
        story.add(Duration::from_millis(3_250), "node 1 is killed".to_owned());
        assert_eq!(story.text(), "leases of 800 ms\n    3.250 s  node 1 is killed\n");
        assert_eq!(current(), Some(story.text()));
        Story::default().begins("no leases".to_owned());
        assert_eq!(current().as_deref(), Some("no leases\n"));
    }
}

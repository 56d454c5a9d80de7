//! What would be said of a region again and again as long as something lasts: a snapshot that cannot be made of a damaged table is asked for
//! each second, and a step that a store refuses comes again with the answer to each report.
//!
//! The same sentence is said once, and then at most once a minute with how often it was not; another one of the same region is said at once.
//!
//! Bound: [`SENTENCES_MAX`] sentences are remembered. Beyond it those that were not said for a minute go, then the oldest.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use engine::rt::Mono;
use scheduler::RegionId;

/// The shortest time between two times that the same is said.
const EVERY: Duration = Duration::from_secs(60);
/// Sentences that are remembered.
const SENTENCES_MAX: usize = 256;

/// Sentences that were said a moment ago.
#[derive(Debug, Default)]
pub(crate) struct Repeats {
    said: RefCell<BTreeMap<(RegionId, String), Said>>,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    at: Mono,
    unsaid: u64,
}

impl Repeats {
    /// Whether this may be said of the region now; then how often it was not since the last time.
    pub(crate) fn may_say(&self, region: RegionId, sentence: String, now: Mono) -> Option<u64> {
        let mut all = self.said.borrow_mut();
        if let Some(said) = all.get_mut(&(region, sentence.clone())) {
            if now.since(said.at) < EVERY {
                said.unsaid += 1;
                return None;
            }
            said.at = now;
            return Some(std::mem::take(&mut said.unsaid));
        }
        if all.len() >= SENTENCES_MAX {
            all.retain(|_, said| now.since(said.at) < EVERY);
        }
        if all.len() >= SENTENCES_MAX {
            let oldest = all.iter().min_by_key(|(_, said)| said.at.0).map(|(key, _)| key.clone());
            oldest.and_then(|key| all.remove(&key));
        }
        all.insert((region, sentence), Said { at: now, unsaid: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Mono {
        Mono(seconds * 1_000_000_000)
    }

    #[test]
    fn the_same_is_said_once_and_then_each_minute_with_its_number() {
        let repeats = Repeats::default();
        let say =
            |region, text: &str, seconds| repeats.may_say(RegionId(region), text.to_owned(), at(seconds));
        assert_eq!(say(1, "damaged", 10), Some(0));
        let said = (11..=200).filter_map(|second| say(1, "damaged", second)).collect::<Vec<_>>();
        assert_eq!(said, [59, 59, 59], "190 s");
        assert_eq!((say(2, "damaged", 200), say(1, "full", 200)), (Some(0), Some(0)), "what is new is said");
        assert_eq!((say(2, "damaged", 201), say(1, "full", 201)), (None, None), "in turns, too");
    }

    #[test]
    fn it_remembers_no_more_than_its_bound() {
        let repeats = Repeats::default();
        for n in 0..10_000 {
            assert_eq!(repeats.may_say(RegionId(n), "damaged".to_owned(), at(1 + n / 1000)), Some(0));
            assert!(repeats.said.borrow().len() <= SENTENCES_MAX);
        }
    }
}

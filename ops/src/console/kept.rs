//! Answers that are given again: for a second, and for longer the longer they took, so that open pages cost the scheduler a tenth of its time
//! at most. That it does not answer is said again for as long as it took to find that out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use engine::rt::Mono;

use super::wish::Wish;

/// Answers that are kept.
const KEPT_MAX: usize = 8;
/// For how long at least, and at most.
const KEPT_FOR: Duration = Duration::from_secs(1);
const KEPT_FOR_MAX: Duration = Duration::from_secs(30);
/// For how many times as long as it took.
const KEPT_TIMES: u32 = 10;

/// A status and a body.
pub(crate) type Said = (u16, Arc<str>);

/// The answers, oldest first.
#[derive(Debug, Default)]
pub(super) struct Kept(VecDeque<Answer>);

#[derive(Debug)]
struct Answer {
    wish: Wish,
    until: Mono,
    said: Said,
}

impl Kept {
    /// The answer to a wish, if it is not too old.
    pub(super) fn get(&self, wish: &Wish, now: Mono) -> Option<Said> {
        let found = self.0.iter().find(|answer| answer.wish == *wish && answer.until > now);
        found.map(|answer| answer.said.clone())
    }

    /// Keeps an answer that was begun at one moment and is there at another. One `is_whole` if everything that was asked for it has answered.
    pub(super) fn put(&mut self, wish: Wish, said: Said, (began, now): (Mono, Mono), is_whole: bool) {
        let times = if is_whole { KEPT_TIMES } else { 1 };
        let time = (now.since(began) * times).clamp(KEPT_FOR, KEPT_FOR_MAX);
        let until = Mono(now.0.saturating_add(time.as_nanos() as u64));
        self.0.retain(|answer| answer.wish != wish && answer.until > now);
        while self.0.len() >= KEPT_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Answer { wish, until, said });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono(ms * 1_000_000)
    }

    fn said(text: &str) -> Said {
        (200, text.into())
    }

    #[test]
    fn an_answer_is_given_again_by_what_it_cost() {
        let mut kept = Kept::default();
        for (took_ms, is_whole, lasts_ms) in [
            (0, true, 1000),
            (50, true, 1000),
            (300, true, 3000),
            (3000, false, 3000),
            (60_000, true, 30_000),
        ] {
            let now = at(1_000_000 + took_ms);
            kept.put(Wish::Map, said("map"), (at(1_000_000), now), is_whole);
            let later = |ms: u64| Mono(now.0 + ms * 1_000_000);
            assert_eq!(kept.get(&Wish::Map, later(lasts_ms - 1)), Some(said("map")), "{took_ms}");
            assert_eq!(kept.get(&Wish::Map, later(lasts_ms)), None, "{took_ms}");
            assert_eq!(kept.get(&Wish::Overview, now), None);
        }
    }

    #[test]
    fn few_are_kept_whatever_is_asked() {
        let mut kept = Kept::default();
        for heat in 0..100 {
            kept.put(Wish::Heat(heat), said("heat"), (at(0), at(0)), true);
            assert!(kept.get(&Wish::Heat(heat), at(1)).is_some() && kept.0.len() <= KEPT_MAX);
        }
        assert_eq!(kept.get(&Wish::Heat(0), at(1)), None);
        kept.put(Wish::Map, said("old"), (at(2), at(2)), true);
        kept.put(Wish::Map, said("new"), (at(2), at(2)), true);
        assert_eq!(kept.get(&Wish::Map, at(3)), Some(said("new")));
    }
}

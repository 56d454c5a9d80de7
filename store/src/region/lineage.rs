//! The latest openings of a store, each with a number that was drawn for it: they distinguish an older copy of its directory from the store.
//!
//! That the log has been opened more often shows nothing once an older copy was opened as often, too. What was drawn at each opening does:
//! whoever has seen opening 7 of a store asks of a later one that it says what was drawn at 7, and only a directory that was there then
//! knows.
//!
//! ```text
//! the store         .. 5:a ─ 6:b ─ 7:c ─ 8:d            8 was seen, so d has to be among what it says from now on
//! an older copy     .. 5:a ─ 6:b ─ 7:x ─ 8:y ─ 9:z      says y of 8: refused, however often it is started
//! ```
//!
//! Pure. The file is [`shard::lineage`](crate::shard::lineage)'s, the question [`hello`](crate::wire::peer::hello)'s.
//!
//! Invariants: the openings ascend; what was drawn is never 0; a lineage without a number says nothing of it only if it begins after it.

/// Openings that are remembered. Who has missed more of them judges by their count alone.
pub const KEPT: usize = 16;

/// One opening of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Its number, counted from 1.
    pub number: u64,
    /// What was drawn for it; 0 if that is not known: by a version that draws nothing, or on a full disk.
    pub drawn: u64,
}

/// The latest openings of a store, as far as they are known. The default knows none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The oldest first; the places before it have number 0.
    openings: [Opening; KEPT],
}

impl Lineage {
    /// The openings, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Opening> {
        self.openings.into_iter().filter(|opening| opening.number > 0)
    }

    /// Adds one, whose number is above the others; one that is not, or for which nothing was drawn, is refused.
    #[must_use]
    pub fn push(&mut self, opening: Opening) -> bool {
        let fits = opening.drawn > 0 && opening.number > self.openings[KEPT - 1].number;
        if fits {
            self.openings.rotate_left(1);
            self.openings[KEPT - 1] = opening;
        }
        fits
    }

    /// What was drawn for opening `number`; 0 if that is not known.
    pub fn drawn_for(&self, number: u64) -> u64 {
        self.iter().find(|opening| opening.number == number).map_or(0, |opening| opening.drawn)
    }

    /// Whether the store that says this may be the one of which `seen` was seen.
    pub fn may_follow(&self, seen: Opening) -> bool {
        if seen.drawn == 0 {
            return true;
        }
        match self.drawn_for(seen.number) {
            0 => self.iter().next().is_none_or(|oldest| oldest.number > seen.number),
            drawn => drawn == seen.drawn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(openings: &[(u64, u64)]) -> Lineage {
        let mut lineage = Lineage::default();
        for (number, drawn) in openings {
            assert!(lineage.push(Opening { number: *number, drawn: *drawn }), "{number} fits");
        }
        lineage
    }

    fn seen(number: u64, drawn: u64) -> Opening {
        Opening { number, drawn }
    }

    #[test]
    fn an_older_copy_follows_nothing_that_was_seen_since_however_often_it_is_started() {
        let store = [(5, 50), (6, 60), (7, 70), (8, 80)];
        assert!(of(&store).may_follow(seen(8, 80)), "the same start");
        let later = [&store[..], &[(9, 90), (10, 100)]].concat();
        assert!(of(&later).may_follow(seen(8, 80)), "a later one");
        for age in 1..=3 {
            let mut copy = store[..store.len() - age].to_vec();
            for start in 0..8 {
                let number = copy.last().expect("there are some").0 + 1;
                copy.push((number, 1000 + start));
                assert!(!of(&copy).may_follow(seen(8, 80)), "{age} starts old: {copy:?}");
            }
        }
        // One that was not written where it was seen is none of the store's, either.
        assert!(!of(&[(7, 70), (9, 90)]).may_follow(seen(8, 80)));
    }

    #[test]
    fn without_what_was_drawn_the_count_alone_decides() {
        assert!(Lineage::default().may_follow(seen(8, 80)), "a version that draws nothing");
        assert!(of(&[(8, 81)]).may_follow(seen(8, 0)), "one was seen");
        assert!(of(&[(9, 90)]).may_follow(seen(8, 80)), "it begins later");
    }

    #[test]
    fn it_keeps_the_latest_and_takes_only_what_comes_after_them() {
        let all: Vec<(u64, u64)> = (1..=20).map(|number| (number, 7 * number)).collect();
        let mut lineage = of(&all);
        let kept: Vec<u64> = lineage.iter().map(|opening| opening.number).collect();
        assert_eq!(kept, (5..=20).collect::<Vec<_>>());
        assert_eq!((lineage.drawn_for(5), lineage.drawn_for(4)), (35, 0));
        for wrong in [seen(20, 3), seen(19, 3), seen(21, 0)] {
            assert!(!lineage.push(wrong), "{wrong:?}");
        }
        assert_eq!(lineage, of(&all));
    }
}

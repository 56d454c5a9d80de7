//! What clients did and heard, and whether it can have happened one operation after the other, key by key.
//!
//! An operation whose answer was lost may have happened until the end of the node's life in which it was sent, or not at all. The
//! search takes operations in every order that their calls and returns allow and remembers where it has been; it grows with the
//! operations on one key at one time, not with the length of the history.
//!
//! Operations without an answer would double what there is to try, each, so three orders are left out, because another one that is tried
//! comes to the same:
//!
//! * one that changes nothing, or whose value the very next operation replaces without having looked at it: it need not have happened;
//! * any order from a place where another search was in vain that had the same value and the same answers given, and had used
//!   no operation without an answer that this one has not used;
//! * of additions that may happen at any time, others than the first.
//!
//! None of these may be an operation that the same connection sent another one behind, because that one waits for it.

use std::collections::{BTreeMap, HashMap};

/// Places that a search of one key may remember: more are a history that is too wide to judge, and some gigabytes of memory.
const PLACES_MAX: usize = 2_000_000;

/// What an operation asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Reads a key.
    Get,
    /// Writes a value.
    Set(String),
    /// Deletes a key.
    Delete,
    /// Adds one to a number; an absent one is 0.
    Increment,
    /// Writes a value if the key has the first one, or is absent where that is none. Where it is not done, what is heard is the value
    /// that the key has, or that it has one.
    Swap(Option<String>, String),
}

/// What it was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A value, or that there is none.
    Value(Option<String>),
    /// That it is done.
    Done,
    /// That it is done, and whether the key was there.
    Existed(bool),
    /// A number.
    Integer(i64),
}

#[derive(Clone, Debug)]
struct Operation {
    action: Action,
    called: u64,
    /// Where it has no answer: the moment from which it can no longer happen.
    returned: u64,
    heard: Option<Heard>,
    refused: bool,
    /// The operation on this key that its connection sent before it and promises to do before it.
    behind: Option<usize>,
}

/// Names an operation of a history.
#[derive(Clone, Debug)]
pub struct Asked {
    key: String,
    place: usize,
}

/// Everything that clients did.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<String, Vec<Operation>>,
    moment: u64,
    /// Operations that were answered.
    pub answered: u64,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// An operation is sent; one connection does it after `behind` if that is about the same key.
    pub fn ask(&mut self, key: &str, action: Action, behind: Option<&Asked>) -> Asked {
        let called = self.tick();
        let operations = self.keys.entry(key.to_owned()).or_default();
        let behind = behind.map(|asked| asked.place);
        let (returned, heard, refused) = (u64::MAX, None, false);
        operations.push(Operation { action, called, returned, heard, refused, behind });
        Asked { key: key.to_owned(), place: operations.len() - 1 }
    }

    /// An operation is answered.
    pub fn hear(&mut self, asked: &Asked, heard: Heard) {
        let moment = self.tick();
        let operations = self.keys.get_mut(&asked.key).expect("it was asked");
        let operation = &mut operations[asked.place];
        // An answer may still arrive after the life that gave it.
        (operation.heard, operation.returned) = (Some(heard), moment);
        self.answered += 1;
    }

    /// An operation was refused: it has not happened and never will.
    pub fn refused(&mut self, asked: &Asked) {
        let operation = &mut self.keys.get_mut(&asked.key).expect("it was asked")[asked.place];
        operation.refused = true;
    }

    /// A life of the node has ended: what has not happened by now never will.
    pub fn life_ends(&mut self) {
        let moment = self.tick();
        let open = self.keys.values_mut().flatten().filter(|operation| operation.returned == u64::MAX);
        open.for_each(|operation| operation.returned = moment);
    }

    /// Operations that were sent and not answered.
    pub fn lost(&self) -> u64 {
        self.keys
            .values()
            .flatten()
            .filter(|operation| operation.heard.is_none() && !operation.refused)
            .count() as u64
    }

    /// Whether all of it can have happened.
    ///
    /// # Errors
    /// The first key whose history cannot have happened, or has too many orders to be judged.
    pub fn judge(&self) -> Result<(), String> {
        self.judge_within(PLACES_MAX)
    }

    /// As [`History::judge`], with this many places to remember for each key.
    pub(super) fn judge_within(&self, places_max: usize) -> Result<(), String> {
        for (key, operations) in &self.keys {
            let answered = |operation: &&Operation| {
                !operation.refused && (operation.heard.is_some() || operation.action != Action::Get)
            };
            let kept: Vec<usize> =
                (0..operations.len()).filter(|place| answered(&&operations[*place])).collect();
            // A read that was never answered says nothing; what comes after it comes after what was before it.
            let place_of = |mut behind: Option<usize>| {
                while let Some(place) = behind {
                    match kept.binary_search(&place) {
                        Ok(found) => return Some(found),
                        Err(_) => behind = operations[place].behind,
                    }
                }
                None
            };
            let behind = kept.iter().map(|place| place_of(operations[*place].behind)).collect();
            let mut search =
                Search::new(kept.iter().map(|place| &operations[*place]).collect(), behind, places_max);
            let mut done = vec![false; search.operations.len()];
            if !search.can_go_on(&mut done, &None, false) {
                if search.places == places_max {
                    return Err(format!("{key} has more than {places_max} orders, so it is not judged"));
                }
                let around =
                    search.furthest.saturating_sub(6)..search.operations.len().min(search.furthest + 6);
                return Err(format!("{key} cannot have happened, around {:#?}", &search.operations[around]));
            }
        }
        Ok(())
    }
}

struct Search<'a> {
    /// In the order of their calls.
    operations: Vec<&'a Operation>,
    /// For each, the one that must be done before it.
    behind: Vec<Option<usize>>,
    /// Those without an answer for which no other one waits: they may as well not have happened.
    optional: Vec<bool>,
    /// Where it has been, in vain or still is: for each, which of the optional ones were used.
    seen: HashMap<Place, Vec<Vec<usize>>>,
    /// How many of `seen` there are, and may be.
    places: usize,
    places_max: usize,
    furthest: usize,
}

/// Where a search is, but for the optional operations that it has used.
#[derive(PartialEq, Eq, Hash)]
struct Place {
    done: Vec<bool>,
    value: Option<String>,
    /// The operation before was an optional one that nothing has looked at.
    unseen: bool,
}

impl<'a> Search<'a> {
    fn new(operations: Vec<&'a Operation>, behind: Vec<Option<usize>>, places_max: usize) -> Self {
        let mut optional: Vec<bool> = operations.iter().map(|operation| operation.heard.is_none()).collect();
        behind.iter().flatten().for_each(|before| optional[*before] = false);
        Self { operations, behind, optional, seen: HashMap::new(), places: 0, places_max, furthest: 0 }
    }

    /// Whether an addition without an answer is not to be tried yet: of several that may happen at any time, the first one does.
    fn is_like_an_earlier_one(&self, place: usize, done: &[bool]) -> bool {
        let is_open = |operation: &Operation| {
            operation.heard.is_none()
                && operation.action == Action::Increment
                && operation.returned == u64::MAX
        };
        self.optional[place]
            && is_open(self.operations[place])
            && (0..place).any(|earlier| {
                !done[earlier] && self.behind[earlier].is_none() && is_open(self.operations[earlier])
            })
    }

    /// Whether the search has not been here with fewer of the optional operations used.
    fn is_new(&mut self, done: &[bool], value: &Option<String>, unseen: bool) -> bool {
        let used = (0..done.len()).filter(|place| done[*place] && self.optional[*place]).collect::<Vec<_>>();
        let answers = done.iter().zip(&self.optional).map(|(done, optional)| *done && !optional).collect();
        let here = self.seen.entry(Place { done: answers, value: value.clone(), unseen }).or_default();
        let is_within = |fewer: &Vec<usize>| fewer.iter().all(|place| used.binary_search(place).is_ok());
        if here.iter().any(is_within) {
            return false;
        }
        here.push(used);
        self.places += 1;
        true
    }

    /// Whether all that was answered can have happened from here on; `unseen` is as in [`Place`].
    fn can_go_on(&mut self, done: &mut Vec<bool>, value: &Option<String>, unseen: bool) -> bool {
        let mut places: Vec<usize> = (0..done.len()).filter(|place| !done[*place]).collect();
        if places.iter().all(|place| self.operations[*place].heard.is_none()) {
            return true;
        }
        if self.places == self.places_max || !self.is_new(done, value, unseen) {
            return false;
        }
        let answered = places.iter().find(|place| !self.optional[**place]);
        self.furthest = self.furthest.max(answered.copied().unwrap_or_default());
        // All that was answered, or is waited for, has its turn before anything is done that was called after its return.
        let in_turn = places.iter().filter(|place| !self.optional[**place]);
        let soonest = in_turn.map(|place| self.operations[*place].returned).min().unwrap_or(u64::MAX);
        // The others have none after that.
        let latest =
            (0..done.len()).filter(|place| done[*place]).map(|place| self.operations[place].called).max();
        places.retain(|place| {
            let operation = self.operations[*place];
            let is_over = self.optional[*place] && latest.is_some_and(|latest| latest > operation.returned);
            operation.called <= soonest && !is_over
        });
        // With as few of the optional ones as will do.
        places.sort_by_key(|place| self.optional[*place]);
        for place in places {
            let (operation, optional) = (self.operations[place], self.optional[place]);
            if self.behind[place].is_some_and(|before| !done[before]) {
                continue;
            }
            if self.is_like_an_earlier_one(place, done) {
                continue;
            }
            done[place] = true;
            if let Some(after) = happen(operation, value)
                && !(unseen && is_blind(operation))
                && !(optional && after == *value)
                && self.can_go_on(done, &after, optional)
            {
                return true;
            }
            // It stands in the way of all others, and need not have happened.
            if !optional
                && operation.heard.is_none()
                && operation.returned == soonest
                && self.can_go_on(done, value, unseen)
            {
                return true;
            }
            done[place] = false;
        }
        false
    }
}

/// Whether an operation replaces a value and says nothing of it.
fn is_blind(operation: &Operation) -> bool {
    match operation.action {
        Action::Set(_) => true,
        Action::Delete => matches!(operation.heard, Some(Heard::Done) | None),
        Action::Get | Action::Increment | Action::Swap(..) => false,
    }
}

/// The value after an operation, if its answer can have said what it was.
fn happen(operation: &Operation, value: &Option<String>) -> Option<Option<String>> {
    let heard = operation.heard.as_ref();
    match &operation.action {
        Action::Get => match heard {
            Some(Heard::Value(read)) => (read == value).then(|| value.clone()),
            None => Some(value.clone()),
            Some(_) => None,
        },
        Action::Set(new) => matches!(heard, Some(Heard::Done) | None).then(|| Some(new.clone())),
        Action::Delete => match heard {
            Some(Heard::Existed(existed)) => (*existed == value.is_some()).then_some(None),
            Some(Heard::Done) | None => Some(None),
            Some(_) => None,
        },
        Action::Increment => {
            let next = value.as_deref().map_or(Some(0), |text| text.parse::<i64>().ok())? + 1;
            match heard {
                Some(Heard::Integer(answered)) => (*answered == next).then(|| Some(next.to_string())),
                None => Some(Some(next.to_string())),
                Some(_) => None,
            }
        }
        Action::Swap(expected, new) => {
            let fits = expected == value;
            let kept = || Some(value.clone());
            match heard {
                Some(Heard::Done) if fits => Some(Some(new.clone())),
                Some(Heard::Value(read)) if !fits && read == value => kept(),
                Some(Heard::Existed(existed)) if !fits && *existed == value.is_some() => kept(),
                None if fits => Some(Some(new.clone())),
                None => kept(),
                Some(_) => None,
            }
        }
    }
}

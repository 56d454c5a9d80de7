//! What clients did and heard, and whether it can have happened one operation after the other, key by key.
//!
//! An operation whose answer was lost may have happened until the end of the node's life in which it was sent, or not at all. The
//! search takes operations in every order that their calls and returns allow and remembers where it has been; it grows with the
//! operations on one key at one time, not with the length of the history.

use std::collections::{BTreeMap, HashSet};

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
    /// The first key whose history cannot have happened.
    pub fn judge(&self) -> Result<(), String> {
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
            let operations = kept.iter().map(|place| &operations[*place]).collect();
            let mut search = Search { operations, behind, seen: HashSet::new(), furthest: 0 };
            let mut done = vec![false; search.operations.len()];
            if !search.can_go_on(&mut done, None) {
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
    seen: HashSet<(Vec<bool>, Option<String>)>,
    furthest: usize,
}

impl Search<'_> {
    /// Whether an addition without an answer is not to be tried yet: of several that may happen at any time, the first one does.
    fn is_like_an_earlier_one(&self, place: usize, done: &[bool]) -> bool {
        let is_open = |operation: &Operation| {
            operation.heard.is_none()
                && operation.action == Action::Increment
                && operation.returned == u64::MAX
        };
        is_open(self.operations[place])
            && (0..place).any(|earlier| {
                !done[earlier] && self.behind[earlier].is_none() && is_open(self.operations[earlier])
            })
    }

    fn can_go_on(&mut self, done: &mut Vec<bool>, value: Option<String>) -> bool {
        let open = |place: &usize| !done[*place];
        let places: Vec<usize> = (0..done.len()).filter(open).collect();
        if places.iter().all(|place| self.operations[*place].heard.is_none()) {
            return true;
        }
        if !self.seen.insert((done.clone(), value.clone())) {
            return false;
        }
        self.furthest = self.furthest.max(places[0]);
        let soonest = places.iter().map(|place| self.operations[*place].returned).min().unwrap_or(u64::MAX);
        for place in places {
            let operation = self.operations[place];
            if operation.called > soonest {
                break;
            }
            if self.behind[place].is_some_and(|before| !done[before]) {
                continue;
            }
            if self.is_like_an_earlier_one(place, done) {
                continue;
            }
            done[place] = true;
            if let Some(after) = happen(operation, &value)
                && self.can_go_on(done, after)
            {
                return true;
            }
            // It stands in the way of all others, and need not have happened.
            if operation.heard.is_none()
                && operation.returned == soonest
                && self.can_go_on(done, value.clone())
            {
                return true;
            }
            done[place] = false;
        }
        false
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

//! What a log should hold: a map that takes the same changes, and an oracle that knows what was answered. Whatever was answered must
//! be found by the next opening; of the rest a prefix, whole batch by whole batch.

use std::collections::BTreeMap;

use engine::log::{Batch, EntryRef, Log, Position, Recovered, RecoveredGroup};

/// What one group should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) mark: Option<Position>,
    pub(crate) entries: BTreeMap<u64, (u64, Vec<u8>)>,
    pub(crate) states: BTreeMap<u8, Vec<u8>>,
}

pub(crate) type Groups = BTreeMap<u64, Group>;

/// One change, for the log and for the model.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Append { group: u64, first: u64, entries: Vec<(u64, Vec<u8>)> },
    State { group: u64, tag: u8, value: Vec<u8> },
    Compact { group: u64, to: Position },
    Reset { group: u64, to: Position },
    Remove { group: u64 },
}

impl Change {
    /// A change that makes sense for `groups`.
    pub(crate) fn draw(below: &mut impl FnMut(u64) -> u64, groups: &Groups) -> Self {
        let group = below(5);
        let known = groups.get(&group).cloned().unwrap_or_default();
        let mark = known.mark.map(|mark| mark.index);
        let first = known.entries.first_key_value().map(|(first, _)| *first);
        let last = known.entries.last_key_value().map(|(last, _)| *last).or(mark);
        match below(20) {
            0 => Self::Remove { group },
            1 => Self::Reset { group, to: Position { index: below(100), term: below(9) } },
            2..=5 => {
                let value = vec![below(256) as u8; below(60) as usize];
                Self::State { group, tag: below(3) as u8, value }
            }
            6..=8 if last.is_some() => {
                let floor = first.map(|first| first - 1).or(mark).unwrap_or(0);
                let index = floor + below(last.unwrap() - floor + 1);
                Self::Compact { group, to: Position { index, term: below(9) } }
            }
            _ => {
                let floor = mark.map_or(1, |mark| mark + 1);
                let next = last.map_or(1 + below(10), |last| last + 1);
                let first = next.saturating_sub(below(3)).max(floor.min(next));
                let size = if below(10) == 0 { 9_000 } else { 300 };
                let mut entry = |_| (below(9), vec![below(256) as u8; below(size) as usize]);
                let entries = (0..3).map(&mut entry).collect();
                Self::Append { group, first, entries }
            }
        }
    }

    pub(crate) fn encode(&self, batch: &mut Batch) {
        match self {
            Self::Append { group, first, entries } => {
                let refs = entries.iter().map(|(term, payload)| EntryRef { term: *term, kind: 1, payload });
                batch.append(*group, *first, refs);
            }
            Self::State { group, tag, value } => batch.put_state(*group, *tag, value),
            Self::Compact { group, to } => batch.compact(*group, to.index, to.term),
            Self::Reset { group, to } => batch.reset(*group, to.index, to.term),
            Self::Remove { group } => batch.remove(*group),
        }
    }

    pub(crate) fn apply(&self, groups: &mut Groups) {
        let (Self::Append { group, .. }
        | Self::State { group, .. }
        | Self::Compact { group, .. }
        | Self::Reset { group, .. }
        | Self::Remove { group }) = self;
        let known = groups.entry(*group).or_default();
        match self {
            Self::Append { first, entries, .. } => {
                known.entries.retain(|index, _| index < first);
                known.entries.extend((*first..).zip(entries.iter().cloned()));
            }
            Self::State { tag, value, .. } => {
                known.states.insert(*tag, value.clone());
            }
            Self::Compact { to, .. } => {
                known.entries.retain(|index, _| *index > to.index);
                known.mark = known.mark.filter(|mark| mark.index > to.index).or(Some(*to));
            }
            Self::Reset { to, .. } => {
                known.entries.clear();
                known.mark = Some(*to);
            }
            Self::Remove { group } => {
                groups.remove(group);
            }
        }
    }
}

/// What was answered and what was asked for.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// The state that the last opening found.
    pub(crate) base: Groups,
    /// Batches since, in the order of the calls, and whether they were answered.
    pub(crate) since: Vec<(Vec<Change>, bool)>,
    /// `base` with all of `since`.
    pub(crate) latest: Groups,
    /// How often the log has been opened.
    pub(crate) opened: u64,
    /// How often each thing happened.
    pub(crate) seen: BTreeMap<&'static str, u64>,
}

impl Oracle {
    pub(crate) fn count(&mut self, what: &'static str, times: u64) {
        *self.seen.entry(what).or_default() += times;
    }

    /// Checks what an opening found and goes on from there.
    pub(crate) fn reopened(&mut self, recovered: &Recovered, found: Groups) -> Result<(), String> {
        if recovered.opened <= self.opened {
            return Err(format!("opening {} after {}", recovered.opened, self.opened));
        }
        self.opened = recovered.opened;
        let answered = self.since.iter().rposition(|(_, answered)| *answered).map_or(0, |last| last + 1);
        let mut state = self.base.clone();
        for (count, (batch, _)) in self.since.iter().enumerate() {
            if count >= answered && without_empty(&state) == found {
                break;
            }
            batch.iter().for_each(|change| change.apply(&mut state));
        }
        if without_empty(&state) != found {
            let lost = self.since.len() - answered;
            let other = |id: &u64| found.get(id) != state.get(id);
            let differs: Vec<_> =
                (0..5).filter(other).map(|id| (id, found.get(&id), state.get(&id))).collect();
            return Err(format!(
                "neither {answered} answered batches nor up to {lost} more are what was found; found and expected: \
                 {differs:?}"
            ));
        }
        self.count("cuts", u64::from(recovered.cut.is_some()));
        self.count("openings", 1);
        (self.base, self.latest) = (state.clone(), state);
        self.since.clear();
        Ok(())
    }
}

/// What an opening found, with the payloads that a replay shows.
pub(crate) async fn groups_of(log: &Log, recovered: &Recovered) -> Result<Groups, String> {
    let mut payloads = BTreeMap::new();
    let replayed = log.replay(async |piece| {
        let shown = piece.into_iter();
        payloads.extend(shown.map(|(group, entry)| ((group, entry.index), entry.payload.to_vec())));
        Ok(())
    });
    replayed.await.map_err(|fault| fault.to_string())?;
    let group = |id: u64, group: &RecoveredGroup| Group {
        mark: group.compacted,
        entries: group
            .entries
            .iter()
            .filter_map(|e| Some((e.index, (e.term, payloads.get(&(id, e.index))?.clone()))))
            .collect(),
        states: group.states.iter().map(|(tag, value)| (*tag, value.to_vec())).collect(),
    };
    Ok(without_empty(&recovered.groups.iter().map(|(id, found)| (*id, group(*id, found))).collect()))
}

fn without_empty(groups: &Groups) -> Groups {
    groups.clone().into_iter().filter(|(_, group)| *group != Group::default()).collect()
}

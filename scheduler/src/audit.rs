//! Which values of the configuration were changed, by whom and when: the last changes, as a part of the replicated state.
//!
//! What a change was is said by whoever proposes it, with its time, so replicas of different versions keep the same. Bounds: [`CHANGES_MAX`]
//! changes, of which the oldest go, and [`TEXT_BYTES_MAX`] bytes of each text.

use std::collections::VecDeque;
use std::sync::Arc;

/// Changes that are kept.
pub const CHANGES_MAX: usize = 64;
/// Bytes of each text of a change that are kept.
pub const TEXT_BYTES_MAX: usize = 256;

/// A value that was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChange {
    /// When, milliseconds since the Unix epoch by the clock of the scheduler's host.
    pub at_ms: u64,
    /// Who asked for it: an address, or what else it comes from.
    pub by: String,
    /// The setting.
    pub name: String,
    /// What it was.
    pub before: String,
    /// What it is from then on.
    pub after: String,
}

impl ConfigChange {
    /// The change with no text longer than is kept.
    #[must_use]
    pub fn bounded(self) -> Self {
        let Self { at_ms, by, name, before, after } = self;
        Self { at_ms, by: cut(by), name: cut(name), before: cut(before), after: cut(after) }
    }
}

fn cut(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let mut end = TEXT_BYTES_MAX - '…'.len_utf8();
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The last changes, oldest first. A clone is cheap: it is taken with every command of the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigChanges(Arc<VecDeque<ConfigChange>>);

impl ConfigChanges {
    /// These, as far as they are kept.
    #[must_use]
    pub fn of(changes: impl IntoIterator<Item = ConfigChange>) -> Self {
        let mut all = Self::default();
        all.add(changes);
        all
    }

    /// Adds some; the oldest go.
    pub fn add(&mut self, changes: impl IntoIterator<Item = ConfigChange>) {
        let all = Arc::make_mut(&mut self.0);
        for change in changes {
            all.push_back(change.bounded());
            if all.len() > CHANGES_MAX {
                all.pop_front();
            }
        }
    }

    /// All of them, oldest first.
    pub fn list(&self) -> impl DoubleEndedIterator<Item = &ConfigChange> {
        self.0.iter()
    }

    /// Whether nothing was changed yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_changes_are_kept_with_texts_of_a_bounded_length() {
        let long = "ä".repeat(10_000);
        let text = || long.clone();
        let change = |at_ms| ConfigChange { at_ms, by: text(), name: text(), before: text(), after: text() };
        let changes = ConfigChanges::of((0..1000).map(change));
        let kept: Vec<&ConfigChange> = changes.list().collect();
        assert_eq!((kept.len(), kept[0].at_ms, kept[CHANGES_MAX - 1].at_ms), (CHANGES_MAX, 936, 999));
        let texts = kept.iter().flat_map(|it| [&it.by, &it.name, &it.before, &it.after]);
        assert!(texts.into_iter().all(|text| text.len() <= TEXT_BYTES_MAX && text.ends_with("ä…")));
        assert_eq!(ConfigChanges::of(changes.list().cloned()), changes, "what is kept is kept as it is");
    }
}

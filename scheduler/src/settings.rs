//! The configuration by name, for whoever shows or changes single values of a running cluster.
//!
//! Every field of [`Config`] has its own name here and is read and written as text; a field that is added does not compile until it is
//! listed. What the text says is well formed then, and no more: [`Config::validate`] judges what it means.

use std::fmt;

use crate::config::{Config, ReplicaPath};
use crate::operator::Policy;

/// A value with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The field.
    pub name: &'static str,
    /// Its value as text; lists are separated by commas, and what is not set is empty.
    pub value: String,
}

/// Why a value cannot be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SettingError {
    /// There is no such field.
    Unknown(String),
    /// The text is no such value.
    Malformed {
        /// The field.
        name: &'static str,
        /// The text.
        value: String,
        /// What it should be.
        wanted: &'static str,
    },
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => {
                write!(f, "there is no setting \"{name}\"; list the settings to see their names")
            }
            Self::Malformed { name, value, wanted } => {
                write!(f, "{name} cannot be \"{value}\"; give {wanted}")
            }
        }
    }
}

impl std::error::Error for SettingError {}

/// What a field holds, as text.
trait Text: Sized {
    const WANTED: &'static str;
    fn render(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

impl Text for u64 {
    const WANTED: &'static str = "a whole number";

    fn render(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Text for ReplicaPath {
    const WANTED: &'static str = "direct, learner or joint";

    fn render(&self) -> String {
        match self {
            Self::Direct => "direct",
            Self::Learner => "learner",
            Self::Joint => "joint",
        }
        .to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Direct, Self::Learner, Self::Joint].into_iter().find(|path| path.render() == text)
    }
}

impl Text for Vec<String> {
    const WANTED: &'static str = "labels separated by commas";

    fn render(&self) -> String {
        self.join(",")
    }

    fn read(text: &str) -> Option<Self> {
        Some(text.split(',').filter(|label| !label.is_empty()).map(str::to_owned).collect())
    }
}

impl Text for Option<String> {
    const WANTED: &'static str = "a label, or nothing";

    fn render(&self) -> String {
        self.clone().unwrap_or_default()
    }

    fn read(text: &str) -> Option<Self> {
        Some((!text.is_empty()).then(|| text.to_owned()))
    }
}

impl Text for Vec<Policy> {
    const WANTED: &'static str = "names of policies separated by commas";

    fn render(&self) -> String {
        self.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    fn read(text: &str) -> Option<Self> {
        text.split(',').filter(|name| !name.is_empty()).map(Policy::of).collect()
    }
}

impl Policy {
    /// The policy of a name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.to_string() == name)
    }
}

macro_rules! settings {
    ($($field:ident),* $(,)?) => {
        impl Config {
            /// Every value, in the order of the fields.
            #[must_use]
            pub fn settings(&self) -> Vec<Setting> {
                let Self { $($field),* } = self;
                vec![$(Setting { name: stringify!($field), value: $field.render() }),*]
            }

            /// Sets the value of this name, and answers what it was.
            ///
            /// # Errors
            /// There is no such field, or the text is no such value; nothing is changed then.
            pub fn set(&mut self, name: &str, value: &str) -> Result<Setting, SettingError> {
                $(if name == stringify!($field) {
                    return set(stringify!($field), &mut self.$field, value);
                })*
                Err(SettingError::Unknown(name.to_owned()))
            }
        }
    };
}

fn set<T: Text>(name: &'static str, field: &mut T, text: &str) -> Result<Setting, SettingError> {
    let malformed = || SettingError::Malformed { name, value: text.to_owned(), wanted: T::WANTED };
    let value = T::read(text).ok_or_else(malformed)?;
    let before = std::mem::replace(field, value).render();
    Ok(Setting { name, value: before })
}

settings!(
    max_replicas,
    replica_path,
    location_labels,
    isolation_level,
    store_disconnected_ms,
    store_unhealthy_ms,
    store_down_ms,
    low_space_percent,
    store_moves_in_max,
    store_moves_out_max,
    leader_schedule_limit,
    region_schedule_limit,
    replica_schedule_limit,
    hot_schedule_limit,
    split_schedule_limit,
    core_schedule_limit,
    patrol_batch_regions,
    round_operators_max,
    draws_per_store,
    leader_tolerance,
    region_size_floor_bytes,
    region_size_max_bytes,
    region_split_ops,
    region_merge_bytes,
    region_merge_keys,
    split_merge_interval_ms,
    merge_schedule_limit,
    hot_region_load_min,
    hot_tolerance_percent,
    core_tolerance_percent,
    leader_operator_timeout_ms,
    region_operator_timeout_ms,
    history_keep_ms,
    history_max,
    prepare_percent,
    prepare_timeout_ms,
    disabled,
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_can_be_set_again() {
        let mut odd = Config {
            replica_path: ReplicaPath::Joint,
            location_labels: vec!["zone".into(), "rack".into()],
            isolation_level: Some("zone".into()),
            disabled: vec![Policy::Drain, Policy::HotRegion],
            max_replicas: 5,
            ..Config::default()
        };
        let settings = odd.settings();
        let mut again = Config::default();
        for Setting { name, value } in &settings {
            let before = again.set(name, value).expect("it was listed so");
            assert_eq!(before.name, *name);
        }
        assert_eq!(again, odd);
        let before = odd.set("disabled", "").expect("none is a list, too");
        assert_eq!((before.value.as_str(), odd.disabled.len()), ("drain,hot-region", 0));
    }

    #[test]
    fn what_is_no_value_changes_nothing_and_is_named() {
        let mut config = Config::default();
        let mut refused = |name, value| config.set(name, value).expect_err("refused").to_string();
        assert!(refused("replicas", "3").contains("no setting \"replicas\""));
        assert!(
            refused("max_replicas", "many").contains("max_replicas cannot be \"many\"; give a whole number")
        );
        assert!(refused("max_replicas", "-1").contains("a whole number"));
        assert!(refused("replica_path", "fast").contains("direct, learner or joint"));
        assert!(refused("disabled", "drain,balance").contains("names of policies"));
        assert_eq!(config, Config::default());
    }
}

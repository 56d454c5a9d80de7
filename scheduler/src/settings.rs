//! The configuration by name, for whoever shows or changes single values of a running cluster.
//!
//! Every field of [`Config`] has its own name here and is read and written as text; a field that is added does not compile until it is
//! listed. A number has a lowest and a highest value that makes sense to an operator, and is refused beyond them. These bounds are narrower
//! than what works: [`Config::validate`] judges that, also of what was set before there were bounds.

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
    Unknown {
        /// The name.
        name: String,
        /// The field whose name is like it.
        nearest: Option<&'static str>,
    },
    /// The number is beyond what makes sense.
    OutOfRange {
        /// The field.
        name: &'static str,
        /// The number.
        value: u64,
        /// The lowest value.
        lowest: u64,
        /// The highest value.
        highest: u64,
    },
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
            Self::Unknown { name, nearest: Some(nearest) } => {
                write!(f, "there is no setting \"{name}\"; is {nearest} meant?")
            }
            Self::Unknown { name, nearest: None } => {
                write!(f, "there is no setting \"{name}\"; list the settings to see their names")
            }
            Self::OutOfRange { name, value, lowest, highest } => {
                write!(f, "{name} is {value}; set it to a value from {lowest} to {highest}")
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

    /// What is judged by bounds, if it is a number.
    fn number(&self) -> Option<u64> {
        None
    }
}

impl Text for u64 {
    const WANTED: &'static str = "a whole number";

    fn render(&self) -> String {
        self.to_string()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn number(&self) -> Option<u64> {
        Some(*self)
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
    ($($field:ident $(: $lowest:literal to $highest:literal)?),* $(,)?) => {
        impl Config {
            /// Every value, in the order of the fields.
            #[must_use]
            pub fn settings(&self) -> Vec<Setting> {
                let Self { $($field),* } = self;
                vec![$(Setting { name: stringify!($field), value: $field.render() }),*]
            }

            /// The names of all fields.
            const NAMES: &[&'static str] = &[$(stringify!($field)),*];

            /// The lowest and the highest value of each field that is a number.
            pub const BOUNDS: &[(&'static str, u64, u64)] =
                &[$($((stringify!($field), $lowest, $highest),)?)*];

            /// Sets the value of this name, and answers what it was.
            ///
            /// # Errors
            /// There is no such field, or the text is no such value, or beyond its bounds; nothing is changed then.
            pub fn set(&mut self, name: &str, value: &str) -> Result<Setting, SettingError> {
                $(if name == stringify!($field) {
                    return set(stringify!($field), &mut self.$field, value);
                })*
                Err(SettingError::Unknown { name: name.to_owned(), nearest: nearest(name) })
            }
        }
    };
}

fn set<T: Text>(name: &'static str, field: &mut T, text: &str) -> Result<Setting, SettingError> {
    let malformed = || SettingError::Malformed { name, value: text.to_owned(), wanted: T::WANTED };
    let value = T::read(text).ok_or_else(malformed)?;
    let bounds = Config::BOUNDS.iter().find(|(bounded, ..)| *bounded == name);
    if let (Some(number), Some((_, lowest, highest))) = (value.number(), bounds)
        && !(*lowest..=*highest).contains(&number)
    {
        return Err(SettingError::OutOfRange { name, value: number, lowest: *lowest, highest: *highest });
    }
    let before = std::mem::replace(field, value).render();
    Ok(Setting { name, value: before })
}

/// The setting whose name is like this one: the same but for what is between words, or one that is nearly the same.
fn nearest(name: &str) -> Option<&'static str> {
    let plain = |text: &str| {
        let chars = text.chars().filter(char::is_ascii_alphanumeric).take(NAME_CHARS_MAX);
        chars.collect::<String>().to_lowercase()
    };
    let meant = plain(name);
    let near = Config::NAMES.iter().map(|known| (distance(&meant, &plain(known)), *known)).min()?;
    // With more than half of it wrong it is another word.
    (near.0 * 2 <= meant.len()).then_some(near.1)
}

/// How much of a name is looked at, characters; no setting has as many.
const NAME_CHARS_MAX: usize = 64;

/// How many characters have to be changed, added or left out.
fn distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.chars().collect();
    let mut row: Vec<usize> = (0..=one.len()).collect();
    for (at, char) in other.chars().enumerate() {
        let mut before = std::mem::replace(&mut row[0], at + 1);
        for place in 1..row.len() {
            let changed = before + usize::from(one[place - 1] != char);
            before = row[place];
            row[place] = changed.min(before + 1).min(row[place - 1] + 1);
        }
    }
    row[one.len()]
}

settings!(
    max_replicas: 1 to 15,
    replica_path,
    location_labels,
    isolation_level,
    store_disconnected_ms: 3_000 to 86_400_000,
    store_unhealthy_ms: 3_000 to 604_800_000,
    store_down_ms: 3_000 to 2_592_000_000,
    low_space_percent: 10 to 100,
    store_moves_in_max: 1 to 1_024,
    store_moves_out_max: 1 to 1_024,
    leader_schedule_limit: 1 to 65_536,
    region_schedule_limit: 1 to 65_536,
    replica_schedule_limit: 1 to 65_536,
    hot_schedule_limit: 1 to 65_536,
    split_schedule_limit: 1 to 65_536,
    core_schedule_limit: 1 to 65_536,
    patrol_batch_regions: 16 to 1_048_576,
    round_operators_max: 16 to 1_048_576,
    draws_per_store: 1 to 1_024,
    leader_tolerance: 0 to 1_000_000,
    region_size_floor_bytes: 1_024 to 1_099_511_627_776,
    region_size_max_bytes: 1_048_576 to 1_099_511_627_776,
    region_split_ops: 0 to 1_000_000_000,
    region_merge_bytes: 0 to 1_099_511_627_776,
    region_merge_keys: 1 to 1_000_000_000_000,
    split_merge_interval_ms: 0 to 2_592_000_000,
    merge_schedule_limit: 1 to 65_536,
    hot_region_load_min: 1_024 to 1_099_511_627_776,
    hot_tolerance_percent: 5 to 10_000,
    core_tolerance_percent: 5 to 10_000,
    leader_operator_timeout_ms: 1_000 to 3_600_000,
    region_operator_timeout_ms: 10_000 to 86_400_000,
    history_keep_ms: 1_000 to 604_800_000,
    history_max: 16 to 1_048_576,
    prepare_percent: 1 to 100,
    prepare_timeout_ms: 1_000 to 600_000,
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
    fn every_number_has_bounds_and_what_is_beyond_is_refused_with_them() {
        let numbers = Config::default().settings();
        let numbers = numbers.iter().filter(|setting| setting.value.parse::<u64>().is_ok());
        let numbers: Vec<&str> = numbers.map(|setting| setting.name).collect();
        let bounded: Vec<&str> = Config::BOUNDS.iter().map(|(name, ..)| *name).collect();
        assert_eq!(numbers, bounded, "a number has no lowest and no highest value");
        for (name, lowest, highest) in Config::BOUNDS {
            let mut config = Config::default();
            for good in [lowest, highest] {
                config.set(name, &good.to_string()).unwrap_or_else(|why| panic!("{why}"));
            }
            let kept = config.clone();
            let below = lowest.checked_sub(1);
            for bad in below.into_iter().chain([highest + 1]) {
                let said = config.set(name, &bad.to_string()).expect_err("it is beyond").to_string();
                assert_eq!(said, format!("{name} is {bad}; set it to a value from {lowest} to {highest}"));
            }
            assert_eq!(config, kept);
        }
        // Three reports a second apart are missed before a store may count as away.
        assert!(Config::default().set("store_disconnected_ms", "1").is_err());
    }

    #[test]
    fn a_name_that_is_nearly_right_is_answered_with_the_right_one() {
        let mut config = Config::default();
        let mut said = |name| config.set(name, "3").expect_err("there is none").to_string();
        for (wrong, right) in [
            ("maxreplicas", "max_replicas"),
            ("max-replica", "max_replicas"),
            ("Store_Down_Ms", "store_down_ms"),
            ("region_merge_byte", "region_merge_bytes"),
            ("replicas", "max_replicas"),
        ] {
            assert!(said(wrong).contains(&format!("is {right} meant?")), "{}", said(wrong));
        }
        for other in ["", "x", "speed", &"x".repeat(10_000)] {
            assert!(said(other).contains("list the settings"), "{}", said(other));
        }
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

//! Configuration: raw values as an operator sets them, and the limits that follow from them.
//!
//! Every field's doc ends with its default and unit. [`Config::validate`] refuses what cannot work, naming the field
//! and the remedy, before anything else sees the value.

use std::fmt;

use crate::operator::Policy;

/// One mebibyte.
pub const MIB: u64 = 1 << 20;

/// How a new replica becomes a voter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplicaPath {
    /// It joins as a voter at once. One step fewer; until it is caught up the group bears one failure less.
    Direct,
    /// It joins as a learner and is promoted once it is caught up.
    #[default]
    Learner,
    /// It joins as a learner; newcomer and leaver change roles in one joint step, so the number of voters never grows.
    Joint,
}

/// What the scheduler aims at and how fast it may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Replicas that every region is to have. Default 3, replicas.
    pub max_replicas: u64,
    /// How a new replica becomes a voter. Default [`ReplicaPath::Learner`].
    pub replica_path: ReplicaPath,
    /// Labels that say where a store stands, outermost first, such as `zone`, `rack`. Replicas are spread over them as
    /// far as stores allow; spreading over nodes is required and needs no label. Default none.
    pub location_labels: Vec<String>,
    /// The outermost of `location_labels` in which two replicas must never share a value. Default none.
    pub isolation_level: Option<String>,

    /// Silence after which a store is given nothing new. Default 20,000, milliseconds.
    pub store_disconnected_ms: u64,
    /// Silence after which a store counts as unhealthy. Default 600,000, milliseconds.
    pub store_unhealthy_ms: u64,
    /// Silence after which a store's replicas are made up elsewhere. Default 1,800,000, milliseconds.
    pub store_down_ms: u64,
    /// Share of a store's capacity beyond which it is given no more peers. Default 80, percent.
    pub low_space_percent: u64,
    /// Peers that may be on their way into one store at a time. Default 8, peers.
    pub store_moves_in_max: u64,
    /// Peers that may be on their way out of one store at a time. Default 16, peers.
    pub store_moves_out_max: u64,

    /// Operators of the leader policies that may run at a time. Default 4, operators.
    pub leader_schedule_limit: u64,
    /// Operators of the region policies that may run at a time. Default 2048, operators.
    pub region_schedule_limit: u64,
    /// Operators of the replica checker and of draining that may run at a time. Default 64, operators.
    pub replica_schedule_limit: u64,
    /// Operators of the hot-region policy that may run at a time. Default 4, operators.
    pub hot_schedule_limit: u64,
    /// Splits that may run at a time. Default 64, operators.
    pub split_schedule_limit: u64,
    /// Relocations for balance that may run at a time, over all nodes. Default 16, operators.
    pub core_schedule_limit: u64,
    /// Regions looked at by the replica checker in one round, for each of its sources. Default 128, regions.
    pub patrol_batch_regions: u64,
    /// Operators that one round of all policies may begin. It bounds how long a round keeps its core busy; what is left
    /// waits for the next one. Default 1024, operators.
    pub round_operators_max: u64,
    /// Random draws from one store before a policy turns to the next one. Default 10, draws.
    pub draws_per_store: u64,

    /// Leaders by which a store may exceed the even share before one is moved; two stores that differ by up to twice
    /// this many are left alone, and no policy for load may drive two further apart. Default 5, leaders.
    pub leader_tolerance: u64,
    /// Size that a smaller region counts as in balancing, so that empty ones are spread, too. Default 1 MiB, bytes.
    pub region_size_floor_bytes: u64,
    /// Size beyond which a region is split. Default 144 MiB, bytes.
    pub region_size_max_bytes: u64,
    /// Load beyond which a region is split where there is another store to take a part; zero never does. It is what its leader bears: each KiB
    /// that is read or written counts as an operation more. Default 3000, operations per second.
    pub region_split_ops: u64,
    /// Size up to which a region is merged with a neighbour; zero never does. Default 0, bytes.
    pub region_merge_bytes: u64,
    /// Number of keys up to which a region is merged with a neighbour. Default 200,000, keys.
    pub region_merge_keys: u64,
    /// Time after a split, and after the scheduler has begun, in which a region is not merged. Default 3,600,000, milliseconds.
    pub split_merge_interval_ms: u64,
    /// Merges of small regions that may run at a time. Default 8, operators.
    pub merge_schedule_limit: u64,
    /// Load below which a region is never called hot. Default 1 MiB, bytes per second ([`crate::load::Load`] scores).
    pub hot_region_load_min: u64,
    /// A store is called hot when its load exceeds the mean by this share. Default 25, percent.
    pub hot_tolerance_percent: u64,
    /// Stores of a node may differ in size and in load by this share of their mean. Default 20, percent.
    pub core_tolerance_percent: u64,

    /// Time for an operator that only moves leadership. Default 10,000, milliseconds.
    pub leader_operator_timeout_ms: u64,
    /// Time for any other operator. Default 600,000, milliseconds.
    pub region_operator_timeout_ms: u64,
    /// How long the outcome of an operator can be asked for. Default 600,000, milliseconds.
    pub history_keep_ms: u64,
    /// How many outcomes are kept. Default 10,000, operators.
    pub history_max: u64,

    /// Share of the regions that must have been reported before anything is scheduled. Default 80, percent.
    pub prepare_percent: u64,
    /// Time after which scheduling begins without that share. Default 10,000, milliseconds.
    pub prepare_timeout_ms: u64,
    /// Policies that are switched off. Default none.
    pub disabled: Vec<Policy>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_replicas: 3,
            replica_path: ReplicaPath::Learner,
            location_labels: Vec::new(),
            isolation_level: None,
            store_disconnected_ms: 20_000,
            store_unhealthy_ms: 600_000,
            store_down_ms: 1_800_000,
            low_space_percent: 80,
            store_moves_in_max: 8,
            store_moves_out_max: 16,
            leader_schedule_limit: 4,
            region_schedule_limit: 2048,
            replica_schedule_limit: 64,
            hot_schedule_limit: 4,
            split_schedule_limit: 64,
            core_schedule_limit: 16,
            patrol_batch_regions: 128,
            round_operators_max: 1024,
            draws_per_store: 10,
            leader_tolerance: 5,
            region_size_floor_bytes: MIB,
            region_size_max_bytes: 144 * MIB,
            region_split_ops: 3000,
            region_merge_bytes: 0,
            region_merge_keys: 200_000,
            split_merge_interval_ms: 3_600_000,
            merge_schedule_limit: 8,
            hot_region_load_min: MIB,
            hot_tolerance_percent: 25,
            core_tolerance_percent: 20,
            leader_operator_timeout_ms: 10_000,
            region_operator_timeout_ms: 600_000,
            history_keep_ms: 600_000,
            history_max: 10_000,
            prepare_percent: 80,
            prepare_timeout_ms: 10_000,
            disabled: Vec::new(),
        }
    }
}

impl Config {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    /// [`ConfigError`] with the first field that is wrong and what to set instead.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let within = |field, value, min, max| {
            if (min..=max).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::OutOfRange { field, value, min, max })
            }
        };
        within("max_replicas", self.max_replicas, 1, 15)?;
        within("low_space_percent", self.low_space_percent, 1, 100)?;
        within("prepare_percent", self.prepare_percent, 0, 100)?;
        let in_order =
            |(low, low_value): (&'static str, u64), (high, high_value): (&'static str, u64)| match high_value
                < low_value
            {
                false => Ok(()),
                true => Err(ConfigError::OutOfOrder { low, low_value, high, high_value }),
            };
        within("store_disconnected_ms", self.store_disconnected_ms, 1, u64::MAX)?;
        let silences = [
            ("store_disconnected_ms", self.store_disconnected_ms),
            ("store_unhealthy_ms", self.store_unhealthy_ms),
            ("store_down_ms", self.store_down_ms),
        ];
        silences.windows(2).try_for_each(|pair| in_order(pair[0], pair[1]))?;
        within("store_moves_in_max", self.store_moves_in_max, 1, u64::MAX)?;
        within("store_moves_out_max", self.store_moves_out_max, 1, u64::MAX)?;
        within("patrol_batch_regions", self.patrol_batch_regions, 1, 1 << 20)?;
        within("round_operators_max", self.round_operators_max, 1, 1 << 20)?;
        within("draws_per_store", self.draws_per_store, 1, 1 << 10)?;
        within("leader_tolerance", self.leader_tolerance, 0, 1 << 32)?;
        within("region_size_floor_bytes", self.region_size_floor_bytes, 1, 1 << 50)?;
        within("region_size_max_bytes", self.region_size_max_bytes, 1, 1 << 50)?;
        within("region_merge_bytes", self.region_merge_bytes, 0, 1 << 50)?;
        in_order(
            ("region_size_floor_bytes", self.region_size_floor_bytes),
            ("region_size_max_bytes", self.region_size_max_bytes),
        )?;
        within("hot_tolerance_percent", self.hot_tolerance_percent, 1, 10_000)?;
        within("core_tolerance_percent", self.core_tolerance_percent, 1, 10_000)?;
        within("leader_operator_timeout_ms", self.leader_operator_timeout_ms, 1, u64::MAX)?;
        within("region_operator_timeout_ms", self.region_operator_timeout_ms, 1, u64::MAX)?;
        within("history_max", self.history_max, 0, 1 << 24)?;
        for (index, label) in self.location_labels.iter().enumerate() {
            if label.is_empty() || self.location_labels[..index].contains(label) {
                return Err(ConfigError::RepeatedLabel(label.clone()));
            }
        }
        match &self.isolation_level {
            Some(level) if !self.location_labels.contains(level) => {
                Err(ConfigError::UnknownIsolationLevel(level.clone()))
            }
            _ => Ok(()),
        }
    }

    /// The limits that follow from these values.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let isolation = self.isolation_level.as_ref();
        Limits {
            // One transfer changes a difference by two, so one of a single leader would only change its sign.
            leader_difference_max: i64::try_from(self.leader_tolerance)
                .unwrap_or(i64::MAX)
                .saturating_mul(2)
                .max(1),
            isolation_depth: isolation
                .and_then(|level| self.location_labels.iter().position(|label| label == level))
                .map(|index| index + 1),
        }
    }

    /// What a region of this size counts as in balancing, in bytes.
    #[must_use]
    pub fn weight_bytes(&self, size_bytes: u64) -> i64 {
        i64::try_from(size_bytes.max(self.region_size_floor_bytes)).unwrap_or(i64::MAX)
    }

    /// By how much loads may differ where the mean is `mean_load` and this share of it is tolerated; never less than what
    /// one hot region bears.
    #[must_use]
    pub fn tolerated_load(&self, mean_load: i64, percent: u64) -> i64 {
        let share = (mean_load / 100).saturating_mul(i64::try_from(percent).unwrap_or(i64::MAX));
        share.max(i64::try_from(self.hot_region_load_min).unwrap_or(i64::MAX))
    }

    /// How many operators of this policy may run at a time.
    #[must_use]
    pub const fn limit_of(&self, policy: Policy) -> u64 {
        match policy {
            Policy::ReplicaCheck | Policy::Drain => self.replica_schedule_limit,
            Policy::BalanceRegion | Policy::Scatter => self.region_schedule_limit,
            Policy::BalanceLeader | Policy::EvictLeader => self.leader_schedule_limit,
            Policy::BalanceCore => self.core_schedule_limit,
            Policy::HotRegion => self.hot_schedule_limit,
            Policy::SplitCheck | Policy::PreSplit => self.split_schedule_limit,
            Policy::MergeCheck => self.merge_schedule_limit,
            Policy::Admin => u64::MAX,
        }
    }

    /// Whether this policy is switched on.
    #[must_use]
    pub fn is_enabled(&self, policy: Policy) -> bool {
        !self.disabled.contains(&policy)
    }
}

/// What follows from a [`Config`]; computed once and read by the policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Two stores whose leader counts differ by no more than this are balanced.
    pub leader_difference_max: i64,
    /// How many location labels two replicas must not share all of; `None` where no label is required to differ.
    pub isolation_depth: Option<usize>,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// A value is out of its range.
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u64,
        /// The least that works.
        min: u64,
        /// The greatest that works.
        max: u64,
    },
    /// A value is below another that it must not be below; whoever set either may have meant the other.
    OutOfOrder {
        /// The field that is to be the smaller one.
        low: &'static str,
        /// Its value.
        low_value: u64,
        /// The field that must not be below it.
        high: &'static str,
        /// Its value.
        high_value: u64,
    },
    /// A location label is empty or occurs twice.
    RepeatedLabel(String),
    /// The isolation level is none of the location labels.
    UnknownIsolationLevel(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { field, value, min, max } => {
                write!(f, "{field} is {value}; set it to a value from {min} to {max}")
            }
            Self::OutOfOrder { low, low_value, high, high_value } => {
                write!(f, "{high} ({high_value}) must not be below {low} ({low_value}); set one of them")
            }
            Self::RepeatedLabel(label) => {
                write!(f, "location label \"{label}\" is empty or occurs twice in location_labels")
            }
            Self::UnknownIsolationLevel(level) => {
                write!(
                    f,
                    "isolation_level \"{level}\" is not one of location_labels; add it there or unset it"
                )
            }
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid_and_documented_numbers_hold() {
        let config = Config::default();
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.limits().leader_difference_max, 10);
        assert_eq!(config.limits().isolation_depth, None);
        assert_eq!(config.weight_bytes(0), i64::try_from(MIB).expect("small"));
    }

    /// Each field's doc, read as text, names its default in the number that the code gives it.
    #[test]
    fn every_field_names_its_default() {
        let text = include_str!("config.rs");
        let body = |from: &str| {
            let body = text.split_once(from).expect("it is in this file").1;
            body.split_once("\n}").expect("it ends").0
        };
        let defaults = body("impl Default for Config {");
        let (mut doc, mut fields) = (String::new(), 0);
        for line in body("pub struct Config {").lines().map(str::trim) {
            if let Some(more) = line.strip_prefix("///") {
                doc.push_str(more);
                continue;
            }
            let Some((name, _)) = line.strip_prefix("pub ").and_then(|field| field.split_once(':')) else {
                continue;
            };
            let default = doc.rsplit_once("Default ").unwrap_or_else(|| panic!("{name} names no default")).1;
            let given = defaults.split_once(&format!("{name}: ")).expect("a default").1;
            let given = given.split_once(",\n").expect("a line").0.replace('_', "");
            let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
            match given.as_str() {
                "MIB" => assert!(default.starts_with("1 MiB,"), "{name}: {default}"),
                "Vec::new()" | "None" => assert!(default.starts_with("none"), "{name}: {default}"),
                number if number.starts_with(|first: char| first.is_ascii_digit()) => {
                    assert_eq!(digits(default), digits(number), "{name}: {default}");
                    assert!(default.contains(", "), "{name} names no unit");
                }
                path => assert!(default.contains(&format!("[`{path}`]")), "{name}: {default}"),
            }
            fields += 1;
            doc.clear();
        }
        assert_eq!(fields, 37);
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let refused = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.validate().expect_err("refused").to_string()
        };
        assert!(refused(|config| config.max_replicas = 0).starts_with("max_replicas is 0"));
        assert!(refused(|config| config.store_disconnected_ms = 700_000).contains("store_disconnected_ms"));
        let silent = refused(|config| config.store_down_ms = 1);
        assert!(
            silent.starts_with("store_down_ms (1) must not be below store_unhealthy_ms (600000)"),
            "{silent}"
        );
        let small = refused(|config| config.region_size_max_bytes = 1);
        assert!(
            small.starts_with("region_size_max_bytes (1) must not be below region_size_floor_bytes"),
            "{small}"
        );
        assert!(refused(|config| config.isolation_level = Some("zone".into())).contains("add it there"));
        assert!(refused(|config| config.location_labels = vec!["a".into(), "a".into()]).contains("twice"));
    }

    #[test]
    fn isolation_depth_counts_labels_from_the_outermost() {
        let labels = ["zone", "rack", "host"].map(str::to_owned).to_vec();
        let config =
            Config { location_labels: labels, isolation_level: Some("rack".into()), ..Config::default() };
        assert_eq!(config.validate(), Ok(()));
        assert_eq!(config.limits().isolation_depth, Some(2));
    }
}

//! The scheduler's state as archives.
//!
//! The structs here repeat those of the crate `scheduler` field by field, because that crate has no dependencies. Both directions take
//! them apart by name, so a field that is added there does not compile until it is written here. What stands around an archive (a file,
//! an entry of the log, a row of the tree) is the business of whoever embeds it.

use rkyv::{Archive, Deserialize, Serialize};
use scheduler::config::{Config, ReplicaPath};
use scheduler::{
    ConfigChange, ConfigChanges, Lifecycle, NodeId, Policy, ServiceSafePoint, Services, StateImage,
    StoreDescriptor, StoreId,
};

/// A whole state.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Image {
    cluster: Option<u64>,
    next_id: u64,
    stores: Vec<StoreImage>,
    evicting: Vec<u64>,
    config: ConfigImage,
    timestamp_end_ms: u64,
    gc_safe_point: u64,
}

/// A store's descriptor.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct StoreImage {
    id: u64,
    node: u64,
    address: String,
    labels: Vec<(String, String)>,
    lifecycle: u8,
}

/// The safe point of a service.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct ServiceImage {
    service: Vec<u8>,
    timestamp: u64,
    expires_ms: u64,
}

impl From<ServiceSafePoint> for ServiceImage {
    fn from(point: ServiceSafePoint) -> Self {
        let ServiceSafePoint { service, timestamp, expires_ms } = point;
        Self { service, timestamp, expires_ms }
    }
}

impl From<ServiceImage> for ServiceSafePoint {
    fn from(image: ServiceImage) -> Self {
        let ServiceImage { service, timestamp, expires_ms } = image;
        Self { service, timestamp, expires_ms }
    }
}

/// A change of the configuration.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct ChangeImage {
    at_ms: u64,
    by: String,
    name: String,
    before: String,
    after: String,
}

impl From<ConfigChange> for ChangeImage {
    fn from(change: ConfigChange) -> Self {
        let ConfigChange { at_ms, by, name, before, after } = change;
        Self { at_ms, by, name, before, after }
    }
}

impl From<ChangeImage> for ConfigChange {
    fn from(image: ChangeImage) -> Self {
        let ChangeImage { at_ms, by, name, before, after } = image;
        Self { at_ms, by, name, before, after }
    }
}

/// A configuration.
#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct ConfigImage {
    replica_path: u8,
    location_labels: Vec<String>,
    isolation_level: Option<String>,
    /// By position in [`Policy::ALL`].
    disabled: Vec<u8>,
    /// In the order of [`numbers`].
    numbers: Vec<u64>,
}

/// How many plain numbers a configuration has.
const NUMBERS: usize = 33;
/// How many it had before there were merges. Those that came since are written only where one is not as it would be without.
const NUMBERS_BEFORE_MERGES: usize = 29;

/// An archive that validates and still is no state: what is wrong with it, as the rest of a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DamagedState(pub &'static str);

/// A lifecycle as its byte.
pub fn lifecycle_byte(lifecycle: Lifecycle) -> u8 {
    match lifecycle {
        Lifecycle::Up => 0,
        Lifecycle::Offline => 1,
        Lifecycle::Tombstone => 2,
    }
}

/// The lifecycle of a byte.
///
/// # Errors
/// If there is none.
pub fn lifecycle(byte: u8) -> Result<Lifecycle, DamagedState> {
    match byte {
        0 => Ok(Lifecycle::Up),
        1 => Ok(Lifecycle::Offline),
        2 => Ok(Lifecycle::Tombstone),
        _ => Err(DamagedState("a store's lifecycle is none that exists")),
    }
}

impl From<&StateImage> for Image {
    fn from(state: &StateImage) -> Self {
        // A state that begins has no services and no changes, and those of one that has begun lie in rows of their own.
        let StateImage {
            cluster,
            next_id,
            stores,
            evicting,
            config,
            timestamp_end_ms,
            gc_safe_point,
            services: _,
            config_changes: _,
        } = state;
        Self {
            cluster: *cluster,
            next_id: *next_id,
            stores: stores.values().map(StoreImage::from).collect(),
            evicting: evicting.iter().map(|store| store.0).collect(),
            config: ConfigImage::from(config),
            timestamp_end_ms: *timestamp_end_ms,
            gc_safe_point: *gc_safe_point,
        }
    }
}

impl Image {
    /// What it is an image of.
    ///
    /// # Errors
    /// If there can be none.
    pub fn restore(self) -> Result<StateImage, DamagedState> {
        let Self { cluster, next_id, stores, evicting, config, timestamp_end_ms, gc_safe_point } = self;
        let stores: Result<_, DamagedState> =
            stores.into_iter().map(|store| Ok((StoreId(store.id), store.restore()?))).collect();
        Ok(StateImage {
            cluster,
            next_id,
            stores: stores?,
            evicting: evicting.into_iter().map(StoreId).collect(),
            config: config.restore()?,
            timestamp_end_ms,
            gc_safe_point,
            services: Services::default(),
            config_changes: ConfigChanges::default(),
        })
    }
}

impl From<&StoreDescriptor> for StoreImage {
    fn from(store: &StoreDescriptor) -> Self {
        let StoreDescriptor { id, node, address, labels, lifecycle } = store;
        Self {
            id: id.0,
            node: node.0,
            address: address.clone(),
            labels: labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            lifecycle: lifecycle_byte(*lifecycle),
        }
    }
}

impl StoreImage {
    /// What it is an image of.
    ///
    /// # Errors
    /// If there can be none.
    pub fn restore(self) -> Result<StoreDescriptor, DamagedState> {
        let Self { id, node, address, labels, lifecycle: byte } = self;
        Ok(StoreDescriptor {
            id: StoreId(id),
            node: NodeId(node),
            address,
            labels: labels.into_iter().collect(),
            lifecycle: lifecycle(byte)?,
        })
    }
}

impl From<&Config> for ConfigImage {
    fn from(config: &Config) -> Self {
        let mut copy = config.clone();
        let mut numbers = numbers(&mut copy).map(|number| *number).to_vec();
        let at_first = self::numbers(&mut Config::default()).map(|number| *number);
        if numbers[NUMBERS_BEFORE_MERGES..] == at_first[NUMBERS_BEFORE_MERGES..] {
            numbers.truncate(NUMBERS_BEFORE_MERGES);
        }
        let position = |policy: &Policy| Policy::ALL.iter().position(|known| known == policy);
        Self {
            replica_path: match config.replica_path {
                ReplicaPath::Direct => 0,
                ReplicaPath::Learner => 1,
                ReplicaPath::Joint => 2,
            },
            location_labels: config.location_labels.clone(),
            isolation_level: config.isolation_level.clone(),
            disabled: config.disabled.iter().filter_map(position).map(|place| place as u8).collect(),
            numbers,
        }
    }
}

impl ConfigImage {
    /// What it is an image of.
    ///
    /// # Errors
    /// If there can be none.
    pub fn restore(self) -> Result<Config, DamagedState> {
        let Self { replica_path, location_labels, isolation_level, disabled, numbers: stored } = self;
        let replica_path = match replica_path {
            0 => ReplicaPath::Direct,
            1 => ReplicaPath::Learner,
            2 => ReplicaPath::Joint,
            _ => return Err(DamagedState("its replica path is none that exists")),
        };
        let policy = |place: u8| {
            Policy::ALL
                .get(usize::from(place))
                .copied()
                .ok_or(DamagedState("it disables a policy that does not exist"))
        };
        let disabled: Result<_, DamagedState> = disabled.into_iter().map(policy).collect();
        let mut config = Config {
            replica_path,
            location_labels,
            isolation_level,
            disabled: disabled?,
            ..Config::default()
        };
        if stored.len() != NUMBERS && stored.len() != NUMBERS_BEFORE_MERGES {
            return Err(DamagedState("its configuration has another number of settings"));
        }
        numbers(&mut config).into_iter().zip(stored).for_each(|(slot, number)| *slot = number);
        Ok(config)
    }
}

/// Every plain number of a configuration, in the order in which an image has them.
fn numbers(config: &mut Config) -> [&mut u64; NUMBERS] {
    let Config {
        max_replicas,
        replica_path: _,
        location_labels: _,
        isolation_level: _,
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
        disabled: _,
    } = config;
    [
        max_replicas,
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
        hot_region_load_min,
        hot_tolerance_percent,
        core_tolerance_percent,
        leader_operator_timeout_ms,
        region_operator_timeout_ms,
        history_keep_ms,
        history_max,
        prepare_percent,
        prepare_timeout_ms,
        region_merge_bytes,
        region_merge_keys,
        split_merge_interval_ms,
        merge_schedule_limit,
    ]
}

/// A state in which every field differs from the default.
#[cfg(test)]
pub(crate) fn sample() -> StateImage {
    use scheduler::{State, StateCommand};

    let mut config = Config::default();
    for (place, number) in numbers(&mut config).into_iter().take(NUMBERS_BEFORE_MERGES).enumerate() {
        *number += place as u64 + 1;
    }
    config.max_replicas = 5;
    config.low_space_percent = 70;
    config.prepare_percent = 60;
    // As the defaults were when the fixtures were written.
    config.prepare_timeout_ms = 300_029;
    config.region_split_ops = 3020;
    config.replica_path = ReplicaPath::Joint;
    config.location_labels = vec!["zone".into(), "rack".into()];
    config.isolation_level = Some("zone".into());
    config.disabled = vec![Policy::HotRegion, Policy::Scatter];
    let mut state = State::new(config);
    let (first, second) = (StoreId(1), StoreId(2));
    let commands = [
        StateCommand::Bootstrap { cluster: 7 },
        StateCommand::AllocateIds { count: 40 },
        StateCommand::PutStore(
            StoreDescriptor::new(first, NodeId(3), "127.0.0.1:20161").with_label("zone", "a"),
        ),
        StateCommand::PutStore(StoreDescriptor::new(second, NodeId(3), "127.0.0.1:20162")),
        StateCommand::SetLifecycle { store: second, lifecycle: Lifecycle::Offline },
        StateCommand::SetEvicting { store: first, evicting: true },
        StateCommand::SaveTimestampWindow { end_ms: 1_700_000_003_000 },
        StateCommand::AdvanceGcSafePoint { timestamp: 5 },
    ];
    for command in commands {
        state.apply(command).expect("a state that can exist");
    }
    state.image().clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What versions before merges have written reads as one without, and is written so as long as it has none.
    #[test]
    fn settings_of_merges_are_written_where_they_are_set_and_not_else() {
        let before = sample().config;
        let image = ConfigImage::from(&before);
        assert_eq!(image.numbers.len(), NUMBERS_BEFORE_MERGES);
        assert_eq!(image.restore(), Ok(before.clone()));
        for which in NUMBERS_BEFORE_MERGES..NUMBERS {
            let mut set = before.clone();
            *numbers(&mut set)[which] += 7;
            let image = ConfigImage::from(&set);
            assert_eq!(image.numbers.len(), NUMBERS);
            assert_eq!(image.restore(), Ok(set));
        }
        let mut off = before;
        off.disabled = vec![Policy::MergeCheck];
        let image = ConfigImage::from(&off);
        assert_eq!(image.disabled, [11], "by its place");
        assert_eq!(image.restore(), Ok(off));
    }
}

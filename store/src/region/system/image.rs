//! The bytes of the scheduler's state on disk.
//!
//! ```text
//! 0          8                        n          n + 4
//! +----------+------------------------+----------+
//! | RKCTRL01 | rkyv archive of Image  | crc32    |
//! +----------+------------------------+----------+
//!              unaligned, little-endian; the checksum covers everything before it
//! ```
//!
//! [`Image`] repeats [`StateImage`] field by field, because the crate `scheduler` has no dependencies. Both directions take
//! the structs apart by name, so a field that is added there does not compile until it is written here.

use rkyv::rancor::Error;
use rkyv::{Archive, Deserialize, Serialize};
use scheduler::config::{Config, ReplicaPath};
use scheduler::{Lifecycle, NodeId, Policy, StateImage, StoreDescriptor, StoreId};

const MAGIC: &[u8; 8] = b"RKCTRL01";

#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
struct Image {
    cluster: Option<u64>,
    next_id: u64,
    stores: Vec<StoreImage>,
    evicting: Vec<u64>,
    config: ConfigImage,
    timestamp_end_ms: u64,
    gc_safe_point: u64,
}

#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
struct StoreImage {
    id: u64,
    node: u64,
    address: String,
    labels: Vec<(String, String)>,
    lifecycle: u8,
}

#[derive(Archive, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
struct ConfigImage {
    replica_path: u8,
    location_labels: Vec<String>,
    isolation_level: Option<String>,
    /// By position in [`Policy::ALL`].
    disabled: Vec<u8>,
    /// In the order of [`NUMBERS`].
    numbers: Vec<u64>,
}

/// How many plain numbers a configuration has.
const NUMBERS: usize = 29;

/// Why a file is not a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged(pub(super) &'static str);

/// The file's bytes for a state.
pub(super) fn encode(state: &StateImage) -> Vec<u8> {
    let archive = rkyv::to_bytes::<Error>(&Image::from(state)).expect("plain values in memory are archived");
    let mut bytes = Vec::with_capacity(archive.len() + 12);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&archive);
    bytes.extend_from_slice(&crc32fast::hash(&bytes).to_le_bytes());
    bytes
}

/// The state in a file's bytes.
///
/// # Errors
/// What is wrong with them, as the rest of a sentence about the file.
pub(super) fn decode(bytes: &[u8]) -> Result<StateImage, Damaged> {
    let body = checked(bytes)?;
    let image = rkyv::from_bytes::<Image, Error>(&body[MAGIC.len()..])
        .map_err(|_| Damaged("its archive is broken"))?;
    image.restore()
}

fn checked(bytes: &[u8]) -> Result<&[u8], Damaged> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(Damaged("it is too short"))?;
    if !body.starts_with(MAGIC) {
        return Err(Damaged("it does not begin as a file of this version"));
    }
    if u32::from_le_bytes(*sum) != crc32fast::hash(body) {
        return Err(Damaged("its checksum does not match"));
    }
    Ok(body)
}

impl From<&StateImage> for Image {
    fn from(state: &StateImage) -> Self {
        let StateImage { cluster, next_id, stores, evicting, config, timestamp_end_ms, gc_safe_point } =
            state;
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
    fn restore(self) -> Result<StateImage, Damaged> {
        let Self { cluster, next_id, stores, evicting, config, timestamp_end_ms, gc_safe_point } = self;
        let stores: Result<_, Damaged> =
            stores.into_iter().map(|store| Ok((StoreId(store.id), store.restore()?))).collect();
        Ok(StateImage {
            cluster,
            next_id,
            stores: stores?,
            evicting: evicting.into_iter().map(StoreId).collect(),
            config: config.restore()?,
            timestamp_end_ms,
            gc_safe_point,
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
            lifecycle: match lifecycle {
                Lifecycle::Up => 0,
                Lifecycle::Offline => 1,
                Lifecycle::Tombstone => 2,
            },
        }
    }
}

impl StoreImage {
    fn restore(self) -> Result<StoreDescriptor, Damaged> {
        let Self { id, node, address, labels, lifecycle } = self;
        let lifecycle = match lifecycle {
            0 => Lifecycle::Up,
            1 => Lifecycle::Offline,
            2 => Lifecycle::Tombstone,
            _ => return Err(Damaged("a store's lifecycle is none that exists")),
        };
        Ok(StoreDescriptor {
            id: StoreId(id),
            node: NodeId(node),
            address,
            labels: labels.into_iter().collect(),
            lifecycle,
        })
    }
}

impl From<&Config> for ConfigImage {
    fn from(config: &Config) -> Self {
        let mut copy = config.clone();
        let numbers = numbers(&mut copy).map(|number| *number).to_vec();
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
    fn restore(self) -> Result<Config, Damaged> {
        let Self { replica_path, location_labels, isolation_level, disabled, numbers: stored } = self;
        let replica_path = match replica_path {
            0 => ReplicaPath::Direct,
            1 => ReplicaPath::Learner,
            2 => ReplicaPath::Joint,
            _ => return Err(Damaged("its replica path is none that exists")),
        };
        let policy = |place: u8| {
            Policy::ALL
                .get(usize::from(place))
                .copied()
                .ok_or(Damaged("it disables a policy that does not exist"))
        };
        let disabled: Result<_, Damaged> = disabled.into_iter().map(policy).collect();
        let mut config = Config {
            replica_path,
            location_labels,
            isolation_level,
            disabled: disabled?,
            ..Config::default()
        };
        if stored.len() != NUMBERS {
            return Err(Damaged("its configuration has another number of settings"));
        }
        numbers(&mut config).into_iter().zip(stored).for_each(|(slot, number)| *slot = number);
        Ok(config)
    }
}

/// Every plain number of a configuration, in the order in which the file has them.
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
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use scheduler::{State, StateCommand};

    /// A state in which every field differs from the default.
    fn state() -> StateImage {
        let mut config = super::super::initial_config();
        for (place, number) in numbers(&mut config).into_iter().enumerate() {
            *number += place as u64 + 1;
        }
        config.max_replicas = 5;
        config.low_space_percent = 70;
        config.prepare_percent = 60;
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

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let state = state();
        let read = decode(&encode(&state)).expect("what was just written");
        assert_eq!(read, state);
        State::restore(read).expect("and it keeps the invariants");
    }

    #[test]
    fn no_flipped_bit_and_no_other_length_is_taken() {
        let bytes = encode(&state());
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "length {length}");
        }
        assert!(decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    }

    #[test]
    fn the_format_is_the_one_that_was_released() {
        let fixture = include_bytes!("../../tests/fixtures/control-v1/state.bin");
        if std::env::var_os("RINGKEEP_WRITE_FIXTURE").is_some() {
            let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/control-v1/state.bin");
            std::fs::write(path, encode(&state())).expect("the fixture's directory exists");
        }
        assert_eq!(decode(fixture), Ok(state()));
        assert_eq!(encode(&state()), fixture);
    }
}

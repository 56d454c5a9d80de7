//! The bytes of the system group: its commands in the log, its state in the tree.
//!
//! ```text
//! entry payload   kind u8 = 2, format u8 = 1, an rkyv archive of the command, unaligned little-endian
//!
//! rows in the family `system`
//! key             value
//! 01              format u8 = 1, named u8 (0 or 1), cluster u64, next id u64, timestamp end ms u64, GC safe point u64     little-endian
//! 02              format u8 = 1, an rkyv archive of the configuration
//! 03 store u64    format u8 = 1, evicting u8 (0 or 1), an rkyv archive of the descriptor                key big-endian
//! 04              format u8 = 1, an rkyv archive of the safe points of services; missing where none was ever entered
//! 05              format u8 = 1, an rkyv archive of the last changes of the configuration; missing where there was none
//! ```
//!
//! A state has its first two rows from the moment it begins. A command rewrites the rows that it changes and no others.

use std::collections::BTreeMap;

use rkyv::rancor;
use rkyv::{Archive, Deserialize, Serialize};
use scheduler::{ConfigChanges, Services, State, StateCommand, StateImage, StoreId};

use super::SystemCommand;
use super::image::{
    ChangeImage, ConfigImage, DamagedState, Image, ServiceImage, StoreImage, lifecycle, lifecycle_byte,
};

/// What an entry of the group begins with; the kinds of commands are counted in [`command`](crate::region::command).
pub const KIND: u8 = 2;
const FORMAT: u8 = 1;

const ROW_HEAD: u8 = 1;
const ROW_CONFIG: u8 = 2;
const ROW_STORE: u8 = 3;
const ROW_SERVICES: u8 = 4;
const ROW_CONFIG_CHANGES: u8 = 5;
/// Above the key of every row.
pub const ROWS_END: [u8; 1] = [ROW_CONFIG_CHANGES + 1];

const HEAD_BYTES: usize = 34;

#[derive(Archive, Serialize, Deserialize)]
enum CommandImage {
    Begin(Image),
    Bootstrap { cluster: u64 },
    AllocateIds { count: u64 },
    PutStore(StoreImage),
    SetLifecycle { store: u64, lifecycle: u8 },
    SetEvicting { store: u64, evicting: bool },
    SetConfig(ConfigImage),
    SaveTimestampWindow { end_ms: u64 },
    AdvanceGcSafePoint { timestamp: u64 },
    SetServiceSafePoint { point: ServiceImage, now_ms: u64 },
    ChangeConfig { config: ConfigImage, changes: Vec<ChangeImage> },
    ReplaceStore { store: StoreImage, gone: u64 },
    ReplaceNode { store: StoreImage, gone: u64 },
}

/// Rows by their keys.
pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// A command as an entry's payload.
pub fn encode(command: &SystemCommand) -> Vec<u8> {
    let image = match command {
        SystemCommand::Begin(state) => CommandImage::Begin(Image::from(&**state)),
        SystemCommand::Change(command) => match command {
            StateCommand::Bootstrap { cluster } => CommandImage::Bootstrap { cluster: *cluster },
            StateCommand::AllocateIds { count } => CommandImage::AllocateIds { count: *count },
            StateCommand::PutStore(store) => CommandImage::PutStore(StoreImage::from(store)),
            StateCommand::ReplaceStore { store, gone } => {
                CommandImage::ReplaceStore { store: StoreImage::from(store), gone: gone.0 }
            }
            StateCommand::ReplaceNode { store, gone } => {
                CommandImage::ReplaceNode { store: StoreImage::from(store), gone: gone.0 }
            }
            StateCommand::SetLifecycle { store, lifecycle } => {
                CommandImage::SetLifecycle { store: store.0, lifecycle: lifecycle_byte(*lifecycle) }
            }
            StateCommand::SetEvicting { store, evicting } => {
                CommandImage::SetEvicting { store: store.0, evicting: *evicting }
            }
            StateCommand::SetConfig(config) => CommandImage::SetConfig(ConfigImage::from(&**config)),
            StateCommand::ChangeConfig { config, changes } => CommandImage::ChangeConfig {
                config: ConfigImage::from(&**config),
                changes: changes.iter().cloned().map(Into::into).collect(),
            },
            StateCommand::SaveTimestampWindow { end_ms } => {
                CommandImage::SaveTimestampWindow { end_ms: *end_ms }
            }
            StateCommand::AdvanceGcSafePoint { timestamp } => {
                CommandImage::AdvanceGcSafePoint { timestamp: *timestamp }
            }
            StateCommand::SetServiceSafePoint { point, now_ms } => {
                CommandImage::SetServiceSafePoint { point: point.clone().into(), now_ms: *now_ms }
            }
        },
    };
    let archive = rkyv::to_bytes::<rancor::Error>(&image).expect("plain values in memory are archived");
    [&[KIND, FORMAT][..], &archive].concat()
}

/// The command in what follows [`KIND`] in an entry's payload.
///
/// # Errors
/// What is wrong with the bytes.
pub fn decode(body: &[u8]) -> Result<SystemCommand, DamagedState> {
    let image = match body.split_first() {
        Some((&FORMAT, archive)) => rkyv::from_bytes::<CommandImage, rancor::Failure>(archive)
            .map_err(|_| DamagedState("the archive does not validate"))?,
        Some(_) => return Err(DamagedState("unknown format; was it written by a newer version?")),
        None => return Err(DamagedState("empty payload")),
    };
    Ok(SystemCommand::Change(match image {
        CommandImage::Begin(state) => return Ok(SystemCommand::Begin(Box::new(state.restore()?))),
        CommandImage::Bootstrap { cluster } => StateCommand::Bootstrap { cluster },
        CommandImage::AllocateIds { count } => StateCommand::AllocateIds { count },
        CommandImage::PutStore(store) => StateCommand::PutStore(store.restore()?),
        CommandImage::ReplaceStore { store, gone } => {
            StateCommand::ReplaceStore { store: store.restore()?, gone: StoreId(gone) }
        }
        CommandImage::ReplaceNode { store, gone } => {
            StateCommand::ReplaceNode { store: store.restore()?, gone: StoreId(gone) }
        }
        CommandImage::SetLifecycle { store, lifecycle: byte } => {
            StateCommand::SetLifecycle { store: StoreId(store), lifecycle: lifecycle(byte)? }
        }
        CommandImage::SetEvicting { store, evicting } => {
            StateCommand::SetEvicting { store: StoreId(store), evicting }
        }
        CommandImage::SetConfig(config) => StateCommand::SetConfig(Box::new(config.restore()?)),
        CommandImage::ChangeConfig { config, changes } => StateCommand::ChangeConfig {
            config: Box::new(config.restore()?),
            changes: changes.into_iter().map(Into::into).collect(),
        },
        CommandImage::SaveTimestampWindow { end_ms } => StateCommand::SaveTimestampWindow { end_ms },
        CommandImage::AdvanceGcSafePoint { timestamp } => StateCommand::AdvanceGcSafePoint { timestamp },
        CommandImage::SetServiceSafePoint { point, now_ms } => {
            StateCommand::SetServiceSafePoint { point: point.into(), now_ms }
        }
    }))
}

/// Every row of a state.
pub fn rows(state: &StateImage) -> Rows {
    let mut rows = Rows::from([head(state), config(state)]);
    rows.extend((!state.services.is_empty()).then(|| services(state)));
    rows.extend((!state.config_changes.is_empty()).then(|| config_changes(state)));
    rows.extend(state.stores.keys().filter_map(|store| self::store(state, *store)));
    rows
}

/// The rows that a command has changed, as they are after it.
pub fn changed(command: &StateCommand, state: &StateImage) -> Rows {
    let row = match command {
        StateCommand::Bootstrap { .. }
        | StateCommand::AllocateIds { .. }
        | StateCommand::SaveTimestampWindow { .. }
        | StateCommand::AdvanceGcSafePoint { .. } => Some(head(state)),
        StateCommand::PutStore(descriptor) => store(state, descriptor.id),
        StateCommand::SetLifecycle { store, .. } | StateCommand::SetEvicting { store, .. } => {
            self::store(state, *store)
        }
        StateCommand::ReplaceStore { store, gone } => {
            return [store.id, *gone].into_iter().filter_map(|id| self::store(state, id)).collect();
        }
        StateCommand::ReplaceNode { store, gone } => {
            let node = state.stores.get(gone).map(|gone| gone.node);
            let of_node =
                state.stores.values().filter(|known| Some(known.node) == node).map(|known| known.id);
            return of_node.chain([store.id]).filter_map(|id| self::store(state, id)).collect();
        }
        StateCommand::SetConfig(_) => Some(config(state)),
        StateCommand::ChangeConfig { .. } => return Rows::from([config(state), config_changes(state)]),
        StateCommand::SetServiceSafePoint { .. } => Some(services(state)),
    };
    row.into_iter().collect()
}

fn head(state: &StateImage) -> (Vec<u8>, Vec<u8>) {
    let mut bytes = vec![FORMAT, u8::from(state.cluster.is_some())];
    let numbers =
        [state.cluster.unwrap_or_default(), state.next_id, state.timestamp_end_ms, state.gc_safe_point];
    numbers.iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    (vec![ROW_HEAD], bytes)
}

fn config(state: &StateImage) -> (Vec<u8>, Vec<u8>) {
    let archive = rkyv::to_bytes::<rancor::Error>(&ConfigImage::from(&state.config))
        .expect("plain values in memory are archived");
    (vec![ROW_CONFIG], [&[FORMAT][..], &archive].concat())
}

fn services(state: &StateImage) -> (Vec<u8>, Vec<u8>) {
    let all: Vec<ServiceImage> = state.services.list().map(ServiceImage::from).collect();
    let archive = rkyv::to_bytes::<rancor::Error>(&all).expect("plain values in memory are archived");
    (vec![ROW_SERVICES], [&[FORMAT][..], &archive].concat())
}

fn config_changes(state: &StateImage) -> (Vec<u8>, Vec<u8>) {
    let all: Vec<ChangeImage> = state.config_changes.list().cloned().map(Into::into).collect();
    let archive = rkyv::to_bytes::<rancor::Error>(&all).expect("plain values in memory are archived");
    (vec![ROW_CONFIG_CHANGES], [&[FORMAT][..], &archive].concat())
}

fn store(state: &StateImage, id: StoreId) -> Option<(Vec<u8>, Vec<u8>)> {
    let archive = rkyv::to_bytes::<rancor::Error>(&StoreImage::from(state.stores.get(&id)?))
        .expect("plain values in memory are archived");
    let key = [&[ROW_STORE][..], &id.0.to_be_bytes()].concat();
    Some((key, [&[FORMAT, u8::from(state.evicting.contains(&id))][..], &archive].concat()))
}

/// The state in these rows; none if there are no rows.
///
/// # Errors
/// Which row is missing or cannot be read, or what in the state contradicts itself.
pub fn restore<'a>(rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Option<State>, String> {
    let (mut head, mut config, mut stores, mut evicting) =
        (None, None, BTreeMap::new(), std::collections::BTreeSet::new());
    let (mut services, mut config_changes) = (Services::default(), ConfigChanges::default());
    for (key, value) in rows {
        let unknown = || format!("row {key:02x?} is unknown; was it written by a newer version?");
        match key.split_first() {
            Some((&ROW_HEAD, [])) => head = Some(read_head(value).ok_or_else(unknown)?),
            Some((&ROW_CONFIG, [])) => {
                let archive = value.strip_prefix(&[FORMAT]).ok_or_else(unknown)?;
                let image =
                    rkyv::from_bytes::<ConfigImage, rancor::Failure>(archive).map_err(|_| unknown())?;
                config = Some(image.restore().map_err(|DamagedState(what)| what.to_owned())?);
            }
            Some((&ROW_SERVICES, [])) => {
                let archive = value.strip_prefix(&[FORMAT]).ok_or_else(unknown)?;
                let all =
                    rkyv::from_bytes::<Vec<ServiceImage>, rancor::Failure>(archive).map_err(|_| unknown())?;
                services = Services::of(all.into_iter().map(Into::into))
                    .map_err(|refusal| format!("it contradicts itself: {refusal}"))?;
            }
            Some((&ROW_CONFIG_CHANGES, [])) => {
                let archive = value.strip_prefix(&[FORMAT]).ok_or_else(unknown)?;
                let all =
                    rkyv::from_bytes::<Vec<ChangeImage>, rancor::Failure>(archive).map_err(|_| unknown())?;
                config_changes = ConfigChanges::of(all.into_iter().map(Into::into));
            }
            Some((&ROW_STORE, _)) => {
                let (marks, archive) = value.split_at_checked(2).ok_or_else(unknown)?;
                let image =
                    rkyv::from_bytes::<StoreImage, rancor::Failure>(archive).map_err(|_| unknown())?;
                let store = image.restore().map_err(|DamagedState(what)| what.to_owned())?;
                match marks {
                    [FORMAT, 0] => {}
                    [FORMAT, 1] => {
                        evicting.insert(store.id);
                    }
                    _ => return Err(unknown()),
                }
                stores.insert(store.id, store);
            }
            Some(_) | None => return Err(unknown()),
        }
    }
    let (head, config) = match (head, config) {
        (Some(head), Some(config)) => (head, config),
        (None, None) if stores.is_empty() => return Ok(None),
        (_, _) => return Err("its first row or that of its configuration is missing".to_owned()),
    };
    let (cluster, [next_id, timestamp_end_ms, gc_safe_point]) = head;
    let image = StateImage {
        cluster,
        next_id,
        stores,
        evicting,
        config,
        timestamp_end_ms,
        gc_safe_point,
        services,
        config_changes,
    };
    State::restore(image).map(Some).map_err(|refusal| format!("it contradicts itself: {refusal}"))
}

fn read_head(value: &[u8]) -> Option<(Option<u64>, [u64; 3])> {
    let bytes: &[u8; HEAD_BYTES] = value.try_into().ok()?;
    let (chunks, _) = bytes[2..].as_chunks::<8>();
    let [cluster, next_id, end_ms, safe_point] = chunks else { return None };
    let numbers = [next_id, end_ms, safe_point].map(|chunk| u64::from_le_bytes(*chunk));
    match bytes[..2] {
        [FORMAT, 0] => Some((None, numbers)),
        [FORMAT, 1] => Some((Some(u64::from_le_bytes(*cluster)), numbers)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::image::sample;
    use super::*;
    use scheduler::{ConfigChange, Lifecycle, NodeId, StoreDescriptor};

    fn commands() -> Vec<SystemCommand> {
        let sample = sample();
        let store = StoreDescriptor::new(StoreId(9), NodeId(4), "127.0.0.1:1").with_label("zone", "b");
        let changes = [
            StateCommand::Bootstrap { cluster: 7 },
            StateCommand::AllocateIds { count: 1000 },
            StateCommand::PutStore(store),
            StateCommand::SetLifecycle { store: StoreId(9), lifecycle: Lifecycle::Offline },
            StateCommand::SetEvicting { store: StoreId(9), evicting: true },
            StateCommand::SetConfig(Box::new(sample.config.clone())),
            StateCommand::SaveTimestampWindow { end_ms: 1_700_000_003_000 },
            StateCommand::AdvanceGcSafePoint { timestamp: 5 },
        ];
        let begin = SystemCommand::Begin(Box::new(sample));
        std::iter::once(begin).chain(changes.into_iter().map(SystemCommand::Change)).collect()
    }

    /// Each with its length before it, u32 little-endian.
    fn joined<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
        pieces.flat_map(|piece| [&(piece.len() as u32).to_le_bytes()[..], piece].concat()).collect()
    }

    fn compare_with_fixture(name: &str, bytes: &[u8]) {
        let path = format!("{}/tests/fixtures/system-v1/{name}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("RINGKEEP_WRITE_FIXTURE").is_some() {
            std::fs::write(&path, bytes).expect("the fixture's directory exists");
        }
        assert!(std::fs::read(&path).expect("the fixture") == bytes, "{path} has other bytes");
    }

    #[test]
    fn commands_and_rows_are_written_as_they_were_released() {
        let payloads: Vec<Vec<u8>> = commands().iter().map(encode).collect();
        compare_with_fixture("commands.bin", &joined(payloads.iter().map(Vec::as_slice)));
        let rows = rows(&sample());
        let pieces = rows.iter().flat_map(|(key, value)| [key.as_slice(), value.as_slice()]);
        compare_with_fixture("rows.bin", &joined(pieces));
    }

    /// Safe points of services came after the others, with a command and a row of their own.
    fn with_services() -> (SystemCommand, StateImage) {
        let point = |service: &str, timestamp, expires_ms| scheduler::ServiceSafePoint {
            service: service.into(),
            timestamp,
            expires_ms,
        };
        let all = [point("backup", 5, 1_700_000_003_000), point("gc_worker", 9, u64::MAX)];
        let services = Services::of(all.clone()).expect("two are few");
        let [point, _] = all;
        let command = StateCommand::SetServiceSafePoint { point, now_ms: 1_700_000_000_000 };
        (SystemCommand::Change(command), StateImage { services, ..sample() })
    }

    #[test]
    fn safe_points_of_services_are_written_as_they_were_released() {
        let (command, state) = with_services();
        let (payload, (key, value)) = (encode(&command), services(&state));
        compare_with_fixture("services.bin", &joined([&payload[..], &key, &value].into_iter()));
        assert_eq!(decode(&payload[1..]), Ok(command));
        let rows = rows(&state);
        let pairs: Vec<(&[u8], &[u8])> = rows.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        assert_eq!(restore(pairs.into_iter()).unwrap().unwrap().image(), &state);
    }

    /// Changes of the configuration came later, too: a command and a row of their own.
    fn with_changes() -> (SystemCommand, StateImage) {
        let change = |at_ms, name: &str, before: &str, after: &str| ConfigChange {
            at_ms,
            by: "10.0.0.1:51234".to_owned(),
            name: name.to_owned(),
            before: before.to_owned(),
            after: after.to_owned(),
        };
        let all = vec![
            change(1_700_000_000_000, "leader_tolerance", "5", "10"),
            change(1_700_000_005_000, "disabled", "", "hot-region,scatter"),
        ];
        let sample = sample();
        let config = Box::new(sample.config.clone());
        let command = StateCommand::ChangeConfig { config, changes: all.clone() };
        let config_changes = ConfigChanges::of(all);
        (SystemCommand::Change(command), StateImage { config_changes, ..sample })
    }

    #[test]
    fn changes_of_the_configuration_are_written_as_they_were_released() {
        let (command, state) = with_changes();
        let (payload, (key, value)) = (encode(&command), config_changes(&state));
        compare_with_fixture("config_changes.bin", &joined([&payload[..], &key, &value].into_iter()));
        assert_eq!(decode(&payload[1..]), Ok(command));
        let rows = rows(&state);
        let pairs: Vec<(&[u8], &[u8])> = rows.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        assert_eq!(restore(pairs.into_iter()).unwrap().unwrap().image(), &state);
        // What an earlier version has written knows of no changes.
        let old = self::rows(&sample());
        let pairs: Vec<(&[u8], &[u8])> = old.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        assert!(restore(pairs.into_iter()).unwrap().unwrap().image().config_changes.is_empty());
    }

    /// That a store takes the place of another one came last.
    #[test]
    fn a_replacement_is_written_as_it_was_released_and_changes_the_rows_of_both() {
        let image = sample();
        let gone = image.stores[&StoreId(1)].clone();
        let store = StoreDescriptor::new(StoreId(9), NodeId(4), gone.address.clone()).with_label("zone", "b");
        let command = StateCommand::ReplaceStore { store, gone: gone.id };
        let payload = encode(&SystemCommand::Change(command.clone()));
        let mut state = State::restore(image.clone()).expect("a state that can exist");
        state.apply(command.clone()).expect("it takes its place");
        let changed = changed(&command, state.image());
        let pieces = changed.iter().flat_map(|(key, value)| [key.as_slice(), value.as_slice()]);
        compare_with_fixture("replaced.bin", &joined(std::iter::once(&payload[..]).chain(pieces)));
        assert_eq!(decode(&payload[1..]), Ok(SystemCommand::Change(command)));
        let mut all = rows(&image);
        all.extend(changed);
        assert_eq!(all, rows(state.image()), "what is written anew is what has changed");
        let pairs: Vec<(&[u8], &[u8])> = all.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        assert_eq!(restore(pairs.into_iter()).unwrap().unwrap(), state);
    }

    /// And then that it is one of a node that has others.
    #[test]
    fn a_node_that_is_replaced_changes_the_rows_of_all_of_its_stores() {
        let mut image = sample();
        let gone = image.stores[&StoreId(1)].clone();
        let other = StoreDescriptor::new(StoreId(8), gone.node, "127.0.0.1:20999");
        image.stores.insert(other.id, other);
        let store = StoreDescriptor::new(StoreId(9), NodeId(4), gone.address.clone());
        let command = StateCommand::ReplaceNode { store, gone: gone.id };
        let payload = encode(&SystemCommand::Change(command.clone()));
        let mut state = State::restore(image.clone()).expect("a state that can exist");
        state.apply(command.clone()).expect("it takes its place");
        let changed = changed(&command, state.image());
        let pieces = changed.iter().flat_map(|(key, value)| [key.as_slice(), value.as_slice()]);
        compare_with_fixture("replaced_node.bin", &joined(std::iter::once(&payload[..]).chain(pieces)));
        assert_eq!(decode(&payload[1..]), Ok(SystemCommand::Change(command)));
        let mut all = rows(&image);
        all.extend(changed);
        assert_eq!(all, rows(state.image()), "what is written anew is what has changed");
    }

    #[test]
    fn a_command_reads_back_and_a_cut_one_does_not() {
        for command in commands() {
            let payload = encode(&command);
            assert_eq!(payload[0], KIND);
            assert_eq!(decode(&payload[1..]), Ok(command));
            for length in 1..payload.len() {
                // A shorter archive that validates must at least not be taken for the same command.
                assert_ne!(decode(&payload[1..length]).ok().map(|read| encode(&read)), Some(payload.clone()));
            }
        }
        assert!(decode(&[]).is_err() && decode(&[9, 1, 2]).is_err());
    }

    #[test]
    fn a_state_is_restored_from_its_rows_and_from_no_part_of_them() {
        let image = sample();
        let all = rows(&image);
        let read = |rows: &Rows| {
            let pairs: Vec<(&[u8], &[u8])> = rows.iter().map(|(key, value)| (&key[..], &value[..])).collect();
            restore(pairs.into_iter())
        };
        assert_eq!(read(&all).unwrap().unwrap().image(), &image);
        assert_eq!(read(&Rows::new()), Ok(None));
        for key in [vec![ROW_HEAD], vec![ROW_CONFIG]] {
            let mut part = all.clone();
            part.remove(&key);
            assert!(read(&part).is_err(), "without row {key:?}");
        }
        for (key, value) in &all {
            let mut damaged = all.clone();
            damaged.insert(key.clone(), [&[99], &value[1..]].concat());
            assert!(read(&damaged).is_err(), "row {key:?} of another format");
        }
        let mut more = all;
        more.insert(vec![7], vec![FORMAT]);
        assert!(read(&more).is_err());
    }
}

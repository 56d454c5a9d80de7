//! The table of keys: how each setting is spelled, explained, read and printed.

use std::ffi::OsStr;
use std::path::PathBuf;

use super::limits::{MEMORY_BYTES_MAX, MEMTABLE_BYTES_LEAST};
use super::text::{
    format_bytes, format_cpus, format_duration, parse_bytes, parse_cpus, parse_duration, parse_log_directives,
};
use super::{Config, LogFormat, QUIET_AFTER_MIN, SyncMethod};
use crate::secret::ClusterSecret;

/// How a value is read into its place.
#[derive(Clone, Copy)]
enum Set {
    /// From text.
    Text(fn(&mut Config, &str) -> Result<(), String>),
    /// As it is: a path is bytes to the system, and need not be text.
    Path(fn(&mut Config, PathBuf) -> Result<(), String>),
}

use Set::{Path, Text};

/// One setting.
#[derive(Clone, Copy)]
pub struct Key {
    /// Its dotted name, as in the file (`log.segment_bytes`).
    pub name: &'static str,
    /// What it does, one sentence with unit and default.
    pub help: &'static str,
    /// Whether its value must not be shown.
    pub secret: bool,
    set: Set,
    show: fn(&Config) -> String,
}

impl Key {
    /// The key of that name.
    pub fn find(name: &str) -> Option<&'static Key> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// The known key that a name which is none was meant to be, for the remedy of an error; nothing if none is like it.
    pub fn nearest(name: &str) -> Option<&'static Key> {
        let unlike = |key: &&Key| (!key.name.contains(name), distance(key.name, name));
        let near = KEYS.iter().min_by_key(unlike)?;
        let typos = (name.len() / 4).max(2);
        (near.name.contains(name) || distance(near.name, name) <= typos).then_some(near)
    }

    /// Sets this key from what was given for it, which is text unless it is a path.
    ///
    /// # Errors
    /// What would be accepted.
    pub fn set(&self, config: &mut Config, value: impl AsRef<OsStr>) -> Result<(), String> {
        let value = value.as_ref();
        match self.set {
            Path(set) => set(config, value.into()),
            // It is not repeated, because it may be a secret.
            Text(set) => match value.to_str() {
                Some(text) => set(config, text),
                None => {
                    Err("its value is not text in UTF-8, as only a path need not be: write it in UTF-8"
                        .into())
                }
            },
        }
    }

    /// The value as [`Key::set`] reads it; a secret is only said to be set or not.
    pub fn show(&self, config: &Config) -> String {
        let value = (self.show)(config);
        match (self.secret, value.is_empty()) {
            (true, false) => "(set)".into(),
            _ => value,
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Every setting of a node.
pub const KEYS: &[Key] = &[
    Key {
        name: "data_dir",
        help: "Directory of everything durable. Default ringkeep-data.",
        secret: false,
        set: Path(|c, path| match path {
            path if path.as_os_str().is_empty() => Err("is empty: name a directory".into()),
            path => put(&mut c.data_dir, path),
        }),
        show: |c| c.data_dir.display().to_string(),
    },
    Key {
        name: "listen",
        help: "Address that every listener binds. Default 127.0.0.1, so only this host can connect.",
        secret: false,
        set: Text(|c, text| put(&mut c.listen, parse(text, "an IP address such as 127.0.0.1 or ::1")?)),
        show: |c| c.listen.to_string(),
    },
    Key {
        name: "advertise",
        help: "Host name or address that is announced to clients and to other nodes, which resolve a name whenever they connect. Default: the value of listen.",
        secret: false,
        set: Text(|c, text| match text {
            "" => put(&mut c.advertise, None),
            text => put(&mut c.advertise, Some(parse_host(text)?)),
        }),
        show: |c| c.advertise.clone().unwrap_or_default(),
    },
    Key {
        name: "base_port",
        help: "Port of the PD API and health; store N listens on this plus N. 0 picks free ports. Default 20160.",
        secret: false,
        set: Text(|c, text| put(&mut c.base_port, parse_port(text)?)),
        show: |c| c.base_port.to_string(),
    },
    Key {
        name: "resp_port",
        help: "Port of the Redis protocol. 0 picks a free one. Default 6380.",
        secret: false,
        set: Text(|c, text| put(&mut c.resp_port, parse_port(text)?)),
        show: |c| c.resp_port.to_string(),
    },
    Key {
        name: "status_port",
        help: "Port of metrics and health over HTTP. 0 picks a free one. Default 20080.",
        secret: false,
        set: Text(|c, text| put(&mut c.status_port, parse_port(text)?)),
        show: |c| c.status_port.to_string(),
    },
    Key {
        name: "cores",
        help: "Cores that serve, or auto for all that the CPU mask and the cgroup quota allow. Default auto.",
        secret: false,
        set: Text(|c, text| put(&mut c.cores, auto(text, |text| parse_count(text, 1))?)),
        show: |c| show_auto(c.cores, |cores| cores.to_string()),
    },
    Key {
        name: "cpus",
        help: "CPUs that the cores run on, such as 2-5,7, or auto for the first that the CPU mask allows. Default auto.",
        secret: false,
        set: Text(|c, text| put(&mut c.cpus, auto(text, parse_cpus)?)),
        show: |c| show_auto(c.cpus.as_deref(), format_cpus),
    },
    Key {
        name: "memory_bytes",
        help: "Memory budget of the node, or auto for half of what the host or the cgroup has, and what its cores need at least if that fits. Default auto.",
        secret: false,
        set: Text(|c, text| put(&mut c.memory_bytes, auto(text, |text| parse_size(text, 0))?)),
        show: |c| show_auto(c.memory_bytes, format_bytes),
    },
    Key {
        name: "replicas",
        help: "Replicas of each region, 1 to 15, set by the node that hosts the scheduler; auto leaves it as it is, which is 1 at first. Default auto.",
        secret: false,
        set: Text(|c, text| match auto(text, |text| parse_count(text, 1))? {
            Some(count) if count > 15 => Err(format!("\"{text}\" is above 15")),
            count => put(&mut c.replicas, count.map(|count| count as u64)),
        }),
        show: |c| show_auto(c.replicas, |count| count.to_string()),
    },
    Key {
        name: "region_max_bytes",
        help: "Size beyond which a region is split, at least 8 MiB, or 0 for never, set by the node that hosts the scheduler; auto leaves it as it is, which is 144 MiB in a new cluster. Default auto.",
        secret: false,
        set: Text(|c, text| match auto(text, parse_bytes)? {
            Some(bytes) if bytes != 0 && bytes < 8 << 20 => Err(format!("\"{text}\" is below 8 MiB")),
            bytes => put(&mut c.region_max_bytes, bytes),
        }),
        show: |c| show_auto(c.region_max_bytes, format_bytes),
    },
    Key {
        name: "quiet_after",
        help: "How long a region must have no work before its replicas sleep until there is some, more than 1s, or 0s for never. Default 2s.",
        secret: false,
        set: Text(|c, text| match parse_duration(text)? {
            after if after.is_zero() || after > QUIET_AFTER_MIN => put(&mut c.quiet_after, after),
            _ => Err(format!("\"{text}\" is not more than 1s; name a longer time, or 0s for never")),
        }),
        show: |c| format_duration(c.quiet_after),
    },
    Key {
        name: "requirepass",
        help: "Password that RESP clients must give with AUTH. Default none.",
        secret: true,
        set: Text(|c, text| put(&mut c.requirepass, (!text.is_empty()).then(|| text.to_owned()))),
        show: |c| c.requirepass.clone().unwrap_or_default(),
    },
    Key {
        name: "requirepass_file",
        help: "File whose first line is that password; only its owner and group may read it. Default none.",
        secret: false,
        set: Path(|c, path| put(&mut c.requirepass_file, named(path))),
        show: |c| c.requirepass_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
    },
    Key {
        name: "cluster_secret",
        help: "Secret of at least 32 characters that nodes prove to each other, and operators to them; the same on every node. Default none: any caller can speak as a node.",
        secret: true,
        set: Text(|c, text| match text {
            "" => put(&mut c.cluster_secret, None),
            text => put(&mut c.cluster_secret, Some(ClusterSecret::parse(text)?)),
        }),
        show: |c| c.cluster_secret.map(|secret| format!("{secret:?}")).unwrap_or_default(),
    },
    Key {
        name: "cluster_secret_file",
        help: "File whose first line is that secret, and whose second line, while it is being changed, the one before; only its owner and group may read it. Default none.",
        secret: false,
        set: Path(|c, path| put(&mut c.cluster_secret_file, named(path))),
        show: |c| c.cluster_secret_file.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
    },
    Key {
        name: "insecure",
        help: "true lets listen name an address beyond loopback although gRPC asks for no password. Default false.",
        secret: false,
        set: Text(|c, text| put(&mut c.insecure, choose(text, &[("true", true), ("false", false)])?)),
        show: |c| c.insecure.to_string(),
    },
    Key {
        name: "drain_delay",
        help: "How long /ready says no before a drain stops accepting, so that load balancers notice. Default 0s.",
        secret: false,
        set: Text(|c, text| put(&mut c.drain_delay, parse_duration(text)?)),
        show: |c| format_duration(c.drain_delay),
    },
    Key {
        name: "drain_deadline",
        help: "How long SIGTERM lets requests finish before the node stops anyway. Default 30s.",
        secret: false,
        set: Text(|c, text| put(&mut c.drain_deadline, parse_duration(text)?)),
        show: |c| format_duration(c.drain_deadline),
    },
    Key {
        name: "logging.level",
        help: "error, warn, info, debug or trace, or directives such as info,store=debug. Default info.",
        secret: false,
        set: Text(|c, text| put(&mut c.logging.level, parse_log_directives(text)?)),
        show: |c| c.logging.level.clone(),
    },
    Key {
        name: "logging.format",
        help: "human or json. Default human.",
        secret: false,
        set: Text(|c, text| {
            let format = choose(text, &[("human", LogFormat::Human), ("json", LogFormat::Json)])?;
            put(&mut c.logging.format, format)
        }),
        show: |c| match c.logging.format {
            LogFormat::Human => "human".into(),
            LogFormat::Json => "json".into(),
        },
    },
    Key {
        name: "log.segment_bytes",
        help: "Size of one log segment file; 1MiB to 4GiB and a multiple of 4KiB. Default 64MiB.",
        secret: false,
        set: Text(|c, text| match parse_bytes(text)? {
            bytes if bytes < 1 << 20 => Err(format!("\"{text}\" is below 1MiB")),
            bytes if bytes > SEGMENT_BYTES_MAX => Err(format!("\"{text}\" is above 4GiB")),
            bytes if !bytes.is_multiple_of(4096) => Err(format!("\"{text}\" is not a multiple of 4KiB")),
            bytes => put(&mut c.log.segment_bytes, bytes),
        }),
        show: |c| format_bytes(c.log.segment_bytes),
    },
    Key {
        name: "log.sync",
        help: "How log writes become durable: dsync, fdatasync, or auto to measure at first start. Default auto.",
        secret: false,
        set: Text(|c, text| put(&mut c.log.sync, choose(text, SYNC_NAMES)?)),
        show: |c| {
            let named = SYNC_NAMES.iter().find(|(_, method)| *method == c.log.sync);
            named.map_or_else(String::new, |(name, _)| (*name).to_owned())
        },
    },
    Key {
        name: "lsm.memtable_bytes",
        help: "Size at which a core's memtable is flushed, at least 64KiB, or auto from memory_bytes. Default auto.",
        secret: false,
        set: Text(|c, text| {
            put(&mut c.lsm.memtable_bytes, auto(text, |text| parse_size(text, MEMTABLE_BYTES_LEAST))?)
        }),
        show: |c| show_auto(c.lsm.memtable_bytes, format_bytes),
    },
    Key {
        name: "lsm.block_cache_bytes",
        help: "Cache of table blocks and, a quarter of it, single rows per core, or auto from memory_bytes. Default auto.",
        secret: false,
        set: Text(|c, text| put(&mut c.lsm.block_cache_bytes, auto(text, |text| parse_size(text, 0))?)),
        show: |c| show_auto(c.lsm.block_cache_bytes, format_bytes),
    },
    Key {
        name: "limits.connections_max",
        help: "Open RESP connections of the node, and gRPC connections of each store; further ones get an error and are closed. Default 16384.",
        secret: false,
        set: Text(|c, text| put(&mut c.limits.connections_max, parse_count(text, 1)?)),
        show: |c| c.limits.connections_max.to_string(),
    },
    Key {
        name: "limits.pipeline_max",
        help: "Requests that one connection may have in flight before it is read no further. Default 1024.",
        secret: false,
        set: Text(|c, text| put(&mut c.limits.pipeline_max, parse_count(text, 1)?)),
        show: |c| c.limits.pipeline_max.to_string(),
    },
];

/// A larger segment is written for longer than a start may take.
const SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// Connections of a node and requests of a connection: more than any host has room for.
const COUNT_MAX: usize = 1 << 24;

const SYNC_NAMES: &[(&str, SyncMethod)] =
    &[("auto", SyncMethod::Auto), ("dsync", SyncMethod::Dsync), ("fdatasync", SyncMethod::Fdatasync)];

fn put<T>(field: &mut T, value: T) -> Result<(), String> {
    *field = value;
    Ok(())
}

/// A path, where one is named.
fn named(path: PathBuf) -> Option<PathBuf> {
    (!path.as_os_str().is_empty()).then_some(path)
}

fn parse<T: std::str::FromStr>(text: &str, expected: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not {expected}"))
}

fn parse_port(text: &str) -> Result<u16, String> {
    parse(text, "a port: write a number from 0 to 65535")
}

fn parse_count(text: &str, least: usize) -> Result<usize, String> {
    let count: usize = parse(text, "a whole number")?;
    match count {
        count if count < least => Err(format!("\"{text}\" is below {least}")),
        count if count > COUNT_MAX => Err(format!("\"{text}\" is above {COUNT_MAX}")),
        count => Ok(count),
    }
}

/// A number of bytes from `least` on that a host could have.
fn parse_size(text: &str, least: u64) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes if bytes < least => Err(format!("\"{text}\" is below {}", format_bytes(least))),
        bytes if bytes > MEMORY_BYTES_MAX => {
            Err(format!("\"{text}\" is above {}", format_bytes(MEMORY_BYTES_MAX)))
        }
        bytes => Ok(bytes),
    }
}

/// A host as clients dial it, without scheme and port.
fn parse_host(text: &str) -> Result<String, String> {
    let expected = || {
        format!(
            "\"{text}\" is not a host name or an IP address: write it without scheme and port, such as node-1.example"
        )
    };
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let label = |label: &str| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(known)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // A name may end with the dot of the root.
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(expected());
    }
    // What looks like an address and is none would be dialled by every client.
    if name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(expected());
    }
    Ok(text.to_owned())
}

fn choose<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("\"{text}\" is not one of {}", names.join(", "))
    })
}

fn auto<T>(text: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text == "auto" { Ok(None) } else { read(text).map(Some) }
}

fn show_auto<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "auto".into(), show)
}

/// Edit distance: insertions, deletions and replacements from one name to the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_reads_back_as_it_is_printed() {
        let defaults = Config::default();
        for key in KEYS {
            let mut config = Config::default();
            let shown = key.show(&defaults);
            if !shown.is_empty() {
                key.set(&mut config, &shown).unwrap_or_else(|said| panic!("{key:?} = {shown}: {said}"));
            }
            assert_eq!(config, defaults, "{key:?}");
        }
    }

    #[test]
    fn names_are_unique_and_explained() {
        for (at, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..at].iter().all(|other| other.name != key.name), "{key:?} twice");
            assert!(key.help.contains("Default"), "{key:?} does not say its default");
        }
    }

    #[test]
    fn a_misspelt_key_finds_its_neighbour() {
        let nearest = |name| Key::nearest(name).map(|key| key.name);
        assert_eq!(nearest("log.segement_bytes"), Some("log.segment_bytes"));
        assert_eq!(nearest("memory"), Some("memory_bytes"));
        assert_eq!(nearest("resp.port"), Some("resp_port"));
        assert_eq!(nearest("foo.bar"), None, "no guess beats a wild one");
    }

    #[test]
    fn bad_values_say_what_is_accepted() {
        let mut config = Config::default();
        for (name, text, word) in [
            ("listen", "localhost", "IP address"),
            ("base_port", "70000", "65535"),
            ("cores", "0", "below 1"),
            ("log.sync", "never", "dsync"),
            ("log.segment_bytes", "5000000", "4KiB"),
            ("data_dir", "", "directory"),
            ("lsm.memtable_bytes", "0", "below 64KiB"),
            ("memory_bytes", "4000000TiB", "above"),
            ("lsm.block_cache_bytes", "4000000TiB", "above"),
            ("log.segment_bytes", "1TiB", "4GiB"),
            ("limits.pipeline_max", "0", "below 1"),
            ("limits.connections_max", "99999999999", "above"),
            ("cluster_secret", "hunter2", "at least 32"),
            ("advertise", "a b", "host name"),
            ("advertise", "http://x:", "without scheme"),
            ("advertise", "node:20160", "port"),
            ("advertise", "10.0.0.300", "IP address"),
            ("advertise", "a..b", "host name"),
            ("advertise", "-a", "host name"),
        ] {
            let said = Key::find(name).expect("a key").set(&mut config, text).expect_err(name);
            assert!(said.contains(word), "{name}: {said}");
        }
        assert_eq!(config, Config::default());
    }

    #[test]
    fn only_paths_may_be_no_text() {
        use std::os::unix::ffi::OsStrExt as _;
        let bytes = OsStr::from_bytes(b"da\xffta");
        let mut config = Config::default();
        for key in KEYS {
            match key.set(&mut config, bytes) {
                Ok(()) => {
                    assert!(["data_dir", "requirepass_file", "cluster_secret_file"].contains(&key.name))
                }
                Err(said) => assert!(said.contains("UTF-8") && !said.contains("ta"), "{key:?}: {said}"),
            }
        }
        let paths =
            [Some(&config.data_dir), config.requirepass_file.as_ref(), config.cluster_secret_file.as_ref()];
        assert!(paths.iter().all(|path| path.is_some_and(|path| path.as_os_str() == bytes)), "{paths:?}");
    }

    #[test]
    fn hosts_that_can_be_dialled_are_announced() {
        let key = Key::find("advertise").expect("a key");
        for host in
            ["node-1.example", "node_1", "localhost", "10.0.0.3", "::1", "fd00::7", "a.example.", "1a.b"]
        {
            let mut config = Config::default();
            key.set(&mut config, host).unwrap_or_else(|said| panic!("{host}: {said}"));
            assert_eq!(config.advertise.as_deref(), Some(host));
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let config = Config { requirepass: Some("hunter2".into()), ..Config::default() };
        assert_eq!(Key::find("requirepass").expect("a key").show(&config), "(set)");
        let (key, mut config) = (Key::find("cluster_secret").expect("a key"), Config::default());
        assert_eq!(key.show(&config), "");
        key.set(&mut config, "hunter2 and quite a lot more after it").expect("long enough");
        assert_eq!(key.show(&config), "(set)");
        assert!(!format!("{config:?}").contains("hunter2"));
        let said = key.set(&mut config, "hunter2").expect_err("it is short");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

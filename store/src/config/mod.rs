//! What an operator can set, and what the node computes from it.
//!
//! A [`Config`] is what the operator has set: every field has a default, and a fresh node needs none of them set. It is filled from
//! four places, later ones weaker: flags, the environment, a file, the defaults ([`Layers`]). All four go through one table
//! of keys ([`KEYS`]), so a key is spelled, parsed, explained and printed in one place, and a key that is in no table is an
//! error that names the place and the nearest known key.
//!
//! [`Limits`] is what the code uses: the budgets that follow from the configuration and the machine.
//!
//! Not done here, on purpose: no file is opened and no environment is read; the caller hands in text.

mod key;
mod layer;
pub(crate) mod limits;
mod text;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use key::{KEYS, Key};
pub use layer::{ConfigError, Layers, Origin, env_name};
pub use limits::{Limits, Machine};
pub use text::{format_bytes, parse_bytes};

use crate::secret::ClusterSecret;

/// How long a region must have had no work at least before its replicas may sleep: longer than the shortest election timeout.
pub(crate) const QUIET_AFTER_MIN: Duration = Duration::from_secs(1);
/// The default: twice the shortest election timeout, so that a pause between two requests of a client puts hardly any region to sleep.
const QUIET_AFTER: Duration = Duration::from_secs(2);

/// One node's configuration. The fields are documented where they are spelled, in [`KEYS`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where everything durable lives. Default `ringkeep-data`.
    pub data_dir: PathBuf,
    /// The address that every listener binds. Default `127.0.0.1`.
    pub listen: IpAddr,
    /// The host that clients and other nodes dial. Default: `listen`.
    pub advertise: Option<String>,
    /// The PD API and health; store N listens on this plus N. 0 picks free ports. Default 20160.
    pub base_port: u16,
    /// RESP, shared by all cores. 0 picks a free port. Default 6380, which leaves 6379 to a Redis on the same host.
    pub resp_port: u16,
    /// Metrics and health over HTTP. 0 picks a free port. Default 20080, below the ports of the stores however many.
    pub status_port: u16,
    /// Cores that serve; `None` takes what the CPU mask and the cgroup allow.
    pub cores: Option<usize>,
    /// Memory for the whole node, bytes; `None` takes half of what the host or the cgroup has.
    pub memory_bytes: Option<u64>,
    /// Replicas that every region of the cluster is to have; `None` leaves what the cluster aims at, which is 1 at first. Only the node
    /// that hosts the scheduler acts upon it.
    pub replicas: Option<u64>,
    /// Size beyond which a region is split in its middle, bytes, 0 for never; `None` leaves what the cluster does, which is never at
    /// first. Only the node that hosts the scheduler acts upon it.
    pub region_max_bytes: Option<u64>,
    /// How long a region has had no work when its replicas go to sleep; zero for never.
    pub quiet_after: Duration,
    /// The CPUs that the cores run on, ascending; `None` takes the first that the CPU mask allows.
    pub cpus: Option<Vec<usize>>,
    /// The password that RESP clients must give; `None` asks for none.
    pub requirepass: Option<String>,
    /// A file with that password; whoever starts the node reads it into `requirepass`.
    pub requirepass_file: Option<PathBuf>,
    /// What the nodes of the cluster prove to each other that they are of it with; `None` lets any caller speak as one.
    pub cluster_secret: Option<ClusterSecret>,
    /// A file with that secret; whoever starts the node reads it into `cluster_secret`.
    pub cluster_secret_file: Option<PathBuf>,
    /// Whether the node may be reached from other hosts although gRPC and the status port know no authentication.
    pub insecure: bool,
    /// How long the node says that it is not ready before a drain begins. Default 0.
    pub drain_delay: Duration,
    /// How long a drain may take before the node stops anyway. Default 30 s.
    pub drain_deadline: Duration,
    /// What the process writes about itself.
    pub logging: LoggingConfig,
    /// The durable log of each core.
    pub log: LogConfig,
    /// The tree of each core.
    pub lsm: LsmConfig,
    /// Bounds on what clients may ask for.
    pub limits: ClientLimits,
}

/// What the process writes about itself, to standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggingConfig {
    /// A level, or filter directives such as `info,store=debug`. Default `info`.
    pub level: String,
    /// For people or for machines. Default people.
    pub format: LogFormat,
}

/// The shape of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    Human,
    /// One JSON object per line.
    Json,
}

/// The durable log of each core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Size of one segment file, bytes. Default 64 MiB.
    pub segment_bytes: u64,
    /// How a write is made durable. Default: measured at first start.
    pub sync: SyncMethod,
}

/// How a log write is made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncMethod {
    /// Measured on the data directory's disk at first start.
    Auto,
    /// The write itself is durable (O_DSYNC).
    Dsync,
    /// A write, then fdatasync.
    Fdatasync,
}

/// The tree of each core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LsmConfig {
    /// Size at which a memtable is flushed, bytes; `None` derives it from the memory budget.
    pub memtable_bytes: Option<u64>,
    /// Cache of table blocks and, a quarter of it, single rows per core, bytes; `None` derives it from the memory budget.
    pub block_cache_bytes: Option<u64>,
}

/// Bounds on what clients may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Open client connections per core. Default 16384.
    pub connections_max: usize,
    /// Requests that one connection may have in flight. Default 1024.
    pub pipeline_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("ringkeep-data"),
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            advertise: None,
            base_port: 20160,
            resp_port: 6380,
            status_port: 20080,
            cores: None,
            memory_bytes: None,
            replicas: None,
            region_max_bytes: None,
            quiet_after: QUIET_AFTER,
            cpus: None,
            requirepass: None,
            requirepass_file: None,
            cluster_secret: None,
            cluster_secret_file: None,
            insecure: false,
            drain_delay: Duration::ZERO,
            drain_deadline: Duration::from_secs(30),
            logging: LoggingConfig { level: "info".into(), format: LogFormat::Human },
            log: LogConfig { segment_bytes: 64 << 20, sync: SyncMethod::Auto },
            lsm: LsmConfig { memtable_bytes: None, block_cache_bytes: None },
            limits: ClientLimits { connections_max: 16_384, pipeline_max: 1024 },
        }
    }
}

impl Config {
    /// The address of the PD API and the health service.
    pub fn pd_addr(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.base_port)
    }

    /// The address of store `core` (from 0). With a base port of 0 the kernel picks.
    ///
    /// # Panics
    /// If the port does not exist; [`Config::validate`] has refused such a configuration.
    pub fn store_addr(&self, core: usize) -> SocketAddr {
        let port = match self.base_port {
            0 => 0,
            base => {
                let port = usize::from(base) + 1 + core;
                u16::try_from(port).expect("validate() has checked the port range")
            }
        };
        SocketAddr::new(self.listen, port)
    }

    /// The address of the RESP port.
    pub fn resp_addr(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.resp_port)
    }

    /// The address of the status server.
    pub fn status_addr(&self) -> SocketAddr {
        SocketAddr::new(self.listen, self.status_port)
    }

    /// The host to announce to clients.
    pub fn advertised_host(&self) -> String {
        self.advertise.clone().unwrap_or_else(|| self.listen.to_string())
    }

    /// Whether the nodes of the cluster authenticate each other.
    pub fn has_cluster_secret(&self) -> bool {
        self.cluster_secret.is_some() || self.cluster_secret_file.is_some()
    }

    /// Beyond loopback every host that can connect could read and delete: there is a password for RESP at most.
    fn refuse_open_doors(&self) -> Result<(), String> {
        if self.listen.is_loopback() || self.insecure {
            return Ok(());
        }
        let password = self.requirepass.is_some() || self.requirepass_file.is_some();
        let resp = if password { "" } else { "RESP (no requirepass is set), " };
        let nodes = if self.has_cluster_secret() {
            ""
        } else {
            "what nodes say to each other and operators to them (no cluster_secret is set), "
        };
        Err(format!(
            "listen = {} can be reached from other hosts, and these ports ask for no password: {resp}{nodes}the TiKV and PD APIs \
             over gRPC, metrics and status: listen on loopback, or, if a firewall or a private network guards them, set \
             insecure = true",
            self.listen
        ))
    }

    /// Checks that each secret is said in one place.
    ///
    /// # Errors
    /// One sentence that names the keys and a remedy.
    pub fn refuse_two_secrets(&self) -> Result<(), String> {
        if self.requirepass.is_some() && self.requirepass_file.is_some() {
            return Err("requirepass and requirepass_file are both set: keep one".into());
        }
        if self.cluster_secret.is_some() && self.cluster_secret_file.is_some() {
            return Err("cluster_secret and cluster_secret_file are both set: keep one".into());
        }
        Ok(())
    }

    /// Checks what no single key can: how the keys go together, on a node with `cores` cores.
    ///
    /// # Errors
    /// One sentence that names the keys and a remedy.
    pub fn validate(&self, cores: usize) -> Result<(), String> {
        self.refuse_open_doors()?;
        self.refuse_two_secrets()?;
        if self.listen.is_unspecified() && self.advertise.is_none() {
            return Err(format!(
                "listen = {} is every address of the host, so no address can be announced to clients: set advertise",
                self.listen
            ));
        }
        let last = usize::from(self.base_port) + cores;
        if self.base_port != 0 && last > usize::from(u16::MAX) {
            return Err(format!(
                "base_port = {} leaves no port for {cores} stores: choose one below {}",
                self.base_port,
                usize::from(u16::MAX) - cores + 1
            ));
        }
        for (name, port) in [("resp_port", self.resp_port), ("status_port", self.status_port)] {
            let inside = (usize::from(self.base_port)..=last).contains(&usize::from(port));
            if port != 0 && self.base_port != 0 && inside {
                return Err(format!(
                    "{name} = {port} lies inside {}..={last}, which base_port reserves for the PD API and the stores: move one",
                    self.base_port
                ));
            }
        }
        if self.resp_port != 0 && self.resp_port == self.status_port {
            return Err(format!("resp_port and status_port are both {}: move one", self.resp_port));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_loopback() {
        let config = Config::default();
        assert_eq!(config.validate(64), Ok(()));
        assert!(config.listen.is_loopback());
        assert_eq!(config.store_addr(1).port(), 20162);
    }

    #[test]
    fn ports_that_overlap_are_refused_by_name() {
        let mut config = Config { base_port: 6379, ..Config::default() };
        let said = config.validate(4).expect_err("6380 is the first store's port");
        assert!(said.contains("resp_port = 6380") && said.contains("6379..=6383"), "{said}");
        config.base_port = 65_534;
        let said = config.validate(4).expect_err("there is no port 65538");
        assert!(said.contains("base_port = 65534"), "{said}");
        config = Config { status_port: 6380, ..Config::default() };
        assert!(config.validate(4).expect_err("same port").contains("both 6380"));
    }

    #[test]
    fn an_unspecified_address_needs_a_name_to_dial() {
        let listen = "0.0.0.0".parse().expect("an address");
        let mut config = Config { listen, insecure: true, ..Config::default() };
        assert!(config.validate(1).expect_err("nothing to dial").contains("advertise"));
        config.advertise = Some("node-1.example".into());
        assert!(config.validate(1).is_ok());
    }

    #[test]
    fn beyond_loopback_open_doors_must_be_asked_for_by_name() {
        let mut config = Config { listen: "10.0.0.5".parse().expect("an address"), ..Config::default() };
        let said = config.validate(1).expect_err("everything is open");
        for word in
            ["10.0.0.5", "RESP", "gRPC", "nodes say to each other", "cluster_secret", "insecure = true"]
        {
            assert!(said.contains(word), "{word}: {said}");
        }
        config.requirepass = Some("secret".into());
        let said = config.validate(1).expect_err("a RESP password guards RESP alone");
        assert!(said.contains("gRPC") && !said.contains("RESP ("), "{said}");
        config.cluster_secret_file = Some("/secret".into());
        let said = config.validate(1).expect_err("it guards what nodes say, and not what clients say");
        assert!(said.contains("gRPC") && !said.contains("nodes say"), "{said}");
        config.insecure = true;
        assert_eq!(config.validate(1), Ok(()));
        for listen in ["127.0.0.1", "127.0.0.7", "::1"] {
            let listen = listen.parse().expect("an address");
            assert_eq!(Config { listen, ..Config::default() }.validate(1), Ok(()), "{listen}");
        }
    }

    #[test]
    fn port_zero_asks_the_kernel_everywhere() {
        let config = Config { base_port: 0, resp_port: 0, status_port: 0, ..Config::default() };
        assert!(config.validate(64).is_ok());
        assert_eq!(config.store_addr(63).port(), 0);
    }
}

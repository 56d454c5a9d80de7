//! Settings from the command line, the environment and a file, as one configuration.

use std::path::PathBuf;

use clap::Args;
use store::config::{Config, ConfigError, KEYS, Layers, Limits, Machine, Origin};

/// Environment variables with our prefix that are no settings.
const ASIDE: &[&str] = &["RINGKEEP_SEED", "RINGKEEP_CONFIG"];

/// The settings that have a flag of their own; every other one is reached by `--set`.
#[derive(Debug, Default, Args)]
pub(crate) struct SettingArguments {
    /// Configuration file (TOML) [env: RINGKEEP_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of everything durable [default: ringkeep-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Address that every listener binds [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    listen: Option<String>,
    /// Host that clients are told to dial [default: the value of --listen]
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// PD API and health; store N listens on this plus N [default: 20160]
    #[arg(long, value_name = "PORT")]
    base_port: Option<String>,
    /// Redis protocol [default: 6380]
    #[arg(long, value_name = "PORT")]
    resp_port: Option<String>,
    /// Metrics and health over HTTP [default: 20080]
    #[arg(long, value_name = "PORT")]
    status_port: Option<String>,
    /// Cores that serve [default: auto]
    #[arg(long, value_name = "N")]
    cores: Option<String>,
    /// Memory budget of the node, such as 4GiB [default: auto]
    #[arg(long, value_name = "SIZE")]
    memory_bytes: Option<String>,
    /// error, warn, info, debug, trace, or directives [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any setting, such as log.segment_bytes=32MiB; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// A configuration that can be used, and where each value came from.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    layers: Layers,
}

impl SettingArguments {
    fn flags(&self) -> [(&'static str, &'static str, &Option<String>); 10] {
        [
            ("--data-dir", "data_dir", &self.data_dir),
            ("--listen", "listen", &self.listen),
            ("--advertise", "advertise", &self.advertise),
            ("--base-port", "base_port", &self.base_port),
            ("--resp-port", "resp_port", &self.resp_port),
            ("--status-port", "status_port", &self.status_port),
            ("--cores", "cores", &self.cores),
            ("--memory-bytes", "memory_bytes", &self.memory_bytes),
            ("--log-level", "logging.level", &self.log_level),
            ("--log-format", "logging.format", &self.log_format),
        ]
    }

    fn add_flags(&self, layers: &mut Layers) -> Result<(), ConfigError> {
        for (flag, key, value) in self.flags() {
            if let Some(value) = value {
                layers.add(Origin::Flag(flag.into()), key, value.as_str())?;
            }
        }
        for pair in &self.set {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                ConfigError::whole(format!("--set {pair}: write KEY=VALUE, such as log.segment_bytes=32MiB"))
            })?;
            layers.add(Origin::Flag(format!("--set {key}")), key.trim(), value.trim())?;
        }
        Ok(())
    }
}

impl Settings {
    /// Lays flags over the environment over the file over the defaults, and checks the whole.
    pub(crate) fn gather(arguments: &SettingArguments, machine: Machine) -> Result<Self, ConfigError> {
        let mut layers = Layers::new();
        if let Some(path) =
            arguments.config.clone().or_else(|| std::env::var_os("RINGKEEP_CONFIG").map(PathBuf::from))
        {
            let name = path.display().to_string();
            let text = std::fs::read_to_string(&path).map_err(|error| {
                ConfigError::whole(format!("{name}: {error}: name a readable file with --config"))
            })?;
            layers.add_file(&name, &text)?;
        }
        let texts = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
        };
        layers.add_env(std::env::vars_os().filter_map(texts), ASIDE)?;
        arguments.add_flags(&mut layers)?;
        let config = layers.build()?;
        let limits = Limits::derive(&config, machine).map_err(ConfigError::whole)?;
        config.validate(limits.cores).map_err(ConfigError::whole)?;
        Ok(Self { config, limits, layers })
    }

    /// Every setting: name, value, origin.
    pub(crate) fn list(&self) -> Vec<(String, String, String)> {
        KEYS.iter()
            .map(|key| (key.name.to_owned(), key.show(&self.config), self.layers.origin(key).to_string()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { cores: 2, memory_bytes: 8 << 30 };

    fn arguments(set: &[&str]) -> SettingArguments {
        SettingArguments {
            set: set.iter().map(|pair| (*pair).to_owned()).collect(),
            ..SettingArguments::default()
        }
    }

    #[test]
    fn every_flag_names_a_setting() {
        let defaults = SettingArguments::default();
        for (flag, key, _) in defaults.flags() {
            assert!(KEYS.iter().any(|known| known.name == key), "{flag} is for {key}, which is no setting");
        }
    }

    #[test]
    fn a_pair_sets_any_key() {
        let settings =
            Settings::gather(&arguments(&["log.sync=dsync", "cores = 1"]), MACHINE).expect("good pairs");
        assert_eq!(settings.limits.cores, 1);
        let row = settings.list().into_iter().find(|(name, ..)| name == "log.sync").expect("it is listed");
        assert_eq!((row.1.as_str(), row.2.as_str()), ("dsync", "flag --set log.sync"));
    }

    #[test]
    fn mistakes_name_the_flag() {
        let said =
            |set: &[&str]| Settings::gather(&arguments(set), MACHINE).expect_err("a mistake").to_string();
        assert!(said(&["log.sink=dsync"]).contains("did you mean log.sync?"));
        assert!(said(&["cores"]).contains("KEY=VALUE"));
        assert!(said(&["base_port=banana"]).starts_with("flag --set base_port: base_port: \"banana\""));
        assert!(said(&["cores=99"]).contains("cores = 99"));
    }
}

//! The four sources of a setting, in order of precedence.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::{Config, Key};

/// Prefix of the environment variables that are read.
const ENV_PREFIX: &str = "RINGKEEP_";

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The default.
    Default,
    /// A line of the configuration file.
    File {
        /// The file.
        name: String,
        /// The line, from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A command-line flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { name, line } => write!(f, "{name}, line {line}"),
            Origin::Env(name) => write!(f, "environment variable {name}"),
            Origin::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// An invalid configuration: where, what is wrong, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the invalid setting is, if it has a place.
    pub origin: Option<Origin>,
    /// What is wrong and what would be accepted.
    pub what: String,
}

impl ConfigError {
    /// An error that belongs to the configuration as a whole.
    pub fn whole(what: impl Into<String>) -> Self {
        Self { origin: None, what: what.into() }
    }

    fn at(origin: &Origin, what: impl Into<String>) -> Self {
        Self { origin: Some(origin.clone()), what: what.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{origin}: {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Settings from all places; the strongest origin of a key wins.
#[derive(Clone, Default)]
pub struct Layers {
    set: BTreeMap<&'static str, (Origin, OsString)>,
}

impl fmt::Debug for Layers {
    /// Without values, some of which are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.set.iter().map(|(name, (origin, _))| (name, origin))).finish()
    }
}

/// The environment variable of a key: `log.segment_bytes` is `RINGKEEP_LOG_SEGMENT_BYTES`.
pub fn env_name(key: &Key) -> String {
    format!("{ENV_PREFIX}{}", key.name.replace('.', "_").to_ascii_uppercase())
}

impl Layers {
    /// Nothing set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one setting.
    ///
    /// # Errors
    /// An unknown key, with the known one that is like it, or a value that the key does not accept: also where a stronger origin sets it,
    /// because what is wrong in a file would else come to light with the flag's removal.
    pub fn add(&mut self, origin: Origin, name: &str, value: impl Into<OsString>) -> Result<(), ConfigError> {
        let Some(key) = Key::find(name) else {
            let remedy = match Key::nearest(name) {
                Some(near) if !name.is_empty() => format!("did you mean {}?", near.name),
                Some(_) | None => "`ringkeep server --settings` lists all of them".to_owned(),
            };
            let what = if name.is_empty() { "no key".to_owned() } else { format!("unknown key {name}") };
            return Err(ConfigError::at(&origin, format!("{what}: {remedy}")));
        };
        let value = value.into();
        key.set(&mut Config::default(), &value)
            .map_err(|said| ConfigError::at(&origin, format!("{name}: {said}")))?;
        let stronger = self.set.get(key.name).is_none_or(|(present, _)| *present <= origin);
        if stronger {
            self.set.insert(key.name, (origin, value));
        }
        Ok(())
    }

    /// Adds the text of a TOML file.
    ///
    /// # Errors
    /// A syntax error, an unknown key, or a value that its key does not accept, each with its line.
    pub fn add_file(&mut self, name: &str, text: &str) -> Result<(), ConfigError> {
        let origin = |at: usize| Origin::File { name: name.to_owned(), line: line_of(text, at) };
        let table = DeTable::parse(text).map_err(|said| {
            ConfigError::at(&origin(said.span().map_or(0, |span| span.start)), said.message())
        })?;
        self.add_table("", table.get_ref(), &origin)
    }

    fn add_table(
        &mut self,
        prefix: &str,
        table: &DeTable<'_>,
        origin: &dyn Fn(usize) -> Origin,
    ) -> Result<(), ConfigError> {
        for (key, value) in table {
            let name = format!("{prefix}{}", key.get_ref());
            let here = origin(key.span().start);
            let value = match value.get_ref() {
                DeValue::Table(inner) => {
                    self.add_table(&format!("{name}."), inner, origin)?;
                    continue;
                }
                DeValue::String(text) => text.to_string(),
                DeValue::Integer(number) => number.as_str().replace('_', ""),
                DeValue::Boolean(switch) => switch.to_string(),
                other => {
                    let what =
                        format!("{name} is {}, where a string or a number is expected", other.type_str());
                    return Err(ConfigError::at(&here, what));
                }
            };
            self.add(here, &name, value)?;
        }
        Ok(())
    }

    /// Adds those of the variables that are ours, and returns a sentence for each that has our prefix and names no key: the
    /// environment belongs to the orchestrator as much as to the operator, so what is unknown there ends no start. Names in
    /// `aside` begin with our prefix but mean something else.
    ///
    /// # Errors
    /// A value that its key does not accept.
    pub fn add_env<V: Into<OsString>>(
        &mut self,
        variables: impl IntoIterator<Item = (String, V)>,
        aside: &[&str],
    ) -> Result<Vec<String>, ConfigError> {
        let mut unknown = Vec::new();
        for (variable, value) in variables {
            let value = value.into();
            let ours = variable.starts_with(ENV_PREFIX) && !aside.contains(&variable.as_str());
            if !ours || is_service_discovery(&variable, &value.to_string_lossy()) {
                continue;
            }
            let Some(key) = super::KEYS.iter().find(|key| env_name(key) == variable) else {
                let near = Key::nearest(&variable[ENV_PREFIX.len()..].to_ascii_lowercase()).map(env_name);
                let guess = near.map(|near| format!(": did you mean {near}?")).unwrap_or_default();
                unknown.push(format!(
                    "environment variable {variable} is ignored, because no setting has it{guess}"
                ));
                continue;
            };
            self.add(Origin::Env(variable), key.name, value)?;
        }
        Ok(unknown)
    }

    /// Returns the configuration of all layers together.
    ///
    /// # Errors
    /// None today: [`Layers::add`] has looked at every value.
    pub fn build(&self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        for (name, (origin, value)) in &self.set {
            let key = Key::find(name).expect("only known keys are added");
            key.set(&mut config, value).map_err(|said| ConfigError::at(origin, format!("{name}: {said}")))?;
        }
        Ok(config)
    }

    /// Where the value of a key comes from.
    pub fn origin(&self, key: &Key) -> Origin {
        self.set.get(key.name).map_or(Origin::Default, |(origin, _)| origin.clone())
    }
}

/// Whether an orchestrator has set the variable: in every container it names the services that it runs, one of which may well
/// be called as we are (`RINGKEEP_SERVICE_HOST`, `RINGKEEP_RESP_PORT=tcp://10.0.0.9:6380`).
fn is_service_discovery(variable: &str, value: &str) -> bool {
    let by_name = ["_SERVICE_HOST", "_SERVICE_PORT"].iter().any(|end| variable.ends_with(end))
        || ["_SERVICE_PORT_", "_TCP", "_UDP"].iter().any(|part| variable.contains(part));
    by_name || value.starts_with("tcp://") || value.starts_with("udp://")
}

fn line_of(text: &str, at: usize) -> usize {
    text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# a node\nresp_port = 7000\nlisten = \"::1\"\n\n[log]\nsegment_bytes = \"32MiB\"\nsync = \"dsync\"\n";

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn flags_beat_the_environment_and_that_beats_the_file() {
        let mut layers = Layers::new();
        layers.add(Origin::Flag("--resp-port".into()), "resp_port", "7002").expect("a known key");
        layers.add_file("node.toml", FILE).expect("a good file");
        let variables =
            env(&[("RINGKEEP_RESP_PORT", "7001"), ("RINGKEEP_LOG_SYNC", "fdatasync"), ("HOME", "/")]);
        assert!(layers.add_env(variables, &[]).expect("known variables").is_empty());
        let config = layers.build().expect("good values");
        assert_eq!(config.resp_port, 7002);
        assert_eq!(config.log.sync, super::super::SyncMethod::Fdatasync);
        assert_eq!(config.log.segment_bytes, 32 << 20);
        assert_eq!(config.status_port, 20080);
        let origin = |name| layers.origin(Key::find(name).expect("a key")).to_string();
        assert_eq!(origin("log.sync"), "environment variable RINGKEEP_LOG_SYNC");
        assert_eq!(origin("log.segment_bytes"), "node.toml, line 6");
        assert_eq!(origin("status_port"), "default");
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_remedy() {
        let mut layers = Layers::new();
        let said = layers
            .add_file("node.toml", "listen = \"::1\"\n[log]\nsegement_bytes = 1\n")
            .expect_err("a typo");
        assert_eq!(
            said.to_string(),
            "node.toml, line 3: unknown key log.segement_bytes: did you mean log.segment_bytes?"
        );
    }

    #[test]
    fn an_unknown_variable_is_said_and_ends_no_start() {
        let mut layers = Layers::new();
        let mut unknown = |pairs: &[(&str, &str)], aside: &[&str]| {
            layers.add_env(env(pairs), aside).expect("unknown variables are no errors")
        };
        let said = unknown(&[("RINGKEEP_LOGGING_LEVL", "debug")], &[]);
        assert!(said.len() == 1 && said[0].ends_with("did you mean RINGKEEP_LOGGING_LEVEL?"), "{said:?}");
        assert!(unknown(&[("RINGKEEP_SEED", "7")], &["RINGKEEP_SEED"]).is_empty());
        // What an orchestrator sets for a service of our name, and for one whose name meets a setting.
        let service = [
            ("RINGKEEP_SERVICE_HOST", "10.0.0.9"),
            ("RINGKEEP_SERVICE_PORT", "6380"),
            ("RINGKEEP_SERVICE_PORT_RESP", "6380"),
            ("RINGKEEP_PORT", "tcp://10.0.0.9:6380"),
            ("RINGKEEP_PORT_6380_TCP", "tcp://10.0.0.9:6380"),
            ("RINGKEEP_PORT_6380_TCP_ADDR", "10.0.0.9"),
            ("RINGKEEP_RESP_PORT", "tcp://10.0.0.9:6380"),
        ];
        assert_eq!(unknown(&service, &[]), Vec::<String>::new());
        assert_eq!(layers.build().expect("nothing was set").resp_port, 6380);
    }

    #[test]
    fn a_bad_value_names_its_line() {
        let mut layers = Layers::new();
        let said =
            layers.add_file("node.toml", "listen = \"::1\"\nresp_port = 99999\n").expect_err("no such port");
        assert!(said.to_string().starts_with("node.toml, line 2: resp_port:"), "{said}");
    }

    #[test]
    fn what_is_wrong_is_wrong_although_a_stronger_origin_sets_it() {
        let flag = || Origin::Flag("--resp-port".into());
        for text in ["resp_port = 99999\n", "resp_prot = 7000\n"] {
            let mut layers = Layers::new();
            layers.add(flag(), "resp_port", "7002").expect("a good value");
            let said = layers.add_file("node.toml", text).expect_err(text).to_string();
            assert!(said.starts_with("node.toml, line 1:"), "{said}");
        }
        let mut layers = Layers::new();
        layers.add(flag(), "resp_port", "7002").expect("a good value");
        let said =
            layers.add_env(env(&[("RINGKEEP_RESP_PORT", "many")]), &[]).expect_err("no number").to_string();
        assert!(said.starts_with("environment variable RINGKEEP_RESP_PORT: resp_port:"), "{said}");
    }

    #[test]
    fn broken_files_are_errors_with_a_line() {
        for (text, line) in [("a = = b", 1), ("listen = \"::1\"\nresp_port = [1]\n", 2), ("\n\n[log\n", 3)] {
            let said = Layers::new().add_file("node.toml", text).expect_err(text).to_string();
            assert!(said.starts_with(&format!("node.toml, line {line}:")), "{said}");
        }
    }
}

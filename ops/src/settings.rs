//! Settings from the command line, the environment and a file, as one configuration.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use store::config::{Config, ConfigError, KEYS, Key, Layers, Limits, Machine, Origin, env_name};
use store::secret::ClusterSecret;

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
    data_dir: Option<PathBuf>,
    /// Address that every listener binds [default: 127.0.0.1]
    #[arg(long, value_name = "IP")]
    listen: Option<String>,
    /// Host that is announced to clients [default: the value of --listen]
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
    /// CPUs that the cores run on, such as 2-5,7 [default: auto]
    #[arg(long, value_name = "LIST")]
    cpus: Option<String>,
    /// File whose first line is the password of RESP clients
    #[arg(long, value_name = "FILE")]
    requirepass_file: Option<PathBuf>,
    /// File with the secret that the nodes of the cluster prove to each other
    #[arg(long, value_name = "FILE")]
    cluster_secret_file: Option<PathBuf>,
    /// Listen beyond loopback although gRPC and the status port ask for no password
    #[arg(long)]
    insecure: bool,
    /// error, warn, info, debug, trace, or directives [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// human or json [default: human]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any setting, such as log.segment_bytes=32MiB; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<OsString>,
}

/// A configuration that can be used, and where each value came from.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    /// Warnings about the settings, one sentence each.
    pub(crate) remarks: Vec<String>,
    layers: Layers,
}

impl SettingArguments {
    fn flags(&self) -> [(&'static str, &'static str, Option<&OsStr>); 13] {
        [
            ("--data-dir", "data_dir", path_of(&self.data_dir)),
            ("--listen", "listen", text_of(&self.listen)),
            ("--advertise", "advertise", text_of(&self.advertise)),
            ("--base-port", "base_port", text_of(&self.base_port)),
            ("--resp-port", "resp_port", text_of(&self.resp_port)),
            ("--status-port", "status_port", text_of(&self.status_port)),
            ("--cores", "cores", text_of(&self.cores)),
            ("--cpus", "cpus", text_of(&self.cpus)),
            ("--requirepass-file", "requirepass_file", path_of(&self.requirepass_file)),
            ("--cluster-secret-file", "cluster_secret_file", path_of(&self.cluster_secret_file)),
            ("--memory-bytes", "memory_bytes", text_of(&self.memory_bytes)),
            ("--log-level", "logging.level", text_of(&self.log_level)),
            ("--log-format", "logging.format", text_of(&self.log_format)),
        ]
    }

    fn add_flags(&self, layers: &mut Layers) -> Result<(), ConfigError> {
        for (flag, key, value) in self.flags() {
            if let Some(value) = value {
                layers.add(Origin::Flag(flag.into()), key, value)?;
            }
        }
        if self.insecure {
            layers.add(Origin::Flag("--insecure".into()), "insecure", "true")?;
        }
        for pair in &self.set {
            let (key, value) = split(pair).ok_or_else(|| {
                let pair = pair.display();
                ConfigError::whole(format!("--set {pair}: write KEY=VALUE, such as log.segment_bytes=32MiB"))
            })?;
            layers.add(Origin::Flag(format!("--set {key}")), key.trim(), value)?;
        }
        Ok(())
    }
}

fn path_of(given: &Option<PathBuf>) -> Option<&OsStr> {
    given.as_deref().map(Path::as_os_str)
}

fn text_of(given: &Option<String>) -> Option<&OsStr> {
    given.as_deref().map(OsStr::new)
}

/// The name and the value of `KEY=VALUE`, of which the value may be a path that is no text. A name that is no text is no key and shown as such.
fn split(pair: &OsStr) -> Option<(Cow<'_, str>, &OsStr)> {
    let bytes = pair.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=')?;
    let value = OsStr::from_bytes(&bytes[at + 1..]);
    let trimmed = value.to_str().map_or(value, |text| OsStr::new(text.trim()));
    Some((String::from_utf8_lossy(&bytes[..at]), trimmed))
}

impl Settings {
    /// Merges flags, environment, file and defaults, in this order of precedence, and validates the result.
    pub(crate) fn gather(arguments: &SettingArguments, machine: Machine) -> Result<Self, ConfigError> {
        let mut layers = of_file(arguments.config.as_deref())?;
        let mut remarks = layers.add_env(variables(), ASIDE)?;
        arguments.add_flags(&mut layers)?;
        let mut config = layers.build()?;
        let limits = Limits::derive(&config, machine).map_err(ConfigError::whole)?;
        config.validate(limits.cores).map_err(ConfigError::whole)?;
        if let Some(path) = &config.requirepass_file {
            config.requirepass = Some(read_password(path).map_err(ConfigError::whole)?);
        }
        if let Some(path) = &config.cluster_secret_file {
            config.cluster_secret = Some(read_cluster_secret(path).map_err(ConfigError::whole)?);
        }
        if !config.listen.is_loopback() {
            if config.cluster_secret.is_none() {
                remarks.push(format!(
                    "insecure = true: whoever reaches {} may speak as a node of the cluster or as its operator, because no \
                     cluster_secret_file is set",
                    config.listen
                ));
            }
            let open = match config.requirepass {
                Some(_) => "over gRPC, which asks for no password",
                None => {
                    "over gRPC, which asks for no password, and over RESP, for which none is set (requirepass)"
                }
            };
            remarks.push(format!(
                "insecure = true: whoever reaches {} may read and delete everything {open}",
                config.listen
            ));
        }
        Ok(Self { config, limits, remarks, layers })
    }

    /// Every setting: name, value, origin.
    pub(crate) fn list(&self) -> Vec<(String, String, String)> {
        let origin = |key: &Key| match self.file_of(key.name) {
            Some(path) => format!("{}_file = {}", key.name, path.display()),
            None => self.layers.origin(key).to_string(),
        };
        KEYS.iter().map(|key| (key.name.to_owned(), key.show(&self.config), origin(key))).collect()
    }

    /// The file that the value of a setting was read from, if it is one that has a file of its own.
    fn file_of(&self, name: &str) -> Option<&Path> {
        match name {
            "requirepass" => self.config.requirepass_file.as_deref(),
            "cluster_secret" => self.config.cluster_secret_file.as_deref(),
            _ => None,
        }
    }
}

/// What the file of `--config` or of the environment sets; nothing where neither names one.
fn of_file(named: Option<&Path>) -> Result<Layers, ConfigError> {
    let mut layers = Layers::new();
    let path = named.map(Path::to_owned);
    if let Some(path) = path.or_else(|| std::env::var_os("RINGKEEP_CONFIG").map(PathBuf::from)) {
        let name = path.display().to_string();
        let text = read_text(&path, CONFIG_BYTES_MAX).map_err(|error| {
            ConfigError::whole(format!(
                "{name}: {error}: name a file of text that this user can read with --config"
            ))
        })?;
        layers.add_file(&name, &text)?;
        refuse_secrets_that_others_read(&path, &layers)?;
    }
    Ok(layers)
}

/// A file of settings with a password or a secret in it is kept as a file of their own would be.
fn refuse_secrets_that_others_read(path: &Path, layers: &Layers) -> Result<(), ConfigError> {
    let config = layers.build()?;
    let secrets = [
        ("requirepass", "password", config.requirepass.is_some()),
        ("cluster_secret", "secret", config.cluster_secret.is_some()),
    ];
    for (name, what, _) in secrets.into_iter().filter(|(.., is_there)| *is_there) {
        let origin = Key::find(name).map(|key| layers.origin(key));
        let refused = |what: String| ConfigError { origin: origin.clone(), what };
        let meta = std::fs::metadata(path)
            .map_err(|error| refused(format!("{name}: {error}: name a file that stays")))?;
        if let Some(mode) = mode_too_open(&meta) {
            return Err(refused(format!(
                "{name} is in a file of mode {mode:04o}, so others may know the {what}: chmod 600 it, or set {name}_file"
            )));
        }
    }
    Ok(())
}

/// The variables of the environment. A name that is no text is none of ours, whatever it begins with.
fn variables() -> impl Iterator<Item = (String, OsString)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value))
}

/// The secret of the cluster where an operator has one: from the file that a flag names, or else where `ringkeep server` looks for it, in
/// the environment and in the file of settings, the first of these that has one.
///
/// # Errors
/// What is wrong with it, by name and with a remedy.
pub(crate) fn secret_of_operator(
    flag: Option<&Path>,
    settings: Option<&Path>,
) -> Result<Option<ClusterSecret>, ConfigError> {
    let mut flags = Layers::new();
    if let Some(path) = flag {
        flags.add(Origin::Flag("--cluster-secret-file".into()), "cluster_secret_file", path)?;
    }
    if let Some(secret) = secret_in(&flags)? {
        return Ok(Some(secret));
    }
    let ours = ["cluster_secret", "cluster_secret_file"].map(|name| Key::find(name).map(env_name));
    let mut environment = Layers::new();
    environment.add_env(variables().filter(|(name, _)| ours.iter().flatten().any(|our| our == name)), &[])?;
    if let Some(secret) = secret_in(&environment)? {
        return Ok(Some(secret));
    }
    secret_in(&of_file(settings)?)
}

fn secret_in(layers: &Layers) -> Result<Option<ClusterSecret>, ConfigError> {
    let config = layers.build()?;
    config.refuse_two_secrets().map_err(ConfigError::whole)?;
    let file = config.cluster_secret_file.as_deref();
    let read = file.map(read_cluster_secret).transpose().map_err(ConfigError::whole)?;
    Ok(read.or(config.cluster_secret))
}

/// The text of a file that people write. A pipe or a device could be read for ever, and so could a file that grows.
///
/// # Errors
/// It is no regular file, or longer than `bytes_max`.
fn read_text(path: &Path, bytes_max: u64) -> std::io::Result<String> {
    let refused = |why: &str| std::io::Error::new(ErrorKind::InvalidInput, why);
    // Looked at before it is opened: opening a pipe waits for its writer.
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        return Err(refused("it is a directory, not a regular file"));
    }
    if !meta.is_file() {
        return Err(refused("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let mut beginning = std::fs::File::open(path)?.take(bytes_max + 1);
    beginning.read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(refused(&format!("it is longer than {bytes_max} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| refused("it is not text in UTF-8"))
}

/// Permissions that a file with a password or a secret must not give: nothing to others, no writing to the group.
const TOO_OPEN: u32 = 0o037;
/// Longer than any password; a wrong file shall not be taken for one.
const PASSWORD_BYTES_MAX: usize = 1024;
/// A password and remarks below it, or two secrets.
const PASSWORD_FILE_BYTES_MAX: u64 = 64 << 10;
/// Longer than every setting with its remarks.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The mode of a file that others may read or change, if it is such a one.
fn mode_too_open(meta: &Metadata) -> Option<u32> {
    let mode = meta.permissions().mode();
    (mode & TOO_OPEN != 0).then_some(mode & 0o7777)
}

/// The text of a file that no other user may read, because `what` is in it.
fn read_private(path: &Path, name: &str, what: &str) -> Result<String, String> {
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::InvalidInput => {
            format!("{name}: {error}: name the file that the {what} is written in, as text")
        }
        _ => format!("{name}: {error}: name a file that this user can read"),
    };
    let meta = std::fs::metadata(path).map_err(unreadable)?;
    if let Some(mode) = mode_too_open(&meta).filter(|_| meta.is_file()) {
        return Err(format!("{name} has mode {mode:04o}, so others may know the {what}: chmod 600 it"));
    }
    read_text(path, PASSWORD_FILE_BYTES_MAX).map_err(unreadable)
}

/// The secret of the cluster from its file.
///
/// # Errors
/// A sentence that names the setting, the file and a remedy.
fn read_cluster_secret(path: &Path) -> Result<ClusterSecret, String> {
    let name = format!("cluster_secret_file = {}", path.display());
    let text = read_private(path, &name, "secret")?;
    ClusterSecret::parse(&text).map_err(|said| format!("{name} {said}"))
}

/// The first line of a password file.
fn read_password(path: &Path) -> Result<String, String> {
    let name = format!("requirepass_file = {}", path.display());
    let text = read_private(path, &name, "password")?;
    match text.lines().next().unwrap_or_default() {
        "" => Err(format!("{name}: its first line is empty: write the password there")),
        line if line.len() > PASSWORD_BYTES_MAX => Err(format!("{name}: its first line is no password")),
        line => Ok(line.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { cores: 2, memory_bytes: 8 << 30, open_files: 1 << 20 };

    fn arguments(set: &[&str]) -> SettingArguments {
        SettingArguments {
            set: set.iter().map(|pair| (*pair).into()).collect(),
            ..SettingArguments::default()
        }
    }

    #[test]
    fn files_of_settings_are_regular_and_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let (fifo, long, fit) = (dir.path().join("fifo"), dir.path().join("long"), dir.path().join("fit"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("a pipe");
        let file = std::fs::File::create(&long).expect("a file");
        file.set_len(20 << 30).expect("a sparse file");
        std::fs::write(&fit, "cores = 1\n").expect("a file");
        let gather = |path: &Path| {
            let arguments = SettingArguments { config: Some(path.to_owned()), ..SettingArguments::default() };
            Settings::gather(&arguments, MACHINE).map(|settings| settings.limits.cores)
        };
        assert_eq!(gather(&fit), Ok(1));
        for (path, why) in [
            (Path::new("/dev/zero"), "not a regular file"),
            (&fifo, "not a regular file"),
            (dir.path(), "not a regular file"),
            (&long, "longer than 1048576 bytes"),
        ] {
            let said = gather(path).expect_err("it is no file of settings").to_string();
            assert!(said.contains(why) && said.contains(path.to_str().expect("text")), "{said}");
            assert!(read_password(path).is_err());
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
    fn a_password_may_come_from_a_file_that_no_other_user_reads() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("password");
        let settings = |mode: u32, text: &str| {
            std::fs::write(&path, text).expect("a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its owner");
            Settings::gather(&arguments(&[&format!("requirepass_file={}", path.display())]), MACHINE)
        };
        for mode in [0o600, 0o400, 0o440] {
            let settings = settings(mode, "secret\nanother line\n").expect("a good file");
            assert_eq!(settings.config.requirepass.as_deref(), Some("secret"));
            let row =
                settings.list().into_iter().find(|(name, ..)| name == "requirepass").expect("it is listed");
            assert_eq!((&row.1[..], row.2), ("(set)", format!("requirepass_file = {}", path.display())));
            assert!(settings.list().iter().all(|(_, value, _)| !value.contains("secret")));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its owner");
        }
        for mode in [0o644, 0o604, 0o620, 0o660] {
            let said = settings(mode, "secret\n").expect_err("too open").to_string();
            assert!(said.contains(&format!("{mode:04o}")) && said.contains("chmod 600"), "{said}");
        }
        assert!(settings(0o600, "\n").expect_err("empty").to_string().contains("first line is empty"));
        let absent = arguments(&["requirepass_file=/nowhere/at/all"]);
        assert!(
            Settings::gather(&absent, MACHINE).expect_err("absent").to_string().contains("/nowhere/at/all")
        );
        let both = arguments(&["requirepass_file=/x", "requirepass=y"]);
        assert!(Settings::gather(&both, MACHINE).expect_err("both").to_string().contains("keep one"));
    }

    #[test]
    fn the_cluster_secret_may_come_from_a_file_that_no_other_user_reads() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("secret");
        let (new, old) = ("0123456789abcdef0123456789abcdef", "the secret that was in force before");
        let gather = |mode: u32, text: &str| {
            std::fs::write(&path, text).expect("a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its owner");
            Settings::gather(&arguments(&[&format!("cluster_secret_file={}", path.display())]), MACHINE)
        };
        for text in [format!("{new}\n"), format!("{new}\n{old}\n")] {
            let settings = gather(0o600, &text).expect("a good file");
            assert_eq!(settings.config.cluster_secret, Some(ClusterSecret::parse(&text).expect("a secret")));
            let shown = format!("{:?} {settings:?}", settings.list());
            assert!(!shown.contains(new) && !shown.contains(old), "{shown}");
            let row = |key: &str| {
                let row = settings.list().into_iter().find(|(name, ..)| name == key).expect("it is listed");
                (row.1, row.2)
            };
            let (file, set) = (path.display().to_string(), "flag --set cluster_secret_file".to_owned());
            assert_eq!(row("cluster_secret"), ("(set)".to_owned(), format!("cluster_secret_file = {file}")));
            assert_eq!(row("cluster_secret_file"), (file, set));
            assert_eq!(row("requirepass"), (String::new(), "default".to_owned()));
        }
        for (mode, text, why) in [
            (0o644, new, "chmod 600"),
            (0o600, "\n", "is empty"),
            (0o600, "hunter2\n", "at least 32"),
            (0o600, &format!("{new}\nhunter2\n")[..], "7 characters"),
        ] {
            let said = gather(mode, text).expect_err("it is no good").to_string();
            assert!(said.contains("cluster_secret_file = ") && said.contains(why), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        let inline = format!("cluster_secret={new}");
        let settings = Settings::gather(&arguments(&[&inline]), MACHINE).expect("a good one");
        assert!(!format!("{settings:?}").contains(new));
        let both = arguments(&["cluster_secret_file=/x", &inline]);
        assert!(Settings::gather(&both, MACHINE).expect_err("both").to_string().contains("keep one"));
    }

    #[test]
    fn a_secret_in_the_file_of_settings_is_kept_as_one_in_a_file_of_its_own() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("node.toml");
        let secret = "0123456789abcdef0123456789abcdef";
        let gather = |mode: u32, text: &str, set: &[&str]| {
            std::fs::write(&path, text).expect("a file");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its owner");
            let arguments = SettingArguments { config: Some(path.clone()), ..arguments(set) };
            Settings::gather(&arguments, MACHINE).map_err(|said| said.to_string())
        };
        for (key, value, what) in
            [("requirepass", "hunter2", "password"), ("cluster_secret", secret, "secret")]
        {
            let text = format!("cores = 1\n{key} = \"{value}\"\n");
            for mode in [0o600, 0o400, 0o640] {
                gather(mode, &text, &[]).expect("no other user reads it");
            }
            for mode in [0o644, 0o604, 0o660] {
                // A flag that is stronger changes nothing about what others read.
                let stronger = format!("{key}={}", "x".repeat(40));
                for set in [vec![], vec![&stronger[..]]] {
                    let said = gather(mode, &text, &set).expect_err("others read it");
                    let mode = format!("mode {mode:04o}");
                    for part in ["node.toml, line 2", key, &mode, what, "chmod 600", &format!("{key}_file")] {
                        assert!(said.contains(part), "no {part:?}: {said}");
                    }
                    assert!(!said.contains(value), "{said}");
                }
            }
            gather(0o644, &format!("cores = 1\n{key} = \"\"\n"), &[]).expect("there is none in it");
        }
        let said = secret_of_operator(None, Some(&path)).expect("the last one has none");
        assert!(said.is_none());
        gather(0o644, &format!("cluster_secret = \"{secret}\"\n"), &[]).expect_err("others read it");
        assert!(secret_of_operator(None, Some(&path)).is_err(), "ctl looks as the server does");
    }

    #[test]
    fn what_is_no_file_with_a_secret_is_named_as_what_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let (text, bytes) = (directory.path().join("text"), directory.path().join("bytes"));
        std::fs::write(&bytes, [0xff; 64]).expect("a file");
        std::fs::set_permissions(&bytes, std::fs::Permissions::from_mode(0o600)).expect("its owner");
        for key in ["requirepass_file", "cluster_secret_file"] {
            for (path, why, remedy) in [
                (directory.path(), "it is a directory", "name the file that the"),
                (Path::new("/dev/null"), "it is not a regular file", "name the file that the"),
                (&bytes, "it is not text in UTF-8", "name the file that the"),
                (&text, "No such file", "name a file that this user can read"),
            ] {
                let said = Settings::gather(&arguments(&[&format!("{key}={}", path.display())]), MACHINE)
                    .expect_err("it is none")
                    .to_string();
                let parts = [key, path.to_str().expect("text"), why, remedy];
                parts.iter().for_each(|part| assert!(said.contains(part), "no {part:?}: {said}"));
                assert!(!said.contains("chmod"), "{said}");
            }
        }
    }

    #[test]
    fn an_open_node_is_asked_for_by_name_and_remarked_on() {
        let open = SettingArguments { insecure: true, ..arguments(&["listen=10.0.0.5"]) };
        let settings = Settings::gather(&open, MACHINE).expect("asked for");
        assert!(settings.remarks.iter().any(|said| said.contains("10.0.0.5")), "{:?}", settings.remarks);
        let nodes = |said: &String| said.contains("speak as a node") && said.contains("cluster_secret_file");
        assert!(settings.remarks.iter().any(nodes), "{:?}", settings.remarks);
        let secret = "cluster_secret=0123456789abcdef0123456789abcdef";
        let closed = SettingArguments { insecure: true, ..arguments(&["listen=10.0.0.5", secret]) };
        let settings = Settings::gather(&closed, MACHINE).expect("asked for");
        assert!(!settings.remarks.iter().any(nodes), "{:?}", settings.remarks);
        let said = Settings::gather(&arguments(&["listen=10.0.0.5"]), MACHINE).expect_err("open").to_string();
        assert!(said.contains("insecure = true"), "{said}");
    }

    #[test]
    fn mistakes_name_the_flag() {
        let said =
            |set: &[&str]| Settings::gather(&arguments(set), MACHINE).expect_err("a mistake").to_string();
        assert!(said(&["log.sink=dsync"]).contains("did you mean log.sync?"));
        let without_key = said(&["=x"]);
        assert!(without_key.contains("no key: `ringkeep server --settings` lists"), "{without_key}");
        assert!(said(&["cores"]).contains("KEY=VALUE"));
        assert!(said(&["base_port=banana"]).starts_with("flag --set base_port: base_port: \"banana\""));
        assert!(said(&["cores=99"]).contains("cores = 99"));
    }
}

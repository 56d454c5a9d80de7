//! What `ringkeep server` prints: the banner of a node that serves, its settings, and what each setting means.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use store::config::{Config, KEYS, env_name};
use store::node::Addresses;
use store::wire::admin::Condition;

use crate::settings::Settings;

/// Every setting with its origin, and the limits that follow.
pub(super) fn listing(settings: &Settings) -> String {
    let rows = settings.list();
    let width = |of: fn(&(String, String, String)) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (names, values) = (width(|row| row.0.len()), width(|row| row.1.len()));
    let mut text = String::new();
    for (name, value, origin) in &rows {
        text.push_str(&format!("{name:<names$}  {value:<values$}  {origin}\n"));
    }
    let limits = &settings.limits;
    text.push_str(&format!(
        "\n{} cores, each with {} MiB: two memtables of {} MiB, a block cache of {} MiB, {} MiB for requests in flight\n",
        limits.cores,
        limits.core_bytes >> 20,
        limits.memtable_bytes >> 20,
        limits.block_cache_bytes >> 20,
        limits.inflight_bytes >> 20
    ));
    text
}

/// What every setting means, with its default and its environment variable.
pub(super) fn meanings() -> String {
    let mut text = String::new();
    for key in KEYS {
        text.push_str(&format!("{}  ({})\n    {}\n", key.name, env_name(key), key.help));
    }
    text.push_str(
        "\nA setting is given by its flag or --set NAME=VALUE, its environment variable, or in the file of --config, where a.b is b in the \
         table [a].\nSizes take B, KiB, MiB, GiB or TiB, such as 64MiB; times take ms, s, m or h, such as 10s.\n",
    );
    text
}

/// What a new user needs to know, one `key: value` per line, what does not work with its reason, what is to be known, and `ready` at the end.
pub(super) fn banner(
    config: &Config,
    (node_id, addresses): (u64, &Addresses),
    status: SocketAddr,
    conditions: &[Condition],
) -> String {
    let stores: Vec<String> = addresses.stores.iter().map(ToString::to_string).collect();
    let data_dir = std::path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let rows = [
        ("node", node_id.to_string()),
        ("data", data_dir.display().to_string()),
        ("stores", format!("{} ({})", stores.len(), stores.join(" "))),
        ("pd", addresses.pd.to_string()),
        ("resp", addresses.resp.to_string()),
        ("status", status.to_string()),
        ("metrics", format!("http://{status}/metrics")),
        ("console", format!("http://{}/console", from_here(status))),
        ("next", next_command(addresses.resp, config.requirepass.is_some())),
    ];
    let mut text = format!("ringkeep {}\n", env!("CARGO_PKG_VERSION"));
    for (key, value) in rows {
        text.push_str(&format!("{:<9} {value}\n", format!("{key}:")));
    }
    for Condition { name, problem, note } in conditions {
        for (key, said) in [("trouble:", problem), ("note:", note)] {
            text.extend(said.as_ref().map(|said| format!("{key:<9} {name}: {said}\n")));
        }
    }
    text.push_str("ready\n");
    text
}

/// An address that a browser on this host can open, where the one that is listened on means every one.
fn from_here(addr: SocketAddr) -> SocketAddr {
    let local: IpAddr = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(local, addr.port())
}

/// A first command that works from this host as it stands: over loopback only where that is listened on, with the password where one is set.
fn next_command(resp: SocketAddr, has_password: bool) -> String {
    let ip = resp.ip();
    // The client's own default.
    let by_default = ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST;
    let host = if by_default { String::new() } else { format!("-h {ip} ") };
    let password = if has_password { "--askpass " } else { "" };
    format!("redis-cli {host}-p {} {password}SET greeting hello", resp.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_says_what_does_not_work_and_what_is_to_be_known() {
        let addr: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let addresses = Addresses { pd: addr, stores: vec![addr], resp: addr };
        let condition = |name: &str, problem: Option<&str>, note: Option<&str>| Condition {
            name: name.to_owned(),
            problem: problem.map(str::to_owned),
            note: note.map(str::to_owned),
        };
        let conditions = [
            condition("store-1", None, None),
            condition("store-2", None, Some("it is gone")),
            condition("core-1", Some("it is stuck"), None),
        ];
        let text = banner(&Config::default(), (7, &addresses), addr, &conditions);
        let said: Vec<&str> = text.lines().skip_while(|line| !line.starts_with("next:")).skip(1).collect();
        assert_eq!(said, ["note:     store-2: it is gone", "trouble:  core-1: it is stuck", "ready"]);
    }

    #[test]
    fn the_console_is_where_a_browser_can_open_it() {
        let from = |addr: &str| from_here(addr.parse().expect("an address")).to_string();
        assert_eq!(from("0.0.0.0:20080"), "127.0.0.1:20080");
        assert_eq!(from("[::]:20080"), "[::1]:20080");
        assert_eq!(from("10.0.0.1:20080"), "10.0.0.1:20080");
    }

    #[test]
    fn the_next_command_names_what_the_client_does_not_know() {
        let next = |addr: &str, has_password| next_command(addr.parse().expect("an address"), has_password);
        assert_eq!(next("127.0.0.1:6380", false), "redis-cli -p 6380 SET greeting hello");
        assert_eq!(next("0.0.0.0:6380", false), "redis-cli -p 6380 SET greeting hello");
        assert_eq!(next("10.0.0.1:6380", false), "redis-cli -h 10.0.0.1 -p 6380 SET greeting hello");
        assert_eq!(next("[::1]:7000", true), "redis-cli -h ::1 -p 7000 --askpass SET greeting hello");
    }
}

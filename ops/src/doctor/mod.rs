//! `ringkeep doctor`: what the host must provide, what it should, and how to change it. Needs no root and changes nothing.
//!
//! `ringkeep server` asks the first part, what the runtime needs, before it starts a core and refuses to start on a failure.

mod check;
mod directory;
mod obstacle;

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use engine::host::{self as engine_host, Finding, Level};
use engine::rt::CoreOptions;
use serde_json::json;
use store::config::{Config, Limits};

use crate::host;
use crate::output::{EXIT_CONFIG, Format, answer, fail};
use crate::settings::{SettingArguments, Settings};

/// Arguments of `ringkeep doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 all is well, 1 warnings, 2 failures, 78 a configuration that cannot be used."
)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    settings: SettingArguments,
    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Runs `ringkeep doctor`. Exit codes: 0 all is well, 1 warnings, 2 failures.
pub(crate) fn run(arguments: &DoctorArguments) -> ExitCode {
    let settings = match Settings::gather(&arguments.settings, host::machine()) {
        Ok(settings) => settings,
        Err(why) => return fail(&why, EXIT_CONFIG),
    };
    host::raise_open_files();
    let findings = examine(&settings.config, &settings.limits);
    match arguments.output {
        Format::Table => answer(&table(&findings)),
        Format::Json => answer(&document(&findings)),
    }
    match findings.iter().map(|finding| finding.level).max() {
        Some(Level::Failure) => ExitCode::from(2),
        Some(Level::Warning) => ExitCode::from(1),
        _ => ExitCode::SUCCESS,
    }
}

/// All findings about the host, in the order of a start.
fn examine(config: &Config, limits: &Limits) -> Vec<Finding> {
    let mut findings = needed(config, limits);
    findings.extend([
        check::free_space(&config.data_dir),
        check::backlog(&read("/proc/sys/net/core/somaxconn")),
        check::overcommit(&read("/proc/sys/vm/overcommit_memory")),
        check::huge_pages(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
        check::governor(&read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
    ]);
    match directory::running(&config.data_dir) {
        // A node that runs is no obstacle to itself: it has the directory, and the ports.
        Some(running) => findings.extend([running, check::memory(limits, &host::memory(Path::new("/")))]),
        None => findings.extend(place(config, limits)),
    }
    findings.push(check::nodes(config));
    findings
}

/// The directory, the memory and the ports; `ringkeep server --check` asks this, too.
pub(crate) fn place(config: &Config, limits: &Limits) -> Vec<Finding> {
    let mut findings = directory::examine(&config.data_dir, limits.cores);
    findings.push(check::memory(limits, &host::memory(Path::new("/"))));
    findings.extend(check::ports(config, limits.cores));
    findings
}

/// What is to be said if another process holds the directory.
pub(crate) fn held(dir: &Path) -> Option<Finding> {
    directory::held(dir)
}

pub(crate) use directory::{SERVE, SUBJECT as DIRECTORY, hold};
pub(crate) use obstacle::{is_read_only, obstacle};

/// What the runtime itself needs; `ringkeep server` asks this before it starts a core.
pub(crate) fn needed(config: &Config, limits: &Limits) -> Vec<Finding> {
    engine_host::check(&engine_host::Request {
        cores: limits.cores,
        io_memory_bytes: CoreOptions::default().io_memory_bytes,
        open_files: (limits.cores * config.limits.connections_max + limits.pd_connections_max) as u64
            + limits.reserved_fds,
        dir: Some(check::existing(&config.data_dir)),
        in_use: config.data_dir.join("IDENT").exists(),
    })
}

/// A small file's text without the white space around it; empty where a host has none.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn name_of(level: Level) -> &'static str {
    match level {
        Level::Good => "ok",
        Level::Warning => "WARN",
        Level::Failure => "FAIL",
    }
}

/// The findings as people read them, with their number.
pub(crate) fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        text.push_str(&format!(
            "{:<4}  {:<width$}  {}\n",
            name_of(finding.level),
            finding.subject,
            finding.cause
        ));
        if finding.level > Level::Good {
            text.push_str(&format!("      {:<width$}  so:  {}\n", "", finding.consequence));
            text.push_str(&format!("      {:<width$}  fix: {}\n", "", finding.fix));
        }
    }
    let count = |level, word| {
        let number = findings.iter().filter(|finding| finding.level == level).count();
        format!("{number} {word}{}", if number == 1 { "" } else { "s" })
    };
    let (failures, warnings) = (count(Level::Failure, "failure"), count(Level::Warning, "warning"));
    text.push_str(&format!("{failures}, {warnings}\n"));
    text
}

fn document(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "check": finding.subject,
                "level": name_of(finding.level),
                "cause": finding.cause,
                "consequence": finding.consequence,
                "fix": finding.fix,
            })
        })
        .collect();
    format!("{:#}", json!({ "findings": rows }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(subject: &'static str, level: Level, cause: &str) -> Finding {
        let (consequence, fix) = ("consequence".to_owned(), "fix it".to_owned());
        Finding { subject, level, cause: cause.to_owned(), consequence, fix }
    }

    #[test]
    fn a_table_shows_the_fix_of_what_is_wrong_only() {
        let well = finding("memlock", Level::Good, "unlimited");
        let ill = finding("nofile", Level::Failure, "cause");
        let text = table(&[well, ill]);
        assert!(text.contains("ok    memlock  unlimited\n"), "{text}");
        assert!(text.contains("FAIL  nofile   cause\n") && text.contains("fix: fix it\n"), "{text}");
        assert!(text.ends_with("1 failure, 0 warnings\n"), "{text}");
    }

    #[test]
    fn the_document_is_json() {
        let text = document(&[finding("memlock", Level::Good, "a \"quoted\" word")]);
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(parsed["findings"][0]["level"], "ok");
    }
}

//! `ringkeep doctor`: what the host must allow, what it should, and how to change it. Needs no root and changes nothing.
//!
//! `ringkeep server` asks the same questions before it starts an executor and refuses to start on a failure.

mod check;
mod host;

use std::process::ExitCode;

use clap::Args;
use serde_json::json;
use store::config::{Config, Limits};

pub(crate) use check::{Finding, Level};

use crate::output::{EXIT_CONFIG, Format, answer, fail};
use crate::settings::{SettingArguments, Settings};

/// Arguments of `ringkeep doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArguments {
    #[command(flatten)]
    settings: SettingArguments,
    /// How to answer
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
}

/// Runs `ringkeep doctor`. Exit codes: 0 all is well, 1 warnings, 2 failures.
pub(crate) fn run(arguments: &DoctorArguments) -> ExitCode {
    let settings = match Settings::gather(&arguments.settings, crate::host::machine()) {
        Ok(settings) => settings,
        Err(why) => return fail(&why, EXIT_CONFIG),
    };
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

/// Everything that is worth saying about the host, in the order in which it matters.
pub(crate) fn examine(config: &Config, limits: &Limits) -> Vec<Finding> {
    let mut findings = vec![
        check::io_uring(limits.cores),
        check::memlock(&host::limit("Max locked memory"), limits.cores, host::may_lock_memory()),
        check::kernel(&host::read("/proc/sys/kernel/osrelease")),
        check::open_files(&host::limit("Max open files"), limits.connections_max * limits.cores),
        check::data_dir(&config.data_dir),
        check::free_space(&config.data_dir),
        check::memory(limits.core_bytes),
        check::backlog(&host::read("/proc/sys/net/core/somaxconn")),
        check::overcommit(&host::read("/proc/sys/vm/overcommit_memory")),
        check::huge_pages(&host::read("/sys/kernel/mm/transparent_hugepage/enabled")),
        check::clock(&host::read("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        check::governor(&host::read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
    ];
    findings.extend(check::ports(config, limits.cores));
    findings
}

fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        text.push_str(&format!("{:<4}  {:<width$}  {}\n", finding.level.name(), finding.name, finding.cause));
        if finding.level > Level::Note {
            text.push_str(&format!("      {:<width$}  so:  {}\n", "", finding.consequence));
            text.push_str(&format!("      {:<width$}  fix: {}\n", "", finding.fix));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    text.push_str(&format!("{} failures, {} warnings\n", count(Level::Failure), count(Level::Warning)));
    text
}

fn document(findings: &[Finding]) -> String {
    let rows: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "check": finding.name,
                "level": finding.level.name(),
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

    #[test]
    fn a_table_shows_the_fix_of_what_is_wrong_only() {
        let well = Finding::well("memlock", "unlimited");
        let ill =
            Finding { level: Level::Failure, ..Finding::warn("nofile", "cause", "consequence", "fix it") };
        let text = table(&[well, ill]);
        assert!(text.contains("ok    memlock  unlimited\n"), "{text}");
        assert!(text.contains("FAIL  nofile   cause\n") && text.contains("fix: fix it\n"), "{text}");
        assert!(text.ends_with("1 failures, 0 warnings\n"), "{text}");
    }

    #[test]
    fn the_document_is_json() {
        let text = document(&[Finding::well("memlock", "a \"quoted\" word")]);
        let parsed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(parsed["findings"][0]["level"], "ok");
    }
}

//! `ringkeep server --check`: what would make a start fail, asked without starting.
//!
//! It asks what a start asks, with the same code where that changes nothing: the host, the CPUs, the names of members, the directory, its
//! stores, the ports. It makes no directory, binds no port for good and writes nothing; whether a member answers is seen by a start alone.

use std::path::Path;
use std::process::ExitCode;

use engine::error::Fault;
use engine::host::{Finding, Level};
use engine::rt::{CoreOptions, start_core};
use store::node::examine;

use super::{choose_cpus, members, texts};
use crate::output::{EXIT_CONFIG, answer};
use crate::settings::Settings;
use crate::{doctor, host};

/// Prints every setting with its origin, and what would make a start fail.
pub(super) fn check(settings: &Settings, join: &[String]) -> ExitCode {
    host::raise_open_files();
    let mut text = texts::listing(settings);
    let mut findings: Vec<Finding> = settings.remarks.iter().map(|remark| remarked(remark)).collect();
    // What a host has is of interest where it is not enough.
    let needed = doctor::needed(&settings.config, &settings.limits);
    findings.extend(needed.into_iter().filter(|finding| finding.level > Level::Good));
    findings
        .extend(choose_cpus(&settings.config, settings.limits.cores).err().map(|why| failed("CPUs", &why)));
    findings.extend(members(join).err().map(|why| failed("members", &why)));
    let place = doctor::place(&settings.config, &settings.limits);
    let usable =
        !place.iter().any(|finding| finding.subject == doctor::DIRECTORY && finding.level == Level::Failure);
    findings.extend(place);
    if usable && settings.config.data_dir.join("IDENT").exists() {
        findings.extend(stores(&settings.config.data_dir));
    }
    text.push_str(&format!("\n{}", doctor::table(&findings)));
    answer(&text);
    match findings.iter().any(|finding| finding.level == Level::Failure) {
        true => ExitCode::from(EXIT_CONFIG),
        false => ExitCode::SUCCESS,
    }
}

fn remarked(remark: &str) -> Finding {
    Finding {
        level: Level::Warning,
        ..said("settings", remark, "a start says this, too, and goes on", "correct it, or leave it as meant")
    }
}

/// What a start says of itself ends with the remedy.
fn failed(subject: &'static str, why: &str) -> Finding {
    let (cause, fix) = why.rsplit_once(": ").unwrap_or((why, "ringkeep doctor says what the host allows"));
    said(subject, cause, "the node cannot start", fix)
}

fn said(subject: &'static str, cause: &str, consequence: &str, fix: &str) -> Finding {
    let [cause, consequence, fix] = [cause, consequence, fix].map(str::to_owned);
    Finding { subject, level: Level::Failure, cause, consequence, fix }
}

/// What keeps the stores of a directory from being opened. A node starts as long as one of them can be.
fn stores(dir: &Path) -> Vec<Finding> {
    // The files change under a server, and one that has begun meanwhile has the ports, too.
    let _lock = match doctor::hold(dir) {
        Ok(lock) => lock,
        Err(why) => return vec![failed("stores", &why)],
    };
    let place = dir.to_owned();
    let seen =
        start_core(&CoreOptions::default(), move |rt| async move { examine::openings(&rt, &place).await });
    let stores = match seen {
        Ok(Ok(stores)) => stores,
        Ok(Err(fault)) => return vec![closed("the stores", &fault, "the node cannot start")],
        Err(error) => {
            return vec![failed("stores", &format!("no core can start: {error}: ringkeep doctor says why"))];
        }
    };
    let serves = stores.iter().any(|(_, fault)| fault.is_none());
    let faults = stores.iter().filter_map(|(store, fault)| Some((store.to_string(), fault.as_ref()?)));
    let finding = |(store, fault): (String, &Fault)| match serves {
        true => Finding {
            level: Level::Warning,
            ..closed(&store, fault, "it would be fenced while the others serve")
        },
        false => closed(&store, fault, "no store can serve, so the node cannot start"),
    };
    faults.map(finding).collect()
}

fn closed(what: &str, fault: &Fault, consequence: &str) -> Finding {
    let cause = format!("{what} cannot be opened: {}: {}", fault.path.display(), fault.what);
    said("stores", &cause, consequence, fault.remedy().unwrap_or("restore the data directory from a backup"))
}

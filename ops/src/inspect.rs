//! `ringkeep inspect`: what the files of a node hold, read and verified without starting it.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | everything that was checked is intact |
//! | 1 | something is damaged, missing or foreign, cannot be read, or may be damaged as far as one file shows |
//! | 2 | the command line is invalid |

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use engine::host::Finding;
use engine::log::inspect as log;
use engine::lsm::inspect::{self, ManifestReport, TableReport};
use engine::rt::mapped::Mapped;
use engine::rt::{CoreOptions, start_core};
use rustix::fs::Access;
use serde_json::json;
use store::node::examine::{Damage, Examined, StoreFound, examine};
use store::node::identity::{Ident, Identity};

use crate::doctor;
use crate::output::{Format, answer, fail};

/// Arguments of `ringkeep inspect`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct InspectArguments {
    /// A whole data directory: every check of a start, and every table. No server may be using it
    #[arg(required = true, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// Output format
    #[arg(long, value_enum, default_value = "table")]
    output: Format,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Log segments: every record with what it did, and what lies between them; END: where the log ended
    Log {
        /// The files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// A table file: its footer, its key range, every checksum verified
    Table {
        /// The file
        file: PathBuf,
    },
    /// A manifest: its edits in order
    Manifest {
        /// The file
        file: PathBuf,
    },
}

/// Runs `ringkeep inspect`. Exit code 1: the file is damaged or cannot be read, or whether it is damaged is not known from it alone.
pub(crate) fn run(arguments: &InspectArguments) -> ExitCode {
    let Some(what) = &arguments.what else {
        let directory = arguments.directory.as_deref().unwrap_or(Path::new("."));
        return whole(directory, arguments.output);
    };
    let files: Vec<&PathBuf> = match what {
        What::Log { files } => files.iter().collect(),
        What::Table { file } | What::Manifest { file } => vec![file],
    };
    if let Some(why) = files.into_iter().find_map(|file| no_file(file, what)) {
        return fail(&why, 1);
    }
    let text = match what {
        What::Log { files } => return segments(files),
        What::Table { file } => inspect::table(file).map(|report| table(&report)),
        What::Manifest { file } => match inspect::manifest(file) {
            Ok(report) => {
                answer(&manifest(&report));
                return report.torn_at.map_or(ExitCode::SUCCESS, |at| fail(&in_doubt(file, at), 1));
            }
            Err(fault) => Err(fault),
        },
    };
    match text {
        Ok(text) => {
            answer(&text);
            ExitCode::SUCCESS
        }
        Err(fault) => fail(&fault, 1),
    }
}

/// Why there is no file to read at `path`, if there is none.
fn no_file(path: &Path, what: &What) -> Option<String> {
    let (which, place) = match what {
        What::Log { files: _ } => (".seg file", "log"),
        What::Table { file: _ } => ("table", "tree"),
        What::Manifest { file: _ } => ("MANIFEST file", "tree"),
    };
    let name_one = format!("name one {which} of a store's {place} directory");
    let shown = path.display();
    match std::fs::metadata(path) {
        Ok(about) if about.is_file() => None,
        Ok(about) if about.is_dir() => Some(format!("{shown} is a directory: {name_one}")),
        Ok(_) => Some(format!("{shown} is not a regular file: {name_one}")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Some(format!("{shown}: there is no such file: {name_one}"))
        }
        Err(error) => Some(format!("{shown}: {error}: {name_one}")),
    }
}

/// Reads a data directory on a core of its own, by the code that a start uses.
fn whole(directory: &Path, format: Format) -> ExitCode {
    if let Some(obstacle) = doctor::obstacle(directory, Access::READ_OK | Access::EXEC_OK) {
        let Finding { cause, fix, .. } = obstacle.finding;
        let one = match directory.is_file() {
            true => "; one file is read by `ringkeep inspect log`, `table` or `manifest`",
            false => "",
        };
        return fail(&format!("{cause}: {fix}{one}"), 1);
    }
    if !directory.exists() {
        let why = "it does not exist: name the data directory of a node, and mount its disk first";
        return fail(&format!("{}: {why}", directory.display()), 1);
    }
    // Its files change under a server.
    let _lock = match doctor::hold(directory) {
        Ok(lock) => lock,
        Err(why) => return fail(&why, 1),
    };
    let dir = directory.to_owned();
    let examined = start_core(&CoreOptions::default(), move |rt| async move { examine(&rt, &dir).await });
    let mut examined = match examined {
        Ok(examined) => examined,
        Err(error) => return fail(&format!("no core can start: {error}: ringkeep doctor says why"), 1),
    };
    if doctor::is_read_only(directory) {
        examined.notes.push("the file system is mounted read-only; nothing was written for this".into());
    }
    match format {
        Format::Table => answer(&as_text(directory, &examined)),
        Format::Json => answer(&as_json(directory, &examined).to_string()),
    }
    if examined.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn as_text(directory: &Path, examined: &Examined) -> String {
    let mut text = String::new();
    if let Some(Ident { identity, state, .. }) = &examined.ident {
        let Identity { cluster, node, stores, first_store: _ } = identity;
        text.push_str(&format!(
            "{}: {state:?}, cluster {cluster:016x}, node {node}, {stores} stores\n",
            directory.display()
        ));
    }
    for StoreFound { store, regions, log, tables } in &examined.stores {
        let log = match (regions, log) {
            (Some(regions), Some((records, segments))) => {
                format!("{regions} regions, {records} records in {segments} log segments")
            }
            (None, _) | (_, None) => "a log that cannot be read".to_owned(),
        };
        let tables =
            tables.map_or_else(|| "a tree that cannot be read".to_owned(), |count| format!("{count} tables"));
        text.push_str(&format!("store {store}: {log}, {tables}\n"));
    }
    examined.notes.iter().for_each(|note| text.push_str(&format!("note    {note}\n")));
    for Damage { path, what } in &examined.damage {
        text.push_str(&format!("damage  {}: {what}\n", path.display()));
    }
    if examined.damage.is_empty() {
        text.push_str("everything is whole\n");
    }
    text
}

fn as_json(directory: &Path, examined: &Examined) -> serde_json::Value {
    let Examined { ident, stores, notes, damage } = examined;
    let store = |found: &StoreFound| {
        let StoreFound { store, regions, log, tables } = found;
        let (records, segments) = (log.map(|(records, _)| records), log.map(|(_, segments)| segments));
        json!({"store": store, "regions": regions, "log_records": records, "log_segments": segments, "tables": tables})
    };
    let damaged = |Damage { path, what }: &Damage| json!({"path": path, "what": what});
    json!({
        "directory": directory,
        "cluster": ident.as_ref().map(|ident| format!("{:016x}", ident.identity.cluster)),
        "node": ident.as_ref().map(|ident| ident.identity.node),
        "stores": stores.iter().map(store).collect::<Vec<_>>(),
        "notes": notes,
        "damage": damage.iter().map(damaged).collect::<Vec<_>>(),
    })
}

/// Shows what it can of every file, and fails if one of them is no file of a log.
fn segments(files: &[PathBuf]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        if let Err(why) = segment(file) {
            code = fail(&format!("{}: {why}", file.display()), 1);
        }
    }
    code
}

/// A frame that a crash has torn was never acknowledged, and one that has rotted was: what lies in the log tells them apart.
fn in_doubt(manifest: &Path, at: u64) -> String {
    format!(
        "{}: the last frame, at offset {at}, is torn or damaged: `ringkeep inspect DIRECTORY` with the whole data directory says which",
        manifest.display()
    )
}

/// Where the log of this segment went on, if the file that says so lies beside it.
fn log_end(segment: &Path) -> Result<Option<log::LogEnd>, String> {
    let path = segment.with_file_name("END");
    if !path.exists() {
        return Ok(None);
    }
    let failed = |why: &dyn std::fmt::Display| format!("END beside it cannot be read: {why}");
    let bytes = Mapped::open(&path).map_err(|error| failed(&error))?;
    log::end(&path, &bytes).map(Some).map_err(|fault| failed(&fault.what))
}

fn segment(file: &Path) -> Result<(), String> {
    let bytes = Mapped::open(file).map_err(|error| error.to_string())?;
    if log::is_end(file) {
        let said = log::end(file, &bytes).map_err(|fault| fault.what)?;
        answer(&format!("{}: {said}", file.display()));
        return Ok(());
    }
    let (info, seen) = log::inspect(&bytes)?;
    answer(&format!(
        "{}: segment {} of log {:016x}, life {:016x}",
        file.display(),
        info.number.0,
        info.log_id,
        info.incarnation
    ));
    let mut judge = log::Judge::default();
    for seen in seen {
        answer(&seen.to_string());
        judge.look(&seen);
    }
    judge.verdict(&bytes, &info, log_end(file)?.as_ref())
}

fn table(report: &TableReport) -> String {
    let keys = report.keys.as_ref().map_or_else(
        || "none".into(),
        |(first, last)| format!("{} .. {}", first.escape_ascii(), last.escape_ascii()),
    );
    let (packed, unpacked) = report.data_bytes;
    format!(
        "family         {}\n\
         file           {} bytes, every checksum matches\n\
         entries        {} ({} found: {} deletes, {} values that expire, {} range deletes beside them)\n\
         keys           {keys}\n\
         sequences      {:?} .. {:?}\n\
         blocks         {} in {} parts, {packed} bytes packed, {unpacked} unpacked\n",
        report.cf.name(),
        report.file_bytes,
        report.entries,
        report.found.entries,
        report.found.deletes,
        report.found.expiring,
        report.found.range_deletes,
        report.seqs.0,
        report.seqs.1,
        report.blocks,
        report.parts,
    )
}

fn manifest(report: &ManifestReport) -> String {
    let mut text = format!("manifest {}, {} edits\n", report.number, report.edits.len());
    for (number, edit) in report.edits.iter().enumerate() {
        text.push_str(&format!("{number:>6}  {edit}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_not_counted_as_nothing() {
        let found = |log: Option<usize>| StoreFound {
            store: 3,
            regions: log,
            log: log.map(|count| (7, count)),
            tables: Some(4),
        };
        let of = |store| Examined { stores: vec![store], ..Examined::default() };
        let text = |examined: &Examined| as_text(Path::new("d"), examined);
        let (unread, read) = (of(found(None)), of(found(Some(2))));
        assert!(
            text(&unread).starts_with("store 3: a log that cannot be read, 4 tables\n"),
            "{}",
            text(&unread)
        );
        assert!(text(&read).starts_with("store 3: 2 regions, 7 records in 2 log segments, 4 tables\n"));
        let json = as_json(Path::new("d"), &unread);
        assert_eq!(json["stores"][0]["log_records"], serde_json::Value::Null);
        assert_eq!(as_json(Path::new("d"), &read)["stores"][0]["log_segments"], 2);
    }
}

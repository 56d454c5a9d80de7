//! `ringkeep inspect`: what the files of a node hold, read and verified without starting it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use engine::log::inspect as log;
use engine::lsm::inspect::{self, ManifestReport, TableReport};
use engine::rt::mapped::Mapped;

use crate::output::{answer, fail};

/// Arguments of `ringkeep inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Log segments: every record with what it did, and what lies between them
    Log {
        /// The segment files
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

/// Runs `ringkeep inspect`. Exit code 1: the file is damaged or cannot be read.
pub(crate) fn run(arguments: &InspectArguments) -> ExitCode {
    let text = match &arguments.what {
        What::Log { files } => return segments(files),
        What::Table { file } => inspect::table(file).map(|report| table(&report)),
        What::Manifest { file } => inspect::manifest(file).map(|report| manifest(&report)),
    };
    match text {
        Ok(text) => {
            answer(&text);
            ExitCode::SUCCESS
        }
        Err(fault) => fail(&fault, 1),
    }
}

/// Shows what it can of every file, and fails if one of them is no segment.
fn segments(files: &[PathBuf]) -> ExitCode {
    let mut code = ExitCode::SUCCESS;
    for file in files {
        if let Err(why) = segment(file) {
            code = fail(&format!("{}: {why}", file.display()), 1);
        }
    }
    code
}

fn segment(file: &Path) -> Result<(), String> {
    let bytes = Mapped::open(file).map_err(|error| error.to_string())?;
    let (info, seen) = log::inspect(&bytes)?;
    answer(&format!(
        "{}: segment {} of log {:016x}, life {:016x}",
        file.display(),
        info.number.0,
        info.log_id,
        info.incarnation
    ));
    seen.for_each(|seen| answer(&seen.to_string()));
    Ok(())
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
         entries        {} ({} found: {} deletes, {} range deletes beside them)\n\
         keys           {keys}\n\
         sequences      {:?} .. {:?}\n\
         blocks         {} in {} parts, {packed} bytes packed, {unpacked} unpacked\n",
        report.cf.name(),
        report.file_bytes,
        report.entries,
        report.found.entries,
        report.found.deletes,
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
    if let Some(at) = report.torn_at {
        text.push_str(&format!(
            "the last frame, at offset {at}, is torn; it was never acknowledged and is cut at start\n"
        ));
    }
    text
}

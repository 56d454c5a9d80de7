//! How scenarios as text are read, played and compared: one way for the scripts of single groups (`raft/tests/it/script.rs`) and of
//! regions (`store/tests/regions/script.rs`), which differ in what their commands mean.
//!
//! A script is a comment that says what it shows, then blocks with an empty line between them: commands, a line `---`, and what happened.
//! `RINGKEEP_REWRITE=1` writes what happened into the scripts, `RINGKEEP_SCRIPT=NAME` plays those so named.

use std::path::{Path, PathBuf};

/// What the commands of a script act on.
pub(crate) trait Stage: Default {
    /// Carries out a command.
    fn run(&mut self, line: &str);

    /// What has happened since this was last asked.
    fn take_said(&mut self) -> String;
}

/// Plays a script; returns it with what happened in place of what was expected.
pub(crate) fn play<S: Stage>(text: &str) -> String {
    let (mut stage, mut result) = (S::default(), String::new());
    let mut blocks = text.split("\n\n").peekable();
    while let Some(block) = blocks.next() {
        let commands = block.split("\n---").next().unwrap_or("").trim_end();
        for line in commands.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            stage.run(line);
        }
        let said = stage.take_said();
        result += commands;
        if !commands.lines().all(|line| line.starts_with('#')) {
            result += "\n---\n";
            result += said.trim_end();
        }
        result = result.trim_end().to_owned();
        result += if blocks.peek().is_some() { "\n\n" } else { "\n" };
    }
    result
}

/// The scripts in a folder, at least this many, by name, with their text.
pub(crate) fn scripts(folder: &Path, least: usize) -> Vec<(PathBuf, String)> {
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the scripts").map(|file| file.expect("a file").path()).collect();
    files.sort();
    assert!(files.len() >= least, "scripts are missing: {}", files.len());
    let with_text = |file: PathBuf| {
        let text = std::fs::read_to_string(&file).expect("a script");
        (file, text)
    };
    files.into_iter().map(with_text).collect()
}

/// Plays the scripts of a folder.
///
/// # Panics
/// If something else happens in one of them than it says.
pub(crate) fn play_all<S: Stage>(folder: &Path, least: usize) {
    let mut differ = Vec::new();
    let only = std::env::var("RINGKEEP_SCRIPT").unwrap_or_default();
    for (file, text) in scripts(folder, least) {
        let name = file.file_name().expect("a name").to_string_lossy().into_owned();
        if !name.contains(&only) {
            continue;
        }
        let played = play::<S>(&text);
        if std::env::var_os("RINGKEEP_REWRITE").is_some() {
            std::fs::write(&file, &played).expect("a writable script");
        } else if played != text {
            let at = played.lines().zip(text.lines()).position(|(a, b)| a != b);
            differ.push(format!("{name}, line {:?}:\n{played}", at.map(|at| at + 1)));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n\n"));
}

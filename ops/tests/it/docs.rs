//! What the documents name exists: files and folders, types and functions, commands with their flags, variables, settings.
//!
//! Checked is what stands between backticks and in blocks of commands. That a sentence around it is true is for a reader to see.

use std::path::{Path, PathBuf};

use crate::host::run;
use crate::tidy::{CRATES, assert_none, manifest, root, sources};

const DOCUMENTS: [&str; 4] = ["ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "README.md"];

/// What a build makes.
const BUILT: &str = "target/release/ringkeep";

fn read(document: &str) -> String {
    std::fs::read_to_string(root().join(document)).expect("the document is there")
}

/// What stands between backticks, with the number of its line.
fn quoted(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_block = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            found.extend(line.split('`').skip(1).step_by(2).map(|quoted| (at + 1, quoted)));
        }
    }
    found
}

/// What stands between backticks where a file says what it is.
fn quoted_in_heads() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (path, text) in sources() {
        let head: Vec<&str> = text.lines().filter_map(|line| line.trim_start().strip_prefix("//!")).collect();
        let head = head.join("\n");
        let words = quoted(&head).into_iter().map(|(_, word)| word.to_owned());
        found.extend(words.map(|word| (path.display().to_string(), word)));
    }
    found
}

/// Every command of the document: from blocks of shell lines, and between backticks.
fn commands(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_shell = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("```") {
            in_shell = line == "```sh";
        } else if in_shell {
            found.push((at + 1, line));
        }
    }
    found.extend(quoted(text));
    found
}

/// Files and folders of the tree, relative to the root.
fn tree() -> Vec<PathBuf> {
    fn walk(dir: &Path, into: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).expect("a directory of the tree") {
            let path = entry.expect("an entry of the tree").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name == "target" || name == ".git" {
                continue;
            }
            into.push(path.strip_prefix(root()).expect("below the root").to_owned());
            if path.is_dir() {
                walk(&path, into);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found
}

fn is_path(word: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-./".contains(c);
    let named = word.ends_with(".rs") || word.ends_with(".md");
    named && !word.contains(' ')
        || word.contains('/') && !word.starts_with(['/', '.']) && word.chars().all(plain)
}

#[test]
fn every_path_is_there() {
    let tree = tree();
    let mut broken = Vec::new();
    let mut checked = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for (line, word) in quoted(&text).into_iter().filter(|(_, word)| is_path(word) && *word != BUILT) {
            checked += 1;
            // Most are relative to `store/src` or to the folder that the sentence is about.
            if !tree.iter().any(|path| path.ends_with(word.trim_end_matches('/'))) {
                broken.push(format!("{document}:{line}: {word}"));
            }
        }
    }
    assert!(checked > 100, "only {checked} paths were found, so the search is wrong");
    let heads: Vec<_> = quoted_in_heads().into_iter().filter(|(_, word)| is_path(word)).collect();
    assert!(heads.len() > 50, "only {} paths were found in the files, so the search is wrong", heads.len());
    for (file, word) in heads {
        if !tree.iter().any(|path| path.ends_with(word.trim_end_matches('/'))) {
            broken.push(format!("{file}: {word}"));
        }
    }
    assert_none(&broken, "a document, or the head of a file, names a file or folder that is not there");
}

fn is_identifier(word: &str) -> bool {
    word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && word.contains(char::is_alphabetic)
}

/// Whether one of the files has the word as a whole.
fn has_word<'a>(mut files: impl Iterator<Item = &'a String>, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    files.any(|text| {
        text.match_indices(word)
            .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
    })
}

/// Whether the sources define `member` of `owner`: in a file that defines or implements the owner.
fn has_member(files: &[(PathBuf, String)], owner: &str, member: &str) -> bool {
    let kinds = ["struct", "enum", "trait", "type", "mod"];
    files.iter().any(|(path, text)| {
        let defines = kinds.iter().any(|kind| has_word([text].into_iter(), &format!("{kind} {owner}")));
        let mut heads = text.lines().filter(|line| line.starts_with("impl")).map(str::to_owned);
        let implements = heads.any(|head| has_word([&head].into_iter(), owner));
        let is_module = path.iter().any(|part| part == owner || part == &*format!("{owner}.rs"));
        let forms = ["fn ", "struct ", "mod "].map(|kind| format!("{kind}{member}"));
        let has = has_word([text].into_iter(), &format!("{member}:"))
            || forms.iter().any(|form| has_word([text].into_iter(), form));
        (defines || implements || is_module) && has
    })
}

#[test]
fn every_name_of_the_code_is_there() {
    let files: Vec<(PathBuf, String)> =
        sources().into_iter().filter(|(path, _)| !path.ends_with("ops/tests/it/docs.rs")).collect();
    let mut broken = Vec::new();
    let mut checked = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for (line, quoted) in quoted(&text) {
            let word = quoted.trim_end_matches("()").trim_start_matches("rt.");
            let parts: Vec<&str> = word.split("::").collect();
            if !parts.iter().all(|part| is_identifier(part)) {
                continue;
            }
            let there = match &parts[..] {
                [.., owner, member] if !CRATES.contains(owner) => has_member(&files, owner, member),
                [.., name] if parts.len() > 1 || name.contains('_') => {
                    has_word(files.iter().map(|(_, text)| text), name.trim_start_matches('_'))
                        || name.starts_with('_')
                }
                _ => continue,
            };
            checked += 1;
            if !there {
                broken.push(format!("{document}:{line}: {quoted}"));
            }
        }
    }
    assert!(checked > 20, "only {checked} names were found, so the search is wrong");
    assert_none(&broken, "a document names something that the code does not have");
}

/// The crate with this package name.
fn package(name: &str) -> Option<&'static str> {
    CRATES.into_iter().find(|dir| manifest(dir).contains(&format!("name = \"{name}\"\n")))
}

/// What is wrong with a call of cargo; its arguments for the binary if it runs that.
fn cargo(words: &[&str]) -> Result<Vec<String>, String> {
    let mut own: Vec<&str> = Vec::new();
    let mut rest = words.iter();
    for word in rest.by_ref() {
        if *word == "--" {
            break;
        }
        own.push(word);
    }
    let after = |flag: &str| own.iter().position(|word| *word == flag).and_then(|at| own.get(at + 1));
    let dir = match after("-p") {
        Some(name) => package(name).ok_or(format!("there is no package {name}"))?,
        None => return Ok(Vec::new()),
    };
    if let Some(test) = after("--test") {
        let tests = root().join(dir).join("tests");
        let there = tests.join(test).join("main.rs").exists() || tests.join(format!("{test}.rs")).exists();
        there.then_some(()).ok_or(format!("{dir} has no test {test}"))?;
    }
    if let Some(feature) = after("--features") {
        let has = manifest(dir).lines().any(|line| line.starts_with(&format!("{feature} = [")));
        has.then_some(()).ok_or(format!("{dir} has no feature {feature}"))?;
    }
    let runs = own.get(1) == Some(&"run");
    Ok(if runs { rest.map(|word| (*word).to_owned()).collect() } else { Vec::new() })
}

/// What is wrong with arguments of the binary: its help for these subcommands must know each flag.
fn ringkeep(words: &[String]) -> Result<(), String> {
    let is_command =
        |word: &&String| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
    let commands: Vec<&str> = words.iter().take_while(is_command).map(String::as_str).collect();
    let help = run(&[&commands[..], &["--help"]].concat());
    if !help.status.success() {
        return Err(format!("ringkeep {} is not a command", commands.join(" ")));
    }
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let flags = words.iter().map(|word| word.trim_matches(['[', ']'])).filter(|word| word.starts_with("--"));
    let unknown: Vec<&str> = flags.filter(|flag| !help.contains(flag)).collect();
    unknown.is_empty().then_some(()).ok_or(format!("ringkeep {} has no {unknown:?}", commands.join(" ")))
}

#[test]
fn every_command_is_one() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for document in DOCUMENTS {
        let text = read(document);
        for (line, command) in commands(&text) {
            let words: Vec<&str> = command
                .split_whitespace()
                .skip_while(|word| word.contains('=') && !word.starts_with('-'))
                .collect();
            let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            let outcome = match &words[..] {
                ["cargo", ..] => cargo(&words).and_then(|arguments| match &arguments[..] {
                    [] => Ok(()),
                    arguments => ringkeep(arguments),
                }),
                ["ringkeep", arguments @ ..] => ringkeep(&owned(arguments)),
                ["bench", _, ..] => ringkeep(&owned(&words)),
                _ => continue,
            };
            checked += 1;
            if let Err(why) = outcome {
                broken.push(format!("{document}:{line}: {command}: {why}"));
            }
        }
    }
    assert!(checked > 30, "only {checked} commands were found, so the search is wrong");
    assert_none(&broken, "a document names a command that is none");
}

#[test]
fn every_variable_is_read() {
    let files: Vec<String> = sources()
        .into_iter()
        .filter(|(path, _)| !path.ends_with("ops/tests/it/docs.rs"))
        .map(|(_, text)| text)
        .collect();
    let mut broken = Vec::new();
    for document in DOCUMENTS {
        let text = read(document);
        for (at, _) in text.match_indices("RINGKEEP_") {
            let name: String =
                text[at..].chars().take_while(|c| c.is_ascii_uppercase() || *c == '_').collect();
            // A setting's variable is made from its name.
            let key = name.trim_start_matches("RINGKEEP_").to_lowercase();
            let is_key =
                !key.is_empty() && files.iter().any(|text| text.contains(&format!("name: \"{key}\"")));
            if !key.is_empty() && !is_key && !files.iter().any(|text| text.contains(&format!("\"{name}\""))) {
                broken.push(format!("{document}: {name}"));
            }
        }
    }
    assert_none(&broken, "a document names a variable that nothing reads");
}

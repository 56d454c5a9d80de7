//! Code as the compiler reads it: without comments, strings and tests, however it is broken into lines, with groups of imports taken
//! apart. The rules about the tree ([`owners`](crate::owners), [`pure`](crate::pure)) read it so, because a name in a text can be evaded.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use crate::tidy::sources;

/// The code of one file that production runs.
#[derive(Clone)]
pub(crate) struct Code {
    pub(crate) path: PathBuf,
    /// One space between words, none anywhere else.
    pub(crate) text: String,
}

impl Code {
    pub(crate) fn of(path: &Path, text: &str) -> Self {
        Self { path: path.to_owned(), text: close_up(&without_tests(&bare(text))) }
    }

    pub(crate) fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| self.path.starts_with(folder))
    }

    /// How often `pattern` begins where no word goes on. A core is never awaited, so what is awaited is something else.
    pub(crate) fn count(&self, pattern: &str) -> usize {
        let begins_a_word = pattern.starts_with(is_word);
        let starts = self.text.match_indices(pattern).map(|(at, _)| at);
        let is_it = |at: &usize| {
            let is_awaited = self.text[at + pattern.len()..].starts_with(".await");
            let goes_on = begins_a_word && self.text[..*at].ends_with(is_word);
            !goes_on && !is_awaited
        };
        starts.filter(is_it).count()
    }

    pub(crate) fn words(&self) -> impl Iterator<Item = &str> {
        self.text.split(|c| !is_word(c)).filter(|word| !word.is_empty())
    }
}

pub(crate) const fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The text without comments, and with nothing in its strings.
fn bare(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(c) = rest.chars().next() {
        let raw = rest.strip_prefix('r').map(|tail| tail.len() - tail.trim_start_matches('#').len());
        let raw = raw.filter(|marks| rest[1 + marks..].starts_with('"') && !out.ends_with(is_word));
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(marks) = raw {
            let end = format!("\"{}", "#".repeat(marks));
            let begin = 1 + marks + 1;
            rest[begin..].find(&end).map_or(rest.len(), |at| begin + at + end.len())
        } else if c == '"' {
            let mut escaped = false;
            let end = rest[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            end.map_or(rest.len(), |at| at + 2)
        } else if c == '\'' {
            // A character; a lifetime has no second mark.
            match rest[1..].strip_prefix('\\') {
                Some(tail) => tail[1..].find('\'').map_or(1, |at| at + 4),
                None => rest[1..].chars().next().map_or(1, |one| {
                    let len = one.len_utf8();
                    if rest[1 + len..].starts_with('\'') { len + 2 } else { 1 }
                }),
            }
        } else {
            0
        };
        if skipped > 0 {
            out.push(' ');
            rest = &rest[skipped..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// The text without what is compiled for tests only.
fn without_tests(text: &str) -> String {
    let mut out = String::new();
    for (at, part) in text.split("#[cfg(test)]").enumerate() {
        if at == 0 {
            out.push_str(part);
            continue;
        }
        // What the attribute is for ends with a semicolon, or with its block.
        let mut depth = 0;
        let end = part.find(|c| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            depth == 0 && (c == ';' || c == '}')
        });
        out.push_str(end.map_or("", |at| &part[at + 1..]));
    }
    out
}

/// The text as the compiler reads it, with its tests.
pub(crate) fn whole(text: &str) -> String {
    close_up(&bare(text))
}

fn close_up(text: &str) -> String {
    let mut out = String::new();
    for word in text.split_whitespace() {
        if out.ends_with(is_word) && word.starts_with(is_word) {
            out.push(' ');
        }
        out.push_str(word);
    }
    out
}

pub(crate) fn production() -> Vec<Code> {
    static ALL: LazyLock<Vec<Code>> = LazyLock::new(read);
    ALL.clone()
}

fn read() -> Vec<Code> {
    let is_test = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let inside = path.components().nth(1).is_some_and(|part| part.as_os_str() != "src");
        inside || name == "tests.rs" || name.ends_with("_tests.rs") || name.ends_with("_kit.rs")
    };
    let all = sources();
    let of = |(path, text): &(PathBuf, String)| (!is_test(path)).then(|| Code::of(path, text));
    all.iter().filter_map(of).collect()
}

/// Code as it stands, with something added to one of its files.
pub(crate) fn with(path: &str, added: &str) -> Vec<Code> {
    let mut all = production();
    let file = all.iter_mut().find(|file| file.path == Path::new(path)).expect("a file of the tree");
    file.text.push_str(&Code::of(Path::new(path), added).text);
    all
}

/// Every path of several parts, those in groups of imports included.
pub(crate) fn paths(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(place) = text[at..].find("::") {
        let colons = at + place;
        let word = text[..colons].rfind(|c| !is_word(c)).map_or(0, |before| before + 1);
        at = colons + 2 + tail(&text[word..colons], &text[colons + 2..], &mut found);
    }
    found
}

/// Collects what follows `head` and two colons; how long it is.
fn tail(head: &str, text: &str, found: &mut Vec<String>) -> usize {
    if text.starts_with('{') {
        let mut at = 1;
        while at < text.len() {
            match &text[at..=at] {
                "}" => return at + 1,
                "," => at += 1,
                _ => {
                    let len = text[at..].find(|c| !is_word(c)).unwrap_or(text.len() - at);
                    let path = format!("{head}::{}", &text[at..at + len]);
                    at += len;
                    match text[at..].strip_prefix("::") {
                        Some(rest) => at += 2 + tail(&path, rest, found),
                        None => found.push(path),
                    }
                    // A star, or another name.
                    at += text[at..].find([',', '}']).unwrap_or(text.len() - at);
                }
            }
        }
        return at;
    }
    let len = text.find(|c| !is_word(c)).unwrap_or(text.len());
    let path = format!("{head}::{}", &text[..len]);
    match text[len..].strip_prefix("::") {
        Some(rest) => len + 2 + tail(&path, rest, found),
        None => {
            found.push(path);
            len
        }
    }
}

#[test]
fn paths_are_read_in_every_spelling() {
    let found = paths(&close_up("use a::{b, c::{d, e as f}, g::*}; fn h() -> i::j::K { l::m(n::o) }"));
    assert_eq!(found, ["a::b", "a::c::d", "a::c::e", "a::g::", "i::j::K", "l::m", "n::o"]);
}

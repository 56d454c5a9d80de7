//! The tree's own rules, each with its reason.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::code::{Code, paths, whole};

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace").to_owned()
}

pub(crate) const CRATES: [&str; 6] = ["engine", "raft", "store", "scheduler", "bench", "ops"];

/// Every Rust file of the crates, relative to the root, with its text.
pub(crate) fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for name in CRATES {
        collect(&root().join(name), &[".rs"], &mut files);
    }
    assert!(files.len() > 50, "only {} files were found, so the search is wrong", files.len());
    files.sort();
    files
}

/// Text files with one of these endings.
fn collect(dir: &Path, endings: &[&str], into: &mut Vec<(PathBuf, String)>) {
    for entry in std::fs::read_dir(dir).expect("a directory of the tree") {
        let path = entry.expect("an entry of the tree").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            collect(&path, endings, into);
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            let text = std::fs::read_to_string(&path).expect("a readable file");
            into.push((path.strip_prefix(root()).expect("below the root").to_owned(), text));
        }
    }
}

pub(crate) fn assert_none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// The lines of files outside `exempt` that hold one of `words`, as `path:line`.
fn lines_with(words: &[String], exempt: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in sources() {
        if exempt.iter().any(|prefix| path.starts_with(prefix)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn every_file_says_why_it_exists() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert_none(&silent, "a file opens with //! and says what it owns");
}

#[test]
fn glommio_has_one_address() {
    // Comments may say what is below; code may not. This file has to spell the name to look for it.
    let named = lines_with(&["glommio".to_owned()], &["engine/src/rt/native", "ops/tests/it/tidy.rs"]);
    let is_code =
        |line: &String| line.splitn(3, ':').nth(2).is_some_and(|code| !code.trim().starts_with("//"));
    let outside: Vec<String> = named.into_iter().filter(is_code).collect();
    assert_none(
        &outside,
        "glommio is named in engine/src/rt/native only, so that the world below can change",
    );
    for name in CRATES.iter().filter(|name| **name != "engine") {
        let manifest = manifest(name);
        assert!(!manifest.contains("glommio"), "{name} depends on glommio past the seam");
    }
}

#[test]
fn nothing_is_left_for_later() {
    let words = [
        ["TO", "DO"],
        ["FIX", "ME"],
        ["XX", "X:"],
        ["todo", "!("],
        ["unimplemented", "!("],
        ["#[ig", "nore"],
    ];
    let words: Vec<String> = words.iter().map(|parts| parts.concat()).collect();
    let found = lines_with(&words, &["ops/tests/it/tidy.rs"]);
    assert_none(&found, "unfinished work stands in an issue, not in the code");
}

/// Private words of earlier versions that have a standard counterpart in the field. They are written in two parts, because this file
/// is read, too.
const PRIVATE_WORDS: [([&str; 2], &str); 19] = [
    (["Let", "ter"], "message"),
    (["be_b", "orn"], "bootstrap"),
    (["bi", "rth"], "bootstrap"),
    (["the ow", "n "], "its own"),
    (["ome", "body "], "a client, a task, another member"),
    (["obo", "dy"], "no client, no task, no other member"),
    (["every", "body"], "every member, every task, all clients"),
    (["hom", "ing"], "connection migration"),
    (["behind the ra", "nge"], "exclusive end"),
    (["Mo", "st bytes"], "maximum bytes"),
    (["told to d", "ial"], "announced to clients"),
    (["s to", "ld"], "is notified, is asked, hears"),
    (["re to", "ld"], "are notified, are asked, hear"),
    (["stands st", "ill"], "is paused, is stalled, does not change"),
    (["stand st", "ill"], "pause, stall, block"),
    (["share fa", "te"], "fail together"),
    (["under wa", "y"], "in flight"),
    (["pati", "ence"], "a time or a budget"),
    (["cannot be to", "ld"], "is not known, cannot be distinguished"),
];

#[test]
fn private_words_stay_out() {
    let mut files = Vec::new();
    for name in CRATES {
        collect(&root().join(name), &[".rs", ".txt", ".proto"], &mut files);
    }
    assert!(files.iter().any(|(path, _)| path.ends_with("tests/scripts/commit_only_in_own_term.txt")));
    assert_none(&private_words(&files), "the field's word stands in for a private one");
}

/// The lines, and the names of files, with a private word.
fn private_words(files: &[(PathBuf, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (parts, better) in PRIVATE_WORDS {
        let word = parts.concat();
        // A name is words, too.
        let has = |text: &str| text.contains(&word) || text.replace('_', " ").contains(&word);
        for (path, text) in files {
            let path = path.display().to_string();
            if has(&path) {
                found.push(format!("{path}  (the field says: {better})"));
            }
            let lines = text.lines().enumerate().filter(|(_, line)| has(line));
            found.extend(
                lines.map(|(at, line)| {
                    format!("{path}:{}: {}  (the field says: {better})", at + 1, line.trim())
                }),
            );
        }
    }
    found
}

#[test]
fn private_words_are_found_in_names_and_in_scripts() {
    let told = ["stale_leader_is_to", "ld.txt"].concat();
    let every = ["# wakes every", "body.\n"].concat();
    for (path, text, count) in
        [(&*told, "x", 1), ("a.txt", &*every, 1), ("a.proto", &*told, 1), ("a.rs", "x", 0)]
    {
        assert_eq!(private_words(&[(PathBuf::from(path), text.to_owned())]).len(), count, "{path}: {text}");
    }
}

/// Names that two public types of one crate have, each with the reason why no reader takes one for the other.
const SHARED_NAMES: [(&str, &str, &str); 10] = [
    ("bench", "Answer", "one of a load driver's client, one of a simulated client; no file knows both"),
    ("bench", "History", "one of the crash audit, one of the simulation; no file knows both"),
    ("bench", "Options", "every command has its own and is called with it by its module's name"),
    ("bench", "Row", "a row of a comparison's table; each comparison has its own"),
    ("bench", "Run", "a run of a comparison, or of a seed; each has a module of its own"),
    ("bench", "Seen", "what a client has seen, in two commands; no file knows both"),
    ("engine", "Recovery", "written with its module: `log::Recovery`, `lsm::Recovery`"),
    ("store", "Config", "the node's; that of the RESP server is written `resp::Config`"),
    ("store", "Frame", "of gRPC, or of the protocol between stores; no file knows both"),
    ("store", "Method", "of the TiKV service, or of the PD service; each inside its folder"),
];

/// The public types that a file defines at its top level.
fn public_types(text: &str) -> Vec<String> {
    let kinds = ["struct ", "enum ", "trait ", "type "];
    let heads = text.lines().filter_map(|line| line.strip_prefix("pub "));
    let names = heads.filter_map(|head| kinds.iter().find_map(|kind| head.strip_prefix(kind)));
    let word = |name: &str| name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    names.map(word).collect()
}

#[test]
fn a_name_stands_for_one_public_type_of_a_crate() {
    let mut places: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for (path, text) in
        sources().iter().filter(|(path, _)| path.iter().nth(1).is_some_and(|dir| dir == "src"))
    {
        let name = path.iter().next().and_then(|name| name.to_str()).unwrap_or_default();
        for public in public_types(text) {
            places.entry((name.to_owned(), public)).or_default().push(path.display().to_string());
        }
    }
    let is_allowed = |name: &str, public: &str| {
        SHARED_NAMES.iter().any(|(listed, shared, _)| (*listed, *shared) == (name, public))
    };
    let doubled = places.iter().filter(|(_, places)| places.len() > 1);
    let (known, new): (Vec<_>, Vec<_>) = doubled.partition(|((name, public), _)| is_allowed(name, public));
    let new: Vec<String> = new
        .iter()
        .map(|((name, public), places)| format!("{name}: {public}: {}", places.join(", ")))
        .collect();
    assert_none(&new, "two public types of a crate have one name; rename one, or list it with a reason");
    assert_eq!(known.len(), SHARED_NAMES.len(), "a listed name is not shared any more");
}

#[test]
fn there_is_one_clippy_file() {
    let mut found = Vec::new();
    for name in CRATES {
        for file in [".clippy.toml", "clippy.toml"] {
            let path = root().join(name).join(file);
            if path.exists() {
                found.push(path.display().to_string());
            }
        }
    }
    assert_none(&found, "clippy reads the nearest file only, so a second one drops the bans of the first");
    assert!(root().join(".clippy.toml").exists());
}

pub(crate) fn manifest(name: &str) -> String {
    std::fs::read_to_string(root().join(name).join("Cargo.toml")).expect("every crate has a manifest")
}

/// The lines of one section of a manifest that are neither empty nor comments.
fn section<'a>(manifest: &'a str, name: &str) -> Vec<&'a str> {
    let header = format!("[{name}]");
    let lines = manifest.lines().skip_while(|line| line.trim() != header).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('[')).map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[test]
fn lints_are_those_of_the_workspace() {
    for name in CRATES {
        assert_eq!(section(&manifest(name), "lints"), ["workspace = true"], "{name}/Cargo.toml");
    }
}

/// Debug builds assert the invariants as they are. A simulated cluster is for release builds, where it would judge by what clients see
/// alone if its feature did not ask for them.
#[test]
fn a_simulated_cluster_asserts_the_invariants_in_release_builds() {
    let only_in_debug = lines_with(&[["cfg!(debug", "_assertions)"].concat()], &[]);
    assert_none(&only_in_debug, "invariants are asserted in debug builds and with the feature `checks`");
    for (name, feature, brings) in [
        ("ops", "sim", "bench/sim"),
        ("bench", "sim", "store/checks"),
        ("store", "checks", "raft/checks"),
        ("store", "checks", "engine/checks"),
    ] {
        let manifest = manifest(name);
        let lines = section(&manifest, "features");
        let line = lines.iter().find(|line| line.starts_with(&format!("{feature} =")));
        let brought = line.is_some_and(|line| line.contains(&format!("\"{brings}\"")));
        assert!(brought, "the feature {feature} of {name} brings {brings}");
    }
}

#[test]
fn edges_between_crates_point_one_way() {
    let allowed: [(&str, &[&str]); 6] = [
        ("engine", &[]),
        ("raft", &[]),
        ("scheduler", &[]),
        ("store", &["engine", "raft", "scheduler"]),
        ("bench", &["engine", "raft", "scheduler", "store"]),
        ("ops", &["engine", "raft", "scheduler", "store", "bench"]),
    ];
    for (name, edges) in allowed {
        for line in section(&manifest(name), "dependencies") {
            let used = line.split(['.', ' ', '=']).next().unwrap_or_default();
            let ours = CRATES.contains(&used);
            assert!(!ours || edges.contains(&used), "{name} must not know {used}");
        }
    }
    for name in ["raft", "scheduler"] {
        let manifest = manifest(name);
        assert_eq!(
            section(&manifest, "dependencies"),
            Vec::<&str>::new(),
            "{name} is pure, so it depends on nothing"
        );
    }
}

/// The folders and files of `store/src` with what each may import: always something that stands above it in this list, so that there is
/// no circle.
const STORE_IMPORTS: [(&str, &[&str]); 17] = [
    ("keyspace", &[]),
    ("metrics", &[]),
    ("plant", &[]),
    ("process", &[]),
    ("descriptors", &[]),
    ("witness", &[]),
    ("refusal", &[]),
    ("secret", &[]),
    ("request", &["refusal"]),
    ("memory", &["refusal"]),
    ("config", &["memory", "secret"]),
    ("region", &["plant", "refusal", "request", "witness"]),
    ("control", &["keyspace", "plant", "refusal", "region"]),
    ("shard", &["keyspace", "memory", "metrics", "plant", "refusal", "region", "request", "secret"]),
    ("gateway", &["keyspace", "memory", "metrics", "plant", "refusal", "region", "request", "shard"]),
    (
        "wire",
        &[
            "control",
            "descriptors",
            "gateway",
            "keyspace",
            "memory",
            "metrics",
            "plant",
            "process",
            "refusal",
            "region",
            "request",
            "secret",
            "shard",
        ],
    ),
    (
        "node",
        &[
            "config",
            "control",
            "descriptors",
            "gateway",
            "keyspace",
            "memory",
            "plant",
            "refusal",
            "region",
            "secret",
            "shard",
            "wire",
        ],
    ),
];

/// What the metrics page is made of; nothing in `store` knows it.
const PUBLISH_IMPORTS: &[&str] =
    &["control", "gateway", "memory", "metrics", "process", "region", "secret", "shard", "wire"];

#[test]
fn folders_of_the_store_import_one_way() {
    for (at, (name, allowed)) in STORE_IMPORTS.iter().enumerate() {
        let above: Vec<&str> = STORE_IMPORTS[..at].iter().map(|(name, _)| *name).collect();
        let below: Vec<&&str> = allowed.iter().filter(|used| !above.contains(used)).collect();
        assert!(below.is_empty(), "{name} may not import {below:?}, which stand below it in the list");
    }
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    for (path, text) in sources() {
        let Ok(inside) = path.strip_prefix("store/src") else { continue };
        let name = inside.iter().next().and_then(|part| part.to_str()).unwrap_or_default();
        let name = name.trim_end_matches(".rs");
        let rule = STORE_IMPORTS.iter().find(|(listed, _)| *listed == name).map(|(_, allowed)| *allowed);
        let allowed = match (name, rule) {
            ("lib", _) => continue,
            ("publish", _) => PUBLISH_IMPORTS,
            (_, Some(allowed)) => allowed,
            (_, None) => panic!("{name} of store/src is not in the list of what may import what"),
        };
        seen.insert(name.to_owned());
        for used in imports(&path, &text) {
            if used != name && !allowed.contains(&used.as_str()) {
                broken.push(format!("{}: {name} imports {used}", path.display()));
            }
        }
    }
    assert_none(&broken, "the folders of store/src import in one direction");
    assert_eq!(
        seen.len(),
        STORE_IMPORTS.len() + 1,
        "the list has a row for every folder and for nothing else"
    );
}

/// The modules at the root of its crate that a file names in code, from there or from where it lies itself.
fn imports(path: &Path, text: &str) -> Vec<String> {
    let inside = path.iter().skip_while(|part| *part != "src").skip(1);
    let depth = inside.filter(|part| *part != "mod.rs").count();
    let of_root = |path: String| path.strip_prefix("crate::").map(str::to_owned);
    let mut found: Vec<String> = paths(&whole(text)).into_iter().filter_map(of_root).collect();
    // A module of tests lies one deeper than its file, so it is left out.
    found.extend(paths(&Code::of(path, text).text).into_iter().filter_map(|path| {
        let (mut rest, mut up) = (&*path, 0);
        while let Some(above) = rest.strip_prefix("super::") {
            (rest, up) = (above, up + 1);
        }
        // The root has modules; a name in capitals is of a module inside the file.
        (up >= depth && up > 0 && !rest.starts_with(char::is_uppercase)).then(|| rest.to_owned())
    }));
    found.iter().filter_map(|path| path.split("::").next()).map(str::to_owned).collect()
}

#[test]
fn imports_are_read_in_every_spelling() {
    let read = |path: &str, text: &str| imports(Path::new(path), text);
    let text = "// crate::no\nuse crate::one::Two;\nuse crate::{three, four::{five, Six}, seven as eight};\nfn f() -> crate::nine::Ten {}\n";
    assert_eq!(read("store/src/a.rs", text), ["one", "three", "four", "four", "seven", "nine"]);
    let text = "use super::super::{one::Two, three};\nfn f() -> super::super::super::four::Five {}\nuse super::six;\n#[cfg(test)]\nmod tests { use super::super::seven; }\n";
    assert_eq!(read("store/src/a/b.rs", text), ["one", "three", "four"]);
    assert_eq!(read("store/src/a/b/mod.rs", text), ["one", "three", "four"]);
    assert_eq!(read("store/src/a/mod.rs", "use super::one; use super::{super::two};"), ["one", "two"]);
    assert_eq!(read("store/src/a/b/c.rs", text), ["four"]);
}

#[test]
fn unsafe_code_lives_in_the_seam() {
    let words = [["un", "safe {"].concat(), ["un", "safe fn"].concat(), ["un", "safe impl"].concat()];
    assert_none(
        &lines_with(&words, &["engine/src/rt", "engine/src/host", "engine/tests"]),
        "unsafe code lives in engine/src/rt and, for questions to the kernel, in engine/src/host",
    );
}

/// The longest function of the tree. This number may shrink, not grow.
const FUNCTION_LINES_MAX: usize = 80;

#[test]
fn functions_stay_short() {
    let mut long = Vec::new();
    for (path, text) in sources() {
        for (name, first, length) in functions(&text) {
            if length > FUNCTION_LINES_MAX {
                long.push(format!("{}:{first}: {name} has {length} lines", path.display()));
            }
        }
    }
    assert_none(&long, &format!("a function over {FUNCTION_LINES_MAX} lines is two functions"));
}

/// The longest file of the tree. This number may shrink, not grow.
const FILE_LINES_MAX: usize = 600;

#[test]
fn files_stay_short() {
    let mut long = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX {
            long.push(format!("{} has {lines} lines", path.display()));
        }
    }
    assert_none(&long, &format!("a file over {FILE_LINES_MAX} lines has two ideas"));
}

/// Functions of a formatted file: name, first line, lines. A function ends at the first brace that is indented like its head.
fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let head = line.trim_start();
        let Some((before, after)) = head.split_once("fn ") else { continue };
        let words = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern"];
        if !before.split_whitespace().all(|word| words.contains(&word)) {
            continue;
        }
        let opened = lines[at..].iter().find(|line| line.ends_with(['{', '}', ';']));
        if opened.is_some_and(|line| line.ends_with(';')) {
            // A trait asks for it and has no body.
            continue;
        }
        let indent = line.len() - head.len();
        let end = format!("{}}}", " ".repeat(indent));
        let length = lines[at..].iter().position(|line| *line == end).map_or(1, |length| length + 1);
        let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        found.push((name, at + 1, length));
    }
    found
}

#[test]
fn the_ruler_measures_functions() {
    let text = "fn a() {\n    1\n}\n\nimpl X {\n    pub(crate) async fn b(\n        x: u8,\n    ) -> u8 {\n        x\n    }\n}\n";
    assert_eq!(functions(text), [("a".into(), 1, 3), ("b".into(), 6, 5)]);
}

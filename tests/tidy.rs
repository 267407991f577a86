//! The conventions of the source tree that can be checked: which block may import from which,
//! how long files and functions get, and that every file says what it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The blocks in reading order. A module imports from its own block and from those above.
/// Adding a module means adding it here, which is where its place is decided.
const BLOCKS: [(&str, &[&str]); 9] = [
    (
        "words",
        &[
            "event", "alert", "action", "timer", "record", "clock", "secret", "node", "command",
            "door",
        ],
    ),
    ("pure", &["rules", "ledger", "phones", "builtin", "doors", "replay"]),
    ("durable", &["files", "disk", "journal", "index", "intake", "silence"]),
    ("systems", &["systems"]),
    ("delivery", &["delivery"]),
    ("watching", &["telemetry"]),
    ("deciding", &["waits", "router", "reload"]),
    ("face", &["web"]),
    ("wiring", &["config", "app", "cli"]),
];

/// Longest file and function; beyond it nobody keeps it in the head.
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Why these may point upwards: nothing yet.
const EXCEPTIONS: &[(&str, &str)] = &[];

#[test]
fn imports_point_up() {
    let rank = ranks();
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(own) = module(&path) else { continue };
        let Some(own_rank) = rank.get(own.as_str()) else {
            wrong.push(format!("{}: `{own}` is in no block", path.display()));
            continue;
        };
        for used in code(&text).split("crate::").skip(1) {
            let used: String =
                used.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            let allowed = EXCEPTIONS.contains(&(own.as_str(), used.as_str()));
            if rank.get(used.as_str()).is_some_and(|used| used > own_rank) && !allowed {
                wrong.push(format!("{}: imports from `{used}`, which is below", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn modules_are_declared_in_reading_order() {
    let rank = ranks();
    let lib = fs::read_to_string("src/lib.rs").unwrap();
    let declared = lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';'));
    let ranks: Vec<usize> = declared.map(|name| rank[name]).collect();
    assert!(ranks.is_sorted(), "src/lib.rs declares a module above its block");
}

#[test]
fn every_file_says_what_it_is_and_stays_short() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines = text.lines().count();
        let is_main = path.ends_with("main.rs");
        let is_tests = path.file_name().is_some_and(|name| name == "tests.rs");
        if !text.starts_with("//!") && !is_main && !is_tests {
            wrong.push(format!("{}: does not begin with what it owns (`//!`)", path.display()));
        }
        if lines > FILE_LINES_MAX {
            wrong.push(format!("{}: {lines} lines", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn functions_stay_short() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (name, lines) in functions(&text) {
            if lines > FUNCTION_LINES_MAX {
                wrong.push(format!("{}: fn {name} has {lines} lines", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn ranks() -> BTreeMap<&'static str, usize> {
    let ranked = BLOCKS.iter().enumerate();
    ranked.flat_map(|(rank, (_, names))| names.iter().map(move |name| (*name, rank))).collect()
}

/// The top-level module a file belongs to.
fn module(path: &Path) -> Option<String> {
    let first = path.strip_prefix("src").ok()?.components().next()?;
    let name = Path::new(first.as_os_str()).file_stem()?.to_str()?.to_string();
    (!["lib", "main"].contains(&name.as_str())).then_some(name)
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// The text without comments and without its unit tests.
fn code(text: &str) -> String {
    let until_tests = text.split("#[cfg(test)]").next().unwrap_or(text);
    let lines = until_tests.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Names and lengths of functions, found by rustfmt's indentation.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let body = line.trim_start();
        let indent = line.len() - body.len();
        let Some(at) = body.find("fn ").filter(|_| !body.starts_with("//")) else { continue };
        let is_head = body[..at].split_whitespace().all(|word| {
            ["pub", "async", "const", "unsafe", "pub(crate)", "pub(super)"].contains(&word)
        });
        if !is_head {
            continue;
        }
        let name =
            body[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        let end = format!("{}}}", " ".repeat(indent));
        let length = lines[start..].iter().position(|line| *line == end).map_or(1, |n| n + 1);
        found.push((name, length));
    }
    found
}

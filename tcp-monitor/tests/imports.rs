//! Which module may import which: every arrow of ARCHITECTURE.md points down, and `lifecycle` is
//! pure.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of the agent, and those that each may import.
const ARROWS: [(&str, &[&str]); 13] = [
    (
        "cmd",
        &[
            "capture",
            "cli",
            "clock",
            "counts",
            "kernel",
            "lifecycle",
            "metrics",
            "netns",
            "output",
            "ports",
            "sockets",
        ],
    ),
    ("cli", &["lifecycle", "ports"]),
    ("output", &["clock", "lifecycle"]),
    ("metrics", &["counts"]),
    // Of `kernel` only `ephemeral_ports`.
    ("sockets", &["clock", "counts", "kernel", "lifecycle", "netlink", "netns", "ports"]),
    ("kernel", &["clock", "counts", "lifecycle", "netlink", "netns", "ports"]),
    ("capture", &["lifecycle"]),
    ("clock", &["lifecycle"]),
    ("counts", &[]),
    ("netns", &[]),
    ("netlink", &[]),
    ("ports", &[]),
    ("lifecycle", &[]),
];

/// The dependencies that `lifecycle` may use.
const PURE: [&str; 4] = ["foldhash", "hashbrown", "tcp-monitor-common", "thiserror"];

/// Parts of the standard library with which it would not be pure.
const IMPURE: [&str; 9] =
    ["fs", "io", "os", "process", "sync", "thread", "time::Instant", "time::SystemTime", "time::UNIX_EPOCH"];

#[test]
fn every_module_imports_only_modules_below_it() {
    let mut wrong = Vec::new();
    for (module, allowed) in ARROWS {
        for (path, text) in sources(module) {
            let imports = names_after(&text, "crate::");
            let upward = imports.iter().filter(|name| **name != module && !allowed.contains(name));
            wrong.extend(upward.map(|name| format!("{}: crate::{name}", path.display())));
        }
    }
    assert!(wrong.is_empty(), "upward imports:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_arrows() {
    let library = fs::read_to_string(source_folder().join("lib.rs")).expect("it is checked in");
    let modules: BTreeSet<_> = library
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    assert_eq!(modules, ARROWS.map(|(module, _)| module).into());
}

#[test]
fn lifecycle_does_no_io_and_reads_no_clock() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest = fs::read_to_string(manifest).expect("it is checked in");
    let section = manifest.split("\n[dependencies]\n").nth(1).expect("it has dependencies");
    let section = section.split("\n[").next().unwrap_or_default();
    let dependencies: Vec<_> = section
        .lines()
        .filter_map(|line| line.split([' ', '.', '=']).next())
        .filter(|n| !n.is_empty())
        .collect();
    assert!(PURE.iter().all(|pure| dependencies.contains(pure)), "{dependencies:?}");
    for (path, text) in sources("lifecycle") {
        for dependency in dependencies.iter().filter(|name| !PURE.contains(name)) {
            let name = format!("{}::", dependency.replace('-', "_"));
            assert!(!has_word(&text, &name), "{} uses {dependency}", path.display());
        }
        for part in IMPURE {
            assert!(!text.contains(&format!("std::{part}")), "{} uses std::{part}", path.display());
        }
    }
}

/// The files of a module, without its tests.
fn sources(module: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut paths = vec![source_folder().join(module), source_folder().join(format!("{module}.rs"))];
    while let Some(path) = paths.pop() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "tests" || name == "tests.rs" {
            continue;
        }
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("it is a folder");
            paths.extend(entries.map(|entry| entry.expect("it can be listed").path()));
        } else if name.ends_with(".rs") && path.is_file() {
            let text = fs::read_to_string(&path).expect("it is UTF-8");
            let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
            files.push((path, code));
        }
    }
    assert!(!files.is_empty(), "no module {module}");
    files
}

fn source_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The names that follow `prefix` in a text.
fn names_after<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let name = |rest: &'a str| {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    };
    // Comments may link to any module, and macros of the library are `$crate::`.
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines
        .flat_map(|line| line.match_indices(prefix).map(move |(at, _)| (line, at)))
        .filter(|(line, at)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || "_$".contains(c)))
        .map(|(line, at)| name(&line[at + prefix.len()..]))
        .filter(|name| !name.is_empty())
        .collect()
}

fn has_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

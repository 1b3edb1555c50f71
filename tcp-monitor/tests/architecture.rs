//! Modules import only modules below them. The state machine of connections imports nothing that
//! does input or output or reads a clock.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Each module of the crate, with the modules that it may import: those below it.
const MODULES: [(&str, &[&str]); 13] = [
    ("lifecycle", &[]),
    ("ports", &[]),
    ("netlink", &[]),
    ("netns", &[]),
    ("counts", &[]),
    ("clock", &["lifecycle"]),
    ("capture", &["lifecycle"]),
    ("kernel", &["clock", "counts", "lifecycle", "netlink", "netns", "ports"]),
    ("sockets", &["clock", "counts", "lifecycle", "netlink", "netns", "ports"]),
    ("metrics", &["counts"]),
    ("output", &["clock", "lifecycle"]),
    ("cli", &["lifecycle", "ports"]),
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
];

/// The crates that `lifecycle` may name.
const LIFECYCLE_CRATES: [&str; 5] = ["std", "core", "tcp_monitor_common", "hashbrown", "foldhash"];

/// What of the standard library does input or output or reads a clock.
const IMPURE: [&str; 9] = [
    "std::fs",
    "std::io",
    "std::env",
    "std::process",
    "std::thread",
    "TcpStream",
    "UdpSocket",
    "SystemTime",
    "Instant",
];

#[test]
fn modules_import_only_modules_below_them() {
    let known: BTreeSet<&str> = MODULES.iter().map(|(module, _)| *module).collect();
    let mut problems = Vec::new();
    for file in sources() {
        let Some(&(module, below)) = MODULES.iter().find(|(module, _)| *module == file.module()) else {
            assert!(matches!(file.module(), "lib" | "main"), "{}: which row of MODULES?", file.name);
            continue;
        };
        if file.is_test() {
            continue;
        }
        for imported in file.modules_named() {
            let is_below = imported == module || below.contains(&imported.as_str());
            if known.contains(imported.as_str()) && !is_below {
                problems.push(format!("{} imports crate::{imported}", file.name));
            }
        }
    }
    assert!(problems.is_empty(), "arrows that do not point down:\n{}", problems.join("\n"));
}

#[test]
fn the_modules_are_in_order() {
    for (at, (module, below)) in MODULES.iter().enumerate() {
        for imported in *below {
            let is_earlier = MODULES[..at].iter().any(|(earlier, _)| earlier == imported);
            assert!(is_earlier, "{module} imports {imported}, which is not below it");
        }
    }
}

#[test]
fn lifecycle_is_pure() {
    let manifest = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let dependencies = dependencies(&manifest);
    assert!(dependencies.iter().any(|name| name == "tokio"), "{dependencies:?}");
    for file in sources().iter().filter(|file| file.module() == "lifecycle") {
        for name in dependencies.iter().filter(|name| !LIFECYCLE_CRATES.contains(&name.as_str())) {
            assert!(!file.names(&format!("{name}::")), "{} imports {name}", file.name);
        }
        for impure in IMPURE {
            assert!(!file.names(impure), "{} uses {impure}", file.name);
        }
    }
}

#[test]
fn an_import_is_found_however_it_is_written() {
    let file = |text: &str| Source { name: "kernel/ring.rs".into(), code: code(text) };
    for text in [
        "use crate::output::Text;",
        "fn f() { crate::output::f(); }",
        "use crate::{clock::Clock, output};",
        "use super::super::output::Text;",
    ] {
        assert!(file(text).modules_named().contains("output"), "{text}");
    }
    assert!(!file("// crate::output is above").modules_named().contains("output"));
    assert!(!file("use super::output::Text;").modules_named().contains("output"), "kernel::output");
}

/// A source file of the crate.
struct Source {
    /// Its path in `src`.
    name: String,
    /// Its text without comments.
    code: String,
}

impl Source {
    /// The module of the crate that it is in.
    fn module(&self) -> &str {
        let first = self.name.split('/').next().unwrap_or_default();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// It holds tests and nothing else: those may compare with anything.
    fn is_test(&self) -> bool {
        self.name.contains("/tests/") || self.name.ends_with("/tests.rs")
    }

    /// How deep its module is in the crate.
    fn depth(&self) -> usize {
        let path = self.name.strip_suffix(".rs").unwrap_or(&self.name);
        let path = path.strip_suffix("/mod").unwrap_or(path);
        path.split('/').count()
    }

    /// The modules of the crate that its paths name.
    fn modules_named(&self) -> BTreeSet<String> {
        let to_root = "super::".repeat(self.depth());
        let mut named = BTreeSet::new();
        for start in ["crate::", &to_root] {
            for (at, _) in self.code.match_indices(start) {
                let before = self.code[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                let path = &self.code[at + start.len()..];
                match path.strip_prefix('{') {
                    Some(group) => named.extend(names_of(group)),
                    None => named.extend(first_name(path)),
                }
            }
        }
        named
    }

    /// Whether it names a path, and not as the end of a longer name.
    fn names(&self, path: &str) -> bool {
        self.code.match_indices(path).any(|(at, _)| {
            let before = self.code[..at].chars().next_back();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
        })
    }
}

/// The names that a group of imports begins with, up to the brace that closes it.
fn names_of(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut is_start) = (0_u32, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => is_start = true,
            _ if is_start && !c.is_whitespace() => {
                names.extend(first_name(&group[at..]));
                is_start = false;
            }
            _ => {}
        }
    }
    names
}

fn first_name(path: &str) -> Option<String> {
    let name: String = path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    Some(name).filter(|name| !name.is_empty())
}

/// A text without its comments, which may name anything.
fn code(text: &str) -> String {
    let lines = text.lines().map(|line| match line.find("//") {
        Some(at) if !line[..at].contains('"') => &line[..at],
        Some(_) | None => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The names of the dependencies, as paths have them.
fn dependencies(manifest: &str) -> Vec<String> {
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section.lines().filter_map(|line| line.split([' ', '.', '=']).next());
    names.filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    assert!(sources.len() > 50, "the sources are in {}", root.display());
    sources
}

fn collect(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let entries = fs::read_dir(folder).expect("a folder of sources");
    let paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a file of sources").path()).collect();
    for path in paths {
        if path.is_dir() {
            collect(root, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("a path in src").display().to_string();
            sources.push(Source { name, code: code(&read(&path)) });
        }
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

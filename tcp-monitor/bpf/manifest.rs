//! What `manifest.toml` says of the eBPF object beside it, and whether the object is current.
//!
//! Shared by `build.rs`, which warns of an object that is older than its sources, and `cargo xtask
//! build-ebpf`, which writes a new one or refuses one that is not current. Only code that reaches
//! the object counts: comments, documentation, tests and what the agent alone compiles do not.

use std::path::{Path, PathBuf};
use std::{fmt::Write as _, fs, io};

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};
use sha2::{Digest as _, Sha256};

/// The committed object, from the root of the package `tcp-monitor`.
pub(crate) const OBJECT: &str = "bpf/tcp-monitor.bpf.o";
/// What it was built from and with, from the root of the package `tcp-monitor`.
pub(crate) const MANIFEST: &str = "bpf/manifest.toml";

/// Hash of the sources, see [`source_hash`].
pub(crate) const SOURCES_KEY: &str = "sources";
/// SHA-256 of the object.
pub(crate) const OBJECT_KEY: &str = "object";

/// The folders and files the object is built from, from the root of the workspace.
pub(crate) const SOURCES: [&str; 6] = [
    "tcp-monitor-common/Cargo.toml",
    "tcp-monitor-common/src/lib.rs",
    "tcp-monitor-common/src/abi",
    "tcp-monitor-common/src/rules",
    "tcp-monitor-ebpf/Cargo.toml",
    "tcp-monitor-ebpf/src",
];
/// Pins the libraries the object is built from.
pub(crate) const LOCK_FILE: &str = "Cargo.lock";

/// How the committed object relates to its sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// It was built from these sources.
    Current,
    /// The sources changed since it was built.
    SourcesChanged,
    /// It is not the object that its manifest describes.
    NotAsDescribed,
}

impl Freshness {
    /// Compares the object of the package in `package` with its manifest, and that with the sources
    /// in `workspace`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub(crate) fn of(package: &Path, workspace: &Path) -> io::Result<Self> {
        let object = read(&package.join(OBJECT))?;
        let manifest = String::from_utf8_lossy(&read(&package.join(MANIFEST))?).into_owned();
        Ok(if value(&manifest, OBJECT_KEY) != Some(&sha256(&object)) {
            Self::NotAsDescribed
        } else if value(&manifest, SOURCES_KEY) != Some(&source_hash(workspace)?) {
            Self::SourcesChanged
        } else {
            Self::Current
        })
    }

    /// Whether a build may embed the object: what to warn of, or why not. In CI nothing but a
    /// current one is embedded.
    pub(crate) fn judge(self, in_ci: bool) -> Result<Option<String>, String> {
        let advice = "run `cargo xtask build-ebpf` and commit what it writes";
        match self {
            Self::Current => Ok(None),
            Self::SourcesChanged if in_ci => {
                Err(format!("the eBPF object tcp-monitor/{OBJECT} is older than its sources: {advice}"))
            }
            Self::SourcesChanged => Ok(Some(format!(
                "the eBPF object tcp-monitor/{OBJECT} is older than its sources, and is embedded as it is: {advice}"
            ))),
            Self::NotAsDescribed => Err(format!(
                "the eBPF object tcp-monitor/{OBJECT} is not the one that its manifest.toml describes: {advice}"
            )),
        }
    }
}

/// Hashes [`SOURCES`] (path and code of each file, in order of path) and the locked eBPF side of
/// aya.
///
/// # Errors
/// If a source cannot be read or is not Rust.
pub(crate) fn source_hash(workspace: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect_files(workspace, Path::new(source), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let content = read(&workspace.join(&file))?;
        let content = String::from_utf8_lossy(&content);
        let code = if file.extension().is_some_and(|extension| extension == "rs") {
            code(&content).map_err(|error| about(&file, &io::Error::other(error.to_string())))?
        } else {
            toml_without_comments(&content)
        };
        hasher.update(format!("{} {}\n{code}", file.display(), code.len()));
    }
    hasher.update(locked_libraries(&String::from_utf8_lossy(&read(&workspace.join(LOCK_FILE))?)));
    Ok(hex(&hasher.finalize()))
}

/// SHA-256 of `bytes` in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// The string that `key` has in a manifest: one `key = "value"` a line.
pub(crate) fn value<'m>(manifest: &'m str, key: &str) -> Option<&'m str> {
    manifest.lines().find_map(|line| {
        let (name, value) = line.split_once(" = ")?;
        (name == key).then(|| value.trim_matches('"'))
    })
}

fn collect_files(workspace: &Path, path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let absolute = workspace.join(path);
    if !absolute.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(&absolute).map_err(|error| about(&absolute, &error))? {
        collect_files(workspace, &path.join(entry?.file_name()), files)?;
    }
    Ok(())
}

/// The tokens of a source file that reach the object.
fn code(source: &str) -> Result<String, proc_macro2::LexError> {
    let mut code = String::new();
    append_code(source.parse()?, &mut code);
    Ok(code)
}

fn append_code(tokens: TokenStream, code: &mut String) {
    let mut tokens = tokens.into_iter().peekable();
    while let Some(token) = tokens.next() {
        let TokenTree::Group(group) = token else {
            if is_punctuation(&token, '#') {
                let inner = tokens.next_if(|next| is_punctuation(next, '!'));
                match tokens.next() {
                    Some(TokenTree::Group(attribute)) => match kind_of(&attribute) {
                        Attribute::Reaches => {
                            *code += if inner.is_some() { "#! " } else { "# " };
                            append_group(&attribute, code);
                        }
                        Attribute::Documents => {}
                        Attribute::Removes => skip_item(&mut tokens),
                    },
                    other => {
                        *code += "# ";
                        other.iter().for_each(|token| append_token(token, code));
                    }
                }
            } else {
                append_token(&token, code);
            }
            continue;
        };
        append_group(&group, code);
    }
}

fn append_token(token: &TokenTree, code: &mut String) {
    *code += &token.to_string();
    // `& &` is not `&&`.
    if !matches!(token, TokenTree::Punct(punctuation) if punctuation.spacing() == Spacing::Joint) {
        code.push(' ');
    }
}

fn append_group(group: &Group, code: &mut String) {
    let (open, close) = match group.delimiter() {
        Delimiter::Parenthesis => ("( ", ") "),
        Delimiter::Brace => ("{ ", "} "),
        Delimiter::Bracket => ("[ ", "] "),
        Delimiter::None => ("", ""),
    };
    *code += open;
    append_code(group.stream(), code);
    *code += close;
}

/// What an attribute means for the object.
enum Attribute {
    Reaches,
    /// Documentation, or derived for the agent.
    Documents,
    /// The item that follows is a test or the agent's.
    Removes,
}

fn kind_of(attribute: &Group) -> Attribute {
    let text: String = attribute.stream().to_string().split_whitespace().collect();
    if text.starts_with("doc=") || text.starts_with("cfg_attr(feature=\"user\"") {
        Attribute::Documents
    } else if ["cfg(test)", "cfg(doc)", "cfg(feature=\"user\")", "cfg(all(test,feature=\"user\"))"]
        .contains(&text.as_str())
    {
        Attribute::Removes
    } else {
        Attribute::Reaches
    }
}

/// Skips an item: up to its block or its semicolon.
fn skip_item(tokens: &mut std::iter::Peekable<impl Iterator<Item = TokenTree>>) {
    while let Some(token) = tokens.next() {
        let is_block = matches!(&token, TokenTree::Group(group) if group.delimiter() == Delimiter::Brace);
        if is_block {
            // `use a::{b, c};`
            tokens.next_if(|next| is_punctuation(next, ';'));
        }
        if is_block || is_punctuation(&token, ';') {
            return;
        }
    }
}

fn is_punctuation(token: &TokenTree, character: char) -> bool {
    matches!(token, TokenTree::Punct(punctuation) if punctuation.as_char() == character)
}

/// Without the lines that are comments or empty.
fn toml_without_comments(toml: &str) -> String {
    let lines = toml.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

/// One line for each package of aya's eBPF side: name, version and checksum.
fn locked_libraries(lock_file: &str) -> String {
    let field = |package: &str, key| value(package, key).unwrap_or_default().to_owned();
    let mut libraries = String::new();
    for package in lock_file.split("[[package]]").skip(1) {
        let name = field(package, "name");
        if name.starts_with("aya-ebpf") || name.starts_with("aya-log-") {
            libraries += &format!("{name} {} {}\n", field(package, "version"), field(package, "checksum"));
        }
    }
    libraries
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path).map_err(|error| about(path, &error))
}

fn about(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_whole_key() {
        let manifest = "# object = \"comment\"\nobject-size = \"1\"\nobject = \"2\"\n";
        assert_eq!(value(manifest, "object"), Some("2"));
        assert_eq!(value(manifest, "size"), None);
    }

    #[test]
    fn comments_documentation_and_tests_are_no_code() {
        let source = r##"
            pub const A: &str = "// no comment"; pub const B: char = '"'; pub const C: &str = r#"/* " */"#;
            pub fn f<'a>(x: &'a u8) -> u8 { *x }
        "##;
        let commented = r##"
            //! Of the file.
            /* before /* nested */ it */
            pub const A: &str = "// no comment"; pub const B: char = '"'; // after it
            pub const C: &str = r#"/* " */"#;

            /// Of the function.
            #[doc = "More of it."]
            #[cfg_attr(feature = "user", derive(Debug))]
            pub fn f<'a>(x: &'a u8) -> u8 {
                //! Inside.
                *x
            }
            #[cfg(feature = "user")]
            use zerocopy::{FromBytes, IntoBytes};
            #[cfg(feature = "user")]
            mod labels;
            #[cfg(test)]
            mod tests { fn f() {} }
        "##;
        assert_eq!(code(source).expect("Rust"), code(commented).expect("Rust"));
    }

    #[test]
    fn whatever_reaches_the_object_is_code() {
        let source = "#[repr(C)] pub struct S { pub a: u32, pub b: [u8; 4] } macro_rules! m { () => { 1 } }";
        let changes = [
            ("u32", "u64"),
            ("[u8; 4]", "[u8; 5]"),
            ("#[repr(C)]", "#[repr(packed)]"),
            ("#[repr(C)]", "#[repr(C)] #[cfg(not(test))]"),
            ("{ 1 }", "{ 2 }"),
            ("pub a", "a"),
        ];
        for (old, new) in changes {
            let changed = source.replace(old, new);
            assert_ne!(code(source).expect("Rust"), code(&changed).expect("Rust"), "{changed}");
        }
    }

    #[test]
    fn a_changed_source_is_warned_of_and_refused_in_ci() {
        let workspace = Workspace::new("fn f() -> u32 { 1 }");
        assert_eq!(workspace.freshness(), Freshness::Current);
        workspace
            .write("tcp-monitor-ebpf/src/main.rs", "//! Of the file.\nfn f() -> u32 {\n    1 // one\n}\n");
        assert_eq!(workspace.freshness(), Freshness::Current);
        workspace.write("tcp-monitor-common/src/labels.rs", "fn label() {}");
        assert_eq!(workspace.freshness(), Freshness::Current);
        workspace.write("tcp-monitor-ebpf/src/main.rs", "fn f() -> u32 { 2 }");
        assert_eq!(workspace.freshness(), Freshness::SourcesChanged);
        let warning = Freshness::SourcesChanged.judge(false).expect("no error").expect("a warning");
        let error = Freshness::SourcesChanged.judge(true).expect_err("in CI");
        for text in [warning, error] {
            assert!(
                text.contains("older than its sources") && text.contains("cargo xtask build-ebpf"),
                "{text}"
            );
        }
    }

    #[test]
    fn an_object_that_is_not_as_described_is_never_embedded() {
        let workspace = Workspace::new("fn f() {}");
        workspace.write("tcp-monitor/bpf/tcp-monitor.bpf.o", "another");
        assert_eq!(workspace.freshness(), Freshness::NotAsDescribed);
        for in_ci in [false, true] {
            let error = Freshness::NotAsDescribed.judge(in_ci).expect_err("not embedded");
            assert!(error.contains("manifest.toml"), "{error}");
        }
        assert_eq!(Freshness::Current.judge(true), Ok(None));
    }

    /// A workspace of a few files whose manifest is right, removed at the end.
    struct Workspace(PathBuf);

    impl Workspace {
        fn new(program: &str) -> Self {
            static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            let number = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let name = format!("tcp-monitor-manifest-{}-{number}", std::process::id());
            let workspace = Self(std::env::temp_dir().join(name));
            let files = [
                ("tcp-monitor-common/Cargo.toml", "[package]"),
                ("tcp-monitor-common/src/lib.rs", ""),
                ("tcp-monitor-common/src/abi/mod.rs", ""),
                ("tcp-monitor-common/src/rules/mod.rs", ""),
                ("tcp-monitor-ebpf/Cargo.toml", "[package]"),
                ("tcp-monitor-ebpf/src/main.rs", program),
                ("Cargo.lock", ""),
                ("tcp-monitor/bpf/tcp-monitor.bpf.o", "object"),
            ];
            for (path, content) in files {
                workspace.write(path, content);
            }
            let (sources, object) = (source_hash(&workspace.0).expect("sources"), sha256(b"object"));
            let manifest = format!("{SOURCES_KEY} = \"{sources}\"\n{OBJECT_KEY} = \"{object}\"\n");
            workspace.write("tcp-monitor/bpf/manifest.toml", &manifest);
            workspace
        }

        fn write(&self, path: &str, content: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, content).expect("a file");
        }

        fn freshness(&self) -> Freshness {
            Freshness::of(&self.0.join("tcp-monitor"), &self.0).expect("readable")
        }
    }

    impl Drop for Workspace {
        fn drop(&mut self) {
            // Whatever is left lies in the folder for temporary files.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_the_ebpf_side_of_aya_counts_among_the_locked_packages() {
        let package = |name, version| {
            format!("[[package]]\nname = \"{name}\"\nversion = \"{version}\"\nchecksum = \"c0ffee\"\n\n")
        };
        let lock_file = format!(
            "version = 4\n\n{}{}{}{}",
            package("aya", "0.14.0"),
            package("aya-ebpf", "0.2.1"),
            package("aya-log", "0.3.0"),
            package("aya-log-common", "0.2.0")
        );
        assert_eq!(locked_libraries(&lock_file), "aya-ebpf 0.2.1 c0ffee\naya-log-common 0.2.0 c0ffee\n");
    }
}

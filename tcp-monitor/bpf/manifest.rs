//! What `manifest.toml` says of the eBPF object beside it, and the hash of the sources the object is built from.
//!
//! Shared by `build.rs`, which refuses a stale object, and `cargo xtask build-ebpf`, which writes a new one.

use std::path::{Path, PathBuf};
use std::{fmt::Write as _, fs, io};

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
pub(crate) const SOURCES: [&str; 4] = [
    "tcp-monitor-common/Cargo.toml",
    "tcp-monitor-common/src",
    "tcp-monitor-ebpf/Cargo.toml",
    "tcp-monitor-ebpf/src",
];
/// Pins the libraries the object is built from.
pub(crate) const LOCK_FILE: &str = "Cargo.lock";

/// Hashes [`SOURCES`] (path, length and content of each file, in order of path) and the locked eBPF side of aya.
///
/// # Errors
/// If a source cannot be read.
pub(crate) fn source_hash(workspace: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        collect_files(workspace, Path::new(source), &mut files)?;
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let content = read(&workspace.join(&file))?;
        hasher.update(format!("{} {}\n", file.display(), content.len()));
        hasher.update(content);
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

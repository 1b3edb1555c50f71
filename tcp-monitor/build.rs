//! Hands the eBPF object to the crate, and refuses one that was not built from the sources beside it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

#[path = "bpf/manifest.rs"]
mod manifest;

/// Embeds the object at this path instead of the committed one, as it is: to try one that another toolchain built.
const OVERRIDE: &str = "TCP_MONITOR_BPF_OBJECT";
/// Set for the crate: `include_bytes_aligned!(env!("TCP_MONITOR_BPF_OBJECT_PATH"))`.
const OBJECT_PATH: &str = "TCP_MONITOR_BPF_OBJECT_PATH";

fn main() -> ExitCode {
    println!("cargo:rerun-if-env-changed={OVERRIDE}");
    match find_object() {
        Ok(object) => {
            rerun_if_changed(&object);
            println!("cargo:rustc-env={OBJECT_PATH}={}", object.display());
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn find_object() -> Result<PathBuf, String> {
    match env::var_os(OVERRIDE).filter(|path| !path.is_empty()) {
        Some(path) => {
            let object = PathBuf::from(path);
            if !object.is_absolute() || !object.is_file() {
                return Err(format!("{OVERRIDE}={}: not the absolute path of a file", object.display()));
            }
            println!("cargo:warning=embedding {}, not the committed eBPF object", object.display());
            Ok(object)
        }
        None => committed_object(),
    }
}

fn committed_object() -> Result<PathBuf, String> {
    let package =
        env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).ok_or("CARGO_MANIFEST_DIR is not set")?;
    let object = package.join(manifest::OBJECT);
    // Without the sources beside it, as in the package from crates.io, there is nothing to compare with.
    if let Some(workspace) = package.parent().filter(|dir| dir.join("tcp-monitor-ebpf/Cargo.toml").is_file())
    {
        for path in manifest::SOURCES.iter().chain([&manifest::LOCK_FILE]) {
            rerun_if_changed(&workspace.join(path));
        }
        rerun_if_changed(&package.join(manifest::MANIFEST));
        compare_with_manifest(&object, &package.join(manifest::MANIFEST), workspace).map_err(|reason| {
            format!(
                "the eBPF object {}: {reason}; run `cargo xtask build-ebpf` and commit what it writes",
                object.display()
            )
        })?;
    }
    Ok(object)
}

fn compare_with_manifest(object: &Path, manifest: &Path, workspace: &Path) -> Result<(), String> {
    let object = fs::read(object).map_err(|error| error.to_string())?;
    let manifest = fs::read_to_string(manifest).map_err(|error| format!("its manifest.toml: {error}"))?;
    let sources = manifest::source_hash(workspace).map_err(|error| format!("its sources: {error}"))?;
    if manifest::value(&manifest, manifest::SOURCES_KEY) != Some(&sources) {
        return Err("its sources changed since it was built".to_owned());
    }
    if manifest::value(&manifest, manifest::OBJECT_KEY) != Some(&manifest::sha256(&object)) {
        return Err("is not the one its manifest.toml describes".to_owned());
    }
    Ok(())
}

fn rerun_if_changed(path: &Path) {
    println!("cargo:rerun-if-changed={}", path.display());
}

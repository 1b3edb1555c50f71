//! Hands the eBPF object to the crate; warns of one that is older than the sources beside it, and
//! refuses it in CI.

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[path = "bpf/manifest.rs"]
mod manifest;

use manifest::Freshness;

/// Embeds the object at this path instead of the committed one, as it is: to try one that another
/// toolchain built.
const OVERRIDE: &str = "TCP_MONITOR_BPF_OBJECT";
/// Set by continuous integration (GitHub, GitLab and others).
const CI: &str = "CI";
/// Set for the crate: `include_bytes_aligned!(env!("TCP_MONITOR_BPF_OBJECT_PATH"))`.
const OBJECT_PATH: &str = "TCP_MONITOR_BPF_OBJECT_PATH";

fn main() -> ExitCode {
    for variable in [OVERRIDE, CI] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
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
    // Without the sources beside it, as in the package from crates.io, there is nothing to compare
    // with.
    if let Some(workspace) = package.parent().filter(|dir| dir.join("tcp-monitor-ebpf/Cargo.toml").is_file())
    {
        for path in manifest::SOURCES.iter().chain([&manifest::LOCK_FILE]) {
            rerun_if_changed(&workspace.join(path));
        }
        rerun_if_changed(&package.join(manifest::MANIFEST));
        let freshness = Freshness::of(&package, workspace)
            .map_err(|error| format!("the eBPF object {} or its sources: {error}", object.display()))?;
        if let Some(warning) = freshness.judge(is_ci())? {
            println!("cargo:warning={warning}");
        }
    }
    Ok(object)
}

fn is_ci() -> bool {
    env::var_os(CI).is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}

fn rerun_if_changed(path: &Path) {
    println!("cargo:rerun-if-changed={}", path.display());
}

//! What builds the eBPF object: a Rust compiler with `core` for BPF, the LLVM library it came with,
//! and bpf-linker.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result};

use crate::process::output;

/// The target of the eBPF object.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// The newest bpf-linker for [`LLVM_MAJOR`]; 0.11 and later want LLVM 23.
pub(crate) const BPF_LINKER_VERSION: &str = "0.10.3";
/// bpf-linker reads the bitcode of this LLVM only.
const LLVM_MAJOR: &str = "22";

/// A Rust toolchain that can build for BPF.
pub(crate) struct Toolchain {
    kind: Kind,
    sysroot: PathBuf,
    llvm_library: PathBuf,
    /// As the compiler reports it: `1.96.0 (ac68faa20 2026-05-25) …`.
    pub(crate) rustc: String,
    /// Version of the LLVM in the compiler.
    pub(crate) llvm: String,
}

#[derive(Clone, Copy)]
enum Kind {
    /// rustup's nightly, which builds `core` from rust-src.
    Nightly,
    /// The system's compiler, where it ships `core` for BPF, as Debian's rustc-web does.
    System,
}

impl Toolchain {
    /// Every usable toolchain of this machine, the preferred one first.
    pub(crate) fn find_all() -> Vec<Self> {
        [Kind::Nightly, Kind::System].into_iter().filter_map(Self::find).collect()
    }

    fn find(kind: Kind) -> Option<Self> {
        let version = output(kind.command("rustc").arg("-vV"))?;
        let field = |name| version.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let (rustc, llvm) = (field("rustc ")?, field("LLVM version: ")?);
        let sysroot = PathBuf::from(output(kind.command("rustc").args(["--print", "sysroot"]))?);
        let has_core = match kind {
            Kind::Nightly => sysroot.join("lib/rustlib/src/rust/library/core").is_dir(),
            Kind::System => sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir(),
        };
        let llvm_library = llvm_library(&sysroot)?;
        (has_core && llvm.split('.').next() == Some(LLVM_MAJOR)).then_some(Self {
            kind,
            sysroot,
            llvm_library,
            rustc,
            llvm,
        })
    }

    /// `cargo build` for [`TARGET`], into `target_dir`.
    ///
    /// # Errors
    /// If the LLVM library cannot be linked into `target_dir`.
    pub(crate) fn cargo_build(&self, target_dir: &Path) -> Result<Command> {
        let mut cargo = self.kind.command("cargo");
        cargo.args(["build", "--target", TARGET, "--target-dir"]).arg(target_dir);
        match self.kind {
            Kind::Nightly => cargo.args(["-Z", "build-std=core"]),
            Kind::System => cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1"),
        };
        cargo.env("LD_LIBRARY_PATH", self.link_llvm_library(target_dir)?);
        Ok(cargo)
    }

    /// Where the sources of `core` are, if it is built from them.
    pub(crate) fn core_sources(&self) -> PathBuf {
        self.sysroot.join("lib/rustlib/src/rust")
    }

    /// Makes a folder with nothing but the LLVM library: bpf-linker loads the first `libLLVM*` that
    /// it sees in `LD_LIBRARY_PATH`, and the library's own folder may hold those of other versions.
    fn link_llvm_library(&self, target_dir: &Path) -> Result<PathBuf> {
        let folder = target_dir.join("llvm");
        let link = folder.join(format!("libLLVM-{LLVM_MAJOR}.so"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        if fs::read_link(&link).is_ok() {
            fs::remove_file(&link)?;
        }
        std::os::unix::fs::symlink(&self.llvm_library, &link)
            .with_context(|| format!("cannot link {}", link.display()))?;
        Ok(folder)
    }
}

impl Kind {
    /// Runs `program` of this toolchain, with nothing of the toolchain that runs us.
    fn command(self, program: &str) -> Command {
        let mut command = match self {
            Self::Nightly => {
                let mut rustup = Command::new("rustup");
                rustup.args(["run", "nightly", program]);
                rustup
            }
            Self::System => Command::new(Path::new("/usr/bin").join(program)),
        };
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(chooses_a_toolchain) {
                command.env_remove(name);
            }
        }
        command
    }
}

/// Whether the environment variable `name` makes cargo or rustc build something else.
fn chooses_a_toolchain(name: &str) -> bool {
    const PREFIXES: [&str; 9] = [
        "CARGO_BUILD_",
        "CARGO_ENCODED_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "RUSTC",
        "RUSTDOC",
        "RUSTFLAGS",
    ];
    ["CARGO", "LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN"].contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The LLVM library that the compiler in `sysroot` uses.
fn llvm_library(sysroot: &Path) -> Option<PathBuf> {
    let lib = sysroot.join("lib");
    // Debian has one folder for each architecture in /usr/lib.
    let architectures = fs::read_dir(&lib).ok()?.flatten().map(|entry| entry.path());
    let folders = architectures.filter(|path| path.to_string_lossy().ends_with("-linux-gnu"));
    let name = format!("libLLVM.so.{LLVM_MAJOR}.");
    [lib.clone(), sysroot.join("lib64")]
        .into_iter()
        .chain(folders)
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|entries| entries.flatten())
        .find(|entry| entry.file_name().to_string_lossy().starts_with(&name))
        .map(|entry| entry.path())
}

/// Where `cargo xtask setup` installs bpf-linker: a folder of its own, so that it fights no other
/// version.
pub(crate) fn bpf_linker_root() -> Result<PathBuf> {
    Ok(crate::cache_dir()?.join(format!("bpf-linker-{BPF_LINKER_VERSION}")))
}

/// The bpf-linker of `cargo xtask setup`.
pub(crate) fn bpf_linker() -> Result<PathBuf> {
    Ok(bpf_linker_root()?.join("bin/bpf-linker"))
}

//! `cargo xtask build-ebpf`: builds the eBPF object that is committed, so that building the agent
//! needs stable Rust only.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use crate::manifest::Freshness;
use crate::toolchain::{self, BPF_LINKER_VERSION, TARGET, Toolchain};
use crate::{debug_info, manifest, process, target_dir, workspace};

const PACKAGE: &str = "tcp-monitor-ebpf";
/// The name of the package's binary.
const BINARY: &str = "tcp-monitor";

const RUSTC_KEY: &str = "rustc";
const LLVM_KEY: &str = "llvm";
const BPF_LINKER_KEY: &str = "bpf-linker";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Change nothing: rebuild, and fail if the committed object is not what comes out.
    #[arg(long)]
    check: bool,
}

/// An object and the manifest that describes it.
struct Built {
    object: Vec<u8>,
    manifest: String,
}

/// Builds the object and writes it with its manifest, or compares them with the committed ones.
///
/// # Errors
/// If something to build with is missing, the build fails, or the committed object is not what
/// comes out.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let package = workspace().join("tcp-monitor");
    let (object_path, manifest_path) = (package.join(manifest::OBJECT), package.join(manifest::MANIFEST));
    let committed = fs::read_to_string(&manifest_path).unwrap_or_default();
    if arguments.check {
        // Before a minute is spent on building.
        let freshness =
            Freshness::of(&package, workspace()).context("cannot read the committed eBPF object")?;
        freshness.judge(true).map_err(anyhow::Error::msg)?;
    }
    let built = build(&committed)?;
    if arguments.check {
        let rebuilt = target_dir()?.join("ebpf/tcp-monitor.bpf.o");
        write(&rebuilt, &built.object)?;
        let object =
            fs::read(&object_path).with_context(|| format!("cannot read {}", object_path.display()))?;
        compare(&Built { object, manifest: committed }, &built, &rebuilt)?;
    } else {
        write(&object_path, &built.object)?;
        write(&manifest_path, built.manifest.as_bytes())?;
        eprintln!("wrote {} ({} bytes) and its manifest", object_path.display(), built.object.len());
    }
    Ok(ExitCode::SUCCESS)
}

fn build(committed_manifest: &str) -> Result<Built> {
    let toolchain = choose_toolchain(committed_manifest)?;
    let linker = toolchain::bpf_linker()?;
    if !linker.is_file() {
        bail!("{} is missing: run `cargo xtask setup`", linker.display());
    }
    eprintln!("building with rustc {}, LLVM {}", toolchain.rustc, toolchain.llvm);
    let target_dir = target_dir()?.join("ebpf");
    let mut cargo = toolchain.cargo_build(&target_dir)?;
    cargo
        .current_dir(workspace())
        .args(["--locked", "--release", "--package", PACKAGE])
        // The profile of the agent is no concern of the object: bpf-linker optimizes all of it at
        // once.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .env("CARGO_ENCODED_RUSTFLAGS", rustc_flags(&toolchain, &linker, &target_dir)?.join("\x1f"));
    process::run(&mut cargo)?;
    let binary = target_dir.join(TARGET).join("release").join(BINARY);
    let object = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let object = debug_info::strip(&object)?;
    let manifest = describe(&object, &toolchain)?;
    Ok(Built { object, manifest })
}

/// The toolchain that built the committed object, if this machine has it: a rebuild then changes
/// what the sources changed.
fn choose_toolchain(committed_manifest: &str) -> Result<Toolchain> {
    let mut toolchains = Toolchain::find_all();
    let same = toolchains.iter().position(|toolchain| {
        manifest::value(committed_manifest, RUSTC_KEY) == Some(&toolchain.rustc)
            && manifest::value(committed_manifest, LLVM_KEY) == Some(&toolchain.llvm)
    });
    if toolchains.is_empty() {
        bail!("no Rust toolchain with LLVM 22 can build for {TARGET} here: run `cargo xtask setup`");
    }
    Ok(toolchains.swap_remove(same.unwrap_or(0)))
}

fn rustc_flags(toolchain: &Toolchain, linker: &Path, target_dir: &Path) -> Result<Vec<String>> {
    let cargo_home = match env::var_os("CARGO_HOME") {
        Some(cargo_home) => std::path::absolute(cargo_home)?,
        None => env::home_dir().context("no home directory: set HOME or CARGO_HOME")?.join(".cargo"),
    };
    let mut flags = vec![
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit registers and jumps, and atomic operations of every kind.
        "-Ctarget-cpu=v3".to_owned(),
        // The verifier's log quotes the source: this puts the quotes into BTF.
        "-Zembed-source=yes".to_owned(),
        "-Cdwarf-version=5".to_owned(),
        // The programs read no registers of another architecture: one object serves all of them.
        "--cfg=bpf_target_arch=\"x86_64\"".to_owned(),
    ];
    // The folders of this machine stay out of the object, so that it is the same from every
    // machine.
    let folders: [(&Path, &str); 4] = [
        (workspace(), "/tcp-monitor"),
        (&cargo_home, "/cargo"),
        (&toolchain.core_sources(), "/rust"),
        (target_dir, "/target"),
    ];
    flags.extend(folders.map(|(folder, name)| format!("--remap-path-prefix={}={name}", folder.display())));
    Ok(flags)
}

fn describe(object: &[u8], toolchain: &Toolchain) -> Result<String> {
    let sources = manifest::source_hash(workspace()).context("cannot hash the sources")?;
    let fields = [
        (manifest::SOURCES_KEY, sources.as_str()),
        (manifest::OBJECT_KEY, &manifest::sha256(object)),
        (RUSTC_KEY, &toolchain.rustc),
        (LLVM_KEY, &toolchain.llvm),
        (BPF_LINKER_KEY, BPF_LINKER_VERSION),
    ];
    let fields: String = fields.iter().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
    Ok(format!(
        "# What tcp-monitor.bpf.o was built from and with. After a change to the code of\n\
         # tcp-monitor-ebpf, or of abi or rules in tcp-monitor-common, `cargo xtask build-ebpf`\n\
         # writes both files anew.\n{fields}"
    ))
}

/// Fails unless `committed`, which is of these sources, is what `built` is, which is at `rebuilt`.
fn compare(committed: &Built, built: &Built, rebuilt: &Path) -> Result<()> {
    let same = |key| manifest::value(&committed.manifest, key) == manifest::value(&built.manifest, key);
    let advice = "run `cargo xtask build-ebpf` and commit what it writes";
    if committed.object == built.object {
        eprintln!("the committed eBPF object is what its sources build, byte for byte");
    } else if debug_info::is_same_code(&committed.object, &built.object)? {
        eprintln!(
            "the committed eBPF object is what its sources build but for line numbers: comments have moved"
        );
    } else if [RUSTC_KEY, LLVM_KEY, BPF_LINKER_KEY].into_iter().all(same) {
        bail!(
            "the committed eBPF object differs from {}, built from the same sources by the same toolchain: {advice}",
            rebuilt.display()
        );
    } else {
        let toolchain = manifest::value(&committed.manifest, RUSTC_KEY).unwrap_or("an unknown version");
        eprintln!(
            "the committed eBPF object was built from these sources, but with rustc {toolchain}: its bytes cannot be \
             compared. To test the rebuilt one: TCP_MONITOR_BPF_OBJECT={} cargo xtask test",
            rebuilt.display()
        );
    }
    Ok(())
}

fn write(path: &PathBuf, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

//! `cargo xtask setup`: installs what is missing to build the eBPF object and to run the tests.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::{env, fs};

use anyhow::{Context as _, Result, bail};

use crate::process::{is_installed, is_root, output, run as run_command};
use crate::toolchain::{self, BPF_LINKER_VERSION, Toolchain};

const CARGO_DENY_VERSION: &str = "0.20.2";

/// Debian's packages of a Rust compiler with LLVM 22 and `core` for BPF.
const EBPF_TOOLCHAIN: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// The programs that the tests compare with and the compiler of libFuzzer, with Debian's packages
/// that have them.
const TEST_TOOLS: [(&str, &str); 7] = [
    ("bpftool", "bpftool"),
    ("c++", "g++"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("promtool", PROMETHEUS),
    ("tcpdump", "tcpdump"),
    ("tshark", "tshark"),
];

/// The programs that boot other kernels, and Debian's packages that have them.
const VM_TOOLS: [(&str, &str); 2] =
    [("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static")];

/// Has promtool, and a server that is not needed.
const PROMETHEUS: &str = "prometheus";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Also install what checks formatting, lints, licences and sources.
    #[arg(long)]
    lints: bool,
    /// Also install what boots other kernels for `vm-test`.
    #[arg(long)]
    vm: bool,
}

/// Installs what is missing and prints what it does.
///
/// # Errors
/// If something is missing and cannot be installed; the message names it and how to install it.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    install_packages(&missing_packages(arguments.vm))?;
    if Toolchain::find_all().is_empty() {
        bail!(
            "no Rust toolchain with LLVM 22 can build for BPF, even now: see CONTRIBUTING.md for what is needed"
        );
    }
    install_bpf_linker()?;
    if arguments.lints {
        install_lints()?;
    }
    eprintln!("everything is installed");
    Ok(ExitCode::SUCCESS)
}

fn missing_packages(vm: bool) -> Vec<&'static str> {
    let vm_tools = if vm { &VM_TOOLS[..] } else { &[] };
    let tools = TEST_TOOLS.iter().chain(vm_tools);
    let mut packages: Vec<_> =
        tools.copied().filter(|(tool, _)| !is_installed(tool)).map(|(_, package)| package).collect();
    packages.dedup();
    if Toolchain::find_all().is_empty() {
        packages.extend(EBPF_TOOLCHAIN);
    }
    packages
}

fn install_packages(packages: &[&str]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names = packages.join(" ");
    if !is_installed("apt-get") {
        bail!(
            "missing: {names} (Debian's names). Install them with your package manager; instead of {} a rustup \
             nightly with LLVM 22 will do: `rustup toolchain install nightly --component rust-src`",
            EBPF_TOOLCHAIN.join(" ")
        );
    }
    if !is_root() && !is_installed("sudo") {
        bail!("missing: {names}. Run as root: apt-get install --no-install-recommends {names}");
    }
    eprintln!("installing {names}");
    run_command(as_root("apt-get").args(["update", "--quiet"]))?;
    run_command(
        as_root("apt-get").args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages),
    )
    .with_context(|| format!("cannot install {names}; Debian 12 has all of them"))?;
    if packages.contains(&PROMETHEUS) {
        stop_prometheus()?;
    }
    Ok(())
}

/// Stops the service that Debian starts when it is installed: only promtool is needed.
fn stop_prometheus() -> Result<()> {
    if Path::new("/run/systemd/system").is_dir() {
        run_command(as_root("systemctl").args(["disable", "--now", PROMETHEUS]))
    } else if output(Command::new("service").args([PROMETHEUS, "status"])).is_some() {
        run_command(as_root("service").args([PROMETHEUS, "stop"]))
    } else {
        Ok(())
    }
}

fn install_bpf_linker() -> Result<()> {
    let root = toolchain::bpf_linker_root()?;
    if toolchain::bpf_linker()?.is_file() {
        return Ok(());
    }
    eprintln!(
        "installing bpf-linker {BPF_LINKER_VERSION} into {}; this takes a minute or two",
        root.display()
    );
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    let mut cargo = cargo_install("bpf-linker", BPF_LINKER_VERSION);
    run_command(cargo.arg("--root").arg(&root))
}

fn install_lints() -> Result<()> {
    for (program, component) in [("cargo-fmt", "rustfmt"), ("cargo-clippy", "clippy")] {
        if !is_installed(program) || output(Command::new(program).arg("--version")).is_none() {
            run_command(Command::new("rustup").args(["component", "add", component]))?;
        }
    }
    let version = output(Command::new("cargo-deny").arg("--version"));
    if version.as_deref() != Some(&format!("cargo-deny {CARGO_DENY_VERSION}")) {
        eprintln!("installing cargo-deny {CARGO_DENY_VERSION}; this takes some minutes");
        run_command(&mut cargo_install("cargo-deny", CARGO_DENY_VERSION))?;
    }
    Ok(())
}

fn cargo_install(package: &str, version: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // These programs are no part of the workspace, and cargo builds them in a temporary folder.
    cargo.env_remove("CARGO_TARGET_DIR").args(["install", package, "--version", version, "--locked"]);
    cargo
}

/// `program` as root, without questions.
fn as_root(program: &str) -> Command {
    const QUIETLY: &str = "DEBIAN_FRONTEND=noninteractive";
    let mut command = Command::new(if is_root() { "env" } else { "sudo" });
    if !is_root() {
        command.arg("env");
    }
    command.args([QUIETLY, program]);
    command
}

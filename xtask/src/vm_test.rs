//! `cargo xtask vm-test`: the agent on real connections, under Debian kernels older and newer than
//! the host's.
//!
//! Each kernel boots in a virtual machine without disk or network, from an initramfs of busybox,
//! the agent and this program. qemu emulates the processor, since not every host has KVM. Inside,
//! `vm_test/init.sh` runs the agent while [`traffic`] makes connections over loopback; what it
//! writes to the second serial port is checked here.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::process;

mod initramfs;
mod kernel;
mod report;
pub(crate) mod traffic;

use kernel::Kernel;
use report::Report;

/// "Could not run", neither passed nor failed: automake's convention for test runners.
const EXIT_CANNOT_RUN: u8 = 77;
/// Seconds; emulation on a busy machine needs 20 to 60.
const BOOT_LIMIT: &str = "300";
const QEMU: &str = "qemu-system-x86_64";
const TOOLS: [(&str, &str); 3] =
    [(QEMU, "qemu-system-x86"), ("busybox", "busybox-static"), ("dpkg-deb", "dpkg")];

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Series such as 6.1, or .deb files of kernel images [default: every series that apt offers or
    /// that was used before]
    kernels: Vec<String>,
}

/// Tests each kernel and prints the results.
///
/// The exit code is 1 if a test failed, else 77 if one could not run: not running is not passing.
///
/// # Errors
/// If the agent cannot be built or a machine cannot be set up.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(obstacle) = obstacle() {
        eprintln!("cannot run: {obstacle}");
        return Ok(ExitCode::from(EXIT_CANNOT_RUN));
    }
    let kernels = match kernel::find(&arguments.kernels) {
        Ok(kernels) => kernels,
        Err(error) => {
            eprintln!("cannot run: {error:#}");
            return Ok(ExitCode::from(EXIT_CANNOT_RUN));
        }
    };
    let agent = build_agent()?;
    let mut failed = Vec::new();
    for kernel in &kernels {
        if !passes(kernel, &agent).with_context(|| format!("kernel {}", kernel.release))? {
            failed.push(kernel.release.as_str());
        }
    }
    if failed.is_empty() {
        println!("passed on every kernel: {}", kernels.len());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{} of {} kernels failed: {}", failed.len(), kernels.len(), failed.join(", "));
    Ok(ExitCode::FAILURE)
}

/// Why no machine can be started here.
fn obstacle() -> Option<String> {
    if cfg!(not(target_arch = "x86_64")) {
        return Some(
            "the machines are x86-64, and so must be the host that builds the agent for them".into(),
        );
    }
    let missing: Vec<_> =
        TOOLS.iter().filter(|(tool, _)| !process::is_installed(tool)).map(|(_, package)| *package).collect();
    let packages = missing.join(" ");
    (!missing.is_empty())
        .then(|| format!("missing: {packages}. Run: apt-get install --no-install-recommends {packages}"))
}

fn build_agent() -> Result<std::path::PathBuf> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    process::run(cargo.args(["build", "--release", "--package", "tcp-monitor"]))?;
    Ok(crate::target_dir()?.join("release/tcp-monitor"))
}

fn passes(kernel: &Kernel, agent: &Path) -> Result<bool> {
    let folder = crate::target_dir()?.join("vm-test").join(&kernel.release);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let output = boot(kernel, agent, &folder)?;
    println!("kernel {}", kernel.release);
    let mut passed = true;
    for check in Report::parse(&output).checks() {
        match check.found {
            Ok(()) => println!("  ok      {}", check.claim),
            Err(found) => {
                passed = false;
                println!("  FAILED  {}\n          {found}", check.claim);
            }
        }
    }
    if !passed {
        println!("  see {0}/report.txt, and {0}/console.txt for what the kernel said", folder.display());
    }
    Ok(passed)
}

/// Runs the machine to its end and returns what it reported, which may be nothing.
fn boot(kernel: &Kernel, agent: &Path, folder: &Path) -> Result<String> {
    let initramfs = folder.join("initramfs.cpio");
    let (console, report) = (folder.join("console.txt"), folder.join("report.txt"));
    fs::write(&initramfs, initramfs::build(kernel, agent)?)
        .with_context(|| format!("cannot write {}", initramfs.display()))?;

    let mut qemu = Command::new("timeout");
    // A panic restarts the machine at once, which ends it.
    qemu.args([BOOT_LIMIT, QEMU, "-nodefaults", "-display", "none", "-no-reboot", "-m", "1024", "-smp", "2"])
        .args(["-accel", "tcg", "-cpu", "max", "-append", "console=ttyS0 panic=-1"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&initramfs);
    for serial_port in [&console, &report] {
        qemu.arg("-serial").arg(format!("file:{}", serial_port.display()));
    }
    let output = qemu.output().context("cannot run timeout and qemu")?;
    // A machine that hangs is a failed test: its report is short.
    if !output.status.success() && output.status.code() != Some(TIMED_OUT) {
        bail!("qemu failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let report = fs::read(&report).with_context(|| format!("cannot read {}", report.display()))?;
    Ok(String::from_utf8_lossy(&report).into_owned())
}

/// Of timeout(1).
const TIMED_OUT: i32 = 124;

//! `cargo xtask fuzz`: lets libFuzzer look for inputs that break a rule.
//!
//! The stable compiler can do it: what tells libFuzzer how far an input gets is a pass of LLVM. Sanitizers need a nightly, but
//! nothing that is fuzzed here is unsafe.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, io};

use anyhow::{Context as _, Result, bail};

use crate::process;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// How long to fuzz each target.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u32,
    /// Which targets: `tracker`, `packet`, `record`, `capture`; all if none is named.
    #[arg(value_name = "TARGET")]
    names: Vec<String>,
}

/// A binary of tcp-monitor/fuzz.
struct Target {
    name: &'static str,
    /// The longest input, bytes.
    max_len: u32,
    /// Inputs besides the corpus, in the folder of tcp-monitor.
    seeds: Option<&'static str>,
}

const TARGETS: [Target; 4] = [
    Target { name: "tracker", max_len: 2048, seeds: None },
    Target { name: "packet", max_len: 256, seeds: None },
    Target { name: "record", max_len: 256, seeds: None },
    Target { name: "capture", max_len: 4096, seeds: Some("tests/captures") },
];

/// Builds the targets and fuzzes them one after the other, each until its time is over or something is found.
///
/// # Errors
/// If they cannot be built or run.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let unknown = arguments.names.iter().find(|name| TARGETS.iter().all(|target| target.name != **name));
    if let Some(name) = unknown {
        bail!("no fuzz target {name:?}: there are {}", TARGETS.map(|target| target.name).join(", "));
    }
    let binaries = build()?;
    let named = |target: &&Target| {
        arguments.names.is_empty() || arguments.names.iter().any(|name| name == target.name)
    };
    let mut found = false;
    for target in TARGETS.iter().filter(named) {
        found |= target.fuzz(&binaries, arguments.seconds)?;
    }
    Ok(if found { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Builds all targets. Returns the folder they are in.
fn build() -> Result<PathBuf> {
    if !process::is_installed("c++") {
        bail!("libFuzzer is built by a C++ compiler, and there is none: run `cargo xtask setup`");
    }
    let version = process::output(Command::new("rustc").arg("-vV")).context("cannot run rustc")?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let target_dir = crate::target_dir()?.join("fuzz");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--release", "--quiet", "--manifest-path"]).arg(folder().join("Cargo.toml"));
    // With a target named, what runs at build time is not watched.
    cargo.args(["--target", host, "--target-dir"]).arg(&target_dir);
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", FLAGS.join(" "));
    process::run(&mut cargo)?;
    Ok(target_dir.join(host).join("release"))
}

impl Target {
    /// Whether anything was found.
    fn fuzz(&self, binaries: &Path, seconds: u32) -> Result<bool> {
        let name = self.name;
        let work = crate::target_dir()?.join("fuzz").join(name);
        let (grown, findings) = (work.join("corpus"), work.join("findings"));
        for folder in [&grown, &findings] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let known = files(&findings)?;
        let log = work.join("log");
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut fuzzer = Command::new(binaries.join(name));
        fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={}", self.max_len));
        fuzzer.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]);
        // The folder is the start of a file name.
        fuzzer.arg(format!("-artifact_prefix={}/", findings.display()));
        fuzzer.arg(&grown).arg(folder().join("corpus").join(name));
        fuzzer.args(self.seeds.map(|seeds| folder().with_file_name(seeds)));
        fuzzer.stdout(output.try_clone()?).stderr(output);
        let status =
            fuzzer.status().with_context(|| format!("cannot run {}", binaries.join(name).display()))?;
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if status.success() {
            let done = said.lines().find(|line| line.starts_with("Done ")).unwrap_or("done");
            println!("{name}: {done}, nothing found");
            return Ok(false);
        }
        let found = files(&findings)?.into_iter().find(|file| !known.contains(file));
        let Some(found) = found else {
            bail!("{name} stopped with {status} and found nothing: see {}", log.display())
        };
        println!("{name}: found {}", found.display());
        reason(&said).for_each(|line| println!("    {line}"));
        println!(
            "    All of it is in {}. Keep the input in {}: the test `fuzz` tries it from then on.",
            log.display(),
            folder().join("corpus").join(name).display()
        );
        Ok(true)
    }
}

/// What a fuzzer says of its finding: the panic with its message, or what libFuzzer itself stopped for.
fn reason(log: &str) -> impl Iterator<Item = &str> {
    let is_reason = |line: &&str| line.contains("panicked at") || line.contains("ERROR: libFuzzer");
    log.lines()
        .skip_while(move |line| !is_reason(line))
        .take_while(|line| !line.starts_with("stack backtrace"))
        .take(8)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?)
}

/// Where the targets are: a workspace of their own.
fn folder() -> PathBuf {
    crate::workspace().join("tcp-monitor/fuzz")
}

/// As cargo-fuzz has them, but for the sanitizer.
const FLAGS: [&str; 7] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

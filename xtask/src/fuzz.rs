//! `cargo xtask fuzz`: searches with libFuzzer for inputs that break a rule.
//!
//! The stable compiler is enough: an LLVM pass reports to libFuzzer which code an input reaches.
//! Sanitizers need a nightly, but nothing that is fuzzed here is unsafe.
//!
//! The corpus of a target is `corpus/NAME.tar.gz`, the inputs that reach different code, and the
//! folder `corpus/NAME`, inputs that once broke a rule or show something, each named after that.
//! What libFuzzer finds stays in `target/fuzz/NAME`; `--pack` adds to the archive what reaches new
//! code.

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
    /// Afterwards pack the inputs that reach different code into the archive of the corpus.
    #[arg(long)]
    pack: bool,
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

/// Builds the targets and fuzzes them one after the other, each until its time is over or something
/// is found.
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
        let work = Work::new(target)?;
        found |= target.fuzz(&binaries, &work, arguments.seconds)?;
        if arguments.pack {
            target.pack(&binaries, &work)?;
        }
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

/// The folders of a target in `target/fuzz/NAME`.
struct Work {
    /// The unpacked archive of the corpus.
    seeds: PathBuf,
    /// Inputs that libFuzzer found in this run and earlier ones.
    grown: PathBuf,
    /// Inputs that break a rule.
    findings: PathBuf,
    log: PathBuf,
}

impl Work {
    fn new(target: &Target) -> Result<Self> {
        let work = crate::target_dir()?.join("fuzz").join(target.name);
        let log = work.join("log");
        let [seeds, grown, findings] = ["seeds", "corpus", "findings"].map(|name| work.join(name));
        empty(&seeds)?;
        for folder in [&grown, &findings] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let mut tar = Command::new("tar");
        process::run(tar.args(["-xzf"]).arg(target.archive()).arg("-C").arg(&seeds))?;
        Ok(Self { seeds, grown, findings, log })
    }
}

impl Target {
    fn archive(&self) -> PathBuf {
        folder().join(format!("corpus/{}.tar.gz", self.name))
    }

    /// Inputs besides the archive: those of the corpus that have a name, and captures.
    fn folders(&self) -> impl Iterator<Item = PathBuf> {
        let named = folder().join("corpus").join(self.name);
        let seeds = self.seeds.map(|seeds| folder().with_file_name(seeds));
        [Some(named), seeds].into_iter().flatten().filter(|folder| folder.is_dir())
    }

    /// Replaces the archive by the fewest inputs that reach all code that the corpus and what was
    /// found reach.
    fn pack(&self, binaries: &Path, work: &Work) -> Result<()> {
        let merged = work.seeds.with_file_name("merged");
        empty(&merged)?;
        let mut merge = Command::new(binaries.join(self.name));
        merge.arg("-merge=1").arg(&merged).args([&work.seeds, &work.grown]);
        let log = File::create(work.log.with_extension("merge"))?;
        process::run(merge.stdout(log.try_clone()?).stderr(log))?;
        let mut tar = Command::new("tar");
        // The same inputs make the same bytes.
        tar.args(["--format=ustar", "--sort=name", "--owner=0", "--group=0", "--numeric-owner"]);
        tar.args(["--mode=0644", "--mtime=@0", "--use-compress-program=gzip -9n"]);
        process::run(tar.arg("-cf").arg(self.archive()).arg("-C").arg(&merged).arg("."))?;
        println!("{}: {} inputs packed", self.name, files(&merged)?.len());
        Ok(())
    }

    /// Whether anything was found.
    fn fuzz(&self, binaries: &Path, work: &Work, seconds: u32) -> Result<bool> {
        let name = self.name;
        let Work { seeds, grown, findings, log } = work;
        let known = files(findings)?;
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut fuzzer = Command::new(binaries.join(name));
        fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={}", self.max_len));
        fuzzer.args(["-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]);
        // The folder is the start of a file name.
        fuzzer.arg(format!("-artifact_prefix={}/", findings.display()));
        // New inputs go to the first folder.
        fuzzer.arg(grown).arg(seeds).args(self.folders());
        fuzzer.stdout(output.try_clone()?).stderr(output);
        let status =
            fuzzer.status().with_context(|| format!("cannot run {}", binaries.join(name).display()))?;
        let said = String::from_utf8_lossy(&fs::read(log)?).into_owned();
        if status.success() {
            let done = said.lines().find(|line| line.starts_with("Done ")).unwrap_or("done");
            println!("{name}: {done}, nothing found");
            return Ok(false);
        }
        let found = files(findings)?.into_iter().find(|file| !known.contains(file));
        let Some(found) = found else {
            bail!("{name} stopped with {status} and found nothing: see {}", log.display())
        };
        println!("{name}: found {}", found.display());
        reason(&said).for_each(|line| println!("    {line}"));
        println!(
            "    The whole output is in {}. Keep the input in {}, in a file named after what it shows: the \
             test `fuzz` runs it from then on.",
            log.display(),
            folder().join("corpus").join(name).display()
        );
        Ok(true)
    }
}

/// What a fuzzer prints of a finding: the panic with its message, or libFuzzer's own error.
fn reason(log: &str) -> impl Iterator<Item = &str> {
    let is_reason = |line: &&str| line.contains("panicked at") || line.contains("ERROR: libFuzzer");
    log.lines()
        .skip_while(move |line| !is_reason(line))
        .take_while(|line| !line.starts_with("stack backtrace"))
        .take(8)
}

/// Makes an empty folder in place of an old one.
fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
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

//! The fuzz targets without libFuzzer: they hold on every input of the corpus, and on random ones.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::panic;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;

#[path = "../fuzz/targets/mod.rs"]
mod targets;

/// A target: its name, its function, and a folder with inputs besides the corpus.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    seeds: Option<&'static str>,
}

const TARGETS: [Target; 4] = [
    Target { name: "tracker", run: targets::tracker::run, seeds: None },
    Target { name: "packet", run: targets::packet::run, seeds: None },
    Target { name: "record", run: targets::record::run, seeds: None },
    Target { name: "capture", run: targets::capture::run, seeds: Some("tests/captures") },
];

#[test]
fn the_corpus_holds() {
    for Target { name, run, seeds } in TARGETS {
        let mut inputs = archived(name).expect("the archive of the corpus");
        assert!(!inputs.is_empty(), "{name} has no corpus");
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let named = package.join("fuzz/corpus").join(name);
        for folder in [Some(named), seeds.map(|seeds| package.join(seeds))].into_iter().flatten() {
            inputs.extend(files(&folder).expect("the files of a folder"));
        }
        for (path, data) in inputs {
            let result = panic::catch_unwind(|| run(&data));
            assert!(result.is_ok(), "{name} fails on {}", path.display());
        }
    }
}

/// A property test of the tracker: scripts of several hundred steps, by each set of rules.
#[test]
fn random_scripts_break_no_rule() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for rules in 0..128 {
        for _ in 0..SCRIPTS {
            let mut script = random.bytes(1_200);
            script.insert(0, rules);
            hold("tracker", targets::tracker::run, script);
        }
    }
}

#[test]
fn random_packets_and_records_are_read() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    for _ in 0..20_000 {
        // A layout that might be, with addresses and numbers that might not.
        let mut record = random.bytes(200);
        record[12] %= 4;
        record[13] = [4, 6][usize::from(record[13] & 1)];
        hold("record", targets::record::run, record);
        hold("packet", targets::packet::run, random.bytes(100));
    }
}

/// Runs a target. If it fails, it does so with the fewest bytes, and they are kept.
fn hold(name: &str, run: fn(&[u8]), data: Vec<u8>) {
    if panic::catch_unwind(|| run(&data)).is_ok() {
        return;
    }
    let data = shorten(data, |data| panic::catch_unwind(|| run(data)).is_err());
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-finding"));
    fs::write(&file, &data).expect("a file of bytes");
    eprintln!(
        "{name} fails on the {} bytes of {}: fix it, and keep them in fuzz/corpus/{name}, in a file \
         named after what it shows",
        data.len(),
        file.display()
    );
    run(&data);
}

/// Leaves out whatever is not needed for the bytes to fail.
fn shorten(mut data: Vec<u8>, fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    // One message of the many is enough.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let mut piece = data.len().next_power_of_two();
    while piece > 0 {
        let mut at = 0;
        while at < data.len() {
            let rest = [&data[..at], data.get(at + piece..).unwrap_or_default()].concat();
            if fails(&rest) {
                data = rest;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    panic::set_hook(hook);
    data
}

/// An input of a target: where it is from, and its bytes.
type Source = (PathBuf, Vec<u8>);

/// The inputs that libFuzzer found to reach different code, which are packed in one archive for
/// each target.
fn archived(name: &str) -> io::Result<Vec<Source>> {
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fuzz/corpus/{name}.tar.gz"));
    let mut entries = tar::Archive::new(GzDecoder::new(File::open(&archive)?));
    let mut inputs = Vec::new();
    for entry in entries.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let mut data = Vec::new();
        entry.read_to_end(&mut data)?;
        inputs.push((archive.join(entry.path()?), data));
    }
    Ok(inputs)
}

/// The files of a folder; none if there is no such folder.
fn files(folder: &Path) -> io::Result<Vec<Source>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            files.push((path.clone(), fs::read(&path)?));
        }
    }
    Ok(files)
}

/// xorshift64
struct Random(u64);

impl Random {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let byte = |_| {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0.to_le_bytes()[3]
        };
        (0..len).map(byte).collect()
    }
}

/// For each set of rules: some seconds for all of them.
const SCRIPTS: u32 = 20;

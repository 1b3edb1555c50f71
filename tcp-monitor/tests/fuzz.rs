//! The fuzz targets without a fuzzer: what was found once stays found, and random bytes find nothing more.

use std::panic;
use std::path::{Path, PathBuf};
use std::{fs, io};

#[path = "../fuzz/targets/mod.rs"]
mod targets;

/// A target: its name, what it does, and where else there are bytes for it.
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
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let corpus = Some(package.join("fuzz/corpus").join(name));
        let folders = corpus.into_iter().chain(seeds.map(|seeds| package.join(seeds)));
        let files: Vec<_> = folders.flat_map(|folder| files(&folder).expect("the corpus")).collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let data = fs::read(&file).expect("a file of the corpus");
            let result = panic::catch_unwind(|| run(&data));
            assert!(result.is_ok(), "{name} fails on {}", file.display());
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
        "{name} fails on the {} bytes of {}: mend it, and keep them in fuzz/corpus/{name}",
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

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter(|path| path.is_file()).collect())
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

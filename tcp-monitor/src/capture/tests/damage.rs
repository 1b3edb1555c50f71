//! Whatever the bytes: reading ends, and says where.

use super::{read_all, recorded};
use crate::capture::{CaptureError, Statistics};

/// xorshift64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        // The remainder is less than `limit`.
        (self.next() % limit.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }
}

/// Reads it, and checks what holds for any bytes; returns how many segments there were.
fn check(bytes: &[u8], len: Option<usize>) -> u64 {
    let (packets, statistics, error) = read_all(bytes);
    let Statistics {
        packets: all,
        tcp,
        not_tcp,
        later_fragments,
        truncated,
        malformed,
        unknown_link,
        untimed,
    } = statistics;
    let unknown: u64 = unknown_link.values().sum();
    assert_eq!(all, tcp + not_tcp + later_fragments + truncated + malformed + unknown);
    assert!(untimed <= tcp);
    assert!(packets.windows(2).all(|pair| pair[0].frame < pair[1].frame));
    assert!(packets.iter().all(|packet| (20..=60).contains(&packet.header.header_len)));
    if let (Some(len), Some(offset)) = (len, error.as_ref().and_then(CaptureError::offset)) {
        assert!(offset <= len as u64, "{error:?} in {len} bytes");
    }
    tcp
}

fn is_compressed(bytes: &[u8]) -> bool {
    bytes.starts_with(&[0x1f, 0x8b])
}

#[test]
fn random_bytes_are_read_to_an_end() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let starts: [&[u8]; 6] = [
        b"",
        &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0],
        &[0xa1, 0xb2, 0x3c, 0x4d, 0, 2, 0, 4],
        &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0],
        &[0x0a, 0x0d, 0x0d, 0x0a, 0, 0, 0, 28, 0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0],
        &[0x1f, 0x8b, 8, 0],
    ];
    for round in 0..300 {
        let start = starts[round % starts.len()];
        let noise: Vec<_> = (0..random.below(600)).map(|_| random.byte()).collect();
        let bytes = [start, &noise].concat();
        check(&bytes, (!is_compressed(&bytes)).then_some(bytes.len()));
    }
}

#[test]
fn every_truncation_of_a_capture_is_read_to_its_end() {
    for (path, bytes) in recorded() {
        let whole = check(&bytes, None);
        // Every length near the end, and some of the others.
        let mut random = Random(bytes.len() as u64);
        for cut in (1..bytes.len().min(30)).chain((0..10).map(|_| random.below(bytes.len()))) {
            let bytes = &bytes[..bytes.len() - cut];
            let some = check(bytes, (!is_compressed(bytes)).then_some(bytes.len()));
            assert!(some <= whole, "{}", path.display());
        }
    }
}

#[test]
fn damaged_captures_are_read_to_an_end() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let captures = recorded();
    let mut found = 0;
    for round in 0..1_500 {
        let mut bytes = captures[round % captures.len()].1.clone();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len());
            match random.below(5) {
                0 => bytes[at] = random.byte(),
                1 => bytes[at] = 0xff,
                2 => bytes[at] ^= 1 << random.below(8),
                3 => drop(bytes.drain(at..(at + random.below(20)).min(bytes.len()))),
                _ => drop(bytes.splice(at..at, (0..random.below(20)).map(|_| 0))),
            }
        }
        found += check(&bytes, (!is_compressed(&bytes)).then_some(bytes.len()));
    }
    assert!(found > 1_500, "most of what was not damaged is still read: {found}");
}

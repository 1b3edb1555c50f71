//! File formats: what they say of a packet, and files that say nothing sensible.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use flate2::{Compression, write::GzEncoder};
use tcp_monitor_common::record::Direction;

use super::{
    build::{
        Bytes, MICROSECONDS, NANOSECONDS, Options, block, enhanced, ethernet, interface, ipv4, len, pcap,
        pcap_of, record, section, tcp,
    },
    read_all,
};
use crate::capture::{
    Capture, CaptureError, CapturePart, LinkType,
    fields::ByteOrder::{self, Big, Little},
    open,
    reader::FILE_INTERFACES,
};

fn times(bytes: &[u8]) -> Vec<u64> {
    let (packets, _, error) = read_all(bytes);
    assert!(error.is_none(), "{error:?}");
    packets.iter().map(|packet| packet.time.as_nanos()).collect()
}

fn error_of(bytes: &[u8]) -> CaptureError {
    read_all(bytes).2.expect("it is not a valid file")
}

fn frame() -> Vec<u8> {
    ethernet(&[0x0800], &ipv4(&tcp(b"")))
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes everything")
}

#[test]
fn pcap_has_the_time_in_either_byte_order_and_resolution() {
    for order in [Little, Big] {
        for (magic, nanos) in [(MICROSECONDS, 999_999_000), (NANOSECONDS, 999_999)] {
            let file = [
                pcap(order, magic, 1),
                record(order, 4_000_000_000, 999_999, 80, &frame()),
                record(order, 0, 0, 80, &frame()),
            ];
            assert_eq!(
                times(&file.concat()),
                [4_000_000_000 * 1_000_000_000 + nanos, 0],
                "{order:?} {magic:x}"
            );
        }
    }
}

#[test]
fn pcapng_has_the_time_in_whatever_units_the_interface_counts() {
    let ticks = 0x0005_4321_8765_4321_u64;
    let cases: [(Options<'_>, u64, u64); 10] = [
        (&[], ticks, ticks * 1_000),
        (&[(9, &[6])], ticks, ticks * 1_000),
        (&[(9, &[9])], ticks, ticks),
        (&[(9, &[0])], 1_000, 1_000_000_000_000),
        (&[(9, &[12])], ticks, ticks / 1_000),
        (&[(9, &[127])], u64::MAX, 0),
        (&[(9, &[0x80 | 10])], 1_536, 1_500_000_000),
        (&[(9, &[0xff])], u64::MAX, 0),
        (&[(9, &[0])], u64::MAX, u64::MAX - 1),
        (&[(2, b"eth0 "), (14, &(-2_i64).to_le_bytes())], 5_000_001, 3_000_001_000),
    ];
    for (options, ticks, nanos) in cases {
        let file =
            [section(Little), interface(Little, 1, 0, options), enhanced(Little, 0, ticks, &frame(), &[])];
        assert_eq!(times(&file.concat()), [nanos], "{options:?}");
    }
    let before_1970 = [(14, &i64::MIN.to_be_bytes()[..])];
    let file = [section(Big), interface(Big, 1, 0, &before_1970), enhanced(Big, 0, 5_000_000, &frame(), &[])]
        .concat();
    assert_eq!(times(&file), [0]);
}

#[test]
fn each_section_has_its_own_byte_order_and_interfaces() {
    let part = |order: ByteOrder| {
        [
            section(order),
            interface(order, 101, 0, &[]),
            interface(order, 1, 0, &[]),
            block(order, 0x0bad, Bytes::new(order).raw(&[1; 700_001])),
            enhanced(order, 1, 3, &frame(), &[(1, b"a comment"), (2, &Bytes::new(order).u32(0x22).bytes)]),
            enhanced(order, 0, 4, &ipv4(&tcp(b"")), &[(2, &Bytes::new(order).u32(1).bytes)]),
        ]
        .concat()
    };
    let (packets, statistics, error) = read_all(&[part(Little), part(Big), part(Little)].concat());
    assert!(error.is_none(), "{error:?}");
    let read: Vec<_> =
        packets.iter().map(|packet| (packet.ifindex - FILE_INTERFACES, packet.direction)).collect();
    let (ingress, egress) = (Some(Direction::Ingress), Some(Direction::Egress));
    assert_eq!(read, [(1, egress), (0, ingress), (3, egress), (2, ingress), (5, egress), (4, ingress)]);
    assert_eq!((statistics.packets, statistics.tcp), (6, 6));
}

#[test]
fn a_packet_without_a_time_has_that_of_the_one_before() {
    let simple = block(Little, 3, Bytes::new(Little).u32(1_000).raw(&frame()));
    let file = [
        section(Little),
        interface(Little, 1, 72, &[]),
        simple.clone(),
        enhanced(Little, 0, 7, &frame(), &[]),
        simple,
    ];
    let (packets, statistics, error) = read_all(&file.concat());
    assert!(error.is_none(), "{error:?}");
    let read: Vec<_> =
        packets.iter().map(|packet| (packet.time.as_nanos(), packet.header.options.window_scale)).collect();
    // The snap length of the interface is not that of the block: the last option does not count.
    assert_eq!(read, [(0, None), (7_000, Some(7)), (7_000, None)]);
    assert_eq!(statistics.untimed, 2);
}

#[test]
fn malformed_packets_are_counted_and_skipped() {
    let file = [
        section(Little),
        interface(Little, 1, 0, &[]),
        enhanced(Little, 1, 0, &frame(), &[]),
        block(Little, 6, Bytes::new(Little).u32(0).u32(0).u32(0).u32(400).u32(400).raw(&frame())),
        block(Little, 6, Bytes::new(Little)),
        block(Little, 6, Bytes::new(Little).raw(&vec![0; 600_000])),
        enhanced(Little, 0, 0, &frame(), &[]),
    ];
    let (packets, statistics, error) = read_all(&file.concat());
    assert!(error.is_none(), "{error:?}");
    assert_eq!((statistics.packets, statistics.malformed, statistics.tcp), (5, 4, 1));
    assert_eq!(packets[0].frame.map(u64::from), Some(5));
}

#[test]
fn unknown_link_types_are_counted_and_named() {
    let file = [
        section(Little),
        interface(Little, 127, 0, &[]),
        interface(Little, 999, 0, &[]),
        enhanced(Little, 0, 0, &[0; 50], &[]),
        enhanced(Little, 1, 0, &[0; 50], &[]),
        enhanced(Little, 0, 0, &[0; 50], &[]),
    ];
    let (_, statistics, error) = read_all(&file.concat());
    assert!(error.is_none(), "{error:?}");
    let named: Vec<_> =
        statistics.unknown_link.iter().map(|(link, count)| (link.to_string(), *count)).collect();
    assert_eq!(named, [("IEEE802_11_RADIOTAP (127)".to_owned(), 2), ("link type 999".to_owned(), 1)]);

    // Packets of such links can be longer than what is kept at hand.
    let (_, statistics, error) = read_all(&pcap_of(249, &vec![0; 1_000_000]));
    assert!(error.is_none(), "{error:?}");
    assert_eq!(statistics.unknown_link.get(&LinkType(249)), Some(&1));
}

#[test]
fn gzip_is_recognised_by_its_magic_and_may_have_several_members() {
    let file = pcap_of(1, &frame());
    let (first, second) = file.split_at(30);
    assert_eq!(times(&[gzip(first), gzip(second)].concat()), [1_000_000_000]);
}

#[test]
fn earlier_packets_of_a_truncated_gzip_file_are_kept() {
    let mut file = pcap(Little, MICROSECONDS, 1);
    for second in 0..2_000_u32 {
        // Different enough to be compressed to something of length.
        let data = [&frame()[..], &second.wrapping_mul(0x9e37_79b9).to_le_bytes()].concat();
        file.extend(record(Little, second, second.wrapping_mul(0x85eb_ca6b), len(&data), &data));
    }
    let compressed = gzip(&file);
    let (packets, _, error) = read_all(&compressed[..compressed.len() / 2]);
    assert!((500..1_500).contains(&packets.len()), "{}", packets.len());
    let Some(CaptureError::Gzip { offset, .. }) = error else { panic!("{error:?}") };
    assert_eq!((offset as usize - 24) / record(Little, 0, 0, 0, &[0; 78]).len(), packets.len());

    let mut damaged = compressed;
    let last = damaged.len() - 6;
    damaged[last] ^= 1;
    let (packets, _, error) = read_all(&damaged);
    assert_eq!(packets.len(), 2_000, "the checksum comes after the last of them");
    assert!(matches!(error, Some(CaptureError::Gzip { .. })), "{error:?}");
}

#[test]
fn a_file_that_is_no_capture_is_refused_with_the_reason() {
    assert!(matches!(error_of(b""), CaptureError::Empty));
    assert!(matches!(error_of(&gzip(b"")), CaptureError::Empty));
    for start in [&b"PK\x03\x04rest"[..], b"\xa1\xb2", b"\x0a"] {
        assert!(matches!(error_of(start), CaptureError::Format { .. }), "{start:?}");
    }
    assert_eq!(
        error_of(b"\x28\xb5\x2f\xfd----").to_string(),
        "it is compressed by zstd: decompress it first, as in `zstd -dc FILE | tcp-monitor read -`"
    );
    for (path, reason) in [("/nowhere/x.pcap", "No such file"), ("/", "is a directory")] {
        let error = open(Path::new(path)).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.starts_with(&format!("it cannot be opened: {reason}")), "{error}");
    }
    let mut newer = pcap_of(1, &frame());
    newer[4] = 3;
    assert!(matches!(error_of(&newer), CaptureError::Version { major: 3, .. }));
    let mut newer = section(Little);
    newer[12] = 9;
    assert!(matches!(error_of(&newer), CaptureError::Version { offset: 0, major: 9, .. }));
}

#[test]
fn a_truncated_file_is_reported_with_the_offset_and_earlier_packets_are_kept() {
    let one = record(Little, 1, 0, 74, &frame());
    let file = [pcap(Little, MICROSECONDS, 1), one.clone(), one.clone()].concat();
    for end in 4..file.len() {
        let (packets, _, error) = read_all(&file[..end]);
        let whole = end.saturating_sub(24) / one.len();
        assert_eq!(packets.len(), whole, "of {end} bytes");
        match error {
            None => assert_eq!(end, 24 + whole * one.len()),
            Some(CaptureError::Truncated {
                part: CapturePart::FileHeader,
                offset: 0,
                len: 24,
                available,
            }) => {
                assert_eq!(available, end as u64);
            }
            Some(CaptureError::Truncated { part: CapturePart::Packet, offset, available, .. }) => {
                assert_eq!((offset, offset + available), ((24 + whole * one.len()) as u64, end as u64));
            }
            Some(error) => panic!("{error}"),
        }
    }
    let [start, end] = [section(Little), enhanced(Little, 0, 0, &frame(), &[])];
    let file = [&start[..], &interface(Little, 1, 0, &[]), &end[..end.len() - 1]].concat();
    let CaptureError::Truncated { part: CapturePart::Block, offset, len, available } = error_of(&file) else {
        panic!()
    };
    assert_eq!((offset, len, available), (48, end.len() as u64, end.len() as u64 - 1));
}

#[test]
fn a_damaged_file_is_reported_with_the_offset() {
    let mut long = pcap_of(1, &frame());
    long[24 + 8..24 + 12].copy_from_slice(&300_000_u32.to_le_bytes());
    assert!(matches!(
        error_of(&long),
        CaptureError::PacketLength { offset: 24, len: 300_000, limit: 262_144 }
    ));

    let with = |at: usize, byte: u8| {
        let mut file = [section(Big), interface(Big, 1, 0, &[]), interface(Big, 1, 0, &[])].concat();
        file[at] = byte;
        error_of(&file)
    };
    assert!(matches!(with(28 + 7, 8), CaptureError::BlockLength { offset: 28, len: 8, least: 12 }));
    assert!(matches!(with(28 + 7, 22), CaptureError::BlockLength { offset: 28, len: 22, .. }));
    assert!(matches!(with(28 + 19, 21), CaptureError::BlockLengths { offset: 28, first: 20, last: 21 }));
    assert!(matches!(with(8, 0), CaptureError::ByteOrder { offset: 0, mark: [0, 0x2b, 0x3c, 0x4d] }));
    let short = [section(Big), block(Big, 1, Bytes::new(Big).u32(1))].concat();
    assert!(matches!(error_of(&short), CaptureError::BlockLength { offset: 28, len: 16, least: 20 }));
}

#[test]
fn a_failing_disk_is_reported_with_the_offset_and_earlier_packets_are_kept() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let file = pcap_of(1, &frame());
    let end = file.len() as u64;
    let mut capture = Capture::read(io::Cursor::new(file).chain(Failing)).expect("the header is there");
    assert!(matches!(capture.next(), Some(Ok(_))));
    assert!(matches!(capture.next(), Some(Err(CaptureError::Read { offset, .. })) if offset == end));
    assert!(capture.next().is_none(), "nothing follows an error");
}

#[test]
fn a_packet_is_returned_before_the_next_is_written() {
    let (reader, mut writer) = io::pipe().expect("pipes are there");
    writer.write_all(&pcap_of(1, &frame())).expect("it fits");
    let mut capture = Capture::read(reader).expect("the header is there");
    // Would wait for ever if more were asked for: the writer is still open.
    assert!(matches!(capture.next(), Some(Ok(_))));
    assert_eq!(capture.frames(), 1);
    drop(writer);
    assert!(capture.next().is_none());
}

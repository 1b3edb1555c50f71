//! Link types: where in a captured packet the IP header begins.

use std::fmt;

use tcp_monitor_common::record::Direction;

use super::cursor::{Cursor, NotSegment};

/// A number of <https://www.tcpdump.org/linktypes.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkType(pub u16);

/// What a link-layer header has beside the protocol.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LinkHeader {
    /// Index of the interface, if the header has it.
    pub(super) ifindex: Option<u32>,
    /// The direction, if the header has it.
    pub(super) direction: Option<Direction>,
}

impl LinkType {
    /// Ethernet, with VLAN tags or without.
    pub const ETHERNET: Self = Self(1);
    /// BSD loopback: an address family in the byte order of the host.
    pub const NULL: Self = Self(0);
    /// OpenBSD loopback: an address family in network order.
    pub const LOOP: Self = Self(108);
    /// IPv4 or IPv6 without a link-layer header.
    pub const RAW: Self = Self(101);
    /// IPv4 only.
    pub const IPV4: Self = Self(228);
    /// IPv6 only.
    pub const IPV6: Self = Self(229);
    /// Linux "cooked" capture, as of `tcpdump -i any`.
    pub const LINUX_SLL: Self = Self(113);
    /// Its second version, with the index of the interface.
    pub const LINUX_SLL2: Self = Self(276);

    /// Whether it is supported.
    #[must_use]
    pub const fn is_known(self) -> bool {
        self.layout().is_some()
    }

    /// Moves `packet` to the IP header.
    pub(super) fn skip_header(self, packet: &mut Cursor<'_>) -> Result<LinkHeader, NotSegment> {
        let mut header = LinkHeader::default();
        match self.layout().ok_or(NotSegment::UnknownLink)? {
            LinkLayout::Ethernet => {
                packet.take::<12>()?;
                skip_ether_type(packet)?;
            }
            LinkLayout::Family => {
                let family = packet.take()?;
                if !is_ip_family(u32::from_be_bytes(family)) && !is_ip_family(u32::from_le_bytes(family)) {
                    return Err(NotSegment::OtherProtocol);
                }
            }
            LinkLayout::Ip => {}
            LinkLayout::CookedV1 => {
                let fixed = packet.take::<14>()?;
                header.direction = cooked_direction(u16::from_be_bytes([fixed[0], fixed[1]]));
                skip_ether_type(packet)?;
            }
            LinkLayout::CookedV2 => {
                // The protocol comes first.
                let fixed = packet.take::<20>()?;
                header.ifindex = Some(u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]));
                header.direction = cooked_direction(fixed[10].into());
                follow_ether_type(u16::from_be_bytes([fixed[0], fixed[1]]), packet)?;
            }
        }
        Ok(header)
    }

    const fn layout(self) -> Option<LinkLayout> {
        match self.0 {
            1 => Some(LinkLayout::Ethernet),
            0 | 108 => Some(LinkLayout::Family),
            // Some systems write 12 or 14 for 101.
            12 | 14 | 101 | 228 | 229 => Some(LinkLayout::Ip),
            113 => Some(LinkLayout::CookedV1),
            276 => Some(LinkLayout::CookedV2),
            _ => None,
        }
    }

    const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "NULL",
            1 => "ETHERNET",
            6 => "IEEE802_5",
            9 => "PPP",
            10 => "FDDI",
            12 | 14 | 101 => "RAW",
            50 => "PPP_HDLC",
            51 => "PPP_ETHER",
            105 => "IEEE802_11",
            108 => "LOOP",
            113 => "LINUX_SLL",
            127 => "IEEE802_11_RADIOTAP",
            147..=162 => "USER",
            189 => "USB_LINUX",
            192 => "PPI",
            201 => "BLUETOOTH_HCI_H4_WITH_PHDR",
            220 => "USB_LINUX_MMAPPED",
            227 => "CAN_SOCKETCAN",
            228 => "IPV4",
            229 => "IPV6",
            239 => "NFLOG",
            249 => "USBPCAP",
            252 => "WIRESHARK_UPPER_PDU",
            253 => "NETLINK",
            276 => "LINUX_SLL2",
            _ => return None,
        })
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{name} ({})", self.0),
            None => write!(f, "link type {}", self.0),
        }
    }
}

/// The header before the IP header.
#[derive(Clone, Copy)]
enum LinkLayout {
    Ethernet,
    /// Four bytes of address family.
    Family,
    /// Nothing.
    Ip,
    CookedV1,
    CookedV2,
}

fn skip_ether_type(packet: &mut Cursor<'_>) -> Result<(), NotSegment> {
    let ether_type = u16::from_be_bytes(packet.take()?);
    follow_ether_type(ether_type, packet)
}

/// Moves past VLAN tags to the IP header.
fn follow_ether_type(mut ether_type: u16, packet: &mut Cursor<'_>) -> Result<(), NotSegment> {
    for _ in 0..=MAX_VLAN_TAGS {
        match ether_type {
            IPV4 | IPV6 => return Ok(()),
            VLAN | QINQ | OLD_QINQ => {
                let [_, _, a, b] = packet.take()?;
                ether_type = u16::from_be_bytes([a, b]);
            }
            _ => break,
        }
    }
    Err(NotSegment::OtherProtocol)
}

/// IPv4 everywhere; IPv6 of Linux, NetBSD and OpenBSD, FreeBSD, macOS.
const fn is_ip_family(family: u32) -> bool {
    matches!(family, 2 | 10 | 24 | 28 | 30)
}

/// The packet type of a cooked header (Linux: `if_packet.h`).
const fn cooked_direction(packet_type: u16) -> Option<Direction> {
    match packet_type {
        // To this host, to all, to a group, to another host.
        0..=3 => Some(Direction::Ingress),
        4 => Some(Direction::Egress),
        _ => None,
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IEEE 802.1Q.
const VLAN: u16 = 0x8100;
/// IEEE 802.1ad, the outer tag of two.
const QINQ: u16 = 0x88a8;
/// The same before the standard.
const OLD_QINQ: u16 = 0x9100;

/// Two are common.
const MAX_VLAN_TAGS: u32 = 8;

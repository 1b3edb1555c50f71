//! The interfaces of one network namespace, from the kernel (rtnetlink(7)): which there are, and
//! that something changed.

use std::{io, os::fd::AsFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkExtentMask, LinkMessage, LinkMessageBuffer},
    tc::{TcAttribute, TcHandle, TcMessage},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::fd::BorrowedFd;

use crate::netlink::{BUFFER, DUMP_ATTEMPTS, NetlinkSocket};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) index: u32,
    pub(super) name: String,
}

/// Two sockets in one network namespace, which they keep alive: one that receives changes, one that
/// asks.
pub(super) struct Rtnetlink {
    events: Socket,
    requests: NetlinkSocket,
}

impl Rtnetlink {
    /// Opens the sockets in the namespace that the calling thread is in.
    pub(super) fn open() -> io::Result<Self> {
        let mut events = Socket::new(NETLINK_ROUTE)?;
        events.bind_auto()?;
        events.add_membership(RTNLGRP_LINK)?;
        events.set_non_blocking(true)?;
        Ok(Self { events, requests: NetlinkSocket::open(NETLINK_ROUTE)? })
    }

    /// Readable when an interface may have changed.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Drops the changes received so far.
    ///
    /// What changed is of no interest, and may have been lost (ENOBUFS): the interfaces are listed
    /// anew in any case.
    pub(super) fn forget_events(&self) {
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match self.events.recv(&mut buffer, 0) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    /// Every interface of the namespace.
    pub(super) fn interfaces(&self) -> io::Result<Vec<Interface>> {
        let mut request = LinkMessage::default();
        request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let request = RouteNetlinkMessage::GetLink(request);
        for _ in 0..DUMP_ATTEMPTS {
            let mut interfaces = Vec::new();
            let consistent = self.ask(request.clone(), NLM_F_DUMP, |kind, payload| {
                if kind == RTM_NEWLINK {
                    interfaces.extend(parse_interface(payload));
                }
            })?;
            if consistent {
                return Ok(interfaces);
            }
        }
        Err(io::Error::other("interfaces change faster than they can be listed"))
    }

    /// Removes the clsact qdisc of an interface if no filter hangs on it.
    pub(super) fn remove_unused_clsact(&self, ifindex: u32) -> io::Result<()> {
        let index = i32::try_from(ifindex).map_err(io::Error::other)?;
        for minor in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
            let mut request = TcMessage::with_index(index);
            request.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor };
            let mut used = false;
            self.ask(RouteNetlinkMessage::GetTrafficFilter(request), NLM_F_DUMP, |kind, _| {
                used |= kind == RTM_NEWTFILTER;
            })?;
            if used {
                return Ok(());
            }
        }
        let mut request = TcMessage::with_index(index);
        request.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        request.header.parent = TcHandle::CLSACT;
        request.attributes.push(TcAttribute::Kind("clsact".to_owned()));
        self.ask(RouteNetlinkMessage::DelQueueDiscipline(request), NLM_F_ACK, |_, _| {})?;
        Ok(())
    }

    /// Sends a request and reads the whole answer. `false` if it may be inconsistent because
    /// something changed meanwhile.
    fn ask(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
        each: impl FnMut(u16, &[u8]),
    ) -> io::Result<bool> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        self.requests.request(&buffer, each)
    }
}

/// The interface that a message is of, or `None` if it names none.
///
/// Only what is needed is read: attributes that another kernel spells differently do no harm.
fn parse_interface(payload: &[u8]) -> Option<Interface> {
    let message = LinkMessageBuffer::new_checked(payload).ok()?;
    let name =
        message.attributes().map_while(Result::ok).find(|attribute| attribute.kind() == IFLA_IFNAME)?;
    let name = name.value().split(|byte| *byte == 0).next()?;
    Some(Interface { index: message.link_index(), name: String::from_utf8_lossy(name).into_owned() })
}

const ENOBUFS: i32 = 105;
/// linux/rtnetlink.h
const RTNLGRP_LINK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWTFILTER: u16 = 44;
/// linux/if_link.h
const IFLA_IFNAME: u16 = 3;

#[cfg(test)]
mod tests {
    use std::io;

    use super::{Interface, parse_interface};
    use crate::netlink::{Part, read_answer, tests::message};

    fn link(index: u32, name: &str) -> Vec<u8> {
        let mut bytes = vec![0; 4];
        bytes.extend(index.to_ne_bytes());
        bytes.extend([0; 8]);
        // An attribute before the name, of odd length.
        bytes.extend([5, 0, 1, 0, 9, 0, 0, 0]);
        bytes.extend(u16::try_from(5 + name.len()).expect("short").to_ne_bytes());
        bytes.extend([3, 0]);
        bytes.extend(name.bytes().chain([0]));
        bytes
    }

    fn read(datagram: &[u8]) -> io::Result<(Vec<Interface>, Part)> {
        let mut interfaces = Vec::new();
        let part = read_answer(datagram, &mut |kind, payload| {
            assert_eq!(kind, 16);
            interfaces.extend(parse_interface(payload));
        })?;
        Ok((interfaces, part))
    }

    #[test]
    fn a_dump_lists_interfaces_until_it_is_done() {
        let lo = message(16, 2, &link(1, "lo"));
        let eth0 = message(16, 2, &link(7, "eth0"));
        let (interfaces, part) = read(&[lo, eth0].concat()).expect("well-formed");
        let expected = [(1, "lo"), (7, "eth0")];
        assert_eq!(interfaces, expected.map(|(index, name)| Interface { index, name: name.to_owned() }));
        assert_eq!(part, Part { last: false, consistent: true });
        let (_, part) = read(&message(3, 2, &[0; 4])).expect("well-formed");
        assert_eq!(part, Part { last: true, consistent: true });
    }

    #[test]
    fn damaged_answers_never_panic() {
        let whole = [message(16, 2, &link(1, "lo")), message(3, 2, &[0; 4])].concat();
        for end in 0..whole.len() {
            let _ = read(whole.get(..end).expect("shorter"));
        }
        for position in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut damaged = whole.clone();
                damaged[position] = value;
                let _ = read_answer(&damaged, &mut |_, payload| drop(parse_interface(payload)));
            }
        }
    }
}

//! Netlink (netlink(7)): requests to the kernel and their answers.

use std::io;

use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer};
use netlink_sys::{Socket, SocketAddr};

/// A netlink socket in one network namespace.
pub(crate) struct NetlinkSocket(Socket);

impl NetlinkSocket {
    /// Opens a socket of `protocol` in the namespace that the calling thread is in.
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // Only the kernel can answer.
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    /// Sends a request and reads the whole answer; calls `each` with the type and payload of each
    /// message. `false` if the answer may be inconsistent because something changed meanwhile
    /// (`NLM_F_DUMP_INTR`).
    ///
    /// # Errors
    /// What the kernel answered instead, or that this is no answer.
    pub(crate) fn request(&self, request: &[u8], mut each: impl FnMut(u16, &[u8])) -> io::Result<bool> {
        self.send(request)?;
        let mut consistent = true;
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            let part = self.receive(&mut buffer, &mut each)?;
            consistent &= part.consistent;
            if part.last {
                return Ok(consistent);
            }
        }
    }

    /// Sends a request, whose answer is to be received to its end.
    pub(crate) fn send(&self, request: &[u8]) -> io::Result<()> {
        self.0.send(request, 0).map(drop)
    }

    /// Receives one datagram of an answer into `buffer` and hands its messages to `each`.
    ///
    /// # Errors
    /// As of [`request`](Self::request).
    pub(crate) fn receive(
        &self,
        buffer: &mut Vec<u8>,
        each: &mut impl FnMut(u16, &[u8]),
    ) -> io::Result<Part> {
        buffer.clear();
        while let Err(error) = self.0.recv(buffer, 0) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        read_answer(buffer, each)
    }
}

/// One datagram of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// No other follows.
    pub(crate) last: bool,
    /// Nothing changed meanwhile that makes it inconsistent.
    pub(crate) consistent: bool,
}

/// Hands the messages of a datagram to `each`, by type and payload.
///
/// # Errors
/// What the kernel answered instead, or that this is no answer.
pub(crate) fn read_answer(mut datagram: &[u8], each: &mut impl FnMut(u16, &[u8])) -> io::Result<Part> {
    let mut part = Part { last: datagram.is_empty(), consistent: true };
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram).map_err(invalid)?;
        part.consistent &= message.flags() & NLM_F_DUMP_INTR == 0;
        let payload = message.payload();
        match message.message_type() {
            // It ends with a number as well, but for old kernels.
            NLMSG_DONE => {
                part.last = true;
                payload.first_chunk().map_or(Ok(()), |code| outcome(*code))?;
            }
            NLMSG_ERROR => {
                part.last = true;
                outcome(*payload.first_chunk().ok_or_else(|| invalid("an error without a number"))?)?;
            }
            kind => each(kind, payload),
        }
        let length = usize::try_from(message.length()).map_err(invalid)?.next_multiple_of(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(part)
}

/// What the number of an end or an error says: 0 is none.
fn outcome(code: [u8; 4]) -> io::Result<()> {
    match i32::from_ne_bytes(code) {
        0.. => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

pub(crate) fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The kernel fills up to 32 KiB for a reader that takes as much.
pub(crate) const BUFFER: usize = 64 * 1024;
/// How often an answer is asked for that is inconsistent each time.
pub(crate) const DUMP_ATTEMPTS: usize = 5;

#[cfg(test)]
pub(crate) mod tests {
    use std::io;

    use super::{Part, read_answer};

    /// A message as the kernel writes it.
    pub(crate) fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(16 + payload.len()).expect("short");
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn read(datagram: &[u8]) -> io::Result<Part> {
        read_answer(datagram, &mut |kind, _| panic!("a message of type {kind}"))
    }

    #[test]
    fn an_interrupted_dump_is_not_consistent() {
        let part = read(&message(3, 2 | 16, &[0; 4])).expect("well-formed");
        assert_eq!(part, Part { last: true, consistent: false });
    }

    #[test]
    fn errors_are_the_systems_and_zero_acknowledges() {
        let error = read(&message(2, 0, &(-19_i32).to_ne_bytes())).expect_err("ENODEV");
        assert_eq!(error.raw_os_error(), Some(19));
        let part = read(&message(2, 0, &[0; 20])).expect("an acknowledgement");
        assert!(part.last);
        assert!(read(&message(2, 0, &[0; 2])).is_err());
    }

    #[test]
    fn a_dump_that_failed_midway_is_an_error() {
        let error = read(&message(3, 2, &(-2_i32).to_ne_bytes())).expect_err("ENOENT");
        assert_eq!(error.raw_os_error(), Some(2));
        assert!(read(&message(3, 2, &[])).is_ok_and(|part| part.last));
    }
}

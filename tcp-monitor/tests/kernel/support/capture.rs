//! Captures by tcpdump, decoded by tshark: the packets that the agent's output is compared with.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use crate::support::{
    child_process::{ChildProcess, output},
    deadline,
    line_reader::LineReader,
    namespace::Namespace,
    tshark_packet::{self, Packet},
};

/// A finished capture.
pub(crate) struct Captured {
    /// The TCP packets.
    pub(crate) packets: Vec<Packet>,
    /// The capture file: those packets, and the datagram that ends the capture.
    pub(crate) file: Vec<u8>,
}

/// A running tcpdump.
pub(crate) struct Capture {
    namespace: Arc<Namespace>,
    address_behind: Ipv4Addr,
    process: ChildProcess,
    messages: LineReader<String>,
    written: Arc<Written>,
}

impl Capture {
    /// Captures on `interface`; `beyond` is an address reached through it.
    pub(crate) fn start(
        namespace: &Arc<Namespace>,
        interface: &str,
        address_behind: Ipv4Addr,
    ) -> Result<Self> {
        let mut process = ChildProcess::spawn(
            namespace
                .command("tcpdump")
                .args([
                    "-i",
                    interface,
                    "-n",
                    "-s",
                    SNAPLEN,
                    "-B",
                    BUFFER_KIB,
                    "-U",
                    "--immediate-mode",
                    "-w",
                    "-",
                ])
                .arg(format!("tcp or (udp and dst port {MARKER_PORT})"))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        )?;
        let messages = LineReader::read(process.stderr()?, str::to_owned);
        let written = Written::collect(process.stdout()?);
        messages.wait_for("tcpdump to listen", |lines| {
            lines.iter().find(|line| line.contains("listening on")).map(|_| ())
        })?;
        Ok(Self { namespace: Arc::clone(namespace), address_behind, process, messages, written })
    }

    /// Ends the capture.
    ///
    /// tcpdump may have unread packets when it is stopped. So a last datagram is sent, and awaited
    /// in its output.
    pub(crate) fn finish(mut self) -> Result<Captured> {
        let address_behind = self.address_behind;
        self.namespace.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            // No socket receives it: it need only pass the interface.
            socket.send_to(MARKER, (address_behind, MARKER_PORT))?;
            Ok(())
        })?;
        let file = self.written.await_marker()?;
        self.process.signal(Signal::INT)?;
        self.process.wait()?;
        let messages = self.messages.to_end()?;
        ensure!(
            messages.iter().any(|line| line.starts_with("0 packets dropped by kernel")),
            "the capture has a gap: {messages:?}"
        );

        let directory = tempfile::tempdir()?;
        let path = directory.path().join("capture.pcap");
        fs::write(&path, &file)?;
        Ok(Captured { packets: packets(&path)?, file })
    }
}

/// The TCP packets of a capture file.
pub(crate) fn packets(path: &Path) -> Result<Vec<Packet>> {
    let table = output(
        Command::new("tshark")
            .args(["-n", "-r"])
            .arg(path)
            .args(["-Y", "tcp", "-T", "fields", "-E", "separator=/t", "-E", "occurrence=f"])
            .args(tshark_packet::FIELDS.iter().flat_map(|field| ["-e", field])),
    )?;
    table.lines().map(Packet::parse).collect()
}

/// The capture file, as far as tcpdump has written it.
struct Written {
    bytes: Mutex<Vec<u8>>,
    grown: Condvar,
}

impl Written {
    fn collect(mut source: impl Read + Send + 'static) -> Arc<Self> {
        let written = Arc::new(Self { bytes: Mutex::default(), grown: Condvar::new() });
        let writer = Arc::clone(&written);
        thread::spawn(move || {
            let mut chunk = vec![0; 1 << 16];
            while let Ok(count) = source.read(&mut chunk)
                && count > 0
            {
                writer.lock().extend_from_slice(&chunk[..count]);
                writer.grown.notify_all();
            }
        });
        written
    }

    fn await_marker(&self) -> Result<Vec<u8>> {
        deadline::wait_for(&self.grown, self.lock(), |bytes| {
            bytes.windows(MARKER.len()).any(|window| window == MARKER).then(|| bytes.clone())
        })
        .context("waited for the last datagram in tcpdump's output")
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All headers, and no more: each slot of tcpdump's buffer is that large.
const SNAPLEN: &str = "512";
/// Room for some 8,000 packets.
const BUFFER_KIB: &str = "4096";
const MARKER: &[u8] = b"the capture ends here";
/// The discard service.
const MARKER_PORT: u16 = 9;

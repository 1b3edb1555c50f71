//! A machine that is busy with other things, on request: namespaces of others, their traffic on the
//! ports of the trials, and no idle processor. The suite must pass all the same.

use std::{
    env,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::Result;
use socket2::SockRef;

use crate::support::{
    child_process::ChildProcess,
    line_reader::LineReader,
    namespace::{Namespace, move_into},
};

/// With this variable set, the suite disturbs itself.
const DISTURB: &str = "KERNEL_SUITE_DISTURB";
/// First argument of the test binary when it is to disturb; the names of namespaces follow.
pub(crate) const FOREIGN_TRAFFIC: &str = "--foreign-traffic";

/// It ends when this is dropped.
pub(crate) struct Disturbance {
    _process: ChildProcess,
    _namespaces: Vec<Namespace>,
}

impl Disturbance {
    /// Begins, if the environment asks for it.
    pub(crate) fn start_if_asked() -> Result<Option<Self>> {
        if env::var_os(DISTURB).is_none() {
            return Ok(None);
        }
        let namespaces = (0..NAMESPACES).map(|_| Namespace::new()).collect::<Result<Vec<_>>>()?;
        let mut command = Command::new(env::current_exe()?);
        command.arg(FOREIGN_TRAFFIC).args(namespaces.iter().map(Namespace::name));
        let mut process = ChildProcess::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        LineReader::read(process.stdout()?, str::to_owned)
            .wait_for("foreign traffic", |lines| lines.first().map(drop))?;
        Ok(Some(Self { _process: process, _namespaces: namespaces }))
    }
}

/// The process that disturbs: traffic in these namespaces and on the host's loopback, and a busy
/// loop on each processor. It ends with its stdin, that is with the suite, however that ends.
pub(crate) fn run(namespaces: &[&str]) -> Result<()> {
    for name in namespaces {
        let name = (*name).to_owned();
        thread::spawn(move || move_into(&name).map(|()| connect_forever(PAUSE * NAMESPACES)));
    }
    thread::spawn(|| connect_forever(PAUSE));
    for _ in 0..thread::available_parallelism()?.get() {
        thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    println!("disturbing");
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Connections to each port in turn, of which every other is reset.
fn connect_forever(pause: Duration) {
    // On the host, some of the ports may be in use.
    let listeners: Vec<_> = PORTS
        .into_iter()
        .filter_map(|port| TcpListener::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)).ok())
        .collect();
    for round in 0_u64.. {
        for listener in &listeners {
            // A connection that fails is no loss.
            let _ = connect(listener, round % 2 == 0);
            thread::sleep(pause);
        }
    }
}

fn connect(listener: &TcpListener, reset: bool) -> io::Result<()> {
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    client.write_all(b"foreign")?;
    server.read_exact(&mut [0; 7])?;
    if reset {
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}

const NAMESPACES: u32 = 50;
/// Between two connections on the host's loopback, and of all namespaces together.
const PAUSE: Duration = Duration::from_millis(4);
/// Some ports of each file of trials.
const PORTS: [u16; 14] =
    [8801, 8804, 8811, 8821, 8898, 8899, 8900, 9000, 10_000, 10_001, 10_005, 12_000, 12_010, 12_345];

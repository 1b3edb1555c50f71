//! The connections that a machine makes with itself. Each step waits for the peer, so their events
//! come in one order only.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen and to connect to.
    address: SocketAddr,
}

/// A refused, an orderly and an aborted connection. Prints what each is and the client's address,
/// if it has one.
///
/// # Errors
/// If a connection does not end as it should.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    refused(arguments.address)?;
    let listener = TcpListener::bind(arguments.address).context("cannot listen")?;
    orderly(&listener)?;
    aborted(&listener)?;
    Ok(ExitCode::SUCCESS)
}

fn refused(address: SocketAddr) -> Result<()> {
    match TcpStream::connect(address) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            println!("refused");
            Ok(())
        }
        Err(error) => Err(error).context("not refused"),
        Ok(_) => bail!("no listener on {address}, but it accepts connections"),
    }
}

/// Data both ways; the server closes first.
fn orderly(listener: &TcpListener) -> Result<()> {
    let (mut client, mut server) = connect(listener, "orderly")?;
    client.write_all(b"ping")?;
    server.read_exact(&mut [0; 4])?;
    server.write_all(b"pong!")?;
    drop(server);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    if answer != b"pong!" {
        bail!("the client received {answer:?}");
    }
    Ok(())
}

/// The server closes with data unread, which resets the connection (RFC 1122, 4.2.2.13).
fn aborted(listener: &TcpListener) -> Result<()> {
    let (mut client, server) = connect(listener, "aborted")?;
    client.write_all(b"ping")?;
    server.peek(&mut [0])?;
    drop(server);
    match client.read(&mut [0]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        other => bail!("not reset: {other:?}"),
    }
}

fn connect(listener: &TcpListener, what: &str) -> Result<(TcpStream, TcpStream)> {
    let client = TcpStream::connect(listener.local_addr()?)?;
    println!("{what} {}", client.local_addr()?);
    let (server, _) = listener.accept()?;
    Ok((client, server))
}

//! Rows of `ss -tan`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};

/// One socket, with addresses as the agent writes them and the state as metrics name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SocketRow {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) state: String,
    /// Bytes that the other side has not acknowledged.
    pub(crate) unacknowledged: u64,
}

impl SocketRow {
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let mut words = line.split_whitespace();
        let mut next = || words.next().with_context(|| format!("too short a line of ss: {line}"));
        let state = next()?;
        let (_unread, unacknowledged) = (next()?, next()?.parse()?);
        Ok(Self {
            local: address(next()?)?,
            remote: address(next()?)?,
            state: state_name(state),
            unacknowledged,
        })
    }

    pub(crate) fn is_of(&self, port: u16) -> bool {
        self.local.port() == port || self.remote.port() == port
    }
}

/// A v4-mapped address is the IPv4 address it stands for.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn state_name(ss: &str) -> String {
    match ss {
        "ESTAB" => "established".into(),
        "UNCONN" => "close".into(),
        "FIN-WAIT-1" => "fin_wait1".into(),
        "FIN-WAIT-2" => "fin_wait2".into(),
        other => other.to_lowercase().replace('-', "_"),
    }
}

fn address(text: &str) -> Result<SocketAddr> {
    let (host, port) = text.rsplit_once(':').with_context(|| format!("not an address: {text}"))?;
    let host = host.trim_matches(['[', ']']).split('%').next().unwrap_or_default();
    let ip = if host == "*" {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        host.parse().with_context(|| format!("not an address: {text}"))?
    };
    let port = if port == "*" { 0 } else { port.parse()? };
    Ok(canonical(SocketAddr::new(ip, port)))
}

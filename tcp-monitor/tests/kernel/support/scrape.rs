//! HTTP from inside a namespace, and the samples of a Prometheus exposition.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};

use crate::support::{agent::HTTP, deadline::STALLED, namespace::Namespace};

/// An HTTP response.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

/// One request, one response, with the agent in `namespace`.
pub(crate) fn get(namespace: &Namespace, path: &str) -> Result<Response> {
    get_from(namespace, HTTP, path)
}

pub(crate) fn get_from(namespace: &Namespace, address: &str, path: &str) -> Result<Response> {
    namespace.enter(|| fetch(address, path))
}

fn fetch(address: &str, path: &str) -> Result<Response> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot reach {address}"))?;
    stream.set_read_timeout(Some(STALLED))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("not HTTP: {text}"))?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    Ok(Response { status, headers, body: body.to_owned() })
}

/// The samples of one scrape.
pub(crate) struct Samples(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Scrapes the agent in `namespace`.
pub(crate) fn samples(namespace: &Namespace) -> Result<Samples> {
    Samples::of_response(&get(namespace, "/metrics")?)
}

/// Scrapes an agent in this namespace.
pub(crate) fn samples_from(address: SocketAddr) -> Result<Samples> {
    Samples::of_response(&fetch(&address.to_string(), "/metrics")?)
}

impl Samples {
    fn of_response(response: &Response) -> Result<Self> {
        ensure!(response.status == 200, "/metrics answered {}: {}", response.status, response.body);
        Self::parse(&response.body)
    }

    fn parse(exposition: &str) -> Result<Self> {
        let lines = exposition.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Ok(Self(lines.map(Sample::parse).collect::<Result<_>>()?))
    }

    /// The sum of every sample of `tcp_monitor_{name}` that has these labels; there must be one at
    /// least.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Result<u64> {
        let samples: Vec<&Sample> = self.0.iter().filter(|sample| sample.is(name, labels)).collect();
        ensure!(!samples.is_empty(), "no sample of {name} with {labels:?}");
        // Counters are whole numbers far below 2^53.
        Ok(samples.iter().map(|sample| sample.value as u64).sum())
    }

    /// The same, but 0 if there is no such sample.
    pub(crate) fn sum_or_zero(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        self.sum(name, labels).unwrap_or(0)
    }

    /// Every sample of `tcp_monitor_{name}`: its labels and its count.
    pub(crate) fn of<'a>(
        &'a self,
        name: &'a str,
    ) -> impl Iterator<Item = (BTreeMap<&'a str, &'a str>, u64)> + 'a {
        self.0.iter().filter(move |sample| sample.is(name, &[])).map(|sample| {
            let labels = sample.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            (labels.collect(), sample.value as u64)
        })
    }

    /// Every value of a label.
    pub(crate) fn label_values(&self, label: &str) -> Vec<String> {
        self.0.iter().filter_map(|sample| sample.labels.get(label)).cloned().collect()
    }
}

impl Sample {
    /// Label values of the agent have no quotes, commas or braces in them.
    fn parse(line: &str) -> Result<Self> {
        let (series, value) = line.rsplit_once(' ').with_context(|| format!("not a sample: {line}"))?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
        Ok(Self {
            name: name.to_owned(),
            labels: pairs
                .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
                .collect(),
            value: value.parse().with_context(|| format!("not a sample: {line}"))?,
        })
    }

    fn is(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.name.strip_prefix("tcp_monitor_") == Some(name)
            && labels.iter().all(|(label, value)| self.labels.get(*label).is_some_and(|held| held == value))
    }
}

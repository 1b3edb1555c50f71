//! From a snapshot of what was counted to the text that Prometheus reads, at each scrape.
//!
//! Families without a port go through a [`Registry`] and the crate's [`TextEncoder`], those of
//! ports through [`PortSamples`](super::port_samples::PortSamples), which says why.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{Registry, TextEncoder};
use thiserror::Error;

use super::families::agent::{AgentCollector, Current};
use super::families::{ports, sockets};
use crate::counts::Snapshot;

/// Reads everything that is counted, or says why it cannot.
pub type ReadSnapshot = Box<dyn Fn() -> Result<Snapshot, String> + Send + Sync>;

/// The labels of `build_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// Version of tcp-monitor.
    pub version: String,
    /// Release of the running kernel, as `uname -r` prints it.
    pub kernel: String,
}

/// Why a scrape has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ScrapeError {
    /// A map, or what else is read, failed to give its numbers.
    #[error("the counters of the kernel programs could not be read: {0}")]
    Unreadable(String),
    /// The encoder refused a metric.
    #[error("the metrics could not be written: {0}")]
    Unwritable(String),
}

/// Answers scrapes: reads a snapshot and writes it as text.
pub struct Exporter {
    read: ReadSnapshot,
    build: BuildInfo,
    /// Of the families without a port.
    registry: Registry,
    /// What the registry's collector collects from.
    current: Arc<Current>,
    scraping: Mutex<()>,
}

impl Exporter {
    /// An exporter that reads with `read`.
    ///
    /// # Panics
    ///
    /// If the registry refuses a family. They are constants, and tested.
    #[must_use]
    pub fn new(read: ReadSnapshot, build: BuildInfo) -> Self {
        let (registry, current) = (Registry::new(), Arc::new(Current::default()));
        AgentCollector::new(build.clone(), Arc::clone(&current))
            .and_then(|collector| registry.register(Box::new(collector)))
            .expect("names of metrics are constants, and tested");
        Self { read, build, registry, current, scraping: Mutex::default() }
    }

    /// The labels of `build_info`.
    #[must_use]
    pub fn build(&self) -> &BuildInfo {
        &self.build
    }

    /// Every family that has samples, in the text format of Prometheus. Takes little more memory
    /// than the text.
    ///
    /// # Errors
    ///
    /// If the counters cannot be read: they are never made up. Or if the encoder refuses a family.
    pub fn expose(&self) -> Result<String, ScrapeError> {
        let _one_at_a_time = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = (self.read)().map_err(ScrapeError::Unreadable)?;
        snapshot.kernel.ports.sort_by_key(|(label, _)| *label);
        let mut text = String::with_capacity(snapshot.kernel.ports.len() * TEXT_OF_A_PORT);
        ports::write(&snapshot, &mut text);
        sockets::write(&snapshot, &mut text);
        self.set_current(Some(snapshot));
        let families = self.registry.gather();
        self.set_current(None);
        TextEncoder::new()
            .encode_utf8(&families, &mut text)
            .map_err(|error| ScrapeError::Unwritable(error.to_string()))?;
        Ok(text)
    }

    fn set_current(&self, snapshot: Option<Snapshot>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

/// Bytes that most of a port's series take. Text that grows is copied, and both copies are in
/// memory meanwhile.
const TEXT_OF_A_PORT: usize = 24 << 10;

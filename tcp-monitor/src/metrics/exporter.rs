//! From a snapshot of what was counted to the text that Prometheus reads, at each scrape.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{Registry, TextEncoder};
use thiserror::Error;

use super::families;
use super::family::{Current, FamilyCollector};
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

/// Answers scrapes: reads a snapshot, has each family collect its samples from it, and encodes them.
pub struct Exporter {
    read: ReadSnapshot,
    build: BuildInfo,
    /// What the collectors collect from.
    current: Arc<Current>,
    /// In the order of the exposition.
    collectors: Vec<FamilyCollector>,
    /// The same collectors.
    registry: Registry,
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
        let (current, registry) = (Arc::new(Current::default()), Registry::new());
        let collectors = families::all().map(|family| {
            let collector = FamilyCollector::new(family, build.clone(), Arc::clone(&current))?;
            registry.register(Box::new(collector.clone()))?;
            Ok(collector)
        });
        let collectors = collectors.collect::<prometheus::Result<_>>();
        let collectors = collectors.expect("names of metrics are constants, and tested");
        Self { read, build, current, collectors, registry, scraping: Mutex::default() }
    }

    /// The labels of `build_info`.
    #[must_use]
    pub fn build(&self) -> &BuildInfo {
        &self.build
    }

    /// Every family that has samples, as [`Registry::gather`] sorts them.
    ///
    /// # Errors
    ///
    /// If the counters cannot be read. They are never made up.
    pub fn gather(&self) -> Result<Vec<MetricFamily>, ScrapeError> {
        self.scrape(|_| Ok(self.registry.gather()))
    }

    /// Every family as text, in the format of Prometheus.
    ///
    /// Unlike [`Self::gather`] it has the samples of one family in memory at a time: those of all families take several
    /// times as much as the text.
    ///
    /// # Errors
    ///
    /// As [`Self::gather`], or if a metric is none that Prometheus allows.
    pub fn expose(&self) -> Result<String, ScrapeError> {
        self.scrape(|ports| {
            let mut text = String::with_capacity(ports * TEXT_OF_A_PORT);
            for collector in &self.collectors {
                let family = collector.collect();
                TextEncoder::new()
                    .encode_utf8(&family, &mut text)
                    .map_err(|error| ScrapeError::Unwritable(error.to_string()))?;
                if ports <= KEPT_PORTS {
                    collector.keep(family);
                }
            }
            Ok(text)
        })
    }

    /// Reads a snapshot, which collectors collect from as long as `answer` runs. It is called with the number of ports.
    fn scrape<T>(&self, answer: impl FnOnce(usize) -> Result<T, ScrapeError>) -> Result<T, ScrapeError> {
        let _one_at_a_time = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = (self.read)().map_err(ScrapeError::Unreadable)?;
        snapshot.kernel.ports.sort_by_key(|(label, _)| *label);
        let ports = snapshot.kernel.ports.len();
        self.set_current(Some(snapshot));
        let answer = answer(ports);
        self.set_current(None);
        answer
    }

    fn set_current(&self, snapshot: Option<Snapshot>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

/// Bytes that most of a port's series take. Text that grows is copied, and both copies are in memory meanwhile.
const TEXT_OF_A_PORT: usize = 24 << 10;
/// Up to so many ports the samples are kept from one scrape to the next: 70 KB a port.
const KEPT_PORTS: usize = 512;

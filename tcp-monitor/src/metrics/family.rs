//! A metric family: its declaration, its samples, and the [`Collector`] that makes them.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use prometheus::core::{Collector, Desc};
use prometheus::proto::{self, Bucket, Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use tcp_monitor_common::counters::{Histogram, PortCounters, Scale};

use super::exporter::BuildInfo;
use crate::counts::{PortSockets, Snapshot};

/// The declaration of a metric family, and how its samples are read.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
    pub(super) read: Read,
}

/// Reads the samples of a family. Those of ports get the value of the label [`PORT`] by themselves.
pub(super) enum Read {
    /// From the counters of a port.
    Port(fn(&PortCounters, &Snapshot, &mut Samples)),
    /// From the existing sockets of a port.
    Sockets(fn(&PortSockets, &mut Samples)),
    /// From anything else.
    Agent(fn(&Snapshot, &BuildInfo, &mut Samples)),
}

/// The label of which [`Samples`] knows the value.
pub(super) const PORT: &str = "port";

/// The samples of a family, written over those of the last scrape: most of the work would be to allocate their labels anew.
pub(super) struct Samples {
    labels: &'static [&'static str],
    port: String,
    metrics: Vec<Metric>,
    /// How many of `metrics` are of this scrape.
    written: usize,
}

impl Samples {
    /// Adds the sample of a counter, with the values of the labels in the order of their declaration, but for [`PORT`].
    /// Above 2^53 it is rounded, as every number in Prometheus is.
    pub(super) fn counter(&mut self, labels: &[&str], count: u64) {
        self.counter_value(labels, count as f64);
    }

    /// The same for a number that is not whole.
    pub(super) fn counter_value(&mut self, labels: &[&str], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        self.next(labels).set_counter(counter);
    }

    /// Adds the sample of a gauge.
    pub(super) fn gauge(&mut self, labels: &[&str], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.next(labels).set_gauge(gauge);
    }

    /// Adds a histogram of durations, in seconds.
    pub(super) fn durations(&mut self, labels: &[&str], scale: Scale, durations: &Histogram) {
        let mut histogram = proto::Histogram::default();
        let (mut count, mut bound) = (0, scale.first);
        let mut buckets = Vec::with_capacity(scale.bounds);
        for in_bucket in &durations.buckets[..scale.bounds] {
            count += in_bucket;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(seconds(bound));
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
            bound *= 4;
        }
        histogram.set_sample_count(count + durations.buckets[scale.bounds]);
        histogram.set_sample_sum(seconds(durations.sum));
        histogram.set_bucket(buckets);
        self.next(labels).set_histogram(histogram);
    }

    /// The next sample. It still has a value if it was there at the last scrape.
    fn next(&mut self, values: &[&str]) -> &mut Metric {
        let (names, port, index) = (self.labels, &self.port, self.written);
        let labels = || {
            let mut values = values.iter();
            names.iter().map(move |&name| {
                let value = if name == PORT { port } else { values.next().copied().unwrap_or_default() };
                (name, value)
            })
        };
        debug_assert_eq!(values.len(), names.iter().filter(|name| **name != PORT).count(), "{names:?}");
        let kept = self.metrics.get(index).map(Metric::get_label);
        if !kept.is_some_and(|kept| kept.iter().map(LabelPair::value).eq(labels().map(|(_, value)| value))) {
            let new = Metric::from_label(labels().map(|(name, value)| pair(name, value)).collect());
            self.metrics.truncate(index);
            self.metrics.push(new);
        }
        self.written += 1;
        &mut self.metrics[index]
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

/// The numbers of the scrape that is being answered; `None` between scrapes.
pub(super) type Current = RwLock<Option<Snapshot>>;

/// Collects the samples of one family.
#[derive(Clone)]
pub(super) struct FamilyCollector(Arc<Inner>);

struct Inner {
    family: &'static Family,
    description: Desc,
    build: BuildInfo,
    current: Arc<Current>,
    /// The samples of the last scrape.
    kept: Mutex<Vec<Metric>>,
}

impl FamilyCollector {
    /// A collector of the samples in `current`.
    ///
    /// # Errors
    ///
    /// If the family's name or a label is none that Prometheus allows.
    pub(super) fn new(
        family: &'static Family,
        build: BuildInfo,
        current: Arc<Current>,
    ) -> prometheus::Result<Self> {
        let labels = family.labels.iter().map(|&label| label.to_owned()).collect();
        let description =
            Desc::new(family.name.to_owned(), family.help.to_owned(), labels, Default::default())?;
        Ok(Self(Arc::new(Inner { family, description, build, current, kept: Mutex::default() })))
    }

    /// Takes back what [`Collector::collect`] gave, to be written over by the next call.
    pub(super) fn keep(&self, families: Vec<MetricFamily>) {
        if let Some(mut family) = families.into_iter().next() {
            *self.0.kept.lock().unwrap_or_else(PoisonError::into_inner) = family.take_metric();
        }
    }
}

impl Collector for FamilyCollector {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.0.description]
    }

    /// The family, or nothing if it has no sample, which the encoder refuses.
    fn collect(&self) -> Vec<MetricFamily> {
        let Inner { family, build, current, kept, .. } = &*self.0;
        let current = current.read().unwrap_or_else(PoisonError::into_inner);
        let Some(snapshot) = &*current else { return Vec::new() };
        let metrics = mem::take(&mut *kept.lock().unwrap_or_else(PoisonError::into_inner));
        let mut samples = Samples { labels: family.labels, port: String::new(), metrics, written: 0 };
        match family.read {
            Read::Port(read) => {
                for (port, counters) in &snapshot.kernel.ports {
                    samples.port = port.to_string();
                    read(counters, snapshot, &mut samples);
                }
            }
            Read::Sockets(read) => {
                for (port, sockets) in snapshot.sockets.iter().flatten() {
                    samples.port = port.to_string();
                    read(sockets, &mut samples);
                }
            }
            Read::Agent(read) => read(snapshot, build, &mut samples),
        }
        samples.metrics.truncate(samples.written);
        if samples.metrics.is_empty() {
            return Vec::new();
        }
        let mut collected = MetricFamily::default();
        collected.set_name(family.name.to_owned());
        collected.set_help(family.help.to_owned());
        collected.set_field_type(family.kind);
        collected.set_metric(samples.metrics);
        vec![collected]
    }
}

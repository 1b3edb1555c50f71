//! The declaration of a metric family, and the samples of those that the crate's encoder writes.

use prometheus::core::Desc;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// A metric family: its name, type, labels and help, and how its samples are read.
pub(super) struct Family<Read> {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) labels: &'static [&'static str],
    pub(super) help: &'static str,
    /// A function that adds the samples.
    pub(super) read: Read,
}

impl<Read> Family<Read> {
    /// The description that a registry checks.
    ///
    /// # Errors
    ///
    /// If the name or a label is none that Prometheus allows.
    pub(super) fn describe(&self) -> prometheus::Result<Desc> {
        let labels = self.labels.iter().map(|&label| label.to_owned()).collect();
        Desc::new(self.name.to_owned(), self.help.to_owned(), labels, Default::default())
    }
}

/// Samples of a family, in the structures of the crate.
pub(super) struct Samples {
    labels: &'static [&'static str],
    metrics: Vec<Metric>,
}

impl Samples {
    /// The samples of `family`, or `None` if it has none, which the encoder refuses.
    pub(super) fn collect<Read>(
        family: &Family<Read>,
        read: impl FnOnce(&Read, &mut Self),
    ) -> Option<MetricFamily> {
        let mut samples = Self { labels: family.labels, metrics: Vec::new() };
        read(&family.read, &mut samples);
        if samples.metrics.is_empty() {
            return None;
        }
        let mut collected = MetricFamily::default();
        collected.set_name(family.name.to_owned());
        collected.set_help(family.help.to_owned());
        collected.set_field_type(family.kind);
        collected.set_metric(samples.metrics);
        Some(collected)
    }

    /// Adds the sample of a counter, with the values of the labels in the order of their
    /// declaration.
    pub(super) fn counter(&mut self, labels: &[&str], value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        self.add(labels).set_counter(counter);
    }

    /// Adds the sample of a gauge.
    pub(super) fn gauge(&mut self, labels: &[&str], value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        self.add(labels).set_gauge(gauge);
    }

    fn add(&mut self, values: &[&str]) -> &mut Metric {
        let pairs = self.labels.iter().zip(values).map(|(name, value)| pair(name, value));
        self.metrics.push_mut(Metric::from_label(pairs.collect()))
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

//! The samples of service ports, written straight to the text that Prometheus reads.
//!
//! The crate's way, a structure for each sample and its `TextEncoder`, is too much for the 270
//! series of each of up to 4,096 ports. For the 71,000 series of 256 ports the encoder takes 10.6
//! ms, and structures for it 7 ms more, where this file takes less than 4 ms in all. With 4,096
//! ports the samples of `resets_total` alone take 130 MB, and a family can only be encoded as a
//! whole. The text is the same.

use std::fmt::Write as _;

use prometheus::proto::MetricType;
use tcp_monitor_common::counters::{Histogram, Scale};

use super::family::Family;
use crate::counts::PortLabel;

/// The place of the labels of [`PortLabel`], which [`PortSamples`] adds.
pub(super) const PORT: &str = "port";

/// Writes the samples of one family.
pub(super) struct PortSamples<'a> {
    text: &'a mut String,
    name: &'static str,
    labels: &'static [&'static str],
    /// The labels of the port, as text.
    port: String,
    /// The bounds of the buckets of a histogram: `le` in seconds.
    bounds: Vec<String>,
}

impl<'a> PortSamples<'a> {
    /// Appends a family to `text`: `read` adds the samples of each of `ports`. Without a sample
    /// nothing is appended.
    pub(super) fn write<Read, T>(
        family: &'static Family<Read>,
        ports: &'a [(PortLabel, T)],
        text: &'a mut String,
        mut read: impl FnMut(&Read, &T, &mut Self),
    ) {
        let Family { name, labels, help, .. } = *family;
        let kind = match family.kind {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            MetricType::SUMMARY => "summary",
            MetricType::UNTYPED => "untyped",
        };
        let begin = text.len();
        text.extend(["# HELP ", name, " ", help, "\n# TYPE ", name, " ", kind, "\n"]);
        let header = text.len();
        let mut samples = Self { text, name, labels, port: String::new(), bounds: Vec::new() };
        for (port, counts) in ports {
            samples.port = port_labels(*port);
            read(&family.read, counts, &mut samples);
        }
        if samples.text.len() == header {
            samples.text.truncate(begin);
        }
    }

    /// Adds a sample, with the values of the labels in the order of their declaration, but for
    /// [`PORT`].
    pub(super) fn count(&mut self, labels: &[&str], count: u64) {
        self.series("", labels, None);
        self.number(count);
    }

    /// The same for a number that is not whole.
    pub(super) fn value(&mut self, labels: &[&str], value: f64) {
        self.series("", labels, None);
        self.float(value);
    }

    /// Adds a histogram of durations, in seconds.
    pub(super) fn durations(&mut self, labels: &[&str], scale: Scale, durations: &Histogram) {
        if self.bounds.is_empty() {
            let bounds = (0..scale.bounds).map(|bucket| seconds(scale.first << (2 * bucket)).to_string());
            self.bounds = bounds.chain(["+Inf".to_owned()]).collect();
        }
        let mut count = 0;
        for bucket in 0..=scale.bounds {
            count += durations.buckets[bucket];
            self.series("_bucket", labels, Some(bucket));
            self.number(count);
        }
        self.series("_sum", labels, None);
        self.float(seconds(durations.sum));
        self.series("_count", labels, None);
        self.number(count);
    }

    /// Writes the name and labels of a series. `bucket` is the place of the value of `le` among the
    /// bounds.
    fn series(&mut self, suffix: &str, values: &[&str], bucket: Option<usize>) {
        let Self { text, name, labels, port, bounds } = self;
        debug_assert_eq!(values.len() + 1, labels.len(), "{name}");
        text.push_str(name);
        text.push_str(suffix);
        let mut values = values.iter();
        let mut separator = '{';
        for label in *labels {
            text.push(separator);
            separator = ',';
            if *label == PORT {
                text.push_str(port);
            } else {
                push_label(text, label, values.next().copied().unwrap_or_default());
            }
        }
        if let Some(bound) = bucket.and_then(|bucket| bounds.get(bucket)) {
            text.push_str(",le=\"");
            text.push_str(bound);
            text.push('"');
        }
        text.push_str("} ");
    }

    /// Ends a line. Above 2^53 a count is rounded, as every number in Prometheus is.
    fn number(&mut self, count: u64) {
        if count < 1 << f64::MANTISSA_DIGITS { self.end(count) } else { self.float(count as f64) }
    }

    fn float(&mut self, value: f64) {
        self.end(value);
    }

    fn end(&mut self, value: impl std::fmt::Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{value}");
    }
}

fn port_labels(port: PortLabel) -> String {
    let mut text = String::new();
    for (index, (name, value)) in port.labels().iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        push_label(&mut text, name, value);
    }
    text
}

fn push_label(text: &mut String, name: &str, value: &str) {
    text.push_str(name);
    text.push_str("=\"");
    push_escaped(text, value);
    text.push('"');
}

fn push_escaped(text: &mut String, value: &str) {
    if !value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
        return text.push_str(value);
    }
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use prometheus::proto::{self, Bucket, LabelPair, Metric, MetricFamily, MetricType};
    use prometheus::{Encoder as _, TextEncoder};
    use tcp_monitor_common::counters::{Histogram, Scale};

    use super::{PORT, PortSamples, seconds};
    use crate::counts::PortLabel;
    use crate::metrics::family::Family;

    type Read<T> = fn(&T, &mut PortSamples<'_>);

    fn written<T>(family: &'static Family<Read<T>>, ports: &[(PortLabel, T)]) -> String {
        let mut text = String::new();
        PortSamples::write(family, ports, &mut text, |read, counts, samples| read(counts, samples));
        text
    }

    /// What the crate's encoder writes of these samples.
    fn encoded<T>(family: &Family<Read<T>>, metrics: Vec<Metric>) -> String {
        let mut encoded = MetricFamily::default();
        encoded.set_name(family.name.to_owned());
        encoded.set_help(family.help.to_owned());
        encoded.set_field_type(family.kind);
        encoded.set_metric(metrics);
        let mut text = Vec::new();
        TextEncoder::new().encode(&[encoded], &mut text).expect("a family with samples");
        String::from_utf8(text).expect("text")
    }

    fn metric(labels: impl IntoIterator<Item = (&'static str, String)>) -> Metric {
        let pair = |(name, value): (&str, String)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        };
        Metric::from_label(labels.into_iter().map(pair).collect())
    }

    #[test]
    fn counts_and_values_are_written_as_the_crate_writes_them() {
        static FAMILY: Family<Read<f64>> = Family {
            name: "a_total",
            kind: MetricType::GAUGE,
            labels: &["process", PORT],
            help: "Help.",
            read: |value, samples| {
                samples.value(&["a \"name\"\\\n"], *value);
                samples.count(&["whole"], *value as u64);
            },
        };
        for value in [0.0, 1.0, 0.5, 203.5, 1e-7, 9_007_199_254_740_991.0, 9_007_199_254_740_992.0, 1.8e19] {
            let port = PortLabel::Port(80);
            let gauge = |process: &str, value| {
                let mut gauge = proto::Gauge::default();
                gauge.set_value(value);
                let mut metric = metric([("process", process.to_owned())].into_iter().chain(port.labels()));
                metric.set_gauge(gauge);
                metric
            };
            let expected =
                encoded(&FAMILY, vec![gauge("a \"name\"\\\n", value), gauge("whole", value as u64 as f64)]);
            assert_eq!(written(&FAMILY, &[(port, value)]), expected);
        }
    }

    #[test]
    fn histograms_are_written_as_the_crate_writes_them() {
        static FAMILY: Family<Read<Histogram>> = Family {
            name: "b_seconds",
            kind: MetricType::HISTOGRAM,
            labels: &[PORT, "role"],
            help: "Help.",
            read: |durations, samples| samples.durations(&["server"], Scale::HANDSHAKE, durations),
        };
        let mut durations = Histogram { sum: 500_000_000_001, ..Histogram::ZERO };
        durations.buckets[0] = 900;
        durations.buckets[Scale::HANDSHAKE.bounds - 1] = 2;
        durations.buckets[Scale::HANDSHAKE.bounds] = 1;

        let bucket = |index: u32| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(seconds(64_000 * 4_u64.pow(index)));
            bucket.set_cumulative_count(if index == 11 { 902 } else { 900 });
            bucket
        };
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket((0..12).map(bucket).collect());
        histogram.set_sample_count(903);
        histogram.set_sample_sum(seconds(durations.sum));
        let port = PortLabel::Other;
        let mut metric = metric(port.labels().into_iter().chain([("role", "server".to_owned())]));
        metric.set_histogram(histogram);
        assert_eq!(written(&FAMILY, &[(port, durations)]), encoded(&FAMILY, vec![metric]));
    }

    #[test]
    fn a_family_without_samples_has_no_header() {
        static FAMILY: Family<Read<u64>> = Family {
            name: "c_total",
            kind: MetricType::COUNTER,
            labels: &[PORT],
            help: "Help.",
            read: |_, _| {},
        };
        assert_eq!(written(&FAMILY, &[(PortLabel::Other, 1)]), "");
    }
}

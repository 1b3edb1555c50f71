//! The text that Prometheus reads, put together of parts: the samples of thousands of ports are never in memory twice.

use std::slice;

use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

/// The text so far.
pub(super) struct Exposition {
    text: String,
    /// The name of the metric it ends with.
    last: String,
}

impl Exposition {
    /// No text yet, and room for some.
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self { text: String::with_capacity(bytes), last: String::new() }
    }

    /// Adds samples of a metric, all or some. Those of one metric must come one after the other.
    ///
    /// # Errors
    ///
    /// If there is no sample.
    pub(super) fn push(&mut self, part: &MetricFamily) -> prometheus::Result<()> {
        let begin = self.text.len();
        TextEncoder::new().encode_utf8(slice::from_ref(part), &mut self.text)?;
        if part.name() == self.last {
            // HELP and TYPE may be there once only, and are each time the encoder is called.
            let headers = self.text[begin..].split_inclusive('\n').take_while(|line| line.starts_with('#'));
            let end = begin + headers.map(str::len).sum::<usize>();
            self.text.drain(begin..end);
        } else {
            part.name().clone_into(&mut self.last);
        }
        Ok(())
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

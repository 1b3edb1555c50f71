//! Prometheus metrics: [`Exporter`] renders a [`Snapshot`](crate::counts::Snapshot) of what was
//! counted, [`http`] serves it.

mod exporter;
mod families;
mod family;
pub mod http;
mod port_samples;
mod zero_series;

pub use exporter::{BuildInfo, Exporter, ReadSnapshot, ScrapeError};

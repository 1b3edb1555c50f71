//! Prometheus metrics: [`Collector`] turns a [`Snapshot`](crate::counts::Snapshot) of what was counted into metric
//! families, [`http`] serves them.

mod collector;
mod exposition;
mod families;
pub mod http;
mod sockets;
mod zero_series;

pub use collector::{BuildInfo, Collector, ReadSnapshot, ScrapeError};

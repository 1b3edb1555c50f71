//! Every metric family: its name, type, labels, help and how its samples are read from what was counted.

mod agent;
mod ports;
mod sockets;

use super::family::Family;

/// Every family, in the order of the exposition.
pub(super) fn all() -> impl Iterator<Item = &'static Family> {
    ports::FAMILIES.iter().chain(&agent::FAMILIES).chain(&sockets::FAMILIES)
}

//! The maps that several hooks share, one file each.

pub(crate) mod acks;
pub(crate) mod fin_wait2_timewait;
pub(crate) mod half_open;
pub(crate) mod late_data;
pub(crate) mod pending_ports;
pub(crate) mod pending_segments;
pub(crate) mod socket_times;

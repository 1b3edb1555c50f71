//! What is done with the bytes of each fuzz target, and what must hold whatever they are. A target panics where it does not.

pub(crate) mod capture;
pub(crate) mod packet;
pub(crate) mod record;
pub(crate) mod tracker;

//! What each fuzz target does with its bytes, and the rules that must hold for any bytes. A target
//! panics if a rule is broken.

pub(crate) mod capture;
pub(crate) mod packet;
pub(crate) mod record;
pub(crate) mod tracker;

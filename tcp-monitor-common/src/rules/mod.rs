//! What a transition or a segment means: constant functions over plain values, applied by programs
//! and agent alike.

pub mod cause;
pub mod control;
pub mod payload;
pub mod reset;
pub mod role;
pub mod segment_outcome;
pub mod state;
pub mod transition;

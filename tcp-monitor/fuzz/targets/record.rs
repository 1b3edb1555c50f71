//! The bytes are a record of the ring buffer.

use tcp_monitor::kernel::decode::{Clock, decode};
use tcp_monitor::lifecycle::{Event, Tracker};

pub(crate) fn run(data: &[u8]) {
    let clock = Clock::new(1_700_000_000_000_000_000, 1_000_000_000);
    match decode(data, &clock) {
        Ok(input) => {
            let (mut tracker, mut events) = (Tracker::new(), Vec::<Event>::new());
            tracker.handle(input, &mut events);
            assert!(events.len() <= 3, "one record tells a few things: {events:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

//! The bytes are a record of the ring buffer.

use tcp_monitor::kernel::decode::decode;
use tcp_monitor::lifecycle::{Event, Tracker};

pub(crate) fn run(data: &[u8]) {
    match decode(data) {
        Ok(input) => {
            let (mut tracker, mut events) = (Tracker::new(), Vec::<Event>::new());
            tracker.handle(input, &mut events);
            assert!(events.len() <= 3, "one record causes at most three events: {events:?}");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

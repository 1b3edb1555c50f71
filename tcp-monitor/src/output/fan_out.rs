//! Passes events to all outputs.

use std::io;
use std::ops::ControlFlow;

use super::{Context, Destination, EventSink, Outcome};
use crate::lifecycle::{Event, Time};

/// The outputs of a run.
#[derive(Default)]
pub struct FanOut(Vec<Output>);

struct Output {
    sink: Box<dyn EventSink>,
    to: Box<dyn Destination>,
}

impl FanOut {
    /// Adds an output.
    pub fn add(&mut self, sink: Box<dyn EventSink>, to: Box<dyn Destination>) {
        self.0.push(Output { sink, to });
    }

    /// Whether there is no output.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Passes on `events`, in order of time, until an output is full.
    pub fn write<'a>(
        &mut self,
        events: impl IntoIterator<Item = &'a Event>,
        context: &Context<'_>,
    ) -> ControlFlow<()> {
        for event in events {
            for Output { sink, to } in &mut self.0 {
                sink.advance(event.time, context, to.as_mut());
                sink.event(event, context, to.as_mut());
            }
            self.is_full()?;
        }
        ControlFlow::Continue(())
    }

    /// All events before `now` were passed on.
    pub fn advance(&mut self, now: Time, context: &Context<'_>) -> ControlFlow<()> {
        for Output { sink, to } in &mut self.0 {
            sink.advance(now, context, to.as_mut());
        }
        self.is_full()
    }

    /// No event follows; or a capture of its own does, with other connections.
    pub fn end_events(&mut self, context: &Context<'_>) {
        for Output { sink, to } in &mut self.0 {
            sink.finish(context, to.as_mut());
        }
    }

    /// Has the outputs write what they have taken.
    ///
    /// # Errors
    /// The first error of an output.
    pub fn flush(&mut self) -> io::Result<()> {
        self.0.iter_mut().map(|output| output.to.flush()).fold(Ok(()), Result::and)
    }

    /// Waits until what outputs have taken is written, where the end of the run depends on it. No
    /// event follows.
    ///
    /// # Errors
    /// The first error of an output.
    pub fn drain(&mut self) -> io::Result<()> {
        self.0.iter_mut().map(|output| output.to.drain()).fold(Ok(()), Result::and)
    }

    /// Waits until all is written. To be called after [`end_events`](Self::end_events).
    #[must_use]
    pub fn finish(self) -> Vec<Outcome> {
        self.0.into_iter().map(|output| output.to.finish()).collect()
    }

    fn is_full(&self) -> ControlFlow<()> {
        if self.0.iter().any(|output| output.to.is_full()) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::{Arc, Mutex};

    use super::{Context, Destination, EventSink, FanOut, Outcome};
    use crate::clock::WallClock;
    use crate::lifecycle::{Event, Time};
    use crate::output::{NoNames, samples};

    /// Emits the time of each event one event late.
    #[derive(Default)]
    struct Late(Option<Time>);

    impl EventSink for Late {
        fn event(&mut self, event: &Event, _: &Context<'_>, _: &mut dyn Destination) {
            self.0 = Some(event.time);
        }

        fn advance(&mut self, now: Time, _: &Context<'_>, to: &mut dyn Destination) {
            if let Some(time) = self.0.take_if(|time| *time < now) {
                to.take(&mut |out| out.extend(time.as_nanos().to_be_bytes()));
            }
        }

        fn finish(&mut self, _: &Context<'_>, to: &mut dyn Destination) {
            to.take(&mut |out| out.extend(b"end"));
        }
    }

    #[derive(Clone, Default)]
    struct Limited(Arc<Mutex<(Vec<u8>, usize)>>);

    impl Destination for Limited {
        fn take(&mut self, append: &mut dyn FnMut(&mut Vec<u8>)) {
            let (items, room) = &mut *self.0.lock().expect("no test panics with it");
            if *room > 0 {
                append(items);
                *room -= 1;
            }
        }

        fn is_full(&self) -> bool {
            self.0.lock().expect("no test panics with it").1 == 0
        }

        fn finish(self: Box<Self>) -> Outcome {
            Outcome { items: ("event", "limited"), taken: 1, ..Outcome::default() }
        }
    }

    #[test]
    fn every_output_gets_every_event_until_one_is_full() {
        let clock = WallClock::of_capture();
        let context = Context::new(&clock, &NoNames);
        let (few, many) = (Limited::default(), Limited::default());
        few.0.lock().expect("no test panics with it").1 = 2;
        many.0.lock().expect("no test panics with it").1 = 100;
        let mut outputs = FanOut::default();
        outputs.add(Box::new(Late::default()), Box::new(many.clone()));
        outputs.add(Box::new(Late::default()), Box::new(few.clone()));
        let events = samples::connection();
        let times: Vec<_> = events.iter().map(|event| event.time.as_nanos().to_be_bytes()).collect();
        assert_eq!(outputs.write(&events, &context), ControlFlow::Break(()));
        outputs.end_events(&context);
        assert_eq!(few.0.lock().expect("no test panics with it").0, times[..2].concat());
        let expected = [&times[..2].concat()[..], b"end"].concat();
        assert_eq!(many.0.lock().expect("no test panics with it").0, expected);
        let items: Vec<_> = outputs.finish().iter().map(|outcome| outcome.items).collect();
        assert_eq!(items, [("event", "limited"); 2]);
    }
}

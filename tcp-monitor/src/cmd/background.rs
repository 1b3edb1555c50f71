//! A thread that writes, so that a slow disk or reader delays nothing else.

use std::io;
use std::mem;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

/// Writes in the background. `E` is why it may fail.
pub(super) struct BackgroundWriter<E> {
    /// What was not passed to the thread yet.
    pending: Vec<u8>,
    /// The way to the thread; `None` if it has ended.
    batches: Option<SyncSender<Vec<u8>>>,
    /// Batches that were written, to be filled again.
    written: Receiver<Vec<u8>>,
    thread: Option<JoinHandle<Result<(), E>>>,
}

impl<E: Send + 'static> BackgroundWriter<E> {
    /// Starts a thread that passes each batch to `write`, until there are no more or it breaks.
    pub(super) fn start(
        name: &str,
        mut write: impl FnMut(&[u8]) -> ControlFlow<Result<(), E>> + Send + 'static,
    ) -> io::Result<Self> {
        // One batch on its way: the rest waits where it can be measured.
        let (batches, taken) = sync_channel::<Vec<u8>>(1);
        let (give_back, written) = sync_channel(1);
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            for mut batch in taken {
                if let ControlFlow::Break(result) = write(&batch) {
                    return result;
                }
                batch.clear();
                if batch.capacity() <= MAX_KEPT {
                    // One is enough.
                    let _ = give_back.try_send(batch);
                }
            }
            Ok(())
        })?;
        Ok(Self { pending: Vec::new(), batches: Some(batches), written, thread: Some(thread) })
    }

    /// What is to be written next, to append to; `None` if nothing is written any more.
    pub(super) fn pending(&mut self) -> Option<&mut Vec<u8>> {
        self.batches.is_some().then_some(&mut self.pending)
    }

    /// Passes what is pending to the thread, unless that is busy.
    pub(super) fn send(&mut self) {
        let Some(batches) = self.batches.as_ref().filter(|_| !self.pending.is_empty()) else { return };
        match batches.try_send(mem::take(&mut self.pending)) {
            Ok(()) => self.pending = self.written.try_recv().unwrap_or_default(),
            Err(TrySendError::Full(pending)) => self.pending = pending,
            Err(TrySendError::Disconnected(_)) => self.batches = None,
        }
    }

    /// Whether the thread takes no more, after a failure or without a reader.
    pub(super) const fn has_ended(&self) -> bool {
        self.batches.is_none()
    }

    /// Waits until all is written. `None` if the thread panicked, or the result was returned
    /// before.
    pub(super) fn finish(&mut self) -> Option<Result<(), E>> {
        if let Some(batches) = self.batches.take() {
            // If it fails, the thread returns why.
            let _ = batches.send(mem::take(&mut self.pending));
        }
        self.thread.take()?.join().ok()
    }
}

/// Memory that is kept for the next batch.
const MAX_KEPT: usize = 2 << 20;

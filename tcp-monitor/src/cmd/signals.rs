//! SIGINT and SIGTERM: the first ends a command in order, a second one at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time;

/// SIGINT and SIGTERM.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Another signal, but not the first one again: timeout(1) and sudo(8) may send one twice.
    pub(super) async fn insist(&mut self) {
        let patience = time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            tokio::select! {
                () = &mut patience => break,
                () = self.next() => {}
            }
        }
        self.next().await;
    }
}

/// How long a second signal is taken for the first one.
const PATIENCE: Duration = Duration::from_secs(1);

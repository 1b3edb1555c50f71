//! SIGINT and SIGTERM: they end a command in good order, and at once if they come again.

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

    /// Another signal, but not one that came along with the first: timeout(1) and sudo(8) may pass one on twice.
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

/// How long a second signal is taken for the first.
const PATIENCE: Duration = Duration::from_secs(1);

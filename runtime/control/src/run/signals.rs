//! The signals of the process.
//!
//! Invariant: from [`Signals::install`] on, none of them ends the process by its default action.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that the balancer acts on.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Reloads the config. One that arrives while the balancer starts is kept.
    pub(super) hangup: Signal,
}

impl Signals {
    /// Handles SIGTERM, SIGINT and SIGHUP, and ignores SIGUSR1, SIGUSR2 and SIGALRM. Call it first, in a
    /// runtime.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn install() -> io::Result<Self> {
        let ignored = [
            SignalKind::user_defined1(),
            SignalKind::user_defined2(),
            SignalKind::alarm(),
        ];
        for kind in ignored {
            // The handler stays after the value is dropped.
            drop(signal(kind)?);
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT.
    pub async fn end(&mut self) {
        end(&mut self.terminate, &mut self.interrupt).await;
    }

    pub(super) fn split(self) -> (Signal, impl Future<Output = ()>) {
        let Self {
            mut terminate,
            mut interrupt,
            hangup,
        } = self;
        let end = async move { end(&mut terminate, &mut interrupt).await };
        (hangup, end)
    }
}

async fn end(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

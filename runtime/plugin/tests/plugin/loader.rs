//! Takes any bytes from the file to calls: shared by the fuzzers and the ordinary tests.
//!
//! Invariant: the result is a refusal or a module whose calls end in time; the host never panics.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::common::{all_calls, host, service};
use waxwing_plugin::{Host, HostEvent};

/// The longest time that one file may take on a busy machine. Set-up may take most of it: a second
/// for vetting, and one for the instance.
const TIME: Duration = Duration::from_secs(30);

/// Rounds of calls, unless the module fails before.
const ROUNDS: u64 = 8;

/// How far a file got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    /// It is invalid, or does not compile.
    Refused,
    /// It is a module, but does not accept its service.
    Unbound,
    /// It passed, and failed while serving.
    Failed,
    Served,
}

/// A host and a folder with one file.
pub(crate) struct Loader {
    folder: tempfile::TempDir,
    host: Host,
    events: Receiver<HostEvent>,
}

impl Loader {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (host, events) = host(&[], Some(folder.path().into()));
        Self {
            folder,
            host,
            events,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("test.wasm")
    }

    /// Loads, binds and calls a file with these bytes.
    pub(crate) fn take(&self, bytes: &[u8]) -> Progress {
        fs::write(self.file(), bytes).expect("written");
        let start = Instant::now();
        let progress = self.load();
        let took = start.elapsed();
        assert!(took < TIME, "it took {took:?}");
        progress
    }

    fn load(&self) -> Progress {
        if let Err(error) = self.host.policy("test") {
            assert!(!error.to_string().contains(|c: char| c.is_control()));
            return Progress::Refused;
        }
        let Ok(mut bound) = self.host.bind("test", 1, 1, &[service(&[1, 1])]) else {
            return Progress::Unbound;
        };
        let failed = (0..ROUNDS).any(|round| {
            all_calls(&mut *bound.policies[0], round);
            let mut events = self.events.try_iter();
            events.any(|event| matches!(event, HostEvent::Fault(_)))
        });
        if failed {
            Progress::Failed
        } else {
            Progress::Served
        }
    }
}

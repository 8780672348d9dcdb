//! Any bytes, from the file to work: what the fuzzer and the ordinary test do with each input.
//!
//! Invariant: the verdict is an error or a module whose calls end in time; the host never panics.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crate::common::{all_calls, host, service};
use waxwing_plugin::{Host, HostEvent};

/// The longest that one file may take, on a busy machine. What may take so long is its set-up: a
/// second for its trial, and one for its work.
const TIME: Duration = Duration::from_secs(30);

/// Rounds of calls that a module gets, if it does not fail before.
const ROUNDS: u64 = 8;

/// How far a file came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Came {
    /// It is not valid, or cannot be compiled.
    Refused,
    /// It is a module, and does not fit its service.
    Unbound,
    /// It passed, and failed at work.
    Failed,
    /// It served.
    Served,
}

/// A host, and a folder with one file.
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

    /// Takes bytes all the way that they get.
    pub(crate) fn take(&self, bytes: &[u8]) -> Came {
        fs::write(self.file(), bytes).expect("written");
        let start = Instant::now();
        let came = self.load();
        let took = start.elapsed();
        assert!(took < TIME, "it took {took:?}");
        came
    }

    fn load(&self) -> Came {
        if let Err(error) = self.host.policy("test") {
            assert!(!error.to_string().contains(|c: char| c.is_control()));
            return Came::Refused;
        }
        let Ok(mut bound) = self.host.bind("test", 1, 1, &[service(&[1, 1])]) else {
            return Came::Unbound;
        };
        let failed = (0..ROUNDS).any(|round| {
            all_calls(&mut *bound.policies[0], round);
            let mut events = self.events.try_iter();
            events.any(|event| matches!(event, HostEvent::Fault(_)))
        });
        if failed { Came::Failed } else { Came::Served }
    }
}

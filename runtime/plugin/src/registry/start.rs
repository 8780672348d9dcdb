//! Files of the folder at the start of the balancer.
//!
//! Invariant: where another build can serve, a file delays the start by no more than
//! [`HostOptions::start_within`](crate::HostOptions::start_within): it is compiled later, and replaces that
//! build as a new file does. A build that did not compile is known after a restart, and not compiled again at
//! a start.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use crate::build::module::{ModuleHash, ModuleSource};
use crate::lock::lock;
use crate::registry::library::Library;
use crate::registry::store::{QUARANTINED_MAX, QuarantinedBuild, Store, unix_seconds};

/// The start, and what is known of builds that did not compile.
pub(super) struct StartPhase(Mutex<State>);

struct State {
    /// When files are compiled no longer; `None` after the start.
    until: Option<Instant>,
    /// The modules whose files are compiled after it.
    later: BTreeSet<String>,
    /// The builds that did not compile, the oldest first.
    refused: Vec<QuarantinedBuild>,
}

impl StartPhase {
    pub(super) fn new(within: Option<Duration>, store: &Store) -> Self {
        Self(Mutex::new(State {
            until: within.map(|within| Instant::now() + within),
            later: BTreeSet::new(),
            refused: store.refused(),
        }))
    }
}

impl Library {
    /// Ends the start. Returns the modules whose files are still to be compiled.
    pub(crate) fn end_start(&self) -> BTreeSet<String> {
        let mut state = lock(&self.start.0);
        state.until = None;
        std::mem::take(&mut state.later)
    }

    /// Returns until when a file may be compiled; `None`: as long as it takes, because the start is over or
    /// no other build can serve.
    pub(super) fn compile_until(
        &self,
        name: &str,
        hash: ModuleHash,
        source: &ModuleSource,
    ) -> Option<Instant> {
        let until = lock(&self.start.0).until?;
        let is_file = matches!(source, ModuleSource::File(_));
        (is_file && self.has_other(name, hash)).then_some(until)
    }

    /// Returns whether a build other than this one can serve at the start.
    fn has_other(&self, name: &str, hash: ModuleHash) -> bool {
        let max = self.options.limits.file_bytes_max as u64;
        let last_good = self.store.last_good(name, max);
        let last_good = last_good.map(|(_, bytes)| ModuleHash::of(&bytes));
        let shipped = self.sources.shipped(name).map(ModuleHash::of);
        let mut others = [last_good, shipped].into_iter().flatten();
        others.any(|other| other != hash)
    }

    /// Leaves a file for later.
    pub(super) fn postpone(&self, name: &str) {
        lock(&self.start.0).later.insert(name.to_owned());
    }

    /// Returns why a build did not compile before.
    pub(super) fn refused_before(&self, hash: ModuleHash) -> Option<String> {
        let digits = hash.digits();
        let state = lock(&self.start.0);
        let build = state.refused.iter().find(|build| build.hash == digits);
        build.map(|build| build.reason.clone())
    }

    /// Remembers, over restarts too, whether a build compiles: `why` not.
    pub(super) fn remember(&self, name: &str, hash: ModuleHash, why: Option<&str>) {
        if let Some(why) = why {
            let mut lifecycles = lock(&self.lifecycles);
            lifecycles.module(name).note_failed_compile(hash, why);
        }
        let refused = &mut lock(&self.start.0).refused;
        let digits = hash.digits();
        let known = refused.iter().position(|build| build.hash == digits);
        match (known, why) {
            (Some(at), None) => drop(refused.remove(at)),
            (None, Some(why)) => refused.push(QuarantinedBuild {
                hash: digits,
                module: name.to_owned(),
                reason: why.to_owned(),
                at: unix_seconds(SystemTime::now()),
            }),
            (None, None) | (Some(_), Some(_)) => return,
        }
        refused.drain(..refused.len().saturating_sub(QUARANTINED_MAX));
        self.store.set_refused(refused);
    }
}

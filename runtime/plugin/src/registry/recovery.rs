//! What happens to a build after a fault: tolerated, quarantined, rolled back.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tracing::{error, info};

use crate::build::engine::Engine;
use crate::build::module::{CompiledModule, ModuleHash, ModuleSource};
use crate::error::Refusal;
use crate::lock::lock;
use crate::registry::library::Library;
use crate::registry::lifecycle::{FaultOutcome, LifecycleStep};

/// What the caller has to do after a fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recovery {
    /// Nothing: the instance is no longer in use.
    Nothing,
    /// Make new instances of the same build.
    Rebuild,
    /// The build is quarantined: bind the name again, which now stands for another build.
    RolledBack,
    /// The build is quarantined and there is no other: leave its instances disabled and the native
    /// fallback in charge until the file changes.
    Exhausted,
}

impl Library {
    /// Counts a fault and keeps what it was, for `status`.
    pub(crate) fn note_fault(&self, module: &CompiledModule, what: String) {
        let mut lifecycles = lock(&self.lifecycles);
        let lifecycle = lifecycles.module(&module.name);
        lifecycle.faults_total += 1;
        lifecycle.last_fault = Some(LifecycleStep {
            at: SystemTime::now(),
            hash: module.hash,
            text: what,
        });
    }

    /// Counts a fault of a build and returns what to do.
    pub(crate) fn faulted(
        &self,
        engine: &Engine,
        module: &Arc<CompiledModule>,
        why: &str,
        now: Instant,
    ) -> Recovery {
        if lock(&self.lifecycles).is_exhausted(module) {
            return Recovery::Exhausted;
        }
        let limit = self.options.fault_limit;
        let outcome = lock(&self.lifecycles)
            .module(&module.name)
            .faulted(module, why, now, limit);
        match outcome {
            FaultOutcome::Stale => Recovery::Nothing,
            FaultOutcome::Tolerated => Recovery::Rebuild,
            FaultOutcome::Quarantined { reason, is_canary } => {
                // Before the roll-back, which must not choose this build, and after it, to name the one
                // that serves instead.
                lock(&self.lifecycles).quarantine(module, &reason);
                let instead = is_canary || self.roll_back(engine, module);
                self.quarantine(module, &reason);
                match instead {
                    true => Recovery::RolledBack,
                    false => Recovery::Exhausted,
                }
            }
        }
    }

    /// Quarantines the newest build in use, a canary if there is one, and lets the one before it serve.
    /// Returns both; `None`, and nothing has changed, if there is no other.
    pub(crate) fn roll_back_from_newest(
        &self,
        engine: &Engine,
        name: &str,
    ) -> Option<[Arc<CompiledModule>; 2]> {
        const REASON: &str = "rolled back by the operator";
        let (canary, current) = {
            let mut lifecycles = lock(&self.lifecycles);
            let lifecycle = lifecycles.module(name);
            let canary = lifecycle.canary.take();
            (
                canary.map(|canary| canary.module),
                lifecycle.current.clone()?,
            )
        };
        if let Some(canary) = canary {
            lock(&self.lifecycles).module(name).candidate = None;
            self.quarantine(&canary, REASON);
            return Some([canary, current]);
        }
        let back = self.earlier(engine, &current)?;
        self.serve_again(&back);
        self.quarantine(&current, REASON);
        Some([current, back])
    }

    pub(super) fn quarantine(&self, module: &Arc<CompiledModule>, reason: &str) {
        let all = lock(&self.lifecycles).quarantine(module, reason);
        self.store.set_quarantined(&all);
        let error = Refusal::Quarantined(reason.into()).of(module.label());
        self.refuse(&module.name, Some(module.hash), &error);
    }

    /// Returns why a build is quarantined; `None` if it is not.
    pub(crate) fn quarantined(&self, module: &CompiledModule) -> Option<String> {
        lock(&self.lifecycles).quarantined(module.hash)
    }

    /// Ends the quarantine of a module's builds whose hashes start with `hash`. Returns those hashes. The
    /// newest build is then tried as a new one is.
    pub(crate) fn lift(&self, name: &str, hash: &str) -> Vec<String> {
        let (lifted, left) = lock(&self.lifecycles).lift(name, hash);
        if !lifted.is_empty() {
            self.store.set_quarantined(&left);
            info!("module {name}: quarantine of {} lifted", lifted.join(", "));
        }
        lifted
    }

    /// Ends the quarantine of a build without a replacement that works again. The store is not
    /// updated, because the caller's thread must not block on a file: after a restart the build has to
    /// pass a trial again.
    pub(crate) fn release(&self, module: &CompiledModule) {
        lock(&self.lifecycles).release(module);
        self.log_step(module, "works again; quarantine ended".into());
    }

    /// Replaces a build by the previous one, else by the shipped one. Returns whether there was one.
    fn roll_back(&self, engine: &Engine, module: &Arc<CompiledModule>) -> bool {
        let Some(back) = self.earlier(engine, module) else {
            self.store.forget(&module.name);
            return false;
        };
        self.serve_again(&back);
        true
    }

    /// Returns a build that may serve instead of this one: the previous one, else the shipped one.
    fn earlier(
        &self,
        engine: &Engine,
        module: &Arc<CompiledModule>,
    ) -> Option<Arc<CompiledModule>> {
        let name = &module.name;
        let previous = lock(&self.lifecycles).module(name).previous.clone();
        let good = |hash| hash != module.hash && lock(&self.lifecycles).quarantined(hash).is_none();
        let shipped = || {
            let bytes = self.sources.shipped(name);
            let bytes = bytes.filter(|bytes| good(ModuleHash::of(bytes)))?;
            self.compile(engine, name, ModuleSource::Shipped, bytes)
                .inspect_err(|error| error!("{error}"))
                .ok()
        };
        previous
            .filter(|previous| good(previous.hash))
            .or_else(shipped)
    }

    fn serve_again(&self, back: &Arc<CompiledModule>) {
        let name = &back.name;
        lock(&self.lifecycles).module(name).roll_back_to(back);
        match back.source {
            ModuleSource::Shipped => self.store.forget(name),
            ModuleSource::File(_) | ModuleSource::LastGood(_) => {
                self.store.keep(name, &back.image);
            }
        }
        self.log_step(back, "serves again on all workers".into());
    }
}

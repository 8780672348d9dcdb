//! The state of each module and its transitions. Does no I/O and compiles nothing.
//!
//! Invariant: `current` is replaced only by a build that started to serve, or by the one before it; a
//! quarantined build neither becomes `current` nor is rolled back to.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::build::module::{CompiledModule, ModuleHash};
use crate::policy::outcomes::Sides;
use crate::registry::options::FaultLimit;
use crate::registry::store::{QUARANTINED_MAX, QuarantinedBuild, unix_seconds};

/// How many steps of a module `status` shows.
const STEPS_MAX: usize = 16;

/// How long a build that failed to compile is not compiled again: each attempt may take the
/// compiler's whole time limit, and every other change would wait for it.
const FAILED_COMPILE_RETRY: Duration = Duration::from_secs(60);

/// The build that was refused last, for `status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RefusedBuild {
    /// `None` if its bytes could not be read.
    pub(crate) hash: Option<ModuleHash>,
    pub(crate) reason: String,
    pub(crate) at: SystemTime,
}

/// A step in a build's life, for `status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LifecycleStep {
    pub(crate) at: SystemTime,
    pub(crate) hash: ModuleHash,
    pub(crate) text: String,
}

/// A build that serves on the first worker while the others keep the previous one.
#[derive(Clone, Debug)]
pub(crate) struct CanaryBuild {
    pub(crate) module: Arc<CompiledModule>,
    pub(crate) since: Instant,
    /// The counts of each service when it began.
    pub(crate) before: BTreeMap<Arc<str>, Sides>,
    /// Whether it may serve on all workers.
    pub(crate) passed: bool,
}

/// A build that did not compile.
#[derive(Clone, Debug)]
struct FailedCompile {
    hash: ModuleHash,
    why: String,
    at: Instant,
}

/// The state of one module's name.
#[derive(Clone, Default)]
pub(crate) struct ModuleLifecycle {
    /// Serves on all workers, except on the canary's.
    pub(crate) current: Option<Arc<CompiledModule>>,
    pub(crate) canary: Option<CanaryBuild>,
    /// Compiled, but not serving on all workers: not activated yet, a canary, or refused by its
    /// services.
    pub(crate) candidate: Option<Arc<CompiledModule>>,
    /// Served before `current`; the target of a roll-back.
    pub(crate) previous: Option<Arc<CompiledModule>>,
    pub(crate) refused: Option<RefusedBuild>,
    /// The last fault of any of its builds.
    pub(crate) last_fault: Option<LifecycleStep>,
    /// The faults of all its builds since the start.
    pub(crate) faults_total: u64,
    failed_compile: Option<FailedCompile>,
    /// When instances of `current` faulted, within the fault limit's window.
    faults: Vec<Instant>,
    pub(crate) steps: VecDeque<LifecycleStep>,
}

/// What a fault means for its build.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FaultOutcome {
    /// The build is no longer in use.
    Stale,
    /// The fault limit is not reached.
    Tolerated,
    /// The build is to be quarantined.
    Quarantined { reason: String, is_canary: bool },
}

impl ModuleLifecycle {
    /// Returns all compiled builds, the serving one first.
    fn builds(&self) -> impl Iterator<Item = &Arc<CompiledModule>> {
        [&self.current, &self.candidate, &self.previous]
            .into_iter()
            .flatten()
    }

    /// Returns the first compiled build that matches.
    pub(crate) fn compiled(&self, is: impl Fn(&CompiledModule) -> bool) -> Option<CompiledBuild> {
        let found = Arc::clone(self.builds().find(|module| is(module))?);
        let serves = |current: &Arc<CompiledModule>| Arc::ptr_eq(current, &found);
        Some(if self.current.as_ref().is_some_and(serves) {
            CompiledBuild::Current(found)
        } else {
            CompiledBuild::Other(found)
        })
    }

    pub(crate) fn note_failed_compile(&mut self, hash: ModuleHash, why: &str) {
        self.failed_compile = Some(FailedCompile {
            hash,
            why: why.into(),
            at: Instant::now(),
        });
    }

    /// Returns why a build did not compile, unless it may be tried again.
    pub(crate) fn failed_compile(&self, hash: ModuleHash) -> Option<String> {
        let recent = |build: &&FailedCompile| {
            build.hash == hash && build.at.elapsed() < FAILED_COMPILE_RETRY
        };
        let build = self.failed_compile.as_ref().filter(recent);
        build.map(|build| build.why.clone())
    }

    /// Starts a build's canary period. Returns whether it had not started before.
    pub(crate) fn start_canary(
        &mut self,
        module: &Arc<CompiledModule>,
        before: BTreeMap<Arc<str>, Sides>,
    ) -> bool {
        let same = self
            .canary
            .as_ref()
            .is_some_and(|canary| Arc::ptr_eq(&canary.module, module));
        if !same {
            self.candidate = Some(Arc::clone(module));
            self.canary = Some(CanaryBuild {
                module: Arc::clone(module),
                since: Instant::now(),
                before,
                passed: false,
            });
        }
        !same
    }

    /// Makes a build the one that serves on all workers. Returns whether it was not before.
    pub(crate) fn promote(&mut self, module: &Arc<CompiledModule>) -> bool {
        self.canary = None;
        self.candidate.take_if(|own| Arc::ptr_eq(own, module));
        let serves = |current: &Arc<CompiledModule>| Arc::ptr_eq(current, module);
        if self.current.as_ref().is_some_and(serves) {
            return false;
        }
        self.faults.clear();
        self.previous = self.current.replace(Arc::clone(module));
        true
    }

    /// Counts a fault of a build. A canary's first fault quarantines it.
    pub(crate) fn faulted(
        &mut self,
        module: &Arc<CompiledModule>,
        why: &str,
        now: Instant,
        limit: FaultLimit,
    ) -> FaultOutcome {
        let is = |other: &Arc<CompiledModule>| other.hash == module.hash;
        if self.end_canary(module) {
            let reason = format!("failed on its first worker: {why}");
            return FaultOutcome::Quarantined {
                reason,
                is_canary: true,
            };
        }
        if self.current.as_ref().is_some_and(|current| !is(current)) {
            return FaultOutcome::Stale;
        }
        self.faults
            .retain(|at| now.duration_since(*at) < limit.window);
        self.faults.push(now);
        let count = self.faults.len();
        if count < limit.faults {
            return FaultOutcome::Tolerated;
        }
        self.faults.clear();
        let seconds = limit.window.as_secs();
        FaultOutcome::Quarantined {
            reason: format!("{count} faults in {seconds} s, the last: {why}"),
            is_canary: false,
        }
    }

    /// Ends the canary period of a build that failed. Returns whether it was a canary.
    pub(crate) fn end_canary(&mut self, module: &CompiledModule) -> bool {
        let is = |other: &Arc<CompiledModule>| other.hash == module.hash;
        let ended = self.canary.take_if(|canary| is(&canary.module)).is_some();
        if ended {
            self.candidate.take_if(|candidate| is(candidate));
        }
        ended
    }

    /// Makes an earlier build serve again.
    pub(crate) fn roll_back_to(&mut self, back: &Arc<CompiledModule>) {
        self.candidate = None;
        self.canary = None;
        self.previous = None;
        self.current = Some(Arc::clone(back));
    }

    pub(crate) fn log_step(&mut self, hash: ModuleHash, text: String) {
        if self.steps.len() == STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(LifecycleStep {
            at: SystemTime::now(),
            hash,
            text,
        });
    }
}

/// A build that is compiled already.
pub(crate) enum CompiledBuild {
    /// It serves.
    Current(Arc<CompiledModule>),
    Other(Arc<CompiledModule>),
}

/// The state of all modules of one kind, and the quarantine that they share.
#[derive(Default)]
pub(crate) struct Lifecycles {
    modules: HashMap<String, ModuleLifecycle>,
    /// The oldest first.
    quarantined: Vec<QuarantinedBuild>,
}

impl Lifecycles {
    pub(crate) fn new(quarantined: Vec<QuarantinedBuild>) -> Self {
        Self {
            modules: HashMap::new(),
            quarantined,
        }
    }

    /// Returns a module's state, which is made if it is missing.
    pub(crate) fn module(&mut self, name: &str) -> &mut ModuleLifecycle {
        self.modules.entry(name.into()).or_default()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&ModuleLifecycle> {
        self.modules.get(name)
    }

    pub(crate) fn modules(&self) -> impl Iterator<Item = (&String, &ModuleLifecycle)> {
        self.modules.iter()
    }

    pub(crate) fn retain(&mut self, used: impl Fn(&str) -> bool) {
        self.modules.retain(|name, _| used(name));
    }

    /// Returns whether a build is quarantined but still serves, because there is no other.
    pub(crate) fn is_exhausted(&self, module: &CompiledModule) -> bool {
        let lifecycle = self.modules.get(&module.name);
        let current = lifecycle.and_then(|lifecycle| lifecycle.current.as_ref());
        current.is_some_and(|current| current.hash == module.hash)
            && self.quarantined(module.hash).is_some()
    }

    /// Returns a compiled build of this hash, under any name.
    pub(crate) fn with_hash(&self, hash: ModuleHash) -> Option<Arc<CompiledModule>> {
        let is = |module: &&Arc<CompiledModule>| module.hash == hash;
        let mut modules = self.modules.values();
        modules.find_map(|lifecycle| lifecycle.builds().find(is).cloned())
    }

    /// Returns why a build is quarantined; `None` if it is not.
    pub(crate) fn quarantined(&self, hash: ModuleHash) -> Option<String> {
        let hash = hash.digits();
        let mut builds = self.quarantined.iter();
        builds
            .find(|build| build.hash == hash)
            .map(|build| build.reason.clone())
    }

    /// Ends a build's quarantine.
    pub(crate) fn release(&mut self, module: &CompiledModule) {
        let digits = module.hash.digits();
        self.quarantined.retain(|build| build.hash != digits);
        if let Some(lifecycle) = self.modules.get_mut(&module.name) {
            let is_refused = |refused: &mut RefusedBuild| refused.hash == Some(module.hash);
            lifecycle.refused.take_if(is_refused);
        }
    }

    /// Ends the quarantine of a module's builds whose hashes start with `hash`. Returns those hashes, and all
    /// builds that are still quarantined.
    pub(crate) fn lift(&mut self, name: &str, hash: &str) -> (Vec<String>, Vec<QuarantinedBuild>) {
        let is =
            |build: &mut QuarantinedBuild| build.module == name && build.hash.starts_with(hash);
        let lifted: Vec<String> = self
            .quarantined
            .extract_if(.., is)
            .map(|it| it.hash)
            .collect();
        if let Some(lifecycle) = self.modules.get_mut(name).filter(|_| !lifted.is_empty()) {
            lifecycle.refused = None;
            lifecycle.faults.clear();
        }
        (lifted, self.quarantined.clone())
    }

    /// Returns the quarantined builds of a module.
    pub(crate) fn quarantined_of(&self, name: &str) -> Vec<QuarantinedBuild> {
        let builds = self.quarantined.iter();
        builds
            .filter(|build| build.module == name)
            .cloned()
            .collect()
    }

    /// Quarantines a build. Returns all quarantined builds.
    pub(crate) fn quarantine(
        &mut self,
        module: &CompiledModule,
        reason: &str,
    ) -> Vec<QuarantinedBuild> {
        if self.quarantined(module.hash).is_none() {
            if self.quarantined.len() == QUARANTINED_MAX {
                self.quarantined.remove(0);
            }
            self.quarantined.push(QuarantinedBuild {
                hash: module.hash.digits(),
                module: module.name.clone(),
                reason: reason.to_owned(),
                at: unix_seconds(SystemTime::now()),
            });
        }
        self.quarantined.clone()
    }
}

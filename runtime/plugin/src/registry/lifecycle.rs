//! What is known of each module's name, and how it changes. No file and no compiler is met here.
//!
//! Invariant: `current` is replaced only by a build that was put to work, or by the one before it;
//! a build that is quarantined is neither `current`'s successor nor what a roll-back goes to.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::module::{CompiledModule, Hash};
use crate::store::{QUARANTINED_MAX, Quarantined, seconds};

/// The steps of a module that are kept for `status`.
const STEPS_MAX: usize = 16;

/// Why a build is not served, kept for `status`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The build, where its bytes could be read.
    pub hash: Option<Hash>,
    /// The whole message.
    pub reason: String,
    /// When.
    pub at: SystemTime,
}

/// Something that happened to a build on its way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// When.
    pub at: SystemTime,
    /// The build.
    pub hash: Hash,
    /// What.
    pub text: String,
}

/// A build that serves on one worker, while the others have the one before.
#[derive(Clone, Debug)]
pub(crate) struct Canary {
    pub(crate) module: Arc<CompiledModule>,
    pub(crate) since: Instant,
}

/// How long a build that the compiler gave up is not compiled again. Compiling takes its limits' whole
/// time then, and every change of anything would wait for it.
const UNCOMPILED_FOR: Duration = Duration::from_secs(60);

/// A build that the compiler gave up.
#[derive(Clone, Debug)]
struct Uncompiled {
    hash: Hash,
    why: String,
    at: Instant,
}

/// What is known of one name.
#[derive(Clone, Default)]
pub(crate) struct Entry {
    /// The one that serves, but for a canary's worker.
    pub(crate) current: Option<Arc<CompiledModule>>,
    pub(crate) canary: Option<Canary>,
    /// Compiled, but not yet put to work on all workers, or refused by its services.
    pub(crate) candidate: Option<Arc<CompiledModule>>,
    /// The one that served before, to roll back to.
    pub(crate) previous: Option<Arc<CompiledModule>>,
    pub(crate) refused: Option<Refused>,
    /// The build that was last given up by the compiler.
    uncompiled: Option<Uncompiled>,
    /// When instances of the current module faulted.
    faults: Vec<Instant>,
    pub(crate) steps: VecDeque<Step>,
}

/// How often a module may fault before it is rolled back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FaultLimit {
    /// This many faults, over all workers ...
    pub faults: usize,
    /// ... within this time.
    pub window: Duration,
}

impl Default for FaultLimit {
    fn default() -> Self {
        Self {
            faults: 3,
            window: Duration::from_secs(60),
        }
    }
}

/// What a fault means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Judgement {
    /// The build is not in use any more.
    Stale,
    /// It may go on.
    Tolerated,
    /// It is quarantined, for this reason; whether it had been a canary only.
    Quarantined { reason: String, is_canary: bool },
}

impl Entry {
    /// All that are compiled, the one that serves first.
    fn builds(&self) -> impl Iterator<Item = &Arc<CompiledModule>> {
        [&self.current, &self.candidate, &self.previous]
            .into_iter()
            .flatten()
    }

    /// A build of these bytes, if it is compiled already.
    pub(crate) fn known(&self, same: impl Fn(&CompiledModule) -> bool) -> Option<Known> {
        let found = Arc::clone(self.builds().find(|module| same(module))?);
        let serves = |current: &Arc<CompiledModule>| Arc::ptr_eq(current, &found);
        Some(if self.current.as_ref().is_some_and(serves) {
            Known::Current(found)
        } else {
            Known::Other(found)
        })
    }

    /// The compiler gave a build up.
    pub(crate) fn note_uncompiled(&mut self, hash: Hash, why: &str) {
        self.uncompiled = Some(Uncompiled {
            hash,
            why: why.into(),
            at: Instant::now(),
        });
    }

    /// Why the compiler gave a build up, if that was lately.
    pub(crate) fn uncompiled(&self, hash: Hash) -> Option<String> {
        let lately =
            |build: &&Uncompiled| build.hash == hash && build.at.elapsed() < UNCOMPILED_FOR;
        let build = self.uncompiled.as_ref().filter(lately);
        build.map(|build| build.why.clone())
    }

    /// A build serves on one worker from now on.
    pub(crate) fn start_canary(&mut self, module: &Arc<CompiledModule>) -> bool {
        let same = self
            .canary
            .as_ref()
            .is_some_and(|canary| Arc::ptr_eq(&canary.module, module));
        if !same {
            self.candidate = Some(Arc::clone(module));
            self.canary = Some(Canary {
                module: Arc::clone(module),
                since: Instant::now(),
            });
        }
        !same
    }

    /// A build serves on all workers from now on. Says whether it had not done so before.
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

    /// Counts a fault of a build.
    pub(crate) fn faulted(
        &mut self,
        module: &Arc<CompiledModule>,
        why: &str,
        now: Instant,
        limit: FaultLimit,
    ) -> Judgement {
        let is = |other: &Arc<CompiledModule>| other.hash == module.hash;
        if self.canary.take_if(|canary| is(&canary.module)).is_some() {
            self.candidate.take_if(|candidate| is(candidate));
            let reason = format!("failed on its first worker: {why}");
            return Judgement::Quarantined {
                reason,
                is_canary: true,
            };
        }
        if self.current.as_ref().is_some_and(|current| !is(current)) {
            return Judgement::Stale;
        }
        self.faults
            .retain(|at| now.duration_since(*at) < limit.window);
        self.faults.push(now);
        let count = self.faults.len();
        if count < limit.faults {
            return Judgement::Tolerated;
        }
        self.faults.clear();
        let seconds = limit.window.as_secs();
        Judgement::Quarantined {
            reason: format!("{count} faults in {seconds} s, the last: {why}"),
            is_canary: false,
        }
    }

    /// Puts the build before in the place of the current one.
    pub(crate) fn roll_back_to(&mut self, back: &Arc<CompiledModule>) {
        self.candidate = None;
        self.canary = None;
        self.previous = None;
        self.current = Some(Arc::clone(back));
    }

    pub(crate) fn step(&mut self, hash: Hash, text: String) {
        if self.steps.len() == STEPS_MAX {
            self.steps.pop_front();
        }
        self.steps.push_back(Step {
            at: SystemTime::now(),
            hash,
            text,
        });
    }
}

/// A build that need not be compiled.
pub(crate) enum Known {
    Current(Arc<CompiledModule>),
    Other(Arc<CompiledModule>),
}

/// What is known of all names.
#[derive(Default)]
pub(crate) struct Shelf {
    entries: HashMap<String, Entry>,
    /// Builds that are not to be tried again, the oldest first.
    quarantined: Vec<Quarantined>,
}

impl Shelf {
    pub(crate) fn new(quarantined: Vec<Quarantined>) -> Self {
        Self {
            entries: HashMap::new(),
            quarantined,
        }
    }

    pub(crate) fn entry(&mut self, name: &str) -> &mut Entry {
        self.entries.entry(name.into()).or_default()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&String, &Entry)> {
        self.entries.iter()
    }

    pub(crate) fn retain(&mut self, used: impl Fn(&str) -> bool) {
        self.entries.retain(|name, _| used(name));
    }

    /// Whether a build is quarantined and serves all the same, for want of another.
    pub(crate) fn is_exhausted(&self, module: &CompiledModule) -> bool {
        let entry = self.entries.get(&module.name);
        let current = entry.and_then(|entry| entry.current.as_ref());
        current.is_some_and(|current| current.hash == module.hash)
            && self.quarantined(module.hash).is_some()
    }

    /// A build of this hash, under any name.
    pub(crate) fn of_hash(&self, hash: Hash) -> Option<Arc<CompiledModule>> {
        let is = |module: &&Arc<CompiledModule>| module.hash == hash;
        let mut entries = self.entries.values();
        entries.find_map(|entry| entry.builds().find(is).cloned())
    }

    /// Why a build is not to be tried again.
    pub(crate) fn quarantined(&self, hash: Hash) -> Option<String> {
        let hash = hash.digits();
        let mut builds = self.quarantined.iter();
        builds
            .find(|build| build.hash == hash)
            .map(|build| build.reason.clone())
    }

    /// A build is quarantined no more.
    pub(crate) fn release(&mut self, module: &CompiledModule) {
        let digits = module.hash.digits();
        self.quarantined.retain(|build| build.hash != digits);
        if let Some(entry) = self.entries.get_mut(&module.name) {
            let of_it = |refused: &mut Refused| refused.hash == Some(module.hash);
            entry.refused.take_if(of_it);
        }
    }

    /// The quarantined builds of a module.
    pub(crate) fn quarantined_of(&self, name: &str) -> Vec<Quarantined> {
        let builds = self.quarantined.iter();
        builds
            .filter(|build| build.module == name)
            .cloned()
            .collect()
    }

    /// Quarantines a build; gives all that are.
    pub(crate) fn quarantine(&mut self, module: &CompiledModule, reason: &str) -> Vec<Quarantined> {
        if self.quarantined(module.hash).is_none() {
            if self.quarantined.len() == QUARANTINED_MAX {
                self.quarantined.remove(0);
            }
            self.quarantined.push(Quarantined {
                hash: module.hash.digits(),
                module: module.name.clone(),
                reason: reason.to_owned(),
                at: seconds(SystemTime::now()),
            });
        }
        self.quarantined.clone()
    }
}

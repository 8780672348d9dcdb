//! The states that instances leave to those that take their place.
//!
//! The control thread asks, the instance of each worker answers between two batches, and the new instances
//! start with the answers.
//!
//! Invariant: a worker waits for nobody. The control thread waits as long as answers arrive; what comes later
//! is dropped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::lock::lock;

/// How long the control thread waits for the next answer; a worker without traffic has a turn every 20
/// milliseconds.
const SILENCE_MAX: Duration = Duration::from_millis(300);
/// How long it waits for all answers.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A service's state on a worker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SavedState {
    /// The service's name.
    pub service: Arc<str>,
    /// The worker's number.
    pub worker: u32,
    /// What its policy saved.
    pub state: Arc<[u8]>,
}

/// Where the instances of a module answer.
#[derive(Default)]
pub(crate) struct StateDesk {
    /// The number of the latest question.
    question: AtomicU64,
    answers: Mutex<Answers>,
    arrived: Condvar,
    /// What the first instances start with.
    first: Mutex<Option<Arc<SavedStates>>>,
}

#[derive(Default)]
struct Answers {
    question: u64,
    states: Vec<SavedState>,
    /// The workers that have answered for all their services.
    done: BTreeSet<u32>,
    /// Counts what arrives.
    news: u64,
    /// Why the first state that cannot be kept is not.
    problem: Option<String>,
}

impl StateDesk {
    /// Returns the number of the latest question.
    #[inline]
    pub(crate) fn question(&self) -> u64 {
        self.question.load(Ordering::Acquire)
    }

    /// Asks the instances of so many workers for their states, and waits for them.
    pub(crate) fn ask(&self, workers: usize) -> SavedStates {
        let mut answers = lock(&self.answers);
        let question = self.question() + 1;
        *answers = Answers {
            question,
            ..Answers::default()
        };
        self.question.store(question, Ordering::Release);
        let start = Instant::now();
        while answers.done.len() < workers && start.elapsed() < WAIT_MAX {
            let before = answers.news;
            let waited = self.arrived.wait_timeout(answers, SILENCE_MAX);
            let (now, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            answers = now;
            if timeout.timed_out() && answers.news == before {
                break;
            }
        }
        let answers = std::mem::take(&mut *answers);
        SavedStates {
            late: workers.saturating_sub(answers.done.len()),
            problem: answers.problem,
            ..SavedStates::new(answers.states)
        }
    }

    /// Takes a service's state on a worker.
    pub(crate) fn answer(&self, question: u64, state: SavedState) {
        self.take(question, |answers| answers.states.push(state));
    }

    /// Takes why a state cannot be kept.
    pub(crate) fn answer_problem(&self, question: u64, problem: String) {
        self.take(question, |answers| {
            answers.problem.get_or_insert(problem);
        });
    }

    /// Keeps states for the first instances.
    pub(crate) fn start_with(&self, states: Vec<SavedState>) {
        *lock(&self.first) = Some(Arc::new(SavedStates::new(states)));
    }

    /// Takes what the first instances start with.
    pub(crate) fn take_first(&self) -> Option<Arc<SavedStates>> {
        lock(&self.first).take()
    }

    /// Notes that a worker has answered for all its services.
    pub(crate) fn finish(&self, question: u64, worker: u32) {
        self.take(question, |answers| _ = answers.done.insert(worker));
    }

    fn take(&self, question: u64, change: impl FnOnce(&mut Answers)) {
        let mut answers = lock(&self.answers);
        if answers.question == question {
            change(&mut answers);
            answers.news += 1;
            self.arrived.notify_all();
        }
    }
}

/// States to start with.
#[derive(Default)]
pub(crate) struct SavedStates {
    /// By service and worker.
    states: HashMap<Arc<str>, BTreeMap<u32, Arc<[u8]>>>,
    /// The workers that have not answered.
    pub(crate) late: usize,
    /// Why the first state that cannot be kept is not.
    pub(crate) problem: Option<String>,
    /// The services whose refusal was said.
    said: Mutex<BTreeSet<Arc<str>>>,
    /// Whether a call with one of them failed: no other call gets one.
    has_failed: AtomicBool,
}

impl SavedStates {
    pub(crate) fn new(saved: Vec<SavedState>) -> Self {
        let mut states: HashMap<Arc<str>, BTreeMap<u32, Arc<[u8]>>> = HashMap::new();
        for SavedState {
            service,
            worker,
            state,
        } in saved
        {
            states.entry(service).or_default().insert(worker, state);
        }
        Self {
            states,
            ..Self::default()
        }
    }

    /// As [`Self::new`], for a trial, of which nothing is said.
    pub(crate) fn quiet(saved: Vec<SavedState>) -> Self {
        let states = Self::new(saved);
        Self {
            said: Mutex::new(states.states.keys().cloned().collect()),
            ..states
        }
    }

    /// Drops what a worker saved.
    pub(crate) fn forget(&mut self, worker: u32) {
        for states in self.states.values_mut() {
            states.remove(&worker);
        }
    }

    /// Returns all of them.
    pub(crate) fn into_list(self) -> Vec<SavedState> {
        let of_service = |(service, states): (Arc<str>, BTreeMap<u32, Arc<[u8]>>)| {
            states.into_iter().map(move |(worker, state)| SavedState {
                service: Arc::clone(&service),
                worker,
                state,
            })
        };
        self.states.into_iter().flat_map(of_service).collect()
    }

    /// Returns the state that a service starts with on a worker: its own, or, if there were fewer workers,
    /// that of one of them.
    pub(crate) fn of(&self, service: &Arc<str>, worker: u32) -> Option<Arc<[u8]>> {
        if self.has_failed.load(Ordering::Relaxed) {
            return None;
        }
        let states = self.states.get(service)?;
        let (last, _) = states.last_key_value()?;
        states.get(&(worker % last.saturating_add(1))).cloned()
    }

    /// Notes that a module refused its service's state; says so once for each service.
    pub(crate) fn refused(&self, module: &str, service: &Arc<str>, why: &str) {
        if lock(&self.said).insert(Arc::clone(service)) {
            warn!(
                "policy {module} refuses its state of service {service}, and starts afresh: {why}"
            );
        }
    }

    /// Notes that a call failed with a state; says so once.
    pub(crate) fn failed(&self, why: &str) {
        if !self.has_failed.swap(true, Ordering::Relaxed) {
            warn!("{why}; all its services start afresh");
        }
    }
}

//! Back-off for a quarantined build without a replacement.
//!
//! Invariant: while a build backs off, only one run per trial interval is made, to see whether the build
//! works again; all others are answered at once.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// The back-off of one build; `None` while it runs normally.
#[derive(Default, Debug)]
pub(crate) struct Backoff(Mutex<Option<BackoffState>>);

#[derive(Debug)]
struct BackoffState {
    why: String,
    next_trial: Instant,
}

/// Whether a run is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Admission {
    Run,
    /// It is made, and its success ends the back-off.
    Trial,
    /// It is not made, for this reason.
    Refused(String),
}

impl Backoff {
    /// Starts to back off. Returns whether the build did not do so already.
    pub(super) fn begin(&self, why: String, next_trial: Instant) -> bool {
        let mut state = lock(&self.0);
        let new = state.is_none();
        if new {
            *state = Some(BackoffState { why, next_trial });
        }
        new
    }

    /// Decides about a run that is due now. After a trial, the next one is `trial_every` later.
    pub(super) fn admit(&self, now: Instant, trial_every: Duration) -> Admission {
        match &mut *lock(&self.0) {
            None => Admission::Run,
            Some(state) if now >= state.next_trial => {
                state.next_trial = now + trial_every;
                Admission::Trial
            }
            Some(state) => Admission::Refused(state.why.clone()),
        }
    }

    /// Ends the back-off.
    pub(super) fn end(&self) {
        *lock(&self.0) = None;
    }
}

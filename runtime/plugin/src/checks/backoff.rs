//! The rest of a build that is quarantined while there is no other to take its place.
//!
//! Invariant: while it lasts, a run is made only once in a while, to see whether the situation is
//! mended; whoever asks meanwhile is answered at once.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::library::lock;

/// One build's: `None` while it is awake.
#[derive(Default, Debug)]
pub(crate) struct Rest(Mutex<Option<Resting>>);

#[derive(Debug)]
struct Resting {
    why: String,
    next_trial: Instant,
}

/// What is to be done with a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Leave {
    /// It is made.
    Run,
    /// It is made, and decides whether the rest ends.
    Trial,
    /// It is not made, for this reason.
    Rest(String),
}

impl Rest {
    /// It rests from now on. Says whether it did not before.
    pub(super) fn begin(&self, why: String, next_trial: Instant) -> bool {
        let mut rest = lock(&self.0);
        let new = rest.is_none();
        if new {
            *rest = Some(Resting { why, next_trial });
        }
        new
    }

    /// A run is due; the next trial is so much later than this one.
    pub(super) fn ask(&self, now: Instant, trial_every: Duration) -> Leave {
        match &mut *lock(&self.0) {
            None => Leave::Run,
            Some(resting) if now >= resting.next_trial => {
                resting.next_trial = now + trial_every;
                Leave::Trial
            }
            Some(resting) => Leave::Rest(resting.why.clone()),
        }
    }

    /// It is awake again.
    pub(super) fn end(&self) {
        *lock(&self.0) = None;
    }
}

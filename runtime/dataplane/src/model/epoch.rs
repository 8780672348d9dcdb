//! A snapshot together with the policies bound to it.
//!
//! Invariant: a policy's picks index the backend lists of the snapshot it came with. So both travel in one
//! message and change together, between two batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Policy, Snapshot};

/// A snapshot and one worker's policies for it.
pub struct Epoch {
    pub snapshot: Arc<Snapshot>,
    /// One per module; [`crate::Service::policy`] indexes it.
    pub policies: Vec<Box<dyn Policy>>,
    /// Policies that the change does not concern: pairs of (index into `policies`, which holds
    /// [`crate::policy::Vacant`]; index into the previous epoch's `policies`). The previous policy moves
    /// here with its state.
    pub kept: Vec<(usize, usize)>,
    /// Given once every worker has its copy in its mailbox.
    pub release: Release,
}

impl Epoch {
    /// Moves the kept policies over from the previous epoch.
    pub(crate) fn take_kept(&mut self, before: &mut Self) {
        for (here, there) in self.kept.drain(..) {
            if let (Some(new), Some(old)) =
                (self.policies.get_mut(here), before.policies.get_mut(there))
            {
                std::mem::swap(new, old);
            }
        }
    }
}

/// Holds an epoch back until all workers have been sent theirs. Otherwise one worker could open a session
/// on a new backend while the worker that receives the reply does not know that backend yet.
#[derive(Clone, Default)]
pub struct Release(Arc<AtomicBool>);

impl Release {
    #[must_use]
    pub fn held() -> Self {
        Self::default()
    }

    /// Lets every worker switch to the epoch.
    pub fn give(&self) {
        self.0.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn is_given(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

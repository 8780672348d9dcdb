//! What a worker works with between two changes: a snapshot and the policies bound to it.
//!
//! Invariant: a policy's picks index the backend lists of the snapshot it came with, so the two
//! travel together in one message and change between two batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Policy, Snapshot};

/// A snapshot and this worker's policies for it.
pub struct Epoch {
    /// Services, backends and ports.
    pub snapshot: Arc<Snapshot>,
    /// One per module; [`crate::Service::policy`] indexes it.
    pub policies: Vec<Box<dyn Policy>>,
    /// Places in `policies` that are [`crate::policy::Vacant`], for what changes is not theirs: each
    /// with the place in the epoch before whose policy goes on there, with all it remembers.
    pub kept: Vec<(usize, usize)>,
    /// Set once every worker has its copy in its mailbox (see [`Release`]).
    pub release: Release,
}

impl Epoch {
    /// Takes the places' policies that go on from the epoch before.
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

/// Holds an epoch back until all workers have been sent theirs: else one worker could make a
/// session on a new backend while another, that sees the reply, does not know that backend yet.
#[derive(Clone, Default)]
pub struct Release(Arc<AtomicBool>);

impl Release {
    /// A release that is not given yet.
    #[must_use]
    pub fn held() -> Self {
        Self::default()
    }

    /// Lets every worker take the epoch up.
    pub fn give(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

//! A sample of the flows that a module decided last, for vetting its next build.
//!
//! Invariant: workers never wait here; when the lock is taken, a batch is not sampled.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use waxwing_dataplane::{NewFlow, ServiceId};

use crate::lock::lock;

/// How many flows of a module are kept.
const FLOWS_MAX: usize = 1024;

/// The sample of one module, over all its builds and workers.
#[derive(Default)]
pub(crate) struct RecentFlows {
    flows: Mutex<VecDeque<(ServiceId, NewFlow)>>,
    /// When the last batch was kept; read by all workers, written once a millisecond.
    sampled_ms: AtomicU64,
}

impl RecentFlows {
    /// Keeps a batch of flows, at most one batch a millisecond.
    #[inline]
    pub(crate) fn sample(&self, service: ServiceId, flows: &[NewFlow], now_ms: u64) {
        if self.sampled_ms.load(Ordering::Relaxed) == now_ms {
            return;
        }
        let Ok(mut recent) = self.flows.try_lock() else {
            return;
        };
        self.sampled_ms.store(now_ms, Ordering::Relaxed);
        if recent.capacity() == 0 {
            return;
        }
        for flow in flows {
            if recent.len() == FLOWS_MAX {
                recent.pop_front();
            }
            recent.push_back((service, *flow));
        }
    }

    /// Allocates the memory that [`RecentFlows::sample`] fills.
    pub(crate) fn reserve(&self) {
        let mut recent = lock(&self.flows);
        if recent.capacity() == 0 {
            recent.reserve_exact(FLOWS_MAX);
        }
    }

    /// Returns the kept flows of a service, the oldest first.
    pub(crate) fn of(&self, service: ServiceId) -> Vec<NewFlow> {
        let recent = lock(&self.flows);
        let of_service = recent.iter().filter(|(of, _)| *of == service);
        of_service.map(|(_, flow)| *flow).collect()
    }
}

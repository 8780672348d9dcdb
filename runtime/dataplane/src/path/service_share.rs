//! A service's share of the session table: its `sessions_max`.
//!
//! Invariant: a service that has its share takes nothing from the others. Its own sessions give way to its
//! new ones, in the order of a full table.

use super::WorkerContext;
use super::eviction::evict_of;
use crate::counters::Gauges;
use crate::model::Service;
use crate::{DropReason, Snapshot, Tick};

/// How many sessions a service may still open in this batch.
pub(super) struct ServiceShare {
    /// `None`: any number.
    left: Option<u32>,
}

impl ServiceShare {
    /// Adds up the sessions of the service's backends, if it has a limit.
    pub(super) fn new(service: &Service, gauges: &Gauges) -> Self {
        let left = service.sessions_max.map(|max| {
            let sessions = service
                .backends
                .iter()
                .map(|id| gauges.sessions(*id).total());
            max.saturating_sub(sessions.fold(0, u32::saturating_add))
        });
        Self { left }
    }

    /// Makes room for one more session.
    pub(super) fn take(
        &mut self,
        snapshot: &Snapshot,
        service: &Service,
        context: &mut WorkerContext,
        now: Tick,
    ) -> Result<(), DropReason> {
        match (&mut self.left, service.sessions_max) {
            (None, _) | (_, None) => Ok(()),
            (Some(0), Some(max)) => evict_of(service.id, max, snapshot, context, now),
            (Some(left), _) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

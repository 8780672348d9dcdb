//! Test policies: consistent, random, with invalid answers, and with faults.

use waxwing_dataplane::policy::{Closed, PickContext, TickContext};
use waxwing_dataplane::{NewFlow, Pick, Policy, PolicyFault, ServiceId};

use crate::random::Random;

/// The behaviour of a [`TestPolicy`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PolicyKind {
    /// The same flow gets the same backend.
    Consistent,
    /// A random backend.
    AnyBackend,
    /// A random answer, valid or invalid.
    AnyAnswer,
    /// As [`PolicyKind::AnyAnswer`], but half of the calls fault.
    Faulty,
}

pub(crate) const POLICY_KINDS: [PolicyKind; 4] = [
    PolicyKind::Consistent,
    PolicyKind::AnyBackend,
    PolicyKind::AnyAnswer,
    PolicyKind::Faulty,
];

/// A policy of one kind.
pub(crate) struct TestPolicy {
    pub(crate) kind: PolicyKind,
    pub(crate) random: Random,
}

impl TestPolicy {
    fn pick_one(&mut self, flow: &NewFlow, backends: u64) -> Pick {
        let any = self.random.below(backends) as u32;
        match self.kind {
            PolicyKind::Consistent => Pick::Backend((flow.hash % backends) as u32),
            PolicyKind::AnyBackend => Pick::Backend(any),
            PolicyKind::AnyAnswer | PolicyKind::Faulty => match self.random.below(8) {
                0 => Pick::Drop,
                1 => Pick::Fallback,
                2 => Pick::Keep(any),
                3 => Pick::Backend(self.random.next() as u32),
                4 => Pick::Keep(self.random.next() as u32),
                _ => Pick::Backend(any),
            },
        }
    }
}

impl Policy for TestPolicy {
    fn payload_len(&self) -> usize {
        match self.kind {
            PolicyKind::AnyAnswer => usize::MAX,
            PolicyKind::AnyBackend => 16,
            PolicyKind::Consistent | PolicyKind::Faulty => 0,
        }
    }

    fn pick(
        &mut self,
        _service: ServiceId,
        context: PickContext<'_>,
        flows: &[NewFlow],
        picks: &mut [Pick],
    ) -> Result<(), PolicyFault> {
        assert_eq!(flows.len(), picks.len());
        for (flow, pick) in flows.iter().zip(picks) {
            *pick = self.pick_one(flow, context.backends.len() as u64);
        }
        let faults = [
            PolicyFault::Trap,
            PolicyFault::Overrun,
            PolicyFault::BadAnswer,
        ];
        if self.kind == PolicyKind::Faulty && self.random.chance(500) {
            return Err(self.random.one(&faults));
        }
        Ok(())
    }

    fn wants_closed(&self) -> bool {
        self.kind != PolicyKind::Consistent
    }

    fn closed(&mut self, _service: ServiceId, events: &[Closed]) {
        assert!(!events.is_empty() && events.len() <= waxwing_dataplane::BATCH);
    }

    fn tick(&mut self, _context: TickContext<'_>) {}
}

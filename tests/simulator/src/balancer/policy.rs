//! Policies of every kind: steady, fickle, wild, and failing.

use waxwing_dataplane::policy::{Closed, PickContext, TickContext};
use waxwing_dataplane::{NewFlow, Pick, Policy, PolicyFault, ServiceId};

use crate::random::Random;

/// A policy's character.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The same flow, the same backend.
    Steady,
    /// Any backend.
    Fickle,
    /// Anything that can be said, sense or nonsense.
    Wild,
    /// Half of its answers are faults.
    Failing,
}

pub(crate) const KINDS: [Kind; 4] = [Kind::Steady, Kind::Fickle, Kind::Wild, Kind::Failing];

pub(crate) struct Chooser {
    pub(crate) kind: Kind,
    pub(crate) random: Random,
}

impl Chooser {
    fn choose(&mut self, flow: &NewFlow, backends: u64) -> Pick {
        let any = self.random.below(backends) as u32;
        match self.kind {
            Kind::Steady => Pick::Backend((flow.hash % backends) as u32),
            Kind::Fickle => Pick::Backend(any),
            Kind::Wild | Kind::Failing => match self.random.below(8) {
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

impl Policy for Chooser {
    fn payload_len(&self) -> usize {
        match self.kind {
            Kind::Wild => usize::MAX,
            Kind::Fickle => 16,
            Kind::Steady | Kind::Failing => 0,
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
            *pick = self.choose(flow, context.backends.len() as u64);
        }
        let faults = [
            PolicyFault::Trap,
            PolicyFault::Overrun,
            PolicyFault::BadAnswer,
        ];
        if self.kind == Kind::Failing && self.random.chance(500) {
            return Err(self.random.one(&faults));
        }
        Ok(())
    }

    fn wants_closed(&self) -> bool {
        self.kind != Kind::Steady
    }

    fn closed(&mut self, _service: ServiceId, events: &[Closed]) {
        assert!(!events.is_empty() && events.len() <= waxwing_dataplane::BATCH);
    }

    fn tick(&mut self, _context: TickContext<'_>) {}
}

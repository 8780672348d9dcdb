//! The schedule of events.
//!
//! Invariant: events come in the order of their times, then in the order in which they were added.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use waxwing_dataplane::PortId;

use crate::hosts::Side;

/// An event.
pub(crate) enum Event {
    /// A frame reaches the balancer.
    ToBalancer(PortId, Vec<u8>),
    /// A frame reaches the hosts behind a port.
    ToHosts(PortId, Vec<u8>),
    /// A worker's turn.
    Turn(usize),
    /// A timeout at an end of a connection.
    Wake(Side),
    Connect,
    SendDatagram,
    Attack,
    ChangeConfig,
    FailOver,
    LoseSessions,
    SendEpoch(usize),
    ReleaseEpochs,
    AdvanceClock,
}

/// An event with its time.
pub(crate) struct Scheduled {
    pub(crate) at_us: u64,
    number: u64,
    pub(crate) event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_us, self.number).cmp(&(other.at_us, other.number))
    }
}

/// The future events.
#[derive(Default)]
pub(crate) struct Schedule {
    queue: BinaryHeap<Reverse<Scheduled>>,
    added: u64,
}

impl Schedule {
    pub(crate) fn add(&mut self, at_us: u64, event: Event) {
        self.added += 1;
        self.queue.push(Reverse(Scheduled {
            at_us,
            number: self.added,
            event,
        }));
    }

    pub(crate) fn next(&mut self) -> Option<Scheduled> {
        self.queue.pop().map(|Reverse(next)| next)
    }
}

//! What is to happen, and when.
//!
//! Invariant: one event after the other, in the order of their times and then of their making.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use waxwing_dataplane::PortId;

use crate::hosts::Side;

pub(crate) enum Event {
    /// A frame comes to the balancer, or to the hosts behind a port.
    ToBalancer(PortId, Vec<u8>),
    ToHosts(PortId, Vec<u8>),
    Turn(usize),
    Wake(Side),
    Connect,
    Ask,
    Attack,
    Change,
    FailOver,
    Send(usize),
    Release,
    Jump,
}

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

/// The events to come.
#[derive(Default)]
pub(crate) struct Schedule {
    queue: BinaryHeap<Reverse<Scheduled>>,
    made: u64,
}

impl Schedule {
    pub(crate) fn add(&mut self, at_us: u64, event: Event) {
        self.made += 1;
        self.queue.push(Reverse(Scheduled {
            at_us,
            number: self.made,
            event,
        }));
    }

    pub(crate) fn next(&mut self) -> Option<Scheduled> {
        self.queue.pop().map(|Reverse(next)| next)
    }
}

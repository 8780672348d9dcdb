//! Frames in transit between the hosts and the balancer.

use std::hash::{BuildHasherDefault, DefaultHasher};

use waxwing_dataplane::PortId;

use super::World;
use super::network::{damage, describe};
use super::schedule::Event;
use crate::hosts::Departure;
use crate::oracle::evictions;
use crate::view::view;

/// Recent frames that attackers may copy.
const SEEN_MAX: usize = 32;

impl World {
    /// Sends a frame through the network, towards the balancer or away from it.
    pub(super) fn transmit(&mut self, port: PortId, frame: &[u8], inwards: bool) {
        let network = self.plan.network;
        if !self.settling && self.random.chance(network.lost) {
            return;
        }
        let copies = if !self.settling && self.random.chance(network.duplicated) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut copy = frame.to_vec();
            if inwards && !self.settling && self.random.chance(network.damaged) {
                damage(&mut copy, &mut self.random);
            }
            let at_us = self.now_us + self.random.between(1, network.delay_us);
            let event = if inwards {
                Event::ToBalancer
            } else {
                Event::ToHosts
            };
            self.schedule.add(at_us, event(port, copy));
        }
    }

    pub(super) fn reach_balancer(&mut self, port: PortId, frame: Vec<u8>) {
        let worker = self.worker_for(&frame);
        if self.seen.len() < SEEN_MAX {
            self.seen.push((port, frame.clone()));
        } else if self.random.chance(20) {
            let at = self.random.index(SEEN_MAX);
            self.seen[at] = (port, frame.clone());
        }
        self.note(|| format!("to worker {worker} at {port:?}: {}", describe(&frame)));
        self.balancer.io(worker).inject(port, frame);
        self.turn_within(worker, self.plan.turn_us);
    }

    /// The worker of a frame, as a network card distributes frames over its queues.
    fn worker_for(&mut self, frame: &[u8]) -> usize {
        use std::hash::BuildHasher;

        if self.plan.scattered {
            return self.random.index(self.plan.workers);
        }
        let Some(view) = view(frame) else { return 0 };
        let tuple = (
            view.source,
            view.destination,
            view.source_port,
            view.destination_port,
        );
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(tuple);
        hash as usize % self.plan.workers
    }

    pub(super) fn reach_hosts(
        &mut self,
        port: PortId,
        frame: &[u8],
        out: &mut Vec<Departure>,
    ) -> Result<(), String> {
        let Some(view) = view(frame) else {
            return Ok(());
        };
        self.note(|| format!("to the hosts at {port:?}: {}", describe(frame)));
        self.hosts.sessions_may_end_early |= evictions(&self.balancer) > 0;
        let side = self
            .hosts
            .arrive(port, (frame, &view), self.now_us, &mut self.random, out)?;
        if let Some(side) = side {
            self.schedule_wake(side);
        }
        Ok(())
    }
}

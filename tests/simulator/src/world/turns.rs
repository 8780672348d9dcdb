//! The turns of the workers.

use std::hash::Hash;

use super::{IDLE_US, World};
use crate::addresses::FRONT;
use crate::balancer::{Handled, Outcome};
use crate::oracle::Turn;

/// The most doublings of an idle worker's sleep, so that hours without a frame pass quickly.
const IDLE_MAX: u32 = 6;

impl World {
    /// Runs a worker's turn and checks it.
    pub(super) fn turn(&mut self, worker: usize) -> Result<(), String> {
        self.turns_us[worker] = u64::MAX;
        // Workers read the clock at different times: a worker's time may lag.
        let lag_us = self.random.below(200).min(self.now_us);
        let clock_us = self.clocks_us[worker].max(self.now_us - lag_us);
        self.clocks_us[worker] = clock_us;
        let limited = !self.settling && self.random.chance(5);
        let room = limited.then(|| self.random.index(8));
        let kernel_full = !self.settling && self.random.chance(5);
        let io = self.balancer.io(worker);
        io.limit(room);
        io.kernel_full = kernel_full;
        let now = self.balancer.turn(worker, clock_us);
        let (handled, generated) = self.balancer.io(worker).take()?;
        let turn = Turn {
            balancer: &self.balancer,
            worker,
            now,
            limited,
            kernel_full,
        };
        let findings = self.oracle.check(&turn, &handled)?;
        self.hosts.apply(&findings);
        let io = self.balancer.io(worker);
        let counts = (io.allocated, io.refused_by_kernel, io.released_to_kernel);
        let drops = self.balancer.drops(worker);
        let counters = &self.balancer.counters[worker];
        self.ledgers[worker].check(counters, drops, counts, (&handled, &generated))?;
        self.idle[worker] = match handled.len() {
            0 => (self.idle[worker] + 1).min(IDLE_MAX),
            _ => 0,
        };
        self.note(|| format!("worker {worker} handled {} frames", handled.len()));
        (&handled, &generated).hash(&mut self.digest);
        for Handled {
            outcomes, bytes, ..
        } in handled
        {
            for outcome in outcomes {
                match outcome {
                    Outcome::Sent(port, frame) => self.transmit(port, &frame, false),
                    // A translated reply, which the kernel routes to its client.
                    Outcome::ToKernel(frame) if frame != bytes => {
                        self.transmit(FRONT, &frame, false);
                    }
                    Outcome::ToKernel(_) => {}
                }
            }
        }
        if self.balancer.io(worker).is_waiting() {
            self.turn_within(worker, self.plan.turn_us);
        } else {
            self.turn_within(worker, IDLE_US << self.idle[worker]);
        }
        Ok(())
    }
}

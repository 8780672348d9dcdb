//! The simulated world: time, network, and the schedule of all actors.
//!
//! Invariant: events are handled one at a time in the order of `schedule`. A seed therefore determines the
//! whole run, and a step number identifies an event of it.

mod network;
mod schedule;
mod transit;
mod turns;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use waxwing_dataplane::{DropReason, Now};

use self::schedule::{Event, Schedule};
use crate::attack::{self, SiegeAttackers};
use crate::balancer::Balancer;
use crate::hosts::{Departure, Hosts, Side};
use crate::oracle::Oracle;
use crate::oracle::ledger::Ledger;
use crate::plan::Plan;
use crate::random::Random;
use crate::tally::Tally;

/// The longest time to settle, in microseconds: longer than every pause of an application.
const SETTLE_US: u64 = 40_000 * 1_000_000;
/// The longest sleep of an idle worker, in microseconds.
const IDLE_US: u64 = 20_000;
/// The number of traced events.
const TRACE: usize = 60;

/// A simulated world.
pub(crate) struct World {
    plan: Plan,
    random: Random,
    pub(crate) now_us: u64,
    schedule: Schedule,
    pub(crate) step: u64,
    pub(crate) balancer: Balancer,
    pub(crate) hosts: Hosts,
    oracle: Oracle,
    ledgers: Vec<Ledger>,
    /// The time of each worker's next turn.
    turns_us: Vec<u64>,
    /// The last reading of each worker's clock.
    clocks_us: Vec<u64>,
    /// Consecutive idle turns of each worker, limited.
    idle: Vec<u32>,
    /// Recent frames, which attackers may copy.
    seen: Vec<Departure>,
    /// Whether faults have stopped and nothing new starts.
    pub(crate) settling: bool,
    /// The attackers of a siege.
    pub(crate) attackers: SiegeAttackers,
    trace: VecDeque<String>,
    tracing: bool,
    changes: u64,
    lost: u64,
    /// Of all frames that left the balancer.
    digest: DefaultHasher,
}

impl World {
    pub(crate) fn new(seed: u64, tracing: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::new(&mut random);
        Self::of(plan, random, tracing)
    }

    /// The world of a seed, but with the fast path switched off.
    pub(crate) fn without_fast_path(seed: u64, tracing: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan {
            without_fast_path: true,
            ..Plan::new(&mut random)
        };
        Self::of(plan, random, tracing)
    }

    /// A world whose balancer loses sessions.
    pub(crate) fn forgetful(seed: u64, adopts: bool, tracing: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::forgetful(&mut random, adopts);
        Self::of(plan, random, tracing)
    }

    /// Makes a world for a siege, whose attackers know these frames.
    pub(crate) fn besieged(seed: u64, corpus: &[Vec<u8>], tracing: bool) -> Self {
        let mut world = Self::of(Plan::siege(), Random::new(seed), tracing);
        world.attackers = SiegeAttackers::new(corpus.to_vec());
        world
    }

    fn of(plan: Plan, mut random: Random, tracing: bool) -> Self {
        let balancer = Balancer::new(&plan, &mut random);
        let hosts = Hosts::new(&plan, &mut random);
        let timeouts = balancer.config.timeouts();
        let mut world = Self {
            random,
            now_us: 10_000_000,
            schedule: Schedule::default(),
            step: 0,
            balancer,
            hosts,
            oracle: Oracle::new(timeouts, plan.source_nat),
            ledgers: (0..plan.workers).map(|_| Ledger::default()).collect(),
            turns_us: vec![u64::MAX; plan.workers],
            clocks_us: vec![0; plan.workers],
            idle: vec![0; plan.workers],
            seen: Vec::new(),
            settling: false,
            attackers: SiegeAttackers::default(),
            trace: VecDeque::new(),
            tracing,
            changes: 0,
            lost: 0,
            digest: DefaultHasher::new(),
            plan,
        };
        for worker in 0..plan.workers {
            world.turn_within(worker, IDLE_US);
        }
        for event in [
            Event::Connect,
            Event::SendDatagram,
            Event::Attack,
            Event::ChangeConfig,
            Event::FailOver,
            Event::LoseSessions,
            Event::AdvanceClock,
        ] {
            world.schedule_next(event);
        }
        world
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.iter().cloned().collect()
    }

    /// Adds an event to the trace.
    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.tracing {
            if self.trace.len() == TRACE {
                self.trace.pop_front();
            }
            let line = format!("step {} at {} us: {}", self.step, self.now_us, what());
            self.trace.push_back(line);
        }
    }

    /// Schedules the next event of a kind that occurs repeatedly in this world.
    fn schedule_next(&mut self, event: Event) {
        let every_us = match event {
            Event::Connect => self.plan.connect_us,
            Event::SendDatagram => self.plan.datagram_us,
            Event::Attack => self.plan.attack_us,
            Event::ChangeConfig => self.plan.change_us,
            Event::FailOver => self.plan.fail_over_us,
            Event::LoseSessions => self.plan.loss_us,
            Event::AdvanceClock => self.plan.jump_us,
            _ => 0,
        };
        if every_us > 0 && !self.settling {
            let at_us = self.now_us + self.random.between(1, 2 * every_us);
            self.schedule.add(at_us, event);
        }
    }

    /// Schedules a worker's next turn within `most_us` microseconds, unless one is scheduled earlier.
    fn turn_within(&mut self, worker: usize, most_us: u64) {
        let at_us = self.now_us + self.random.between(1, most_us);
        if at_us < self.turns_us[worker] {
            self.turns_us[worker] = at_us;
            self.schedule.add(at_us, Event::Turn(worker));
        }
    }

    /// Runs until `packets` packets were handled in all.
    pub(crate) fn run(&mut self, packets: u64) -> Result<(), String> {
        while self.packets() < packets && self.next()? {}
        Ok(())
    }

    /// Stops all faults and runs until every connection that must complete has completed.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.note(|| "faults stop".into());
        self.settling = true;
        let end_us = self.now_us + SETTLE_US;
        let mut recovered = false;
        while !recovered || self.hosts.unfinished() > 0 {
            if !recovered && self.balancer.is_settled() {
                self.recover();
                recovered = true;
            }
            if self.now_us > end_us {
                let left = self.hosts.unfinished();
                return Err(format!("{left} connections do not complete without faults"));
            }
            if !self.next()? {
                break;
            }
        }
        Ok(())
    }

    /// Restores and publishes all services.
    pub(crate) fn recover(&mut self) {
        self.balancer.config.recover(&mut self.random);
        self.publish();
    }

    /// Handles the next event; `false` if there is none.
    pub(crate) fn next(&mut self) -> Result<bool, String> {
        let Some(next) = self.schedule.next() else {
            return Ok(false);
        };
        self.now_us = self.now_us.max(next.at_us);
        self.step += 1;
        let mut out = Vec::new();
        match next.event {
            Event::ToBalancer(port, frame) => self.reach_balancer(port, frame),
            Event::ToHosts(port, frame) => self.reach_hosts(port, &frame, &mut out)?,
            Event::Turn(worker) if self.turns_us[worker] == next.at_us => self.turn(worker)?,
            Event::Turn(_) => {}
            Event::Wake(side) => self.wake(side, &mut out)?,
            Event::SendEpoch(worker) => self.balancer.send_epoch(worker),
            Event::ReleaseEpochs => self.balancer.release_epochs(),
            _ if self.settling => {}
            event => self.act(event, &mut out),
        }
        for (port, frame) in out {
            self.transmit(port, &frame, true);
        }
        Ok(true)
    }

    /// Handles an event that occurs repeatedly, and schedules the next one.
    fn act(&mut self, event: Event, out: &mut Vec<Departure>) {
        match &event {
            Event::Connect => {
                let now_us = self.now_us;
                let side = self
                    .hosts
                    .connect(&self.plan, now_us, &mut self.random, out);
                if let Some(side) = side {
                    self.schedule_wake(side);
                }
            }
            Event::SendDatagram => self.hosts.send_datagram(&self.plan, &mut self.random, out),
            Event::Attack => self.attack(out),
            Event::ChangeConfig => self.change(),
            Event::FailOver => {
                out.push(self.hosts.fail_over(&mut self.random));
                self.attackers.fail_overs += 1;
            }
            Event::LoseSessions => self.lose_sessions(),
            Event::AdvanceClock => self.advance_clock(),
            _ => {}
        }
        self.schedule_next(event);
    }

    fn attack(&mut self, out: &mut Vec<Departure>) {
        let Self {
            plan,
            hosts,
            seen,
            random,
            attackers,
            ..
        } = self;
        let what = match plan.transfers {
            Some(_) => attackers.attack(plan, hosts, seen, random, out),
            None => attack::attack(plan, hosts, seen, random, out),
        };
        self.note(|| what.into());
    }

    fn wake(&mut self, side: Side, out: &mut Vec<Departure>) -> Result<(), String> {
        let at_us = self.hosts.wake_at_us(side);
        if at_us.is_some_and(|at_us| at_us <= self.now_us) {
            self.note(|| format!("timeout at {side:?}"));
            self.hosts.wake(side, self.now_us, out)?;
            self.schedule_wake(side);
        }
        Ok(())
    }

    fn schedule_wake(&mut self, side: Side) {
        if let Some(at_us) = self.hosts.wake_at_us(side) {
            self.schedule
                .add(at_us.max(self.now_us + 1), Event::Wake(side));
        }
    }

    /// Makes a change: a gateway fails over, or the config changes if every worker adopted the last change.
    fn change(&mut self) {
        if self.random.chance(300) {
            let (port, announcement) = self.hosts.fail_over(&mut self.random);
            self.transmit(port, &announcement, true);
            return;
        }
        if !self.balancer.is_settled() {
            return;
        }
        let what = self.balancer.config.change(&mut self.random);
        self.note(|| what.into());
        self.publish();
        self.changes += 1;
    }

    /// Schedules sending each worker its epoch, and then releasing all epochs.
    fn publish(&mut self) {
        self.balancer.draft(&mut self.random);
        let mut at_us = self.now_us;
        for worker in 0..self.plan.workers {
            at_us += self.random.between(1, 2_000);
            self.schedule.add(at_us, Event::SendEpoch(worker));
        }
        self.schedule.add(at_us + 1, Event::ReleaseEpochs);
    }

    /// The balancer loses all sessions, or some. Other nodes' sessions are unknown to it in the same way.
    fn lose_sessions(&mut self) {
        let now = Now::from_start(Duration::from_micros(self.now_us));
        let chance = self.random.one(&[1_000, 500]);
        let random = &mut self.random;
        let lost = self.balancer.lose_sessions(now, || random.chance(chance));
        self.note(|| format!("{lost} sessions are lost"));
        self.lost += lost;
        let findings = self.oracle.forget_lost(&self.balancer);
        self.hosts.apply(&findings);
    }

    /// Advances time by a large step, as if the process had been stopped.
    fn advance_clock(&mut self) {
        let timeouts = self.plan.timeouts_s;
        let by_s = self.random.one(&timeouts) + self.random.below(2);
        let by_us = by_s * 1_000_000 * self.random.between(1, 12) / 10;
        self.note(|| format!("time advances by {by_us} us"));
        self.now_us += by_us;
    }

    /// Frames that the workers received.
    pub(crate) fn packets(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.received).sum()
    }

    /// A digest of all frames that left the balancer, and of its sessions and counters.
    pub(crate) fn digest(&self) -> u64 {
        let mut digest = self.digest.clone();
        for session in self.balancer.shared.sessions.iter() {
            format!("{session:?}").hash(&mut digest);
        }
        format!("{:?}", self.balancer.counters).hash(&mut digest);
        digest.finish()
    }

    pub(crate) fn tally(&self) -> Tally {
        let counters = &self.balancer.counters;
        let sum = |of: &dyn Fn(usize) -> u64| (0..counters.len()).map(of).sum();
        let dropped = |reason: &DropReason| sum(&|n| counters[n].dropped(*reason).get());
        Tally {
            packets: self.packets(),
            sessions: sum(&|n| counters[n].opened.get()),
            evicted: sum(&|n| counters[n].evicted.get()),
            expired: sum(&|n| counters[n].expired.get()),
            completed: self.hosts.completed,
            lost: self.lost,
            adopted: self.oracle.adopted,
            changes: self.changes,
            drops: DropReason::ALL.iter().map(dropped).collect(),
        }
    }
}

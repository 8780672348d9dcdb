//! The world: time, the network, and who acts when.
//!
//! Invariant: one event after the other, as `schedule` has them. So a seed tells the whole story, and a
//! step's number says where in it something happened.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, DefaultHasher};

use waxwing_dataplane::{DropReason, PortId};

use crate::attacker;
use crate::balancer::Balancer;
use crate::config::BACKENDS_MAX;
use crate::hosts::{Departure, Hosts, Side};
use crate::ledger::Ledger;
use crate::network::{brief, damage};
use crate::oracle::{Oracle, Turn, evictions};
use crate::plan::Plan;
use crate::random::Random;
use crate::schedule::{Event, Schedule};
use crate::siege::Attackers;
use crate::tally::Tally;
use crate::view::view;
use crate::wire::{Fate, Handled};

/// Frames of which an attacker may have copies.
const SEEN_MAX: usize = 32;
/// How long the world may take to come to rest when all is well again: so long that every pause
/// of an application is over, in microseconds.
const REST_US: u64 = 40_000 * 1_000_000;
/// The longest that an idle worker sleeps, in microseconds; and how often that doubles while it has
/// nothing to do, so that hours without a frame go by fast.
const IDLE_US: u64 = 20_000;
const IDLE_MAX: u32 = 6;
/// The last events, for who wants to know how it came to a failure.
const TRACE: usize = 60;

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
    /// When each worker's next turn is, and what its clock showed last.
    turns_us: Vec<u64>,
    clocks_us: Vec<u64>,
    /// How many turns in a row each worker had nothing to do.
    idle: Vec<u32>,
    seen: Vec<Departure>,
    /// Nothing goes wrong any more, and nothing begins.
    pub(crate) resting: bool,
    /// Those of a siege.
    pub(crate) attackers: Attackers,
    trace: VecDeque<String>,
    tracing: bool,
    changes: u64,
}

impl World {
    pub(crate) fn new(seed: u64, tracing: bool) -> Self {
        let mut random = Random::new(seed);
        let plan = Plan::new(&mut random);
        Self::of(plan, random, tracing)
    }

    /// A world under siege.
    pub(crate) fn besieged(seed: u64, corpus: &[Vec<u8>], tracing: bool) -> Self {
        let mut world = Self::of(Plan::siege(), Random::new(seed), tracing);
        world.attackers = Attackers::new(corpus.to_vec());
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
            oracle: Oracle::new(timeouts),
            ledgers: (0..plan.workers).map(|_| Ledger::default()).collect(),
            turns_us: vec![u64::MAX; plan.workers],
            clocks_us: vec![0; plan.workers],
            idle: vec![0; plan.workers],
            seen: Vec::new(),
            resting: false,
            attackers: Attackers::default(),
            trace: VecDeque::new(),
            tracing,
            changes: 0,
            plan,
        };
        for worker in 0..plan.workers {
            world.turn_within(worker, IDLE_US);
        }
        for event in [
            Event::Connect,
            Event::Ask,
            Event::Attack,
            Event::Change,
            Event::FailOver,
            Event::Jump,
        ] {
            world.again(event);
        }
        world
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn trace(&self) -> Vec<String> {
        self.trace.iter().cloned().collect()
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.tracing {
            if self.trace.len() == TRACE {
                self.trace.pop_front();
            }
            let line = format!("step {} at {} us: {}", self.step, self.now_us, what());
            self.trace.push_back(line);
        }
    }

    /// The next time that the same happens, if it happens in this world.
    fn again(&mut self, event: Event) {
        let every_us = match event {
            Event::Connect => self.plan.connect_us,
            Event::Ask => self.plan.datagram_us,
            Event::Attack => self.plan.attack_us,
            Event::Change => self.plan.change_us,
            Event::FailOver => self.plan.fail_over_us,
            Event::Jump => self.plan.jump_us,
            _ => 0,
        };
        if every_us > 0 && !self.resting {
            let at_us = self.now_us + self.random.between(1, 2 * every_us);
            self.schedule.add(at_us, event);
        }
    }

    /// A worker's next turn is at the latest after so long.
    fn turn_within(&mut self, worker: usize, most_us: u64) {
        let at_us = self.now_us + self.random.between(1, most_us);
        if at_us < self.turns_us[worker] {
            self.turns_us[worker] = at_us;
            self.schedule.add(at_us, Event::Turn(worker));
        }
    }

    /// Goes on until so many packets were handled in all.
    pub(crate) fn run(&mut self, packets: u64) -> Result<(), String> {
        while self.packets() < packets && self.next()? {}
        Ok(())
    }

    /// Lets the world come to rest: all is well from now on, and whoever was not harmed comes to a
    /// good end.
    pub(crate) fn rest(&mut self) -> Result<(), String> {
        self.note(|| "all is well from now on".into());
        self.resting = true;
        let end_us = self.now_us + REST_US;
        let mut mended = false;
        while !mended || self.hosts.unfinished() > 0 {
            if !mended && self.balancer.is_settled() {
                self.mend();
                mended = true;
            }
            if self.now_us > end_us {
                let left = self.hosts.unfinished();
                return Err(format!("{left} connections that nobody harmed never end"));
            }
            if !self.next()? {
                break;
            }
        }
        Ok(())
    }

    /// All services are well from now on.
    pub(crate) fn mend(&mut self) {
        self.balancer.config.mend(&mut self.random);
        self.publish();
    }

    /// The next event; `false` where there is none.
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
            Event::Wake(side) => {
                if self
                    .hosts
                    .wake_at_us(side)
                    .is_some_and(|at_us| at_us <= self.now_us)
                {
                    self.note(|| format!("{side:?} is woken"));
                    self.hosts.wake(side, self.now_us, &mut out)?;
                    self.schedule_wake(side);
                }
            }
            Event::Send(worker) => self.balancer.send(worker),
            Event::Release => self.balancer.release(),
            _ if self.resting => {}
            Event::Connect => {
                let now_us = self.now_us;
                let side = self
                    .hosts
                    .connect(&self.plan, now_us, &mut self.random, &mut out);
                if let Some(side) = side {
                    self.schedule_wake(side);
                }
                self.again(Event::Connect);
            }
            Event::Ask => {
                self.hosts.ask(&self.plan, &mut self.random, &mut out);
                self.again(Event::Ask);
            }
            Event::Attack => {
                let Self {
                    plan,
                    hosts,
                    seen,
                    random,
                    attackers,
                    ..
                } = self;
                let what = match plan.transfers {
                    Some(_) => attackers.attack(plan, hosts, seen, random, &mut out),
                    None => attacker::attack(plan, hosts, seen, random, &mut out),
                };
                self.note(|| what.into());
                self.again(Event::Attack);
            }
            Event::Change => {
                self.change();
                self.again(Event::Change);
            }
            Event::FailOver => {
                out.push(self.hosts.fail_over(&mut self.random));
                self.attackers.fail_overs += 1;
                self.again(Event::FailOver);
            }
            Event::Jump => {
                self.jump();
                self.again(Event::Jump);
            }
        }
        for (port, frame) in out {
            self.travel(port, &frame, true);
        }
        Ok(true)
    }

    fn schedule_wake(&mut self, side: Side) {
        if let Some(at_us) = self.hosts.wake_at_us(side) {
            self.schedule
                .add(at_us.max(self.now_us + 1), Event::Wake(side));
        }
    }

    /// A frame goes its way through the network: towards the balancer, or away from it.
    fn travel(&mut self, port: PortId, frame: &[u8], inwards: bool) {
        let network = self.plan.network;
        let well = self.resting;
        if !well && self.random.chance(network.lost) {
            return;
        }
        let copies = if !well && self.random.chance(network.doubled) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let mut copy = frame.to_vec();
            if inwards && !well && self.random.chance(network.damaged) {
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

    fn reach_balancer(&mut self, port: PortId, frame: Vec<u8>) {
        let worker = self.worker_for(&frame);
        if self.seen.len() < SEEN_MAX {
            self.seen.push((port, frame.clone()));
        } else if self.random.chance(20) {
            let at = self.random.index(SEEN_MAX);
            self.seen[at] = (port, frame.clone());
        }
        self.note(|| format!("to worker {worker} by {port:?}: {}", brief(&frame)));
        self.balancer.wire(worker).inject(port, frame);
        self.turn_within(worker, self.plan.turn_us);
    }

    /// As a network card spreads frames over its queues.
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

    fn reach_hosts(
        &mut self,
        port: PortId,
        frame: &[u8],
        out: &mut Vec<Departure>,
    ) -> Result<(), String> {
        let Some(view) = view(frame) else {
            return Ok(());
        };
        self.note(|| format!("to the hosts at {port:?}: {}", brief(frame)));
        self.hosts.sessions_hurry |= evictions(&self.balancer) > 0;
        let side = self
            .hosts
            .arrive(port, (frame, &view), self.now_us, &mut self.random, out)?;
        if let Some(side) = side {
            self.schedule_wake(side);
        }
        Ok(())
    }

    fn turn(&mut self, worker: usize) -> Result<(), String> {
        self.turns_us[worker] = u64::MAX;
        // Workers read their clocks apart: one may be late with what it took for now.
        let lag_us = self.random.below(200).min(self.now_us);
        let clock_us = self.clocks_us[worker].max(self.now_us - lag_us);
        self.clocks_us[worker] = clock_us;
        let limited = !self.resting && self.random.chance(5);
        let room = limited.then(|| self.random.index(8));
        let kernel_full = !self.resting && self.random.chance(5);
        let wire = self.balancer.wire(worker);
        wire.limit(room);
        wire.kernel_full = kernel_full;
        let now = self.balancer.turn(worker, clock_us);
        let (handled, own) = self.balancer.wire(worker).take()?;
        let turn = Turn {
            balancer: &self.balancer,
            worker,
            now,
            limited,
        };
        let told = self.oracle.check(&turn, &handled)?;
        self.hosts.hear(&told);
        let wire = self.balancer.wire(worker);
        let made = (
            wire.allocated,
            wire.refused_by_kernel,
            wire.released_to_kernel,
        );
        let drops = self.balancer.drops(worker);
        let counters = &self.balancer.counters[worker];
        self.ledgers[worker].check(counters, drops, made, (&handled, &own))?;
        self.idle[worker] = match handled.len() {
            0 => (self.idle[worker] + 1).min(IDLE_MAX),
            _ => 0,
        };
        self.note(|| format!("worker {worker} handled {} frames", handled.len()));
        for Handled { fates, .. } in handled {
            for fate in fates {
                if let Fate::Sent(port, frame) = fate {
                    self.travel(port, &frame, false);
                }
            }
        }
        if self.balancer.wire(worker).is_waiting() {
            self.turn_within(worker, self.plan.turn_us);
        } else {
            self.turn_within(worker, IDLE_US << self.idle[worker]);
        }
        Ok(())
    }

    /// The operator changes something, if every worker has taken up the last change.
    fn change(&mut self) {
        if self.random.chance(300) {
            let (port, announcement) = self.hosts.fail_over(&mut self.random);
            self.travel(port, &announcement, true);
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

    /// Each worker is sent its epoch, one after the other; then all may take theirs up.
    fn publish(&mut self) {
        self.balancer.draft(&mut self.random);
        let mut at_us = self.now_us;
        for worker in 0..self.plan.workers {
            at_us += self.random.between(1, 2_000);
            self.schedule.add(at_us, Event::Send(worker));
        }
        self.schedule.add(at_us + 1, Event::Release);
    }

    /// Nothing happens for a long time, or the process stood still.
    fn jump(&mut self) {
        let timeouts = self.plan.timeouts_s;
        let by_s = self.random.one(&timeouts) + self.random.below(2);
        let by_us = by_s * 1_000_000 * self.random.between(1, 12) / 10;
        self.note(|| format!("{by_us} us go by"));
        self.now_us += by_us;
    }

    pub(crate) fn packets(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.received).sum()
    }

    pub(crate) fn tally(&self) -> Tally {
        let counters = &self.balancer.counters;
        let sum = |of: &dyn Fn(usize) -> u64| (0..counters.len()).map(of).sum();
        let dropped = |reason: &DropReason| sum(&|n| counters[n].dropped(*reason).get());
        let ids = || (0..BACKENDS_MAX as u32).map(waxwing_dataplane::BackendId);
        Tally {
            packets: self.packets(),
            sessions: sum(&|n| ids().map(|id| counters[n].backend(id).sessions.get()).sum()),
            evicted: sum(&|n| counters[n].evicted.get()),
            expired: sum(&|n| counters[n].expired.get()),
            completed: self.hosts.completed,
            changes: self.changes,
            drops: DropReason::ALL.iter().map(dropped).collect(),
        }
    }
}

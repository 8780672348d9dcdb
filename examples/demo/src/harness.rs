//! The parts that run during the demo: the load, the balancer, and the view.
//!
//! Invariant: every sample of the load counts once in the total and in at most one phase.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::load::Sample;
use waxwing_tests::topology::VIP4;
use waxwing_tests::{Load, Status, Tally, Topology, Waxwing};

use crate::report::{Bounds, Phase, Shares};
use crate::view::{Numbers, View};

/// Queues of each of the balancer's ports, and thus its number of workers.
pub(crate) const QUEUES: u32 = 2;
/// Concurrent clients.
const CLIENTS: u32 = 16;
/// Requests per second: low enough for two CPUs that also run the network, so that latencies show the
/// balancer and not a queue.
const RATE: u32 = 1000;
/// The time between two updates of the view.
const UPDATE_EVERY: Duration = Duration::from_millis(100);
/// The time between two status queries.
const STATUS_EVERY: Duration = Duration::from_millis(500);
/// The samples that the live numbers cover.
const WINDOW: usize = 10;
/// The longest time until a change takes effect.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The running parts. Fields are dropped in order: the view first, which restores the terminal before the
/// balancer's log may be printed.
pub(crate) struct Harness<'a> {
    view: View,
    pub(crate) waxwing: Waxwing<'a>,
    load: RunningLoad,
    total: Tally,
    phase: Tally,
    recent: VecDeque<Sample>,
    status: Status,
    status_due: Instant,
}

impl<'a> Harness<'a> {
    /// Starts the load.
    pub(crate) fn new(topology: &'a Topology, waxwing: Waxwing<'a>, view: View) -> Result<Self> {
        let load = Load {
            clients: CLIENTS,
            rate: RATE,
            interval: UPDATE_EVERY,
            // `close` stops it earlier.
            ..connections(VIP4, 80, Duration::from_secs(7200))
        };
        Ok(Self {
            view,
            load: RunningLoad::start(&topology.client, load)?,
            status: waxwing.status()?,
            waxwing,
            total: Tally::default(),
            phase: Tally::default(),
            recent: VecDeque::new(),
            status_due: Instant::now(),
        })
    }

    /// Announces what happens next.
    pub(crate) fn announce(&mut self, line: &str) {
        self.view.announce(line);
    }

    /// The hash of the serving module.
    pub(crate) fn module(&mut self) -> Result<String> {
        let status = self.waxwing.status()?;
        let hash = status.module_hash("round_robin").map(str::to_owned);
        hash.with_context(|| format!("the status has no module round_robin: {status}"))
    }

    /// Keeps the view up to date for some time.
    pub(crate) fn wait(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step()?;
        }
        Ok(())
    }

    /// Keeps the view up to date until the status satisfies a condition.
    ///
    /// # Errors
    /// The condition does not hold in time; or as [`Harness::wait`].
    pub(crate) fn wait_until(
        &mut self,
        what: &str,
        is_met: impl Fn(&Status) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + TIMEOUT;
        self.status_due = Instant::now();
        loop {
            self.step()?;
            if is_met(&self.status) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{what} did not happen within {TIMEOUT:?}"
            );
        }
    }

    /// Measures a phase and checks its shares.
    pub(crate) fn measure(
        &mut self,
        name: &'static str,
        policy: &'static str,
        expected: Shares,
        time: Duration,
    ) -> Result<Phase> {
        // Samples until now belong to the time before the phase.
        self.collect()?;
        self.phase = Tally::default();
        self.wait(time)?;
        let module = self.module()?;
        let bounds = Bounds {
            clients: CLIENTS,
            workers: QUEUES,
        };
        let seconds = time.as_secs_f64();
        Ok(Phase::new(
            name,
            policy,
            expected,
            module,
            seconds,
            &self.phase,
            bounds,
        ))
    }

    /// Stops the load and the balancer. Returns the total, and whether both stopped regularly.
    pub(crate) fn close(self) -> (Tally, Result<()>) {
        let Self {
            view,
            waxwing,
            mut load,
            total,
            ..
        } = self;
        let recorded = view.close();
        // Includes the samples after the last step.
        let counted = load.stop().and_then(|()| load.finish());
        let stopped = waxwing.stop().map(drop).and(recorded);
        match counted {
            Ok(all) => (all, stopped),
            Err(error) => (total, Err(error)),
        }
    }

    /// Collects samples and updates the view once.
    fn step(&mut self) -> Result<()> {
        let start = Instant::now();
        self.collect()?;
        ensure!(!self.load.has_ended()?, "the load generator exited");
        if start >= self.status_due {
            self.status = self.waxwing.status()?;
            self.status_due = start + STATUS_EVERY;
        }
        let mut recent = Tally::default();
        self.recent.iter().for_each(|sample| recent.add(sample));
        let seconds = UPDATE_EVERY.as_secs_f64() * self.recent.len().max(1) as f64;
        self.view.show(&Numbers {
            recent: &recent,
            recent_seconds: seconds,
            total: &self.total,
            status: &self.status,
        })?;
        thread::sleep(UPDATE_EVERY.saturating_sub(start.elapsed()));
        Ok(())
    }

    fn collect(&mut self) -> Result<()> {
        for sample in self.load.take_samples()? {
            self.total.add(&sample);
            self.phase.add(&sample);
            self.recent.push_back(sample);
        }
        while self.recent.len() > WINDOW {
            self.recent.pop_front();
        }
        Ok(())
    }
}

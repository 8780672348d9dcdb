//! What runs while the story is told: the load, the balancer, and the view that shows them.
//!
//! Invariant: every sample of the load is counted once in the total, and in at most one phase.

use std::collections::VecDeque;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::load::Sample;
use waxwing_tests::topology::VIP4;
use waxwing_tests::{Load, Status, Tally, Topology, Waxwing};

use crate::report::{Phase, Shares, Slack};
use crate::view::{Picture, View};

/// Queues of the balancer's ports, and so its workers.
pub(crate) const QUEUES: u32 = 2;
/// Clients at once.
const CLIENTS: u32 = 16;
/// Requests per second: below what two processors can do with the rest of the network, so that
/// latency shows the balancer and not a queue.
const RATE: u32 = 1000;
/// Between two pictures.
const FRAME: Duration = Duration::from_millis(100);
/// Between two looks at the status.
const STATUS_EVERY: Duration = Duration::from_millis(500);
/// How much of the past the live numbers are of, in samples.
const WINDOW: usize = 10;
/// The longest that a change may take to come into effect.
const PATIENCE: Duration = Duration::from_secs(20);

/// The running parts. Fields are dropped in order: the view first, so that the terminal is itself
/// again when the balancer's log may be printed.
pub(crate) struct Stage<'a> {
    view: View,
    /// The balancer.
    pub(crate) waxwing: Waxwing<'a>,
    load: RunningLoad,
    total: Tally,
    phase: Tally,
    recent: VecDeque<Sample>,
    status: Status,
    status_due: Instant,
}

impl<'a> Stage<'a> {
    /// Starts the load.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn new(topology: &'a Topology, waxwing: Waxwing<'a>, view: View) -> Result<Self> {
        let load = Load {
            clients: CLIENTS,
            rate: RATE,
            interval: FRAME,
            // The story stops it when it is told.
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

    /// Says what happens now.
    pub(crate) fn say(&mut self, line: &str) {
        self.view.say(line);
    }

    /// The hash of the module in use.
    ///
    /// # Errors
    /// The balancer does not answer.
    pub(crate) fn module(&mut self) -> Result<String> {
        let status = self.waxwing.status()?;
        let hash = status.module_hash("round_robin").map(str::to_owned);
        hash.with_context(|| format!("no module round_robin in {status}"))
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// The load or the balancer ended.
    pub(crate) fn play(&mut self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.step()?;
        }
        Ok(())
    }

    /// Lets time pass until the status is as wanted.
    ///
    /// # Errors
    /// It does not come to be; or as [`Stage::play`].
    pub(crate) fn play_until(&mut self, what: &str, is: impl Fn(&Status) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        self.status_due = Instant::now();
        loop {
            self.step()?;
            if is(&self.status) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "waited {PATIENCE:?} for {what} in vain"
            );
        }
    }

    /// Lets time pass, measured, and judges what was seen.
    ///
    /// # Errors
    /// As [`Stage::play`].
    pub(crate) fn measure(
        &mut self,
        name: &'static str,
        policy: &'static str,
        expected: Shares,
        time: Duration,
    ) -> Result<Phase> {
        // What came until now belongs to the time before.
        self.collect()?;
        self.phase = Tally::default();
        self.play(time)?;
        let module = self.module()?;
        let slack = Slack {
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
            slack,
        ))
    }

    /// Ends the load and the balancer. Returns all that was counted, and whether they ended well.
    pub(crate) fn close(self) -> (Tally, Result<()>) {
        let Self {
            view,
            waxwing,
            mut load,
            total,
            ..
        } = self;
        let recorded = view.close();
        // Every sample, the last ones too, which came after the last step.
        let counted = load.stop().and_then(|()| load.finish());
        let ended = waxwing.stop().map(drop).and(recorded);
        match counted {
            Ok(all) => (all, ended),
            Err(error) => (total, Err(error)),
        }
    }

    fn step(&mut self) -> Result<()> {
        let begun = Instant::now();
        self.collect()?;
        ensure!(
            !self.load.has_ended()?,
            "the load generator ended by itself"
        );
        if begun >= self.status_due {
            self.status = self.waxwing.status()?;
            self.status_due = begun + STATUS_EVERY;
        }
        let mut recent = Tally::default();
        self.recent.iter().for_each(|sample| recent.add(sample));
        let seconds = FRAME.as_secs_f64() * self.recent.len().max(1) as f64;
        self.view.show(&Picture {
            recent: &recent,
            recent_seconds: seconds,
            total: &self.total,
            status: &self.status,
        })?;
        thread::sleep(FRAME.saturating_sub(begun.elapsed()));
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

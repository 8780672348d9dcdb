//! Runs a policy under traffic, in virtual time: sessions arrive at a rate, live and end; backends
//! are slow, fail, come and go.
//!
//! Invariant: every session is half-open, then open, then closing and reported to the policy, as the host
//! counts it; or its backend was removed. Equal inputs give equal results.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::flows::flow;
use super::{Driver, disruption, fairness, overload};
use crate::abi::{BATCH_MAX, BackendRecord, ClosedRecord, END_CLOSED, END_REFUSED, LiveRecord};
use crate::random::Random;
use crate::{ConfigError, Pick, Policy, hash};

/// How long sessions live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durations {
    /// All the same, in milliseconds.
    Fixed(u64),
    /// Exponentially distributed, with this mean in milliseconds.
    Exponential(u64),
    /// Mostly short: `long_percent` of the sessions have the mean `long_ms` and the others
    /// `short_ms`, exponentially distributed.
    Mixed {
        /// Mean of the short ones, in milliseconds.
        short_ms: u64,
        /// Mean of the long ones, in milliseconds.
        long_ms: u64,
        /// Percentage of long ones.
        long_percent: u64,
    },
}

impl Durations {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "milliseconds of a test, which are few and not negative"
    )]
    fn draw(self, random: &mut Random) -> u64 {
        let mean = match self {
            Self::Fixed(ms) => return ms,
            Self::Exponential(mean) => mean,
            Self::Mixed {
                long_ms,
                long_percent,
                ..
            } if random.below(100) < long_percent => long_ms,
            Self::Mixed { short_ms, .. } => short_ms,
        };
        (mean as f64 * hash::minus_ln(random.next())) as u64
    }
}

/// What happened to one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendStats {
    /// Sessions that the policy sent to it, including refused ones.
    pub sessions: usize,
    /// Sessions that it refused.
    pub refused: usize,
    /// Most active and half-open sessions that it had at once.
    pub load_max: u32,
    /// Total lifetime of its ended sessions, in milliseconds: its load over time.
    pub session_ms: usize,
}

/// A live session.
struct Session {
    backend: u32,
    began_ms: u64,
    end: u32,
}

/// A backend's moving averages.
#[derive(Default)]
struct Rate {
    /// Sessions at the last update.
    sessions: u64,
    /// The latest ones, older ones weighted less.
    samples: f64,
}

/// A policy with traffic for it and servers behind it.
///
/// ```
/// use waxwing_sdk::testing::{self, Durations, Simulator};
/// # use waxwing_sdk::{Backend, Backends, ConfigError, Flow, NoConfig, Pick, Policy};
/// # struct Fewest;
/// # impl Policy for Fewest {
/// #     type Config = NoConfig;
/// #     fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, ConfigError> { Ok(Self) }
/// #     fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
/// #         backends.available().min_by_key(Backend::load).into()
/// #     }
/// # }
///
/// let mut simulator = Simulator::<Fewest>::start("{}", &testing::backends(&[1, 1, 1]), 7)?;
/// simulator.sessions_per_s = 1000;
/// simulator.durations = Durations::Exponential(200);
/// simulator.run(5_000);
/// assert!(simulator.fairness() > 0.99);
///
/// // The second server begins to refuse every tenth session, the third goes.
/// simulator.backends_mut()[1].failures_ppm = 100_000;
/// let mut backends = simulator.backends_mut().to_vec();
/// backends.pop();
/// simulator.set_backends(&backends)?;
/// simulator.reset();
/// simulator.run(5_000);
/// assert!(simulator.stats(1).refused > 200);
/// assert_eq!(simulator.stats(2).sessions, 0);
/// # Ok::<(), waxwing_sdk::ConfigError>(())
/// ```
pub struct Simulator<P: Policy> {
    /// New sessions per second; 100 at the start.
    pub sessions_per_s: u64,
    /// Lifetime of new sessions; one second at the start.
    pub durations: Durations,
    /// How long ended sessions are closing, in milliseconds (`timeouts.tcp_closing`); 240 s at the start.
    pub closing_ms: u64,
    driver: Driver<P>,
    config: String,
    seed: u64,
    random: Random,
    now_ms: u64,
    /// Thousandths of a session that are due.
    due: u64,
    /// Number of flows so far.
    flows: u64,
    /// By end time in milliseconds, then by flow number.
    live: BTreeMap<(u64, u64), Session>,
    /// Backends of half-open sessions, by the time at which these open.
    opening: BTreeMap<(u64, u64), u32>,
    /// Backends of closing sessions, by the time at which these are removed.
    closing: BTreeMap<(u64, u64), u32>,
    /// By backend.
    rates: BTreeMap<u32, Rate>,
    stats: BTreeMap<u32, BackendStats>,
    unserved: usize,
}

impl<P: Policy> Simulator<P> {
    /// Bytes per millisecond that a session transfers.
    pub const BYTES_PER_MS: u64 = 1000;

    /// Makes the policy, like [`Driver::start`].
    ///
    /// # Errors
    /// As [`Driver::start`].
    pub fn start(config: &str, backends: &[BackendRecord], seed: u64) -> Result<Self, ConfigError> {
        Ok(Self {
            sessions_per_s: 100,
            durations: Durations::Fixed(1000),
            closing_ms: 240_000,
            driver: Driver::start(config, backends, seed)?,
            config: config.into(),
            seed,
            // Independent of the policy's random numbers, which follow from `seed`.
            random: Random::new(!seed),
            now_ms: 0,
            due: 0,
            flows: 0,
            live: BTreeMap::new(),
            opening: BTreeMap::new(),
            closing: BTreeMap::new(),
            rates: BTreeMap::new(),
            stats: BTreeMap::new(),
            unserved: 0,
        })
    }

    /// Advances the time. In each millisecond, due sessions end, the policy gets its tick if it is
    /// due, and new sessions arrive.
    ///
    /// # Panics
    /// Panics if the policy panics.
    pub fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.now_ms += 1;
            self.driver.host_mut().now_ms = self.now_ms;
            self.open_sessions();
            self.end_sessions();
            self.forget_sessions();
            if self.now_ms % 1000 == 0 {
                self.update_rates();
            }
            if P::TICK_MS > 0 && self.now_ms % u64::from(P::TICK_MS) == 0 {
                self.driver.tick(0);
            }
            self.begin_sessions();
        }
    }

    fn open_sessions(&mut self) {
        while let Some((_, backend)) = pop_due(&mut self.opening, self.now_ms) {
            if let Some(at) = self.index(backend) {
                self.driver.open(at);
            }
        }
    }

    fn forget_sessions(&mut self) {
        while let Some((_, backend)) = pop_due(&mut self.closing, self.now_ms) {
            if let Some(at) = self.index(backend) {
                self.driver.forget(at);
            }
        }
    }

    /// Updates the moving averages, once a second, as the host does.
    fn update_rates(&mut self) {
        const KEEP: f64 = 5.0 / 6.0;
        for at in 0..self.driver.live_mut().len() {
            let sessions = self.driver.live_mut()[at].sessions;
            let id = self.driver.backends_mut()[at].id;
            let rate = self.rates.entry(id).or_default();
            let new = u32::try_from(sessions - rate.sessions).unwrap_or(u32::MAX);
            rate.sessions = sessions;
            rate.samples = KEEP * rate.samples + f64::from(new);
            self.driver.live_mut()[at].failure_samples = whole(rate.samples);
            // The weights of all seconds, as samples have them, add up to 1 / (1 - KEEP).
            self.driver.backends_mut()[at].sessions_per_s = whole((1.0 - KEEP) * rate.samples);
        }
    }

    fn end_sessions(&mut self) {
        while let Some(((ends_ms, number), session)) = pop_due(&mut self.live, self.now_ms) {
            let duration_ms = ends_ms - session.began_ms;
            let Some(at) = self.index(session.backend) else {
                continue;
            };
            self.stats_mut(session.backend).session_ms += as_usize(duration_ms);
            self.driver.end(ClosedRecord {
                duration_ms,
                bytes: duration_ms * Self::BYTES_PER_MS,
                backend: u32::try_from(at).unwrap_or(u32::MAX),
                end: session.end,
                ..ClosedRecord::default()
            });
            let forget_ms = self.now_ms + self.closing_ms;
            self.closing.insert((forget_ms, number), session.backend);
        }
    }

    fn begin_sessions(&mut self) {
        self.due += self.sessions_per_s;
        let first = self.flows;
        self.flows += self.due / 1000;
        self.due %= 1000;
        let numbers: Vec<_> = (first..self.flows).collect();
        for batch in numbers.chunks(BATCH_MAX) {
            let flows: Vec<_> = batch.iter().map(|n| flow(self.seed, *n)).collect();
            for (number, pick) in batch.iter().zip(self.driver.pick(&flows)) {
                match pick {
                    Pick::Backend(at) | Pick::Keep(at) => self.begin(*number, at),
                    Pick::Drop | Pick::Fallback => self.unserved += 1,
                }
            }
        }
        self.open_sessions();
    }

    /// Starts a session. It is half-open as long as connecting takes, and then lives; a refused one ends
    /// after connecting.
    fn begin(&mut self, number: u64, at: usize) {
        let backend = self.driver.backends_mut()[at];
        let refused = self.random.below(1_000_000) < u64::from(backend.failures_ppm);
        let served_ms = if refused {
            0
        } else {
            self.durations.draw(&mut self.random)
        };
        let opens_ms = self.now_ms + u64::from(backend.latency_us) / 1000;
        let ends_ms = (opens_ms + served_ms).max(self.now_ms + 1);
        let load = self.driver.loads()[at];
        let stats = self.stats_mut(backend.id);
        stats.sessions += 1;
        stats.refused += usize::from(refused);
        stats.load_max = stats.load_max.max(load);
        let session = Session {
            backend: backend.id,
            began_ms: self.now_ms,
            end: if refused { END_REFUSED } else { END_CLOSED },
        };
        self.live.insert((ends_ms, number), session);
        if !refused {
            self.opening.insert((opens_ms, number), backend.id);
        }
    }

    /// Returns the backend records. Set `latency_us`, `failures_ppm` and `signals` here: sessions
    /// then take that long to connect and fail that often, and the policy sees the values. Make
    /// other changes with [`Simulator::set_backends`].
    pub fn backends_mut(&mut self) -> &mut [BackendRecord] {
        self.driver.backends_mut()
    }

    /// Writes new backend records and notifies the policy. Backends that stay, by id, keep their
    /// sessions; the sessions of removed ones are dropped.
    ///
    /// # Errors
    /// As [`Driver::set_backends`].
    pub fn set_backends(&mut self, backends: &[BackendRecord]) -> Result<(), ConfigError> {
        let stays = |id: u32| backends.iter().any(|backend| backend.id == id);
        self.live.retain(|_, session| stays(session.backend));
        self.opening.retain(|_, backend| stays(*backend));
        self.closing.retain(|_, backend| stays(*backend));
        self.rates.retain(|id, _| stays(*id));
        self.driver.set_backends(backends)
    }

    /// Resets the statistics; live sessions stay.
    pub fn reset(&mut self) {
        self.stats.clear();
        self.unserved = 0;
    }

    /// Returns the statistics of the backend with this id.
    #[must_use]
    pub fn stats(&self, id: u32) -> BackendStats {
        self.stats.get(&id).copied().unwrap_or_default()
    }

    /// Returns each backend's active and half-open sessions.
    #[must_use]
    pub fn loads(&self) -> Vec<u32> {
        self.driver.loads()
    }

    /// Returns the live records, at the indices of the backend records.
    pub fn live_mut(&mut self) -> &mut [LiveRecord] {
        self.driver.live_mut()
    }

    /// Returns the number of flows that the policy dropped or left to the host.
    #[must_use]
    pub const fn unserved(&self) -> usize {
        self.unserved
    }

    /// Returns the policy's counters, then its gauges.
    #[must_use]
    pub const fn counters(&self) -> &[u64] {
        self.driver.counters()
    }

    /// Returns the [`overload`] of the backends' session counts.
    pub fn overload(&mut self) -> f64 {
        let (counts, weights) = self.shares(|stats| stats.sessions);
        overload(&counts, &weights)
    }

    /// Returns the [`fairness`] of the backends' session counts.
    pub fn fairness(&mut self) -> f64 {
        let (counts, weights) = self.shares(|stats| stats.sessions);
        fairness(&counts, &weights)
    }

    /// Returns the [`fairness`] of the backends' total session time, so of load.
    pub fn fairness_over_time(&mut self) -> f64 {
        let (counts, weights) = self.shares(|stats| stats.session_ms);
        fairness(&counts, &weights)
    }

    /// Returns the fraction of live sessions that a newly started balancer would send to another
    /// backend: the [`disruption`] of a failover to a balancer without their state.
    ///
    /// # Errors
    /// As [`Driver::start`].
    ///
    /// # Panics
    /// Panics if the policy panics.
    pub fn disruption(&mut self) -> Result<f64, ConfigError> {
        let backends = self.driver.backends_mut().to_vec();
        let mut other = Driver::<P>::start(&self.config, &backends, !self.seed)?;
        let flows = self.live.keys().map(|(_, number)| flow(self.seed, *number));
        let picks = other.pick_all(flows);
        let ours = self
            .live
            .values()
            .filter_map(|session| index(&backends, session.backend));
        let ours: Vec<_> = ours.map(Pick::Backend).collect();
        Ok(disruption((&ours, &backends), (&picks, &backends)))
    }

    fn shares(&mut self, of: impl Fn(BackendStats) -> usize) -> (Vec<usize>, Vec<u32>) {
        let backends = self.driver.backends_mut().to_vec();
        let share = |backend: &BackendRecord| (of(self.stats(backend.id)), backend.weight);
        backends.iter().map(share).unzip()
    }

    fn index(&mut self, id: u32) -> Option<usize> {
        index(self.driver.backends_mut(), id)
    }

    fn stats_mut(&mut self, id: u32) -> &mut BackendStats {
        self.stats.entry(id).or_default()
    }
}

/// Removes and returns the first entry whose time has come.
fn pop_due<V>(queue: &mut BTreeMap<(u64, u64), V>, now_ms: u64) -> Option<((u64, u64), V)> {
    let entry = queue
        .first_entry()
        .filter(|entry| entry.key().0 <= now_ms)?;
    Some(entry.remove_entry())
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the value is not negative, and the cast saturates"
)]
fn whole(value: f64) -> u32 {
    (value + 0.5) as u32
}

fn index(backends: &[BackendRecord], id: u32) -> Option<usize> {
    backends.iter().position(|backend| backend.id == id)
}

fn as_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;

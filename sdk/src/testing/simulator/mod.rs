//! A policy under traffic, in virtual time: sessions begin at a rate, live, end; backends are slow,
//! fail, come and go.
//!
//! Invariant: each session that began is alive, or ended and told to the policy, or its backend was
//! taken away; the same numbers in give the same numbers out.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::flows::flow;
use super::{Driver, disruption, fairness, overload};
use crate::abi::{BATCH_MAX, BackendRecord, ClosedRecord, END_CLOSED, END_REFUSED};
use crate::random::Random;
use crate::{Pick, Policy, hash};

/// How long sessions live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durations {
    /// All alike, in milliseconds.
    Fixed(u64),
    /// Exponentially distributed, with this mean in milliseconds.
    Exponential(u64),
    /// Most are short and a few are long: `long_percent` of them have a mean of `long_ms`, the others
    /// of `short_ms`, exponentially distributed.
    Mixed {
        /// Mean of the short ones.
        short_ms: u64,
        /// Mean of the long ones.
        long_ms: u64,
        /// How many of a hundred are long.
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

/// What one backend got, by its id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Sessions that the policy sent to it, those that it refused too.
    pub sessions: usize,
    /// Sessions that it refused.
    pub refused: usize,
    /// The most that it had at a time.
    pub active_max: u32,
    /// The time that all its sessions that ended have lived together: its load over time.
    pub session_ms: usize,
}

/// A session that lives.
struct Session {
    backend: u32,
    began_ms: u64,
    end: u32,
}

/// A policy, traffic for it and servers behind it.
///
/// ```
/// use waxwing_sdk::testing::{self, Durations, Simulator};
/// # use waxwing_sdk::{Backend, Backends, Flow, NoConfig, Pick, Policy};
/// # struct Fewest;
/// # impl Policy for Fewest {
/// #     type Config = NoConfig;
/// #     fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, String> { Ok(Self) }
/// #     fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
/// #         backends.available().min_by_key(Backend::active).into()
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
/// assert!(simulator.tally(1).refused > 200);
/// assert_eq!(simulator.tally(2).sessions, 0);
/// # Ok::<(), String>(())
/// ```
pub struct Simulator<P: Policy> {
    /// New sessions a second; 100 at first.
    pub sessions_per_s: u64,
    /// How long they live; a second each at first.
    pub durations: Durations,
    driver: Driver<P>,
    config: String,
    seed: u64,
    random: Random,
    now_ms: u64,
    /// Parts of a session that are due, in thousandths.
    due: u64,
    /// How many flows there were.
    flows: u64,
    /// By when they end, and by the number of their flow.
    live: BTreeMap<(u64, u64), Session>,
    tallies: BTreeMap<u32, Tally>,
    unserved: usize,
}

impl<P: Policy> Simulator<P> {
    /// Sessions move this many bytes a millisecond.
    pub const BYTES_PER_MS: u64 = 1000;

    /// Makes the policy, as [`Driver::start`] does.
    ///
    /// # Errors
    /// As [`Driver::start`].
    pub fn start(config: &str, backends: &[BackendRecord], seed: u64) -> Result<Self, String> {
        Ok(Self {
            sessions_per_s: 100,
            durations: Durations::Fixed(1000),
            driver: Driver::start(config, backends, seed)?,
            config: config.into(),
            seed,
            // Not the numbers that the policy draws: they would go together.
            random: Random::new(!seed),
            now_ms: 0,
            due: 0,
            flows: 0,
            live: BTreeMap::new(),
            tallies: BTreeMap::new(),
            unserved: 0,
        })
    }

    /// Lets so many milliseconds pass: in each, sessions end, the policy has its tick if it is time,
    /// and new sessions begin.
    ///
    /// # Panics
    /// If the policy panics.
    pub fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.now_ms += 1;
            self.driver.host().now_ms = self.now_ms;
            self.end_sessions();
            if P::TICK_MS > 0 && self.now_ms % u64::from(P::TICK_MS) == 0 {
                self.driver.tick(0);
            }
            self.begin_sessions();
        }
    }

    fn end_sessions(&mut self) {
        while let Some(entry) = self.live.first_entry() {
            let (ends_ms, _) = *entry.key();
            if ends_ms > self.now_ms {
                return;
            }
            let session = entry.remove();
            let duration_ms = ends_ms - session.began_ms;
            let Some(at) = self.index(session.backend) else {
                continue;
            };
            self.tally_mut(session.backend).session_ms += as_usize(duration_ms);
            self.driver.end(ClosedRecord {
                duration_ms,
                bytes: duration_ms * Self::BYTES_PER_MS,
                backend: u32::try_from(at).unwrap_or(u32::MAX),
                end: session.end,
                ..ClosedRecord::default()
            });
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
    }

    /// A session lives as long as connecting takes and then its own time, or is refused once it
    /// tried to connect.
    fn begin(&mut self, number: u64, at: usize) {
        let backend = self.driver.backends_mut()[at];
        let refused = self.random.below(1_000_000) < u64::from(backend.failures_ppm);
        let served_ms = if refused {
            0
        } else {
            self.durations.draw(&mut self.random)
        };
        let ends_ms = self.now_ms + (u64::from(backend.latency_us) / 1000 + served_ms).max(1);
        let tally = self.tally_mut(backend.id);
        tally.sessions += 1;
        tally.refused += usize::from(refused);
        tally.active_max = tally.active_max.max(backend.active);
        let session = Session {
            backend: backend.id,
            began_ms: self.now_ms,
            end: if refused { END_REFUSED } else { END_CLOSED },
        };
        self.live.insert((ends_ms, number), session);
    }

    /// The backend records. Set `latency_us`, `failures_ppm` and `signals` here: sessions then take as
    /// long to connect and fail as often, and the policy sees it. Other changes are for
    /// [`Simulator::set_backends`].
    pub fn backends_mut(&mut self) -> &mut [BackendRecord] {
        self.driver.backends_mut()
    }

    /// Writes the backends anew and tells the policy. Those that stay, by id, keep their sessions; the
    /// sessions of those that go are forgotten.
    ///
    /// # Errors
    /// As [`Driver::set_backends`].
    pub fn set_backends(&mut self, backends: &[BackendRecord]) -> Result<(), String> {
        let stays = |id| backends.iter().any(|backend| backend.id == id);
        self.live.retain(|_, session| stays(session.backend));
        let mut backends = backends.to_vec();
        for backend in &mut backends {
            let of_it = self
                .live
                .values()
                .filter(|session| session.backend == backend.id);
            backend.active = u32::try_from(of_it.count()).unwrap_or(u32::MAX);
            backend.active_here = backend.active;
        }
        self.driver.set_backends(&backends)
    }

    /// Forgets what was counted so far; sessions live on.
    pub fn reset(&mut self) {
        self.tallies.clear();
        self.unserved = 0;
    }

    /// What the backend with this id got.
    #[must_use]
    pub fn tally(&self, id: u32) -> Tally {
        self.tallies.get(&id).copied().unwrap_or_default()
    }

    /// Flows that the policy dropped, or left to the host.
    #[must_use]
    pub const fn unserved(&self) -> usize {
        self.unserved
    }

    /// The policy's own counters.
    #[must_use]
    pub const fn counters(&self) -> &[u64] {
        self.driver.counters()
    }

    /// [`overload`] by the sessions that each backend got.
    pub fn overload(&mut self) -> f64 {
        let (counts, weights) = self.shares(|tally| tally.sessions);
        overload(&counts, &weights)
    }

    /// [`fairness`] by the sessions that each backend got.
    pub fn fairness(&mut self) -> f64 {
        let (counts, weights) = self.shares(|tally| tally.sessions);
        fairness(&counts, &weights)
    }

    /// [`fairness`] by the time that each backend's sessions lived: of load, not of numbers.
    pub fn fairness_over_time(&mut self) -> f64 {
        let (counts, weights) = self.shares(|tally| tally.session_ms);
        fairness(&counts, &weights)
    }

    /// The part of the living sessions that a balancer which starts now would send to another
    /// backend: [`disruption`] of a failover to one that knows none of them.
    ///
    /// # Errors
    /// As [`Driver::start`].
    ///
    /// # Panics
    /// If the policy panics.
    pub fn disruption(&mut self) -> Result<f64, String> {
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

    fn shares(&mut self, of: impl Fn(Tally) -> usize) -> (Vec<usize>, Vec<u32>) {
        let backends = self.driver.backends_mut().to_vec();
        let share = |backend: &BackendRecord| (of(self.tally(backend.id)), backend.weight);
        backends.iter().map(share).unzip()
    }

    fn index(&mut self, id: u32) -> Option<usize> {
        index(self.driver.backends_mut(), id)
    }

    fn tally_mut(&mut self, id: u32) -> &mut Tally {
        self.tallies.entry(id).or_default()
    }
}

fn index(backends: &[BackendRecord], id: u32) -> Option<usize> {
    backends.iter().position(|backend| backend.id == id)
}

fn as_usize(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;

//! The time of a pick by batch size, compared with a module that does nothing.
//!
//! Invariant: the two modules are timed in turns, in short rounds, so that a change of the machine's speed
//! affects both; the results are medians, and the 10th and 90th percentiles of the rounds.

use std::time::{Duration, Instant};

use serde::Serialize;
use waxwing_dataplane::{BATCH, NewFlow, Pick};
use waxwing_plugin::ModuleError;
use waxwing_plugin::trial::LoadedPolicy;

use crate::error::WorkbenchError;
use crate::flows::flows;
use crate::service::{BackendSpec, TrialService, backends, service};
use crate::workbench::Workbench;

/// The measured batch sizes.
pub const BATCHES: [usize; 4] = [1, 8, 32, BATCH];

/// A policy whose pick returns n and does nothing else (`empty.wat`): the cost of the call itself,
/// with writing flows and reading picks.
const EMPTY: &[u8] = include_bytes!("empty.wasm");

/// The number of rounds, and how long a module runs in each.
const ROUNDS: usize = 51;
const ROUND: Duration = Duration::from_millis(2);

/// The flows, used over and over; a multiple of every batch size.
const FLOWS: usize = 4096;

/// Calls per millisecond of simulated time, as on a busy worker: then live numbers are written, and
/// a tick may run.
const CALLS_PER_MS: u64 = 100;

const SEED: u64 = 7;

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BenchReport {
    /// The number of backends of the service.
    pub backends: usize,
    /// Sorted by batch size.
    pub rows: Vec<BenchRow>,
}

/// Nanoseconds per pick for one batch size.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct BenchRow {
    /// Flows per call.
    pub batch: usize,
    pub module: TimeSpread,
    pub empty: TimeSpread,
    /// The policy's own part: the difference of the two in each round.
    pub above: TimeSpread,
}

/// Nanoseconds per pick over all rounds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct TimeSpread {
    /// The median.
    pub median_ns: f64,
    /// The 10th percentile.
    pub low_ns: f64,
    /// The 90th percentile.
    pub high_ns: f64,
}

/// A policy ready to be timed, and the empty one.
pub struct Bench {
    module: TimedPolicy,
    empty: TimedPolicy,
    flows: Vec<NewFlow>,
    backends: usize,
}

impl Workbench {
    /// Sets the policy up for a service with these backends and this config (JSON, an object).
    ///
    /// # Errors
    /// If the module refuses the service or fails.
    pub fn bench(&self, config: &str, specs: &[BackendSpec]) -> Result<Bench, WorkbenchError> {
        let empty = self.policy.with_bytes(EMPTY)?;
        let timed = |policy: &LoadedPolicy, config: &str| -> Result<TimedPolicy, ModuleError> {
            let service = service(0, config, backends(specs.iter().copied()));
            Ok(TimedPolicy {
                trial: TrialService::start(policy, service, SEED)?,
                next: 0,
            })
        };
        Ok(Bench {
            module: timed(&self.policy, config)?,
            empty: timed(&empty, "{}")?,
            flows: flows(SEED).take(FLOWS).collect(),
            backends: specs.len(),
        })
    }
}

impl Bench {
    /// Returns how long `calls` calls take, each for a batch of `batch` flows (clamped to 1 to 64).
    ///
    /// # Errors
    /// If the module fails.
    pub fn run(&mut self, batch: usize, calls: u64) -> Result<Duration, WorkbenchError> {
        Ok(self.module.run(&self.flows, batch.clamp(1, BATCH), calls)?)
    }

    /// Times the policy and the empty one.
    ///
    /// # Errors
    /// If the module fails.
    pub fn compare(&mut self) -> Result<BenchReport, WorkbenchError> {
        let rows = BATCHES.map(|batch| self.compare_at(batch));
        Ok(BenchReport {
            backends: self.backends,
            rows: rows.into_iter().collect::<Result<_, _>>()?,
        })
    }

    fn compare_at(&mut self, batch: usize) -> Result<BenchRow, ModuleError> {
        let calls = [
            self.module.calls_per_round(&self.flows, batch)?,
            self.empty.calls_per_round(&self.flows, batch)?,
        ];
        let mut samples = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let module = self.module.ns_per_pick(&self.flows, batch, calls[0])?;
            let empty = self.empty.ns_per_pick(&self.flows, batch, calls[1])?;
            for (samples, sample) in samples.iter_mut().zip([module, empty, module - empty]) {
                samples.push(sample);
            }
        }
        let [module, empty, above] = samples.map(TimeSpread::of);
        Ok(BenchRow {
            batch,
            module,
            empty,
            above,
        })
    }
}

impl TimeSpread {
    fn of(mut samples: Vec<f64>) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |tenths: usize| samples[(samples.len() - 1) * tenths / 10];
        Self {
            median_ns: at(5),
            low_ns: at(1),
            high_ns: at(9),
        }
    }
}

/// A policy that is timed.
struct TimedPolicy {
    trial: TrialService,
    /// The start of its next batch in the flows.
    next: usize,
}

impl TimedPolicy {
    fn run(
        &mut self,
        flows: &[NewFlow],
        batch: usize,
        calls: u64,
    ) -> Result<Duration, ModuleError> {
        let mut picks = [Pick::Drop; BATCH];
        let start = Instant::now();
        for call in 0..calls {
            if call % CALLS_PER_MS == 0 {
                self.trial.pass_ms()?;
            }
            if self.next + batch > flows.len() {
                self.next = 0;
            }
            let flows = &flows[self.next..self.next + batch];
            self.trial.pick(flows, &mut picks[..batch])?;
            self.next += batch;
        }
        Ok(start.elapsed())
    }

    /// Returns how many calls take about as long as a round.
    fn calls_per_round(&mut self, flows: &[NewFlow], batch: usize) -> Result<u64, ModuleError> {
        let mut calls = CALLS_PER_MS;
        while self.run(flows, batch, calls)? < ROUND {
            calls *= 2;
        }
        Ok(calls)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn ns_per_pick(
        &mut self,
        flows: &[NewFlow],
        batch: usize,
        calls: u64,
    ) -> Result<f64, ModuleError> {
        let time = self.run(flows, batch, calls)?;
        Ok(time.as_secs_f64() * 1e9 / (calls as f64 * batch as f64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_wasm_is_built_from_empty_wat() {
        let made = wat::parse_str(include_str!("empty.wat")).expect("it is valid");
        let path = std::env::temp_dir().join(format!("empty-{}.wasm", std::process::id()));
        std::fs::write(&path, &made).expect("written");
        assert!(made == EMPTY, "copy {} to empty.wasm", path.display());
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_spread_is_the_percentiles_of_its_samples() {
        let spread = TimeSpread::of((0..=100).rev().map(f64::from).collect());
        let TimeSpread {
            median_ns,
            low_ns,
            high_ns,
        } = spread;
        assert_eq!([low_ns, median_ns, high_ns], [10.0, 50.0, 90.0]);
    }
}

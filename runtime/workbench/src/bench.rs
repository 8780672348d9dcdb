//! A module's time a pick by the size of the batch, against a module that does nothing.
//!
//! Invariant: the two are timed in turns, in short rounds, so that a change of the machine's mood
//! meets both; shown are medians, with what a tenth of the rounds was below and above.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use waxwing_dataplane::{BATCH, NewFlow, Pick};

use super::flows::flows;
use super::trial::{BackendSpec, Trial, backends, service};
use super::{Workbench, WorkbenchError};
use crate::error::ModuleError;
use crate::module::CompiledModule;

/// The batch sizes measured.
pub const BATCHES: [usize; 4] = [1, 8, 32, BATCH];

/// A policy whose pick returns n and does no more (`empty.wat`): what the call itself costs, with
/// writing flows and reading picks.
const EMPTY: &[u8] = include_bytes!("empty.wasm");

/// How many rounds there are, and how long a module runs in each.
const ROUNDS: usize = 51;
const ROUND: Duration = Duration::from_millis(2);

/// The flows that are asked about, over and over; a multiple of every batch size above.
const FLOWS: usize = 4096;

/// So many calls make a millisecond, as on a busy worker: then live numbers are written anew, and
/// a tick may come.
const CALLS_PER_MS: u64 = 100;

const SEED: u64 = 7;

/// A module's times by batch size.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BenchReport {
    /// How many backends the service has.
    pub backends: usize,
    /// By batch size, in rising order.
    pub rows: Vec<Row>,
}

/// Times for one batch size, each a pick.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Row {
    /// Flows a call.
    pub batch: usize,
    /// The module.
    pub module: Spread,
    /// The module that does nothing.
    pub empty: Spread,
    /// The policy's own part: the difference of the two in each round.
    pub above: Spread,
}

/// Nanoseconds a pick over all rounds.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Spread {
    /// The middle round's.
    pub median_ns: f64,
    /// A tenth of the rounds took less.
    pub low_ns: f64,
    /// A tenth took more.
    pub high_ns: f64,
}

/// A module ready to be timed.
pub struct Bench<'a> {
    module: Side<'a>,
    empty: Side<'a>,
    flows: Vec<NewFlow>,
    backends: usize,
}

impl Workbench {
    /// Sets the module up for a service of these backends with this config (JSON, an object).
    ///
    /// # Errors
    /// If the module refuses the service or fails at it.
    pub fn bench(&self, config: &str, specs: &[BackendSpec]) -> Result<Bench<'_>, WorkbenchError> {
        let empty = self.compile(&self.engine, EMPTY)?;
        let side = |module: &Arc<CompiledModule>, config: &str| -> Result<Side<'_>, ModuleError> {
            let service = service(0, config, backends(specs.iter().copied()));
            Ok(Side {
                trial: Trial::start(&self.engine, module, service, SEED)?,
                next: 0,
            })
        };
        Ok(Bench {
            module: side(&self.module, config)?,
            empty: side(&empty, "{}")?,
            flows: flows(SEED).take(FLOWS).collect(),
            backends: specs.len(),
        })
    }
}

impl Bench<'_> {
    /// How long so many calls take, each for a batch of so many flows (1 to 64; others count as
    /// the nearest of these).
    ///
    /// # Errors
    /// If the module fails.
    pub fn run(&mut self, batch: usize, calls: u64) -> Result<Duration, WorkbenchError> {
        Ok(self.module.run(&self.flows, batch.clamp(1, BATCH), calls)?)
    }

    /// Times the module against the one that does nothing.
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

    fn compare_at(&mut self, batch: usize) -> Result<Row, ModuleError> {
        let calls = [
            self.module.calls_a_round(&self.flows, batch)?,
            self.empty.calls_a_round(&self.flows, batch)?,
        ];
        let mut samples = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let module = self.module.ns_a_pick(&self.flows, batch, calls[0])?;
            let empty = self.empty.ns_a_pick(&self.flows, batch, calls[1])?;
            for (samples, sample) in samples.iter_mut().zip([module, empty, module - empty]) {
                samples.push(sample);
            }
        }
        let [module, empty, above] = samples.map(Spread::of);
        Ok(Row {
            batch,
            module,
            empty,
            above,
        })
    }
}

impl Spread {
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

/// One of the two that are timed.
struct Side<'a> {
    trial: Trial<'a>,
    /// Where in the flows its next batch starts.
    next: usize,
}

impl Side<'_> {
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

    /// How many calls take about a round's time.
    fn calls_a_round(&mut self, flows: &[NewFlow], batch: usize) -> Result<u64, ModuleError> {
        let mut calls = CALLS_PER_MS;
        while self.run(flows, batch, calls)? < ROUND {
            calls *= 2;
        }
        Ok(calls)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    fn ns_a_pick(
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
    fn the_empty_module_is_what_its_text_says() {
        let made = wat::parse_str(include_str!("empty.wat")).expect("it is valid");
        let path = std::env::temp_dir().join(format!("empty-{}.wasm", std::process::id()));
        std::fs::write(&path, &made).expect("written");
        assert!(made == EMPTY, "make empty.wasm anew: {}", path.display());
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_spread_is_of_the_sorted_samples() {
        let spread = Spread::of((0..=100).rev().map(f64::from).collect());
        let Spread {
            median_ns,
            low_ns,
            high_ns,
        } = spread;
        assert_eq!([low_ns, median_ns, high_ns], [10.0, 50.0, 90.0]);
    }
}

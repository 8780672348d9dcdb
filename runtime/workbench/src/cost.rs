//! What a pick costs: in fuel, which is the same on every machine, and in time.
//!
//! Invariant: what is measured is a worker's routine: a millisecond passes, a flow comes alone (with
//! it the live numbers are written anew), then a full batch; and all sessions end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;
use waxwing_dataplane::{BATCH, NewFlow, Pick};

use super::Workbench;
use super::flows::flows;
use super::trial::{Fault, Trial};
use crate::bind::ServiceBinding;
use crate::engine::Engine;
use crate::module::CompiledModule;

/// What the ABI lets a batch take (`sdk/ABI.md`, "Life cycle"); a little later it is cut off.
const BUDGET: Duration = Duration::from_micros(100);

/// Steps of the routine, and how often all of them are timed: a batch's time is its best of these,
/// since what the machine does meanwhile only ever adds to it.
const STEPS: usize = 128;
const ROUNDS: usize = 5;

const SEED: u64 = 7;

/// What picks cost for a service.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Cost {
    /// Fuel a pick in full batches: about the number of Wasm instructions.
    pub fuel_average: f64,
    /// Fuel of the most expensive call for a flow alone.
    pub fuel_worst: u64,
    /// Time of the slowest full batch (64 flows), in microseconds; host's part included.
    pub worst_batch_us: f64,
    /// Time that a batch may take, in microseconds.
    pub budget_us: f64,
    /// The instance's memory after all that, in bytes.
    pub memory_bytes: usize,
}

/// Measures a service. `counting` is the module compiled for an engine that counts.
pub(crate) fn measure(
    bench: &Workbench,
    counting: (&Engine, &Arc<CompiledModule>),
    service: &ServiceBinding,
) -> Result<Cost, Fault> {
    let (worst_batch, memory_bytes) = time(&bench.engine, &bench.module, service)?;
    let (fuel_average, fuel_worst) = fuel(counting.0, counting.1, service)?;
    Ok(Cost {
        fuel_average,
        fuel_worst,
        worst_batch_us: worst_batch.as_secs_f64() * 1e6,
        budget_us: BUDGET.as_secs_f64() * 1e6,
        memory_bytes,
    })
}

fn start<'a>(
    engine: &'a Engine,
    module: &Arc<CompiledModule>,
    service: &ServiceBinding,
) -> Result<Trial<'a>, Fault> {
    Ok(Trial::start(engine, module, service.clone(), SEED)?)
}

/// The routine; `call` makes one call, for a flow alone or a full batch.
fn routine(
    trial: &mut Trial<'_>,
    mut call: impl FnMut(&mut Trial<'_>, &[NewFlow], &mut [Pick]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut flows = flows(SEED);
    for _ in 0..STEPS {
        trial.pass_ms()?;
        for size in [1, BATCH] {
            let flows: Vec<NewFlow> = flows.by_ref().take(size).collect();
            let mut picks = vec![Pick::Drop; size];
            call(trial, &flows, &mut picks)?;
            trial.begin(&picks);
            trial.end(&picks)?;
        }
    }
    Ok(())
}

/// The slowest full batch, and the memory at the end.
fn time(
    engine: &Engine,
    module: &Arc<CompiledModule>,
    service: &ServiceBinding,
) -> Result<(Duration, usize), Fault> {
    let mut best = [Duration::MAX; STEPS];
    let mut memory = 0;
    for _ in 0..ROUNDS {
        let mut trial = start(engine, module, service)?;
        let mut batches = best.iter_mut();
        routine(&mut trial, |trial, flows, picks| {
            let start = Instant::now();
            trial.pick(flows, picks)?;
            let elapsed = start.elapsed();
            if flows.len() == BATCH
                && let Some(best) = batches.next()
            {
                *best = elapsed.min(*best);
            }
            Ok(())
        })?;
        memory = trial.memory();
    }
    Ok((best.into_iter().max().unwrap_or_default(), memory))
}

/// Fuel a pick in full batches, and of the most expensive call for a flow alone.
#[expect(clippy::cast_precision_loss, reason = "fuel is far below 2^52")]
fn fuel(
    engine: &Engine,
    module: &Arc<CompiledModule>,
    service: &ServiceBinding,
) -> Result<(f64, u64), Fault> {
    let mut trial = start(engine, module, service)?;
    let (mut in_batches, mut worst) = (0, 0);
    routine(&mut trial, |trial, flows, picks| {
        let before = trial.fuel_left();
        trial.pick(flows, picks)?;
        let used = before - trial.fuel_left();
        if flows.len() == 1 {
            worst = used.max(worst);
        } else {
            in_batches += used;
        }
        Ok(())
    })?;
    Ok((in_batches as f64 / (STEPS * BATCH) as f64, worst))
}

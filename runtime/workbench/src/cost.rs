//! What a pick costs: in fuel, which is the same on every machine, and in time.
//!
//! Invariant: the measured routine is a worker's: a millisecond passes, one flow comes alone (with it the
//! live numbers are written), then a full batch, and all their sessions end.

use std::time::{Duration, Instant};

use serde::Serialize;
use waxwing_dataplane::{BATCH, NewFlow, Pick};
use waxwing_plugin::ServiceBinding;
use waxwing_plugin::trial::LoadedPolicy;

use crate::flows::flows;
use crate::service::{TrialFault, TrialService};

/// The time that the ABI allows for a batch (`sdk/ABI.md`, "Life cycle"); the host interrupts it a little
/// later.
const BUDGET: Duration = Duration::from_micros(100);

/// Steps of the routine, and how often the whole routine is timed. A batch's time is the shortest of its
/// rounds, because disturbances only add time.
const STEPS: usize = 128;
const ROUNDS: usize = 5;

const SEED: u64 = 7;

/// The cost of picks for a service.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PickCost {
    /// Fuel per pick in full batches: about the number of Wasm instructions.
    pub fuel_average: f64,
    /// Fuel of the most expensive call for a single flow.
    pub fuel_worst: u64,
    /// Time of the slowest full batch (64 flows), in microseconds, including the host's part.
    pub worst_batch_us: f64,
    /// Time that a batch may take, in microseconds.
    pub budget_us: f64,
    /// The instance's memory after the routine, in bytes.
    pub memory_bytes: usize,
}

/// Measures a policy for a service. `counting` is the same policy on an engine that counts fuel.
pub(crate) fn measure(
    policy: &LoadedPolicy,
    counting: &LoadedPolicy,
    service: &ServiceBinding,
) -> Result<PickCost, TrialFault> {
    let (worst_batch, memory_bytes) = time(policy, service)?;
    let (fuel_average, fuel_worst) = fuel(counting, service)?;
    Ok(PickCost {
        fuel_average,
        fuel_worst,
        worst_batch_us: worst_batch.as_secs_f64() * 1e6,
        budget_us: BUDGET.as_secs_f64() * 1e6,
        memory_bytes,
    })
}

/// Runs the routine; `call` makes one call, for a single flow or a full batch.
fn routine(
    trial: &mut TrialService,
    mut call: impl FnMut(&mut TrialService, &[NewFlow], &mut [Pick]) -> Result<(), TrialFault>,
) -> Result<(), TrialFault> {
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

/// Returns the time of the slowest full batch, and the memory at the end.
fn time(policy: &LoadedPolicy, service: &ServiceBinding) -> Result<(Duration, usize), TrialFault> {
    let mut best = [Duration::MAX; STEPS];
    let mut memory = 0;
    for _ in 0..ROUNDS {
        let mut trial = TrialService::start(policy, service.clone(), SEED)?;
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
        memory = trial.memory_bytes();
    }
    Ok((best.into_iter().max().unwrap_or_default(), memory))
}

/// Returns the fuel per pick in full batches, and of the most expensive call for a single flow.
#[expect(clippy::cast_precision_loss, reason = "fuel is far below 2^52")]
fn fuel(policy: &LoadedPolicy, service: &ServiceBinding) -> Result<(f64, u64), TrialFault> {
    let mut trial = TrialService::start(policy, service.clone(), SEED)?;
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

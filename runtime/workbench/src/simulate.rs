//! How a policy spreads flows over backends, and how many flows move when a backend is removed.
//!
//! Invariant: the flows depend only on the seed, so the picks before and after a removal are for the same
//! flows. Sessions last until the end of the run.

use std::collections::BTreeMap;

use serde::Serialize;
use waxwing_dataplane::{BATCH, BackendId, NewFlow, Pick};
use waxwing_plugin::{BackendInfo, ModuleError, ModuleValues};

use crate::error::WorkbenchError;
use crate::flows::flows;
use crate::service::{BackendSpec, TrialService, backends, service};
use crate::workbench::Workbench;

/// The settings of a simulation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SimulationPlan {
    /// The backends; a backend's id is its index.
    pub backends: Vec<BackendSpec>,
    /// The number of flows.
    pub flows: usize,
    /// Seeds the flows, and the module's own random choices.
    pub seed: u64,
    /// The policy's config (JSON, an object).
    pub config: String,
    /// A backend to remove for a second run with the same flows.
    pub remove: Option<u32>,
}

/// The result of a simulation.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Simulation {
    /// How many flows there were.
    pub flows: usize,
    pub shares: Vec<BackendShare>,
    /// Flows left to the native fallback, including [`Simulation::unavailable`].
    pub fallback: usize,
    /// Flows given to a backend that takes no sessions, which the host sends to the fallback.
    pub unavailable: u64,
    pub dropped: usize,
    /// How far the fullest backend is above its share by weight: 0.02 is 2 % above.
    pub fullest_over_share: f64,
    /// The module's own counters at the end.
    pub counters: BTreeMap<String, u64>,
    /// Its gauges at the end.
    pub gauges: BTreeMap<String, u64>,
    /// What the removal of a backend moved.
    pub removal: Option<Removal>,
}

/// The flows of one backend.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct BackendShare {
    pub id: u32,
    pub weight: u32,
    pub tag: u32,
    pub flows: usize,
    /// Its part of the flows that got a backend, 0 to 1.
    pub share: f64,
    /// Its part by weight, 0 to 1.
    pub share_by_weight: f64,
}

/// The flows that the removal of a backend moved.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Removal {
    pub id: u32,
    /// Its flows, all of which have to move.
    pub flows: usize,
    /// The flows of the other backends.
    pub staying: usize,
    /// Those of the other backends' flows that moved.
    pub moved: usize,
    /// The part of the other backends' flows that moved, 0 to 1.
    pub disruption: f64,
}

impl Workbench {
    /// Runs a simulation.
    ///
    /// # Errors
    /// If the plan removes a backend that does not exist, or the module refuses the backends or
    /// fails.
    pub fn simulate(&self, plan: &SimulationPlan) -> Result<Simulation, WorkbenchError> {
        let all = backends(plan.backends.iter().copied());
        if let Some(id) = plan.remove
            && all.iter().all(|backend| backend.id.0 != id)
        {
            let last = all.len().saturating_sub(1);
            return Err(WorkbenchError::NoSuchBackend { id, last });
        }
        let unavailable_before = self.policy.module().counters.unavailable_picks();
        let (picks, ModuleValues { counters, gauges }) = self.run(plan, &all)?;
        let unavailable = self.policy.module().counters.unavailable_picks() - unavailable_before;
        let removal = plan.remove.map(|id| self.remove(plan, id, &all, &picks));
        let shares = shares(&all, &picks);
        let count = |pick| picks.iter().filter(|made| **made == pick).count();
        Ok(Simulation {
            flows: plan.flows,
            fullest_over_share: fullest_over_share(&shares),
            shares,
            fallback: count(Picked::Fallback),
            unavailable,
            dropped: count(Picked::Dropped),
            counters,
            gauges,
            removal: removal.transpose()?,
        })
    }

    fn remove(
        &self,
        plan: &SimulationPlan,
        id: u32,
        all: &[BackendInfo],
        before: &[Picked],
    ) -> Result<Removal, ModuleError> {
        let rest: Vec<_> = all.iter().filter(|b| b.id.0 != id).cloned().collect();
        let (after, _) = self.run(plan, &rest)?;
        let gone = Picked::Backend(BackendId(id));
        let stays = |pick: &Picked| matches!(pick, Picked::Backend(_)) && *pick != gone;
        let staying = before.iter().filter(|pick| stays(pick)).count();
        let moved = before
            .iter()
            .zip(after)
            .filter(|(before, after)| stays(before) && **before != *after)
            .count();
        Ok(Removal {
            id,
            flows: before.iter().filter(|pick| **pick == gone).count(),
            staying,
            moved,
            disruption: part(moved, staying),
        })
    }

    /// Returns every flow's pick, and the module's counters and gauges.
    fn run(
        &self,
        plan: &SimulationPlan,
        backends: &[BackendInfo],
    ) -> Result<(Vec<Picked>, ModuleValues), ModuleError> {
        let service = service(0, &plan.config, backends.to_vec());
        let mut trial = TrialService::start(&self.policy, service, plan.seed)?;
        let mut picked = Vec::with_capacity(plan.flows);
        let mut flows = flows(plan.seed).take(plan.flows);
        loop {
            let batch: Vec<NewFlow> = flows.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok((picked, trial.into_counters()));
            }
            let mut picks = vec![Pick::Drop; batch.len()];
            trial.pass_ms()?;
            trial.pick(&batch, &mut picks)?;
            trial.begin(&picks);
            picked.extend(picks.iter().map(|pick| match pick {
                Pick::Backend(at) | Pick::Keep(at) => Picked::Backend(backends[*at as usize].id),
                Pick::Drop => Picked::Dropped,
                Pick::Fallback => Picked::Fallback,
            }));
        }
    }
}

/// A pick by the backend's id, which a removal does not change, unlike its index.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Picked {
    Backend(BackendId),
    Dropped,
    Fallback,
}

fn shares(backends: &[BackendInfo], picks: &[Picked]) -> Vec<BackendShare> {
    let mut counts = vec![0_usize; backends.len()];
    for pick in picks {
        if let Picked::Backend(id) = pick {
            counts[id.index()] += 1;
        }
    }
    let total = counts.iter().sum();
    let weights: f64 = backends.iter().map(|b| f64::from(b.weight)).sum();
    backends
        .iter()
        .zip(counts)
        .map(|(backend, flows)| BackendShare {
            id: backend.id.0,
            weight: backend.weight,
            tag: backend.tag,
            flows,
            share: part(flows, total),
            share_by_weight: f64::from(backend.weight) / weights.max(1.0),
        })
        .collect()
}

fn fullest_over_share(shares: &[BackendShare]) -> f64 {
    shares
        .iter()
        .filter(|share| share.weight > 0)
        .map(|share| share.share / share.share_by_weight - 1.0)
        .fold(0.0, f64::max)
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn part(count: usize, of: usize) -> f64 {
    count as f64 / of.max(1) as f64
}

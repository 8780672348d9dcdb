//! How a module spreads flows over backends, and how many it moves when one goes.
//!
//! Invariant: the flows hang on the seed alone, so that the picks before and after a removal are for
//! the same flows. Sessions last until the end of the run.

use std::collections::BTreeMap;

use serde::Serialize;
use waxwing_dataplane::{BATCH, BackendId, NewFlow, Pick};

use super::flows::flows;
use super::trial::{BackendSpec, Trial, backends, service};
use super::{Workbench, WorkbenchError};
use crate::bind::BackendInfo;
use crate::error::ModuleError;

/// What is to be simulated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The backends; their ids are their places, from 0 on.
    pub backends: Vec<BackendSpec>,
    /// How many flows.
    pub flows: usize,
    /// Makes the flows, and the module's own random choices.
    pub seed: u64,
    /// The policy's config (JSON, an object).
    pub config: String,
    /// A backend that is taken away for a second run with the same flows.
    pub remove: Option<u32>,
}

/// What came of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Simulation {
    /// How many flows there were.
    pub flows: usize,
    /// By backend.
    pub shares: Vec<Share>,
    /// Flows left to the native fallback; those of [`Simulation::unavailable`] among them.
    pub fallback: usize,
    /// Flows given to a backend that takes no sessions; the host overrules that.
    pub unavailable: u64,
    /// Flows dropped.
    pub dropped: usize,
    /// How far the fullest backend is over its share by weight: 0.02 is 2 % over.
    pub fullest_over_share: f64,
    /// The module's own counters at the end.
    pub counters: BTreeMap<String, u64>,
    /// What the removal of a backend moved.
    pub removal: Option<Removal>,
}

/// What one backend got.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Share {
    /// The backend.
    pub id: u32,
    /// Its weight.
    pub weight: u32,
    /// Its tag.
    pub tag: u32,
    /// Flows that it got.
    pub flows: usize,
    /// Its part of the flows that any backend got, 0 to 1.
    pub share: f64,
    /// Its part by weight.
    pub share_by_weight: f64,
}

/// What the removal of a backend moved.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Removal {
    /// The backend.
    pub id: u32,
    /// Its flows, which have to move.
    pub flows: usize,
    /// The flows of the backends that stay.
    pub staying: usize,
    /// Those of them that went elsewhere all the same.
    pub moved: usize,
    /// The part of the staying backends' flows that moved, 0 to 1.
    pub disruption: f64,
}

impl Workbench {
    /// Runs a plan.
    ///
    /// # Errors
    /// If the plan asks for what is not there, or the module refuses the backends or fails.
    pub fn simulate(&self, plan: &Plan) -> Result<Simulation, WorkbenchError> {
        let all = backends(plan.backends.iter().copied());
        if let Some(id) = plan.remove
            && all.iter().all(|backend| backend.id.0 != id)
        {
            let last = all.len().saturating_sub(1);
            return Err(WorkbenchError::Plan(format!(
                "there is no backend {id} to remove; write one of 0 to {last}"
            )));
        }
        let unavailable_before = self.module.counters.unavailable_picks();
        let (picks, counters) = self.run(plan, &all)?;
        let unavailable = self.module.counters.unavailable_picks() - unavailable_before;
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
            removal: removal.transpose()?,
        })
    }

    fn remove(
        &self,
        plan: &Plan,
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

    /// Every flow's pick, and the module's counters.
    fn run(
        &self,
        plan: &Plan,
        backends: &[BackendInfo],
    ) -> Result<(Vec<Picked>, BTreeMap<String, u64>), ModuleError> {
        let service = service(0, &plan.config, backends.to_vec());
        let mut trial = Trial::start(&self.engine, &self.module, service, plan.seed)?;
        let mut picked = Vec::with_capacity(plan.flows);
        let mut flows = flows(plan.seed).take(plan.flows);
        loop {
            let batch: Vec<NewFlow> = flows.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok((picked, trial.counters()));
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

/// A pick by the backend's id, which stays the same where its index does not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Picked {
    Backend(BackendId),
    Dropped,
    Fallback,
}

fn shares(backends: &[BackendInfo], picks: &[Picked]) -> Vec<Share> {
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
        .map(|(backend, flows)| Share {
            id: backend.id.0,
            weight: backend.weight,
            tag: backend.tag,
            flows,
            share: part(flows, total),
            share_by_weight: f64::from(backend.weight) / weights.max(1.0),
        })
        .collect()
}

fn fullest_over_share(shares: &[Share]) -> f64 {
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

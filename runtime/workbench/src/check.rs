//! Whether the balancer would accept a policy, and what it would cost.
//!
//! Invariant: the balancer accepts what passes here, for the same config; it still tries each module on
//! its real services.

use serde::Serialize;
use waxwing_plugin::trial::{LoadedPolicy, TestedFlows};
use waxwing_plugin::{BackendInfo, ModuleError, Refusal, ServiceBinding};
use waxwing_sdk::abi::BACKENDS_MAX;

use crate::cost::{PickCost, measure};
use crate::error::WorkbenchError;
use crate::service::{BackendSpec, backends, service};
use crate::summary::ModuleSummary;
use crate::workbench::Workbench;

/// The numbers of backends tried: the fewest, a few, the usual maximum, and the ABI's limit.
const SIZES: [usize; 4] = [1, 3, 64, BACKENDS_MAX];

/// Up to this many backends, every policy has to be fast enough.
const USUAL_MAX: usize = 64;

/// The report on a policy that passed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct CheckReport {
    #[serde(flatten)]
    pub summary: ModuleSummary,
    /// Bytes of payload that it wants from each flow.
    pub payload: usize,
    /// Milliseconds between two ticks; 0 for none.
    pub tick_ms: u32,
    /// The names of its own counters.
    pub counters: Vec<String>,
    /// The names of its own gauges.
    pub gauges: Vec<String>,
    /// An instance's memory before any service is set up, in bytes.
    pub memory_start_bytes: usize,
    /// The results by number of backends.
    pub sizes: Vec<CheckSize>,
    /// What it did with test flows that an author may not have meant.
    pub warnings: Vec<String>,
}

/// The result for a service with this many backends.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct CheckSize {
    pub backends: usize,
    #[serde(flatten)]
    pub verdict: SizeVerdict,
}

/// The result for a service.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum SizeVerdict {
    /// It passed, at this cost.
    Good(PickCost),
    /// It refused the service with a reason for the operator, as it may.
    Refused { why: String },
    /// It ran out of time: the balancer refuses it for this many backends.
    TooSlow { why: String },
}

impl Workbench {
    /// Tries the policy on services with 1 to 4096 backends and this config (JSON, an object), as the
    /// balancer tries a new module, and measures its cost. The backends repeat `specs`.
    ///
    /// # Errors
    /// If the balancer would refuse it. A policy may be too slow for services with more than 64
    /// backends, and may refuse services, unless it refuses all.
    pub fn check(
        &self,
        config: &str,
        specs: &[BackendSpec],
    ) -> Result<CheckReport, WorkbenchError> {
        let counting = self.policy.counting_fuel()?;
        let memory_start_bytes = self.policy.initial_memory_bytes()?;
        let mut sizes = Vec::with_capacity(SIZES.len());
        let (mut refusal, mut warnings) = (None, Vec::new());
        for count in SIZES {
            let backends = backends(specs.iter().copied().cycle().take(count));
            let service = service(0, config, backends);
            let verdict = match self.try_service(&counting, &service, &mut warnings) {
                Ok(verdict) => verdict,
                Err(error) if matches!(error.refusal, Refusal::Refused { .. }) => {
                    let why = error.refusal.to_string();
                    refusal.get_or_insert(error);
                    SizeVerdict::Refused { why }
                }
                Err(error) => return Err(error.into()),
            };
            sizes.push(CheckSize {
                backends: count,
                verdict,
            });
        }
        let is_refused = |size: &CheckSize| matches!(size.verdict, SizeVerdict::Refused { .. });
        match refusal {
            Some(refusal) if sizes.iter().all(is_refused) => Err(refusal.into()),
            _ => Ok(self.report(memory_start_bytes, sizes, warnings)),
        }
    }

    fn try_service(
        &self,
        counting: &LoadedPolicy,
        service: &ServiceBinding,
        warnings: &mut Vec<String>,
    ) -> Result<SizeVerdict, ModuleError> {
        let usual = service.backends.len() <= USUAL_MAX;
        if usual {
            let tested = self.policy.vet(std::slice::from_ref(service))?;
            warnings.extend(doubts(tested, service));
        }
        match measure(&self.policy, counting, service) {
            Ok(cost) => Ok(SizeVerdict::Good(cost)),
            Err(fault) if fault.is_overrun && !usual => Ok(SizeVerdict::TooSlow {
                why: fault.error.refusal.to_string(),
            }),
            Err(fault) => Err(fault.error),
        }
    }

    fn report(
        &self,
        memory_start_bytes: usize,
        sizes: Vec<CheckSize>,
        warnings: Vec<String>,
    ) -> CheckReport {
        let module = self.policy.module();
        let info = &module.info;
        CheckReport {
            summary: ModuleSummary::new(module, self.policy.compile_time()),
            payload: info.payload,
            tick_ms: info.tick_ms,
            counters: info.counters.clone(),
            gauges: info.gauges.clone(),
            memory_start_bytes,
            sizes,
            warnings,
        }
    }
}

/// Returns what a policy did with its test flows that its author may not have meant.
fn doubts(tested: TestedFlows, service: &ServiceBinding) -> impl Iterator<Item = String> {
    let TestedFlows {
        flows,
        drops,
        fallbacks,
        busiest,
    } = tested;
    let backends = service.backends.len();
    let picks = flows - drops - fallbacks;
    let one = |of: &&BackendInfo| of.weight > 0;
    let several = service.backends.iter().filter(one).count() > 1;
    let warn =
        move |holds: bool, what: &str| holds.then(|| format!("with {backends} backends it {what}"));
    [
        warn(drops > 0, &format!("drops {drops} of {flows} test flows")),
        warn(
            fallbacks > 0,
            &format!("leaves {fallbacks} of {flows} test flows to the native fallback"),
        ),
        warn(
            several && picks > 0 && busiest == picks,
            &format!("gives all {picks} test flows that it picks for to one backend"),
        ),
    ]
    .into_iter()
    .flatten()
}

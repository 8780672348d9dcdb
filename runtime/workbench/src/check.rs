//! Whether the balancer would take a module, and what it would get.
//!
//! Invariant: what passes here the balancer takes, for the same config; it tries each module again on
//! its real services all the same.

use std::sync::Arc;

use serde::Serialize;

use super::cost::{Cost, measure};
use super::facts::Facts;
use super::trial::{BackendSpec, backends, service};
use super::{Workbench, WorkbenchError};
use crate::bind::ServiceBinding;
use crate::engine::{Budget, Engine};
use crate::error::{ModuleError, Refusal};
use crate::guest::Guest;
use crate::module::CompiledModule;
use crate::records::Records;
use crate::vetting::vet;

/// The services tried, by their number of backends: the least, a few, a balancer's usual most, and
/// the most that there can be.
const SIZES: [usize; 4] = [1, 3, 64, super::BACKENDS_MAX];

/// Up to so many backends every policy has to be fast enough.
const USUAL_MAX: usize = 64;

/// What is known of a module that passed.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct CheckReport {
    /// What it says of itself, and what its file is.
    #[serde(flatten)]
    pub facts: Facts,
    /// Bytes of payload wanted of each flow.
    pub payload: usize,
    /// Milliseconds between two ticks; 0 for none.
    pub tick_ms: u32,
    /// Its own counters.
    pub counters: Vec<String>,
    /// An instance's memory before any service is set up, in bytes.
    pub memory_start_bytes: usize,
    /// How it did by the number of backends.
    pub sizes: Vec<AtSize>,
}

/// How a module did for a service of so many backends.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct AtSize {
    /// How many backends the service has.
    pub backends: usize,
    /// How it did.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// How a module did for a service.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Well, at this cost.
    Good(Cost),
    /// It refused the service, in words that an operator can act upon: its right.
    Refused {
        /// Why.
        why: String,
    },
    /// It ran past its time: no policy for so many backends.
    TooSlow {
        /// Why.
        why: String,
    },
}

impl Workbench {
    /// Tries the module on services of one to 4096 backends with this config (JSON, an object),
    /// as the balancer tries a new module, and measures what it costs. The backends are like
    /// `specs`, over and over, as far as a service's number of them goes.
    ///
    /// # Errors
    /// Why the balancer would refuse it. A service of more than 64 backends may be too much for a
    /// policy, and any that it refuses itself is no error, as long as it takes one.
    pub fn check(
        &self,
        config: &str,
        specs: &[BackendSpec],
    ) -> Result<CheckReport, WorkbenchError> {
        let counting = Engine::counting()?;
        let counted = self.compile(&counting, &self.module.image)?;
        let (mut guest, _) = Guest::new(&self.engine, &self.module, 1, Budget::set_up(1))?;
        let mut sizes = Vec::with_capacity(SIZES.len());
        let mut refusal = None;
        for count in SIZES {
            let backends = backends(specs.iter().copied().cycle().take(count));
            let service = service(0, config, backends);
            let verdict = match self.try_service((&counting, &counted), &service) {
                Ok(verdict) => verdict,
                Err(error) if matches!(error.refusal, Refusal::Refused { .. }) => {
                    let why = error.refusal.to_string();
                    refusal.get_or_insert(error);
                    Verdict::Refused { why }
                }
                Err(error) => return Err(error.into()),
            };
            sizes.push(AtSize {
                backends: count,
                verdict,
            });
        }
        let takes_none = |size: &AtSize| matches!(size.verdict, Verdict::Refused { .. });
        match refusal {
            Some(refusal) if sizes.iter().all(takes_none) => Err(refusal.into()),
            _ => Ok(self.report(guest.memory().len(), sizes)),
        }
    }

    fn try_service(
        &self,
        counting: (&Engine, &Arc<CompiledModule>),
        service: &ServiceBinding,
    ) -> Result<Verdict, ModuleError> {
        let usual = service.backends.len() <= USUAL_MAX;
        if usual {
            let services = std::slice::from_ref(service);
            vet(&self.engine, &self.module, services, &Records::default())?;
        }
        match measure(self, counting, service) {
            Ok(cost) => Ok(Verdict::Good(cost)),
            Err(fault) if fault.overrun && !usual => Ok(Verdict::TooSlow {
                why: fault.error.refusal.to_string(),
            }),
            Err(fault) => Err(fault.error),
        }
    }

    fn report(&self, memory_start_bytes: usize, sizes: Vec<AtSize>) -> CheckReport {
        let info = &self.module.info;
        CheckReport {
            facts: Facts::of(&self.module, self.compile_time),
            payload: info.payload,
            tick_ms: info.tick_ms,
            counters: info.counters.clone(),
            memory_start_bytes,
            sizes,
        }
    }
}

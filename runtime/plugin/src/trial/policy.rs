//! A policy's file, and instances of it outside of a balancer.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use waxwing_dataplane::Policy;

use super::file::{LoadError, load};
use crate::build::compile::Compiler;
use crate::build::engine::{CallBudget, Engine};
use crate::build::module::CompiledModule;
use crate::build::validate::ModuleLimits;
use crate::error::ModuleError;
use crate::lock::lock;
use crate::policy::bind::{InstanceOwner, bind};
use crate::policy::guest::PolicyGuest;
use crate::policy::hosted::ServiceBinding;
use crate::policy::instance::{FaultReport, WasmPolicy};
use crate::policy::module_counters::{ModuleCounters, ModuleValues};
use crate::policy::recent_flows::RecentFlows;
use crate::policy::vetting::vet;

/// A policy that was read, validated and compiled, with its engine.
pub struct LoadedPolicy {
    engine: Arc<Engine>,
    module: Arc<CompiledModule>,
    compile_time: Duration,
}

/// What a policy made of its test flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TestedFlows {
    /// All of them.
    pub flows: u64,
    /// Those that it dropped.
    pub drops: u64,
    /// Those that it left to the native fallback.
    pub fallbacks: u64,
    /// Those that it gave to the backend that got most.
    pub busiest: u64,
}

impl LoadedPolicy {
    /// Reads a file, validates and compiles it, within the balancer's limits.
    ///
    /// # Errors
    /// If the balancer would refuse it.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let engine = Engine::new()?;
        let (module, compile_time) = load(path, &engine, &ModuleLimits::default())?;
        Ok(Self {
            engine: Arc::new(engine),
            module: Arc::new(module),
            compile_time,
        })
    }

    /// Returns the same policy on an engine that counts fuel instead of time
    /// ([`PolicyInstance::fuel_left`]).
    ///
    /// # Errors
    /// If the engine does not work on this machine.
    pub fn counting_fuel(&self) -> Result<Self, LoadError> {
        let engine = Arc::new(Engine::counting()?);
        Ok(self.compile(engine, &self.module.image)?)
    }

    /// Returns another policy, made of these bytes, on the same engine.
    ///
    /// # Errors
    /// If the balancer would refuse it.
    pub fn with_bytes(&self, bytes: &[u8]) -> Result<Self, ModuleError> {
        self.compile(Arc::clone(&self.engine), bytes)
    }

    fn compile(&self, engine: Arc<Engine>, bytes: &[u8]) -> Result<Self, ModuleError> {
        let limits = &ModuleLimits::default();
        let (name, source) = (&self.module.name, self.module.source.clone());
        let module = CompiledModule::new(
            &engine,
            (&Compiler::Here, None),
            limits,
            name,
            source,
            bytes,
        )?;
        Ok(Self {
            engine,
            module: Arc::new(module),
            compile_time: self.compile_time,
        })
    }

    /// Returns the module.
    #[must_use]
    pub fn module(&self) -> &CompiledModule {
        &self.module
    }

    /// Returns how long validating and compiling the file took.
    #[must_use]
    pub fn compile_time(&self) -> Duration {
        self.compile_time
    }

    /// Lets the policy answer test flows for these services, as the balancer does before a new build
    /// serves.
    ///
    /// # Errors
    /// If it refuses a service, breaks the ABI or fails.
    pub fn vet(&self, services: &[ServiceBinding]) -> Result<TestedFlows, ModuleError> {
        let recent = RecentFlows::default();
        let vetted = vet(&self.engine, &self.module, services, &recent)?;
        Ok(TestedFlows {
            flows: vetted.outcomes.flows(),
            drops: vetted.outcomes.drops,
            fallbacks: vetted.outcomes.fallbacks,
            busiest: vetted.outcomes.busiest().0,
        })
    }

    /// Returns the size of an instance's memory before any service is set up, in bytes.
    ///
    /// # Errors
    /// If the module cannot be instantiated.
    pub fn initial_memory_bytes(&self) -> Result<usize, ModuleError> {
        let budget = CallBudget::set_up(1);
        let (mut guest, _) = PolicyGuest::new(&self.engine, &self.module, 1, budget)?;
        Ok(guest.memory().len())
    }

    /// Makes an instance for these services, as on the first worker of a balancer.
    ///
    /// # Errors
    /// If the module refuses a service or breaks the ABI.
    pub fn instantiate(
        &self,
        seed: u64,
        services: &[ServiceBinding],
    ) -> Result<PolicyInstance, ModuleError> {
        let faults = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&faults);
        let counters = Arc::new(ModuleCounters::default());
        let owner = InstanceOwner {
            counters: Arc::clone(&counters),
            ..InstanceOwner::unheard(seed, Arc::new(move |report| lock(&sink).push(report)))
        };
        Ok(PolicyInstance {
            policy: bind(&self.engine, &self.module, &owner, services)?,
            counters,
            faults,
            _engine: Arc::clone(&self.engine),
        })
    }
}

/// An instance of a policy.
pub struct PolicyInstance {
    policy: WasmPolicy,
    counters: Arc<ModuleCounters>,
    faults: Arc<Mutex<Vec<FaultReport>>>,
    /// Its clock bounds each call.
    _engine: Arc<Engine>,
}

impl PolicyInstance {
    /// Returns the instance as the data plane calls it.
    pub fn policy(&mut self) -> &mut impl Policy {
        &mut self.policy
    }

    /// Takes the latest failed call.
    pub fn take_fault(&mut self) -> Option<FaultReport> {
        lock(&self.faults).pop()
    }

    /// Returns the remaining fuel; 0 if the engine does not count it.
    #[must_use]
    pub fn fuel_left(&self) -> u64 {
        self.policy.guest.fuel_left().unwrap_or(0)
    }

    /// Returns the size of the instance's memory, in bytes.
    pub fn memory_bytes(&mut self) -> usize {
        self.policy.guest.memory().len()
    }

    /// Returns the values of the module's own counters and gauges for a service, and drops the instance.
    #[must_use]
    pub fn into_counters(mut self, service: &str) -> ModuleValues {
        self.policy.publish_counters();
        let mut values = self.counters.values(&self.policy.module.info);
        values.remove(service).unwrap_or_default()
    }
}

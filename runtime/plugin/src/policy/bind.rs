//! Sets an instance up for its services, on the control thread.
//!
//! Invariant: a returned instance has every service's config accepted, regions checked and backends
//! written. If one service fails, the whole instance fails, so a worker never gets a partial one.

use std::sync::Arc;

use waxwing_dataplane::{PolicyFault, ServiceId};
use waxwing_sdk::abi::{
    BACKEND_DRAINING, BACKEND_HEALTHY, BACKENDS_MAX, BackendRecord, CONFIG_MAX, HostFields,
};

use crate::build::engine::{CallBudget, Engine};
use crate::build::module::CompiledModule;
use crate::error::{ModuleError, Refusal};
use crate::policy::call_times::WorkerCallTimes;
use crate::policy::guest::{CallFailure, PolicyExports, PolicyGuest};
use crate::policy::hosted::{BackendInfo, HostedService, ServiceBinding};
use crate::policy::instance::{FaultSink, WasmPolicy};
use crate::policy::module_counters::{CounterPublisher, ModuleCounters};
use crate::policy::module_log::ModuleLog;
use crate::policy::outcomes::ModuleOutcomes;
use crate::policy::recent_flows::RecentFlows;
use crate::policy::records::write_host;
use crate::policy::regions::{Regions, RequiredSizes};
use crate::policy::saved_states::{SavedStates, StateDesk};
use crate::policy::saving::Saving;
use crate::policy::shared_cells::ModuleCells;
use crate::policy::worker_share::WorkerShare;

/// What is said of a module that refuses without a word.
const NO_REASON: &str = "it gives no reason";

/// The worker that an instance is for, and where the instance reports to.
pub(crate) struct InstanceOwner {
    pub(crate) worker: u32,
    /// The number of workers.
    pub(crate) workers: u32,
    pub(crate) seed: u64,
    pub(crate) generation: u64,
    pub(crate) faults: FaultSink,
    pub(crate) counters: Arc<ModuleCounters>,
    pub(crate) cells: Arc<ModuleCells>,
    pub(crate) desk: Arc<StateDesk>,
    /// What it starts with, if anything.
    pub(crate) saved: Option<Arc<SavedStates>>,
    pub(crate) outcomes: Arc<ModuleOutcomes>,
    pub(crate) recent_flows: Arc<RecentFlows>,
    pub(crate) log: Arc<ModuleLog>,
    /// The module's share of the worker's time, in percent; 0: all.
    pub(crate) share_percent: u32,
    pub(crate) times: WorkerCallTimes,
}

impl InstanceOwner {
    /// The first worker; what is reported ends here, except faults.
    pub(crate) fn unheard(seed: u64, faults: FaultSink) -> Self {
        Self {
            worker: 0,
            workers: 1,
            seed,
            generation: 1,
            faults,
            counters: Arc::default(),
            cells: Arc::default(),
            desk: Arc::default(),
            saved: None,
            outcomes: Arc::default(),
            recent_flows: Arc::default(),
            log: Arc::default(),
            share_percent: 0,
            times: WorkerCallTimes::default(),
        }
    }
}

/// Makes an instance that serves all of `services`. If a call with a saved state fails, it starts without
/// any.
pub(crate) fn bind(
    engine: &Engine,
    module: &Arc<CompiledModule>,
    owner: &InstanceOwner,
    services: &[ServiceBinding],
) -> Result<WasmPolicy, ModuleError> {
    match try_bind(engine, module, owner, services) {
        Err(error) if matches!(error.refusal, Refusal::Restore { .. }) => {
            if let Some(saved) = &owner.saved {
                saved.failed(&error.to_string());
            }
            try_bind(engine, module, owner, services)
        }
        bound => bound,
    }
}

/// As [`bind`], but a call with a saved state may not fail.
pub(crate) fn try_bind(
    engine: &Engine,
    module: &Arc<CompiledModule>,
    owner: &InstanceOwner,
    services: &[ServiceBinding],
) -> Result<WasmPolicy, ModuleError> {
    let budget = CallBudget::set_up(services.len());
    let (mut guest, functions) = PolicyGuest::new(engine, module, services.len(), budget)?;
    let mut hosted = Vec::with_capacity(services.len());
    for service in services {
        let set_up = ServiceSetup {
            guest: &mut guest,
            functions: &functions,
            module,
            owner,
            service,
            budget,
        };
        let one = set_up.run();
        hosted.push(one.map_err(|refusal| refusal.of(module.label()))?);
    }
    Ok(WasmPolicy {
        module: Arc::clone(module),
        worker: owner.worker,
        guest,
        functions,
        by_service: by_service(services),
        hosted: hosted.into(),
        disabled: false,
        faults: Arc::clone(&owner.faults),
        recent_flows: Arc::clone(&owner.recent_flows),
        log: Arc::clone(&owner.log),
        log_due_ms: 0,
        share: WorkerShare::new(owner.share_percent, owner.times.clone()),
        saving: Saving::new(Arc::clone(&owner.desk)),
        next_upkeep: 0,
        upkeep_ms: 0,
    })
}

/// Returns the room for backends in an instance whose state is to survive the arrival of some.
fn room_to_grow(backends: usize) -> usize {
    let room = backends.saturating_mul(2).next_power_of_two().max(64);
    room.min(BACKENDS_MAX).max(backends)
}

/// The set-up of one service in an instance.
struct ServiceSetup<'a> {
    guest: &'a mut PolicyGuest,
    functions: &'a PolicyExports,
    module: &'a CompiledModule,
    owner: &'a InstanceOwner,
    service: &'a ServiceBinding,
    budget: CallBudget,
}

impl ServiceSetup<'_> {
    fn run(mut self) -> Result<HostedService, Refusal> {
        let mut hosted = self.make()?;
        let saved = self.owner.saved.as_ref().filter(|_| self.module.info.saves);
        let state = saved.and_then(|saved| saved.of(&self.service.name, self.owner.worker));
        if let (Some(saved), Some(state)) = (saved, state) {
            if self.restore(&hosted, &state)? {
                return Ok(hosted);
            }
            let why = self.guest.error_text();
            let why = why.unwrap_or_else(|| NO_REASON.into());
            saved.refused(&self.module.label(), &self.service.name, &why);
            // A service that refused is not used.
            hosted = self.make().map_err(|refusal| Refusal::Restore {
                service: self.service.name.to_string(),
                why: format!("refused, it cannot be made again: {refusal}"),
            })?;
        }
        if let Some(changed) = &self.functions.backends_changed {
            let accepted = self
                .guest
                .call(changed, hosted.regions.header, self.budget)
                .map_err(|failure| self.failed("waxwing_backends_changed", &failure))?;
            if accepted == 0 {
                return Err(self.refused());
            }
        }
        Ok(hosted)
    }

    /// Gives the module the state of an earlier instance. Returns whether it accepts it.
    fn restore(&mut self, hosted: &HostedService, state: &[u8]) -> Result<bool, Refusal> {
        let Some(restore) = &self.functions.restore else {
            return Ok(false);
        };
        let failed = |call: &str, why: &str| Refusal::Restore {
            service: self.service.name.to_string(),
            why: format!("{call}: {why}"),
        };
        let len = i32::try_from(state.len()).unwrap_or(i32::MAX);
        let buffer = self
            .guest
            .call(&self.functions.reserve, len, self.budget)
            .map_err(|failure| failed("waxwing_reserve", &failure.text))?;
        if buffer == 0 {
            return Ok(false);
        }
        let start = buffer.cast_unsigned() as usize;
        let place = start..start.saturating_add(state.len());
        let Some(place) = self.guest.memory().get_mut(place) else {
            let why = format!("returned {start:#x}, outside of memory");
            return Err(failed("waxwing_reserve", &why));
        };
        place.copy_from_slice(state);
        let accepted = self
            .guest
            .call(restore, (hosted.regions.header, len), self.budget)
            .map_err(|failure| failed("waxwing_restore", &failure.text))?;
        Ok(accepted != 0)
    }

    /// Makes the service in the module, and writes its backends.
    fn make(&mut self) -> Result<HostedService, Refusal> {
        let header = self.init()?;
        let info = &self.module.info;
        let required = RequiredSizes {
            backends: self.service.backends.len(),
            payload: self.module.payload_len(),
            counters: info.counters.len() + info.gauges.len(),
            has_live: info.abi_minor >= 1,
            shared: info.shared,
        };
        let regions = Regions::read(self.guest.memory(), header.cast_unsigned(), required)
            .map_err(|why| self.breaks_abi(why))?;
        let hosted = self.hosted(regions);
        write_host(self.guest.memory(), &hosted.regions, &hosted, 0);
        write_backends(self.guest.memory(), &hosted, &self.service.backends);
        hosted.shared.add_up(self.guest.memory(), &hosted.regions);
        Ok(hosted)
    }

    /// Passes the config to the module. Returns the address of the service's header.
    fn init(&mut self) -> Result<i32, Refusal> {
        let service = self.service;
        let config_len = self.size("config", service.config_json.len(), CONFIG_MAX)?;
        let room = if self.module.info.keep {
            room_to_grow(service.backends.len())
        } else {
            service.backends.len()
        };
        let backends_max = self.size("backends", room, BACKENDS_MAX)?;
        let buffer = self
            .guest
            .call(&self.functions.reserve, config_len.max(1), self.budget)
            .map_err(|failure| self.failed("waxwing_reserve", &failure))?;
        self.write_config(buffer)?;
        let parameters = (config_len, backends_max);
        let header = self
            .guest
            .call(&self.functions.init, parameters, self.budget)
            .map_err(|failure| self.failed("waxwing_init", &failure))?;
        if header == 0 {
            return Err(self.refused());
        }
        Ok(header)
    }

    fn hosted(&self, regions: Regions) -> HostedService {
        let (service, owner) = (self.service, self.owner);
        let backends = &service.backends;
        let info = &self.module.info;
        let config_json: Arc<str> = service.config_json.as_str().into();
        let key = (&service.name, self.module.hash, &config_json);
        HostedService {
            service: service.service,
            name: Arc::clone(&service.name),
            shared: owner.cells.of(key, info.shared),
            config_json,
            regions,
            backends: backends.as_slice().into(),
            available: backends.iter().map(|b| b.weight > 0 && b.healthy).collect(),
            healthy: backends.iter().map(|b| b.healthy).collect(),
            host_fields: HostFields {
                generation: owner.generation,
                now_ms: 0,
                seed: service_seed(owner.seed, service.service, owner.worker),
                backends_count: u32::try_from(backends.len()).unwrap_or(u32::MAX),
                worker: u16::try_from(owner.worker).unwrap_or(u16::MAX),
                workers: u16::try_from(owner.workers).unwrap_or(u16::MAX),
            },
            refreshed_ms: u64::MAX,
            ticked_ms: 0,
            counters: CounterPublisher::new(&owner.counters, &service.name, info),
            outcomes: owner.outcomes.counter(&service.name, owner.worker),
        }
    }

    fn size(&self, what: &str, len: usize, max: usize) -> Result<i32, Refusal> {
        i32::try_from(len)
            .ok()
            .filter(|_| len <= max)
            .ok_or_else(|| Refusal::SetUp {
                service: self.name(),
                why: format!("the size of its {what} is {len}; a policy takes at most {max}"),
            })
    }

    fn write_config(&mut self, buffer: i32) -> Result<(), Refusal> {
        if buffer == 0 {
            return Err(self.refused());
        }
        let config = self.service.config_json.as_bytes();
        let start = buffer.cast_unsigned() as usize;
        let place = start..start.saturating_add(config.len());
        let Some(place) = self.guest.memory().get_mut(place) else {
            let why = format!("waxwing_reserve returned {start:#x}, outside of memory");
            return Err(self.breaks_abi(why));
        };
        place.copy_from_slice(config);
        Ok(())
    }

    fn failed(&self, call: &str, failure: &CallFailure) -> Refusal {
        let CallFailure { fault, text } = failure;
        let why = match fault {
            PolicyFault::Overrun => format!("{call} {text}"),
            _ => format!("{call}: {text}"),
        };
        Refusal::SetUp {
            service: self.name(),
            why,
        }
    }

    fn refused(&mut self) -> Refusal {
        let why = self.guest.error_text();
        Refusal::Refused {
            service: self.name(),
            why: why.unwrap_or_else(|| NO_REASON.into()),
            setting: "policy_config",
        }
    }

    fn breaks_abi(&self, why: String) -> Refusal {
        Refusal::Abi {
            service: self.name(),
            why,
        }
    }

    fn name(&self) -> String {
        self.service.name.to_string()
    }
}

fn write_backends(memory: &mut [u8], hosted: &HostedService, backends: &[BackendInfo]) {
    let Some(records) = memory.get_mut(hosted.regions.backends..) else {
        return;
    };
    let records = records.as_chunks_mut::<{ BackendRecord::SIZE }>().0;
    for (record, backend) in records.iter_mut().zip(backends) {
        let healthy = if backend.healthy { BACKEND_HEALTHY } else { 0 };
        let draining = if backend.weight == 0 {
            BACKEND_DRAINING
        } else {
            0
        };
        *record = BackendRecord {
            key: backend.key,
            id: backend.id.0,
            flags: healthy | draining,
            weight: backend.weight,
            tag: backend.tag,
            health_weight: backend.health_weight,
            ..BackendRecord::default()
        }
        .to_le_bytes();
    }
}

fn by_service(services: &[ServiceBinding]) -> Box<[u32]> {
    let len = services
        .iter()
        .map(|s| s.service.index() + 1)
        .max()
        .unwrap_or(0);
    let mut places = vec![u32::MAX; len];
    for (at, service) in (0_u32..).zip(services) {
        places[service.service.index()] = at;
    }
    places.into()
}

/// Returns the seed that a service's instance on a worker gets from the host's seed: different for each
/// service and worker, and reproducible.
#[must_use]
pub const fn service_seed(seed: u64, service: ServiceId, worker: u32) -> u64 {
    mix(seed ^ mix((service.0 as u64) << 32 | worker as u64))
}

/// Mixes the bits of a seed (SplitMix64's finisher).
const fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

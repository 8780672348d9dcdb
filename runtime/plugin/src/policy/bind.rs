//! Setting an instance up for its services, on the control thread.
//!
//! Invariant: an instance leaves here with every service's config taken, regions checked and
//! backends written; a service that fails fails the whole instance, so a worker never gets half
//! of one.

use std::sync::Arc;

use waxwing_dataplane::{BackendId, PolicyFault, ServiceId};
use waxwing_sdk::abi::{
    BACKEND_DRAINING, BACKEND_HEALTHY, BACKENDS_MAX, BackendRecord, CONFIG_MAX,
};

use crate::engine::{Budget, Engine};
use crate::error::{ModuleError, Refusal};
use crate::guest::{Failure, Functions, Guest};
use crate::instance::{FaultSink, Hosted, WasmPolicy, write_host};
use crate::module::CompiledModule;
use crate::records::{Published, Records};
use crate::regions::{Regions, Wanted};

/// A backend as a policy gets to know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackendInfo {
    /// Its stable id.
    pub id: BackendId,
    /// A hash of its address and port under the cluster's key: the same on every worker and
    /// balancer, and after a restart.
    pub key: u64,
    /// Share of new sessions; 0 takes none.
    pub weight: u32,
    /// Whether its health lets it take new sessions.
    pub healthy: bool,
    /// What its health makes of its weight, in percent.
    pub health_weight: u16,
    /// The operator's tag; 0 if none.
    pub tag: u32,
}

/// A service that a module is to serve.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceBinding {
    /// Its stable id.
    pub service: ServiceId,
    /// Its name, for messages.
    pub name: Arc<str>,
    /// The policy's config, JSON text.
    pub config_json: String,
    /// Its backends, in the order of [`waxwing_dataplane::Service::backends`].
    pub backends: Vec<BackendInfo>,
}

/// Whose instance it is to be.
pub(crate) struct Owner {
    pub(crate) worker: u32,
    pub(crate) seed: u64,
    pub(crate) generation: u64,
    pub(crate) faults: FaultSink,
    pub(crate) records: Arc<Records>,
}

/// Makes an instance that serves all of `services`.
pub(crate) fn bind(
    engine: &Engine,
    module: &Arc<CompiledModule>,
    owner: Owner,
    services: &[ServiceBinding],
) -> Result<WasmPolicy, ModuleError> {
    let budget = Budget::set_up(services.len());
    let (mut guest, functions) = Guest::new(engine, module, services.len(), budget)?;
    let mut hosted = Vec::with_capacity(services.len());
    for service in services {
        let set_up = SetUp {
            service: &service.name,
            budget,
        };
        let one = host_service(&mut guest, &functions, module, &owner, (service, set_up))
            .map_err(|refusal| refusal.of(module.label()))?;
        hosted.push(one);
    }
    Ok(WasmPolicy {
        module: Arc::clone(module),
        worker: owner.worker,
        guest,
        functions,
        by_service: by_service(services),
        hosted: hosted.into(),
        disabled: false,
        faults: owner.faults,
        records: owner.records,
        next_upkeep: 0,
        upkeep_ms: 0,
    })
}

/// Room for more backends than there are, for an instance that is to go on when some come.
fn room_to_grow(backends: usize) -> usize {
    let room = backends.saturating_mul(2).next_power_of_two().max(64);
    room.min(BACKENDS_MAX).max(backends)
}

fn host_service(
    guest: &mut Guest,
    functions: &Functions,
    module: &CompiledModule,
    owner: &Owner,
    (service, set_up): (&ServiceBinding, SetUp<'_>),
) -> Result<Hosted, Refusal> {
    let budget = set_up.budget;
    let config_len = set_up.size("config", service.config_json.len(), CONFIG_MAX)?;
    let room = if module.info.keep {
        room_to_grow(service.backends.len())
    } else {
        service.backends.len()
    };
    let backends_max = set_up.size("backends", room, BACKENDS_MAX)?;

    let buffer = guest
        .call(&functions.reserve, config_len.max(1), budget)
        .map_err(|failure| set_up.failed("waxwing_reserve", &failure))?;
    set_up.write_config(guest, buffer, &service.config_json)?;
    let header = guest
        .call(&functions.init, (config_len, backends_max), budget)
        .map_err(|failure| set_up.failed("waxwing_init", &failure))?;
    if header == 0 {
        return Err(set_up.refused(guest));
    }
    let wanted = Wanted {
        backends: service.backends.len(),
        payload: module.payload_len(),
        counters: module.info.counters.len(),
    };
    let regions = Regions::read(guest.memory(), header.cast_unsigned(), wanted)
        .map_err(|why| set_up.breaks_abi(why))?;

    let hosted = Hosted {
        service: service.service,
        name: Arc::clone(&service.name),
        config_json: service.config_json.as_str().into(),
        regions,
        available: service
            .backends
            .iter()
            .map(|b| b.weight > 0 && b.healthy)
            .collect(),
        healthy: service.backends.iter().map(|b| b.healthy).collect(),
        generation: owner.generation,
        seed: service_seed(owner.seed, service.service, owner.worker),
        refreshed_ms: u64::MAX,
        ticked_ms: 0,
        counters: Published::new(&owner.records, &service.name, &module.info.counters),
    };
    write_host(guest.memory(), &hosted.regions, &hosted, 0);
    write_backends(guest.memory(), &hosted, &service.backends);
    if let Some(changed) = &functions.backends_changed {
        let taken = guest
            .call(changed, header, budget)
            .map_err(|failure| set_up.failed("waxwing_backends_changed", &failure))?;
        if taken == 0 {
            return Err(set_up.refused(guest));
        }
    }
    Ok(hosted)
}

/// One service's set-up: its time, and its errors.
struct SetUp<'a> {
    service: &'a str,
    budget: Budget,
}

impl SetUp<'_> {
    fn size(&self, what: &str, len: usize, max: usize) -> Result<i32, Refusal> {
        i32::try_from(len)
            .ok()
            .filter(|_| len <= max)
            .ok_or_else(|| Refusal::SetUp {
                service: self.service.into(),
                why: format!("{len} is the size of its {what}; at most {max} fit a policy"),
            })
    }

    fn write_config(&self, guest: &mut Guest, buffer: i32, config: &str) -> Result<(), Refusal> {
        if buffer == 0 {
            return Err(self.refused(guest));
        }
        let start = buffer.cast_unsigned() as usize;
        guest
            .memory()
            .get_mut(start..start.saturating_add(config.len()))
            .ok_or_else(|| {
                self.breaks_abi(format!(
                    "waxwing_reserve gave {start:#x}, outside of memory"
                ))
            })?
            .copy_from_slice(config.as_bytes());
        Ok(())
    }

    fn failed(&self, call: &str, failure: &Failure) -> Refusal {
        let Failure { fault, text } = failure;
        let text = match fault {
            PolicyFault::Overrun => format!("{call} {text}"),
            _ => format!("{call}: {text}"),
        };
        Refusal::SetUp {
            service: self.service.into(),
            why: text,
        }
    }

    fn refused(&self, guest: &mut Guest) -> Refusal {
        let why = guest
            .words()
            .unwrap_or_else(|| "it does not say why".into());
        Refusal::Refused {
            service: self.service.into(),
            why,
            setting: "policy_config",
        }
    }

    fn breaks_abi(&self, why: String) -> Refusal {
        Refusal::Abi {
            service: self.service.into(),
            why,
        }
    }
}

fn write_backends(memory: &mut [u8], hosted: &Hosted, backends: &[BackendInfo]) {
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

/// The seed of a service on a worker: different for each, and the same for the same three.
pub(crate) const fn service_seed(seed: u64, service: ServiceId, worker: u32) -> u64 {
    mix(seed ^ mix((service.0 as u64) << 32 | worker as u64))
}

/// Makes seeds that differ in one bit differ in all (SplitMix64's finisher).
const fn mix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

//! One instance at work for one made-up service, as a worker has it.
//!
//! Invariant: time passes only where [`Trial::pass_ms`] says so, so a run repeats; a fault of the
//! instance is an error of the trial, in the module's words.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use waxwing_dataplane::policy::{Closed, End, PickContext, TickContext};
use waxwing_dataplane::snapshot::{Backend, MidStream, NoBackend, Service, SourceUse, Timeouts};
use waxwing_dataplane::{
    BackendId, Gauges, NewFlow, Now, Pick, Policy, PolicyFault, Ports, ServiceId, Snapshot,
};
use waxwing_packet::{Address, Protocol};
use waxwing_sdk::hash;

use crate::bind::{BackendInfo, Owner, ServiceBinding, bind};
use crate::engine::Engine;
use crate::error::{ModuleError, Refusal};
use crate::instance::{FaultReport, WasmPolicy};
use crate::library::lock;
use crate::module::CompiledModule;
use crate::records::Records;

/// How ended sessions ended, in turn.
const ENDS: [End; 6] = [
    End::Closed,
    End::Reset,
    End::Idle,
    End::Unanswered,
    End::Refused,
    End::Evicted,
];

/// A service with these backends, for a module to serve.
pub(crate) fn service(id: u32, config: &str, backends: Vec<BackendInfo>) -> ServiceBinding {
    let name = match backends.len() {
        1 => "of 1 backend".to_owned(),
        count => format!("of {count} backends"),
    };
    ServiceBinding {
        service: ServiceId(id),
        name: name.into(),
        config_json: config.into(),
        backends,
    }
}

/// A made-up backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendSpec {
    /// Its share; 0 drains.
    pub weight: u32,
    /// The operator's tag; 0 if none.
    pub tag: u32,
}

/// Healthy backends like these, ids from 0 on.
pub(crate) fn backends(specs: impl IntoIterator<Item = BackendSpec>) -> Vec<BackendInfo> {
    let backend = |(id, BackendSpec { weight, tag }): (u32, BackendSpec)| BackendInfo {
        id: BackendId(id),
        key: hash::mix(u64::from(id)),
        weight,
        healthy: true,
        health_weight: 100,
        tag,
    };
    (0..).zip(specs).map(backend).collect()
}

/// An instance with its service. The engine, whose clock bounds each call, lives as long.
pub(crate) struct Trial<'a> {
    policy: WasmPolicy,
    service: ServiceBinding,
    ids: Vec<BackendId>,
    snapshot: Snapshot,
    gauges: Gauges,
    now: Duration,
    ended: usize,
    records: Arc<Records>,
    faults: Arc<Mutex<Vec<FaultReport>>>,
    _engine: &'a Engine,
}

impl<'a> Trial<'a> {
    pub(crate) fn start(
        engine: &'a Engine,
        module: &Arc<CompiledModule>,
        service: ServiceBinding,
        seed: u64,
    ) -> Result<Self, ModuleError> {
        let faults = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&faults);
        let records = Arc::new(Records::default());
        let owner = Owner {
            worker: 0,
            seed,
            generation: 1,
            faults: Arc::new(move |report| lock(&sink).push(report)),
            records: Arc::clone(&records),
        };
        let policy = bind(engine, module, owner, std::slice::from_ref(&service))?;
        let ids: Vec<BackendId> = service.backends.iter().map(|b| b.id).collect();
        let ids_max = ids.iter().map(|id| id.index() + 1).max().unwrap_or(0);
        Ok(Self {
            policy,
            snapshot: snapshot(&service),
            gauges: Gauges::new(ids_max, 1),
            service,
            ids,
            now: Duration::ZERO,
            ended: 0,
            records,
            faults,
            _engine: engine,
        })
    }

    /// Asks about one batch; `picks` has a place for each of the flows.
    pub(crate) fn pick(&mut self, flows: &[NewFlow], picks: &mut [Pick]) -> Result<(), Fault> {
        let context = PickContext {
            now: Now::from_start(self.now),
            backends: &self.ids,
            gauges: &self.gauges,
        };
        self.policy
            .pick(self.service.service, context, flows, picks)
            .map_err(|fault| self.fault(fault))
    }

    /// Lets a millisecond pass, and the module's tick come where it is due.
    pub(crate) fn pass_ms(&mut self) -> Result<(), Fault> {
        self.now += Duration::from_millis(1);
        self.policy.tick(TickContext {
            now: Now::from_start(self.now),
            snapshot: &self.snapshot,
            gauges: &self.gauges,
        });
        self.no_fault()
    }

    /// The picks become sessions.
    pub(crate) fn begin(&self, picks: &[Pick]) {
        for id in self.backends_of(picks) {
            self.gauges.begin(0, id);
        }
    }

    /// Sessions that were begun end, in every way in turn, and the module is told if it wants to be.
    pub(crate) fn end(&mut self, picks: &[Pick]) -> Result<(), Fault> {
        for id in self.backends_of(picks) {
            self.gauges.end(0, id);
        }
        if !self.policy.wants_closed() {
            return Ok(());
        }
        let mut events = Vec::with_capacity(picks.len());
        for pick in picks {
            if let Pick::Backend(backend) = *pick {
                self.ended += 1;
                events.push(Closed {
                    backend,
                    duration_ms: 1 << (self.ended % 20),
                    bytes: 64 << (self.ended % 24),
                    end: ENDS[self.ended % ENDS.len()],
                });
            }
        }
        if !events.is_empty() {
            self.policy.closed(self.service.service, &events);
        }
        self.no_fault()
    }

    fn backends_of(&self, picks: &[Pick]) -> impl Iterator<Item = BackendId> {
        picks.iter().filter_map(|pick| match pick {
            Pick::Backend(at) | Pick::Keep(at) => self.ids.get(*at as usize).copied(),
            Pick::Drop | Pick::Fallback => None,
        })
    }

    /// What is left of the instance's fuel; 0 where the engine does not count it.
    pub(crate) fn fuel_left(&self) -> u64 {
        self.policy.guest.fuel_left().unwrap_or(0)
    }

    /// The instance's memory, in bytes.
    pub(crate) fn memory(&mut self) -> usize {
        self.policy.guest.memory().len()
    }

    /// Ends it, and gives what the module's own counters say.
    pub(crate) fn counters(self) -> BTreeMap<String, u64> {
        let Self {
            policy,
            records,
            service,
            ..
        } = self;
        let names = policy.module.info.counters.clone();
        // The last counts are published as the instance goes.
        drop(policy);
        let mut counters = records.counters(&names);
        counters.remove(&service.name).unwrap_or_default()
    }

    fn no_fault(&self) -> Result<(), Fault> {
        let said = lock(&self.faults).last().map(|report| report.fault);
        said.map_or(Ok(()), |fault| Err(self.fault(fault)))
    }

    #[cold]
    fn fault(&self, fault: PolicyFault) -> Fault {
        let said = lock(&self.faults).pop();
        let why = said.map_or_else(|| format!("{fault:?}"), |report| report.text);
        let service = self.service.name.to_string();
        Fault {
            overrun: fault == PolicyFault::Overrun,
            error: Refusal::Vetting { service, why }.of(self.policy.module.label()),
        }
    }
}

/// An instance failed on made-up flows.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Whether it ran out of time, which fewer backends may mend.
    pub(crate) overrun: bool,
    pub(crate) error: ModuleError,
}

impl From<ModuleError> for Fault {
    fn from(error: ModuleError) -> Self {
        Self {
            overrun: false,
            error,
        }
    }
}

impl From<Fault> for ModuleError {
    fn from(fault: Fault) -> Self {
        fault.error
    }
}

/// What the core would know of the service, for the tick.
fn snapshot(binding: &ServiceBinding) -> Snapshot {
    let service = Service {
        id: binding.service,
        name: Arc::clone(&binding.name),
        vip: Address::v4([203, 0, 113, 10]),
        ports: Ports::one(443),
        protocol: Protocol::Tcp,
        source_nat: SourceUse::Auto,
        policy: 0,
        backends: binding.backends.iter().map(|b| b.id).collect(),
        mid_stream: MidStream::Pick,
        no_backend: NoBackend::Drop,
        timeouts: Timeouts::default(),
    };
    let first = Ipv4Addr::new(10, 64, 0, 0).to_bits();
    let backends = binding.backends.iter().map(|backend| {
        let address = Address::v4((first + backend.id.0).to_be_bytes());
        Backend::new(backend.id, &service, address, 8080, backend.weight)
    });
    let backends = backends.collect();
    Snapshot::new(1, vec![service], backends, Vec::new())
}

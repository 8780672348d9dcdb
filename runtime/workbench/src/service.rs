//! A synthetic service, and an instance that serves it, as a worker would drive it.
//!
//! Invariant: time passes only in [`TrialService::pass_ms`], so a run is reproducible; a fault of the
//! instance is returned as a [`TrialFault`], with the module's text.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use waxwing_dataplane::model::{Backend, MidStream, NoBackend, Service, SourceUse, Timeouts};
use waxwing_dataplane::policy::{Closed, End, PickContext, TickContext};
use waxwing_dataplane::session::Phase;
use waxwing_dataplane::{
    BackendId, Gauges, NewFlow, Now, Pick, Policy, PolicyFault, Ports, ServiceId, Snapshot,
};
use waxwing_packet::{Address, Protocol};
use waxwing_plugin::trial::{LoadedPolicy, PolicyInstance};
use waxwing_plugin::{BackendInfo, ModuleError, ModuleValues, Refusal, ServiceBinding};
use waxwing_sdk::hash;

/// How sessions end, in turn.
const ENDS: [End; 6] = [
    End::Closed,
    End::Reset,
    End::Idle,
    End::Unanswered,
    End::Refused,
    End::Evicted,
];

/// Returns a service with these backends.
pub(crate) fn service(id: u32, config: &str, backends: Vec<BackendInfo>) -> ServiceBinding {
    let name = match backends.len() {
        1 => "with 1 backend".to_owned(),
        count => format!("with {count} backends"),
    };
    ServiceBinding {
        service: ServiceId(id),
        name: name.into(),
        config_json: config.into(),
        backends,
    }
}

/// A synthetic backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendSpec {
    /// Its share of new sessions; 0 drains it.
    pub weight: u32,
    /// The operator's tag; 0 if none.
    pub tag: u32,
}

/// Returns healthy backends like these, with ids from 0.
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

/// An instance and the service that it serves.
pub(crate) struct TrialService {
    instance: PolicyInstance,
    /// The module's name and source, for messages.
    label: String,
    service: ServiceBinding,
    ids: Vec<BackendId>,
    snapshot: Snapshot,
    gauges: Gauges,
    now: Duration,
    ended: usize,
}

impl TrialService {
    pub(crate) fn start(
        policy: &LoadedPolicy,
        service: ServiceBinding,
        seed: u64,
    ) -> Result<Self, ModuleError> {
        let instance = policy.instantiate(seed, std::slice::from_ref(&service))?;
        let ids: Vec<BackendId> = service.backends.iter().map(|b| b.id).collect();
        let ids_max = ids.iter().map(|id| id.index() + 1).max().unwrap_or(0);
        Ok(Self {
            instance,
            label: policy.module().label(),
            snapshot: snapshot(&service),
            gauges: Gauges::new(ids_max, 1),
            service,
            ids,
            now: Duration::ZERO,
            ended: 0,
        })
    }

    /// Lets the policy pick for a batch; `picks` has room for one pick per flow.
    pub(crate) fn pick(&mut self, flows: &[NewFlow], picks: &mut [Pick]) -> Result<(), TrialFault> {
        let context = PickContext {
            now: Now::from_start(self.now),
            backends: &self.ids,
            gauges: &self.gauges,
        };
        let policy = self.instance.policy();
        policy
            .pick(self.service.service, context, flows, picks)
            .map_err(|fault| self.fault(fault))
    }

    /// Advances time by a millisecond and runs the policy's tick if it is due.
    pub(crate) fn pass_ms(&mut self) -> Result<(), TrialFault> {
        self.now += Duration::from_millis(1);
        self.instance.policy().tick(TickContext {
            now: Now::from_start(self.now),
            snapshot: &self.snapshot,
            gauges: &self.gauges,
        });
        self.check_fault()
    }

    /// Begins a session for each picked backend.
    pub(crate) fn begin(&self, picks: &[Pick]) {
        for id in self.backends_of(picks) {
            self.gauges.begin(0, id, Phase::Established);
        }
    }

    /// Ends the sessions of these picks, each kind of end in turn, and reports them to the policy if it
    /// wants reports.
    pub(crate) fn end(&mut self, picks: &[Pick]) -> Result<(), TrialFault> {
        for id in self.backends_of(picks) {
            self.gauges.end(0, id, Phase::Established);
        }
        if !self.instance.policy().wants_closed() {
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
            let policy = self.instance.policy();
            policy.closed(self.service.service, &events);
        }
        self.check_fault()
    }

    fn backends_of(&self, picks: &[Pick]) -> impl Iterator<Item = BackendId> {
        picks.iter().filter_map(|pick| match pick {
            Pick::Backend(at) | Pick::Keep(at) => self.ids.get(*at as usize).copied(),
            Pick::Drop | Pick::Fallback => None,
        })
    }

    /// Returns the instance's remaining fuel; 0 if the engine does not count it.
    pub(crate) fn fuel_left(&self) -> u64 {
        self.instance.fuel_left()
    }

    /// Returns the size of the instance's memory, in bytes.
    pub(crate) fn memory_bytes(&mut self) -> usize {
        self.instance.memory_bytes()
    }

    /// Returns the values of the module's own counters and gauges, and drops the instance.
    pub(crate) fn into_counters(self) -> ModuleValues {
        self.instance.into_counters(&self.service.name)
    }

    fn check_fault(&mut self) -> Result<(), TrialFault> {
        let report = self.instance.take_fault();
        report.map_or(Ok(()), |report| Err(self.error(report.fault, report.text)))
    }

    #[cold]
    fn fault(&mut self, fault: PolicyFault) -> TrialFault {
        let report = self.instance.take_fault();
        let why = report.map_or_else(|| format!("{fault:?}"), |report| report.text);
        self.error(fault, why)
    }

    fn error(&self, fault: PolicyFault, why: String) -> TrialFault {
        let service = self.service.name.to_string();
        TrialFault {
            is_overrun: fault == PolicyFault::Overrun,
            error: ModuleError {
                module: self.label.clone(),
                refusal: Refusal::Vetting { service, why },
            },
        }
    }
}

/// An instance that failed on synthetic flows.
#[derive(Debug)]
pub(crate) struct TrialFault {
    /// Whether it ran out of time, which may not happen with fewer backends.
    pub(crate) is_overrun: bool,
    pub(crate) error: ModuleError,
}

impl From<ModuleError> for TrialFault {
    fn from(error: ModuleError) -> Self {
        Self {
            is_overrun: false,
            error,
        }
    }
}

impl From<TrialFault> for ModuleError {
    fn from(fault: TrialFault) -> Self {
        fault.error
    }
}

/// Returns the snapshot that the data plane would have of the service, for the tick.
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
        adopts_replies: false,
        no_backend: NoBackend::Drop,
        sessions_max: None,
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

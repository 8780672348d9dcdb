//! Vetting: a new build has to answer test flows, and recent flows of its services, before it serves.
//!
//! Invariant: vetting runs on an instance of its own, on the control thread, and drops it; a build that
//! loops, traps or picks an invalid backend here never reaches a worker.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use waxwing_dataplane::policy::{PAYLOAD_MAX, PickContext};
use waxwing_dataplane::{BATCH, BackendId, Gauges, NewFlow, Now, Pick, Policy, PolicyFault};
use waxwing_packet::Protocol;

use crate::build::engine::Engine;
use crate::build::module::CompiledModule;
use crate::error::{ModuleError, Refusal};
use crate::lock::lock;
use crate::policy::bind::{InstanceOwner, try_bind};
use crate::policy::call_times::WorkerCallTimes;
use crate::policy::hosted::ServiceBinding;
use crate::policy::instance::{FaultReport, WasmPolicy};
use crate::policy::outcomes::{ModuleOutcomes, Outcomes};
use crate::policy::recent_flows::RecentFlows;
use crate::policy::saved_states::{SavedState, SavedStates};
use crate::sample_payloads::{dns_query, payload_prefix, quic_packet};

/// The batch sizes tried: the smallest, the fullest, and some between.
const BATCHES: [usize; 6] = [1, 2, 3, 31, 32, BATCH];

/// The most services that are tried; the code is the same for all.
const SERVICES_MAX: usize = 64;

/// What a build made of its test flows.
pub(crate) struct Vetted {
    pub(crate) flows: usize,
    pub(crate) outcomes: Outcomes,
}

/// How often a build is tried whose calls take too long.
const TRIES: usize = 3;

/// Why a build was not vetted.
struct Failed {
    error: ModuleError,
    /// A call ran past its time budget.
    is_overrun: bool,
}

impl From<ModuleError> for Failed {
    fn from(error: ModuleError) -> Self {
        let is_overrun = false;
        Self { error, is_overrun }
    }
}

/// Vets a build on its services. On a busy machine the kernel may interrupt a call so often that its time is
/// over: a build is refused for that only if it happens each time.
pub(crate) fn vet(
    engine: &Engine,
    module: &Arc<CompiledModule>,
    services: &[ServiceBinding],
    recent_flows: &RecentFlows,
) -> Result<Vetted, ModuleError> {
    for _ in 1..TRIES {
        match vet_once(engine, module, services, recent_flows) {
            Err(failed) if failed.is_overrun => {}
            outcome => return outcome.map_err(|failed| failed.error),
        }
    }
    vet_once(engine, module, services, recent_flows).map_err(|failed| failed.error)
}

fn vet_once(
    engine: &Engine,
    module: &Arc<CompiledModule>,
    services: &[ServiceBinding],
    recent_flows: &RecentFlows,
) -> Result<Vetted, Failed> {
    let services = &services[..services.len().min(SERVICES_MAX)];
    let reports = Arc::new(Mutex::new(Vec::<FaultReport>::new()));
    let sink = Arc::clone(&reports);
    let outcomes = Arc::new(ModuleOutcomes::default());
    let mut owner = InstanceOwner {
        worker: 0,
        workers: 1,
        seed: 0,
        generation: 0,
        faults: Arc::new(move |report| lock(&sink).push(report)),
        counters: Arc::default(),
        cells: Arc::default(),
        desk: Arc::default(),
        saved: None,
        outcomes: Arc::clone(&outcomes),
        recent_flows: Arc::default(),
        log: Arc::default(),
        share_percent: 0,
        times: WorkerCallTimes::default(),
    };
    let mut policy = try_bind(engine, module, &owner, services)?;
    let mut flows = 0;
    for service in services {
        let recent = recent_flows.of(service.service);
        flows += recent.len() + BATCHES.iter().sum::<usize>();
        if let Err(fault) = try_service(&mut policy, service, &recent) {
            let report = lock(&reports).pop();
            let why = report.map_or_else(|| format!("{fault:?}"), |report| report.text);
            let service = service.name.to_string();
            return Err(Failed {
                error: Refusal::Vetting { service, why }.of(module.label()),
                is_overrun: fault == PolicyFault::Overrun,
            });
        }
    }
    if module.info.saves {
        let states = save(&mut policy, module)?;
        owner.saved = Some(Arc::new(states));
        try_bind(engine, module, &owner, services)?;
    }
    let mut all = Outcomes::default();
    for sides in outcomes.sides().into_values() {
        all += sides.canary;
    }
    Ok(Vetted {
        flows,
        outcomes: all,
    })
}

/// Has an instance save all its services.
fn save(policy: &mut WasmPolicy, module: &CompiledModule) -> Result<SavedStates, Failed> {
    let mut states = Vec::new();
    for at in 0..policy.hosted.len() {
        let name = Arc::clone(&policy.hosted[at].name);
        let failed = |why: String, is_overrun| {
            let service = name.to_string();
            let error = Refusal::Vetting { service, why }.of(module.label());
            Failed { error, is_overrun }
        };
        let state = match policy.save(at, 0) {
            Ok(state) => state.transpose().map_err(|why| failed(why, false))?,
            Err(failure) => {
                let is_overrun = failure.fault == PolicyFault::Overrun;
                return Err(failed(
                    format!("waxwing_save: {}", failure.text),
                    is_overrun,
                ));
            }
        };
        if let Some(state) = state {
            states.push(SavedState {
                service: name,
                worker: 0,
                state,
            });
        }
    }
    Ok(SavedStates::quiet(states))
}

fn try_service(
    policy: &mut impl Policy,
    service: &ServiceBinding,
    recent: &[NewFlow],
) -> Result<(), PolicyFault> {
    let backends: Vec<BackendId> = service.backends.iter().map(|b| b.id).collect();
    let ids = backends.iter().map(|id| id.index() + 1).max().unwrap_or(0);
    let gauges = Gauges::new(ids, 1);
    let context = PickContext {
        now: Now::default(),
        backends: &backends,
        gauges: &gauges,
    };
    let made = BATCHES.map(|count| (0..).take(count).map(test_flow).collect::<Vec<_>>());
    let batches = made.iter().map(Vec::as_slice).chain(recent.chunks(BATCH));
    for flows in batches {
        let mut picks = vec![Pick::Fallback; flows.len()];
        policy.pick(service.service, context, flows, &mut picks)?;
    }
    Ok(())
}

/// Returns test flow number `at`. Neighbours differ in family, protocol, SYN and payload length; every
/// second UDP payload is a DNS query with many labels or a QUIC packet.
fn test_flow(at: u8) -> NewFlow {
    let address = |host: u8| -> IpAddr {
        match at % 3 {
            0 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(host)).into(),
            _ => Ipv4Addr::new(192, 0, 2, host).into(),
        }
    };
    let (payload, payload_len) = match at % 8 {
        1 => payload_prefix(&dns_query((0..at).map(|label| [b'a' + label % 26]))),
        3 => payload_prefix(&quic_packet(&[0, 0, 0, 0, at / 8])),
        _ => ([at; PAYLOAD_MAX], at.saturating_mul(2)),
    };
    NewFlow {
        source: address(at).into(),
        source_port: 1024 + u16::from(at),
        destination: address(254).into(),
        destination_port: 443,
        protocol: if at.is_multiple_of(2) {
            Protocol::Tcp
        } else {
            Protocol::Udp
        },
        hash: u64::from(at).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        mid_stream: at % 8 == 4,
        payload_len,
        payload,
    }
}

//! A host, a service and flows, shared by the tests.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use waxwing_dataplane::model::{MidStream, NoBackend, SourceUse, Timeouts};
use waxwing_dataplane::policy::{Closed, End, PAYLOAD_MAX, PickContext, TickContext};
use waxwing_dataplane::session::Phase;
use waxwing_dataplane::{
    BackendId, Gauges, NewFlow, Now, Pick, Policy, PolicyFault, Ports, Service, ServiceId, Snapshot,
};
use waxwing_packet::{Address, Protocol};
use waxwing_plugin::{BackendInfo, Host, HostEvent, HostOptions, ServiceBinding};

/// Returns a host with these shipped modules, and its events.
pub(crate) fn host(
    shipped: &[(&'static str, &'static [u8])],
    folder: Option<PathBuf>,
) -> (Host, Receiver<HostEvent>) {
    host_with(HostOptions::default(), shipped, folder)
}

/// As [`host`], with other options.
pub(crate) fn host_with(
    options: HostOptions,
    shipped: &[(&'static str, &'static [u8])],
    folder: Option<PathBuf>,
) -> (Host, Receiver<HostEvent>) {
    let (sender, events) = channel();
    let sender = std::sync::Mutex::new(sender);
    let host = Host::new(options, shipped, folder, move |event| {
        let _ = sender
            .lock()
            .expect("no test panics while holding it")
            .send(event);
    });
    (host.expect("a host"), events)
}

pub(crate) const SERVICE: ServiceId = ServiceId(3);

/// Returns a service named `web` with one backend per weight.
pub(crate) fn service(weights: &[u32]) -> ServiceBinding {
    let backends = (0..)
        .zip(weights)
        .map(|(id, weight)| BackendInfo {
            id: BackendId(id),
            key: u64::from(id) * 77,
            weight: *weight,
            healthy: true,
            health_weight: 100,
            tag: 0,
        })
        .collect();
    let config_json = "{}".into();
    ServiceBinding {
        service: SERVICE,
        name: "web".into(),
        config_json,
        backends,
    }
}

pub(crate) fn flow(hash: u64) -> NewFlow {
    NewFlow {
        source: std::net::IpAddr::from(Ipv4Addr::new(192, 0, 2, 1)).into(),
        source_port: 4000,
        destination: std::net::IpAddr::from(Ipv4Addr::new(203, 0, 113, 10)).into(),
        destination_port: 80,
        protocol: Protocol::Tcp,
        hash,
        mid_stream: false,
        payload_len: 4,
        payload: [7; PAYLOAD_MAX],
    }
}

/// Picks for one batch of flows with these hashes.
pub(crate) fn pick(
    policy: &mut dyn Policy,
    backends: u32,
    hashes: &[u64],
) -> Result<Vec<Pick>, PolicyFault> {
    let ids: Vec<BackendId> = (0..backends).map(BackendId).collect();
    let gauges = Gauges::new(ids.len(), 1);
    let context = PickContext {
        now: Now::default(),
        backends: &ids,
        gauges: &gauges,
    };
    let flows: Vec<NewFlow> = hashes.iter().map(|hash| flow(*hash)).collect();
    let mut picks = vec![Pick::Drop; flows.len()];
    policy.pick(SERVICE, context, &flows, &mut picks)?;
    Ok(picks)
}

/// Makes each kind of call that a worker makes, once, for the service with two backends, at a later
/// time in each round. Failures arrive as the host's events.
pub(crate) fn all_calls(policy: &mut dyn Policy, round: u64) {
    let _ = pick(policy, 2, &[round, u64::MAX - round, 1]);
    let ended = [0, 1, u32::MAX].map(|backend| Closed {
        backend,
        duration_ms: u64::MAX,
        bytes: 0,
        end: End::Reset,
    });
    policy.closed(SERVICE, &ended);
    policy.tick(TickContext {
        now: Now::from_start(Duration::from_millis(10 * (round + 1))),
        snapshot: &snapshot(2),
        gauges: &Gauges::new(2, 1),
    });
}

/// Hands an instance's state over to its replacement, for so many backends. Each has as many sessions as its
/// index says.
pub(crate) fn inherit(new: &mut dyn Policy, old: &mut dyn Policy, backends: u32) {
    let gauges = Gauges::new(backends as usize, 1);
    for id in 0..backends {
        for _ in 0..id {
            gauges.begin(0, BackendId(id), Phase::Established);
        }
    }
    let context = TickContext {
        now: Now::from_start(Duration::from_secs(1)),
        snapshot: &snapshot(backends),
        gauges: &gauges,
    };
    new.inherit(old, context);
}

/// Returns the service with so many backends, as workers see it.
pub(crate) fn snapshot(backends: u32) -> Snapshot {
    let service = Service {
        id: SERVICE,
        name: "web".into(),
        vip: Address::default(),
        ports: Ports::one(80),
        protocol: Protocol::Tcp,
        source_nat: SourceUse::Auto,
        policy: 0,
        backends: (0..backends).map(BackendId).collect(),
        mid_stream: MidStream::Pick,
        adopts_replies: false,
        no_backend: NoBackend::Drop,
        sessions_max: None,
        timeouts: Timeouts::default(),
    };
    Snapshot::new(1, vec![service], Vec::new(), Vec::new())
}

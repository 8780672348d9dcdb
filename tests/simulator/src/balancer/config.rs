//! The config with an operator's changes, and the ids of its backends: a small version of the control crate's
//! catalog.
//!
//! Invariant: the id of a removed backend becomes free once its last session ended and every worker adopted a
//! snapshot without it, but not earlier.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use waxwing_dataplane::model::{
    MidStream, NoBackend, Port, SessionAction, SourceId, SourcePool, SourceUse, Sources,
    TimeoutTicks, Timeouts,
};
use waxwing_dataplane::{Backend, BackendId, Gauges, PortId, Ports, Service, ServiceId, Snapshot};
use waxwing_packet::{Address, Mac, Prefix};

use super::policy::{POLICY_KINDS, PolicyKind};
use crate::addresses::{
    BACK, BACK_TAGS, BACK_VLAN, CLIENTS_MAX, PORT_MACS, SOURCE_ADDRESSES, client, has_own_servers,
    server, service_addresses, source_address,
};
use crate::plan::Plan;
use crate::random::Random;

/// Slightly more than the number of backends, so that ids are reused soon.
pub(crate) const BACKENDS_MAX: usize = 45;
/// The most backends of a service.
const PLACES: usize = 5;
const MTU: u16 = 1500;

/// The source NAT addresses, and the pool with the clients that use them.
fn sources(plan: &Plan) -> ([(SourceId, Address); 2], SourcePool) {
    let vips = service_addresses().map(|(vip, ..)| vip);
    let clients = vips
        .iter()
        .flat_map(|vip| (0..CLIENTS_MAX).map(|n| client(*vip, n)));
    let served = clients.filter(|client| plan.source_nat && source_address(*client).is_some());
    let mut networks: Vec<_> = served.map(|client| Prefix::new(client, 128)).collect();
    networks.sort_unstable_by_key(|prefix| prefix.network());
    networks.dedup();
    let addresses = SOURCE_ADDRESSES;
    let ids = [SourceId(1), SourceId(2)];
    let pool = SourcePool {
        clients: networks.into(),
        addresses: ids.into(),
        // The range overlaps the clients' own ports.
        ports: Ports::range(4000, 4000 + (plan.source_ports - 1)).unwrap_or(Ports::ALL),
    };
    ([(ids[0], addresses[0]), (ids[1], addresses[1])], pool)
}

/// A backend in the config.
#[derive(Clone, Copy, Debug)]
struct BackendConfig {
    weight: u32,
    healthy: bool,
    sessions: SessionAction,
}

/// A service in the config.
#[derive(Clone, Debug)]
struct ServiceConfig {
    backends: [Option<BackendConfig>; PLACES],
    mid_stream: MidStream,
    no_backend: NoBackend,
}

/// A backend by the place of its service and its own.
type BackendKey = (usize, usize);

/// The config and the ids in use.
pub(crate) struct Config {
    services: [Option<ServiceConfig>; 8],
    sources: ([(SourceId, Address); 2], SourcePool),
    pub(crate) policy: PolicyKind,
    ping: bool,
    timeouts: Timeouts,
    ids: BTreeMap<BackendKey, BackendId>,
    free: VecDeque<BackendId>,
    retired: BTreeMap<BackendKey, Backend>,
    last: BTreeMap<BackendKey, Backend>,
    generation: u64,
    without_fast_path: bool,
    adopts: bool,
}

impl Config {
    pub(crate) fn new(plan: &Plan, random: &mut Random) -> Self {
        let [half_open, established, closing, udp] = plan.timeouts_s.map(Duration::from_secs);
        let is_forgetful = plan.loss_us > 0;
        let service = |random: &mut Random| match is_forgetful {
            // Of these a consistent policy picks the same one again.
            true => ServiceConfig {
                backends: [Some(Self::HEALTHY); PLACES],
                mid_stream: MidStream::Pick,
                ..Self::service(random)
            },
            false => Self::service(random),
        };
        Self {
            services: std::array::from_fn(|_| Some(service(random))),
            sources: sources(plan),
            policy: match is_forgetful {
                true => PolicyKind::Consistent,
                false => random.one(&POLICY_KINDS),
            },
            ping: true,
            timeouts: Timeouts {
                tcp_half_open: half_open,
                tcp_established: established,
                tcp_closing: closing,
                udp,
                udp_unassured: udp / 2,
            },
            ids: BTreeMap::new(),
            free: (0..BACKENDS_MAX as u32).map(BackendId).collect(),
            retired: BTreeMap::new(),
            last: BTreeMap::new(),
            generation: 0,
            without_fast_path: plan.without_fast_path,
            adopts: plan.adopts,
        }
    }

    pub(crate) fn timeouts(&self) -> TimeoutTicks {
        self.timeouts.into()
    }

    const HEALTHY: BackendConfig = BackendConfig {
        weight: 1,
        healthy: true,
        sessions: SessionAction::Keep,
    };

    fn service(random: &mut Random) -> ServiceConfig {
        ServiceConfig {
            backends: std::array::from_fn(|at| {
                (at < 2 || random.chance(500)).then_some(Self::HEALTHY)
            }),
            mid_stream: random.one(&[MidStream::Pick, MidStream::Drop]),
            no_backend: random.one(&[NoBackend::Reject, NoBackend::Drop]),
        }
    }

    /// Makes a random change. Returns its description.
    pub(crate) fn change(&mut self, random: &mut Random) -> &'static str {
        let at = random.index(self.services.len());
        let place = random.index(PLACES);
        let Some(service) = &mut self.services[at] else {
            self.services[at] = Some(Self::service(random));
            return "a service is added";
        };
        let actions = [
            SessionAction::Keep,
            SessionAction::Reset,
            SessionAction::Repick,
        ];
        match random.below(12) {
            0 => {
                self.services[at] = None;
                "a service is removed"
            }
            1 => {
                service.backends[place] = None;
                "a backend is removed"
            }
            2 | 3 => {
                service.backends[place] = Some(Self::HEALTHY);
                "a backend is added or recovers"
            }
            4 => {
                let action = random.one(&actions);
                for backend in service.backends.iter_mut().flatten() {
                    (backend.healthy, backend.sessions) = (false, action);
                }
                "all backends of a service go down"
            }
            5 | 6 => {
                for backend in &mut service.backends {
                    *backend = Some(Self::HEALTHY);
                }
                "all backends of a service recover"
            }
            7 => {
                self.policy = random.one(&POLICY_KINDS);
                "the policy changes"
            }
            8 => {
                self.ping = !self.ping;
                service.mid_stream = random.one(&[MidStream::Pick, MidStream::Drop]);
                service.no_backend = random.one(&[NoBackend::Reject, NoBackend::Drop]);
                "ping, mid_stream and no_backend change"
            }
            9 => {
                if let Some(backend) = &mut service.backends[place] {
                    (backend.healthy, backend.sessions) = (false, random.one(&actions));
                }
                "a backend goes down"
            }
            _ => {
                if let Some(backend) = &mut service.backends[place] {
                    backend.weight = random.below(3) as u32;
                }
                "a weight changes"
            }
        }
    }

    /// Restores all services and backends, with a consistent policy.
    pub(crate) fn recover(&mut self, random: &mut Random) {
        for service in &mut self.services {
            let service = service.get_or_insert_with(|| Self::service(random));
            service.backends = [Some(Self::HEALTHY); PLACES];
        }
        self.policy = PolicyKind::Consistent;
    }

    /// Makes the next snapshot. Returns it with the ids of new backends. Every worker must have adopted the
    /// last one.
    pub(crate) fn snapshot(&mut self, gauges: &Gauges) -> (Snapshot, Vec<BackendId>) {
        self.generation += 1;
        let (mut services, mut live, mut new) = (Vec::new(), BTreeMap::new(), Vec::new());
        for (at, config) in self.services.iter().enumerate() {
            let Some(config) = config else { continue };
            let (vip, ports, protocol, server_port) = service_addresses()[at];
            let mut service = Service {
                id: ServiceId(at as u32),
                name: format!("service-{at}").into(),
                vip,
                ports,
                protocol,
                source_nat: SourceUse::Auto,
                policy: 0,
                backends: Box::default(),
                mid_stream: config.mid_stream,
                adopts_replies: self.adopts && has_own_servers(at),
                no_backend: config.no_backend,
                sessions_max: None,
                timeouts: self.timeouts,
            };
            let mut ids = Vec::new();
            for (place, entry) in config.backends.iter().enumerate() {
                let Some(entry) = entry else { continue };
                let key = (at, place);
                let id = *self.ids.entry(key).or_insert_with(|| {
                    let id = self
                        .free
                        .pop_front()
                        .expect("there are more ids than backends");
                    new.push(id);
                    id
                });
                let address = server(vip, place);
                let backend = Backend {
                    healthy: entry.healthy,
                    sessions: entry.sessions,
                    ..Backend::new(id, &service, address, server_port, entry.weight)
                };
                ids.push(id);
                live.insert(key, backend);
            }
            service.backends = ids.into();
            services.push(service);
        }
        self.retire(&live, gauges);
        let backends = live.values().chain(self.retired.values()).cloned();
        let port = |(id, mac): (u8, &Mac)| Port::attached(PortId(id), "port".into(), *mac, MTU);
        let vlan = Port {
            wire: BACK,
            tags: BACK_TAGS,
            ..port((BACK_VLAN.0, &PORT_MACS[BACK.index()]))
        };
        let ports = (0..).zip(&PORT_MACS).map(port).chain([vlan]);
        let snapshot = Snapshot::new(
            self.generation,
            services,
            backends.collect(),
            ports.collect(),
        );
        self.last = live;
        let (addresses, pool) = &self.sources;
        let sources = Sources::new(addresses, std::slice::from_ref(pool));
        let mut snapshot = snapshot.answering_ping(self.ping).with_sources(sources);
        if self.without_fast_path {
            snapshot = snapshot.without_fast_path();
        }
        (snapshot, new)
    }

    /// Frees the ids of removed backends without sessions, and retires backends that were removed now.
    fn retire(&mut self, live: &BTreeMap<BackendKey, Backend>, gauges: &Gauges) {
        let Self {
            retired, ids, free, ..
        } = self;
        retired.retain(|key, backend| {
            let is_back = live.contains_key(key);
            let is_free = !is_back && gauges.sessions(backend.id).total() == 0;
            if is_free {
                free.extend(ids.remove(key));
            }
            !is_back && !is_free
        });
        for (key, backend) in &self.last {
            if !live.contains_key(key) {
                let backend = Backend {
                    weight: 0,
                    ..backend.clone()
                };
                retired.insert(*key, backend);
            }
        }
    }
}

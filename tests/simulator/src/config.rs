//! The config as an operator changes it, and the ids that its things keep: what
//! `runtime/control/src/publish/catalog/mod.rs` does, in small.
//!
//! Invariant: the id of a backend that was removed is free once its last session has ended and
//! every worker has taken up the snapshot without it; and no sooner.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use waxwing_dataplane::snapshot::{
    MidStream, NoBackend, Port, SessionsFate, SourceId, SourcePool, SourceUse, Sources,
    TimeoutTicks, Timeouts,
};
use waxwing_dataplane::{Backend, BackendId, Gauges, PortId, Ports, Service, ServiceId, Snapshot};
use waxwing_packet::{Address, Mac, Prefix, Protocol, VlanTag, VlanTags};

use crate::hosts::{CLIENTS_MAX, client};
use crate::plan::Plan;
use crate::policy::{KINDS, Kind};
use crate::random::Random;

pub(crate) const FRONT: PortId = PortId(0);
pub(crate) const BACK: PortId = PortId(1);
/// A VLAN on [`BACK`] that some of the servers are in.
pub(crate) const BACK_VLAN: PortId = PortId(2);
const BACK_TAGS: VlanTags = VlanTags::one(VlanTag {
    tpid: 0x8100,
    tci: 200,
});
pub(crate) const PORT_MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
/// Few more than there can be backends, so that ids are given again soon.
pub(crate) const BACKENDS_MAX: usize = 45;
/// The backends that a service may have.
const PLACES: usize = 5;
const MTU: u16 = 1500;

/// A service that there may be: VIP, ports, protocol, and the port of its servers.
pub(crate) type Endpoint = (Address, Ports, Protocol, u16);

/// The services that there may be. Several stand before the same servers, so that one client's ports
/// clash there.
pub(crate) fn endpoints() -> [Endpoint; 8] {
    let v4 = Address::v4([203, 0, 113, 10]);
    let other = Address::v4([203, 0, 113, 11]);
    let v6 = Address::from_bits(0x2001_0db8 << 96 | 0x10);
    let one = |vip, port, protocol, server_port| (vip, Ports::one(port), protocol, server_port);
    let range = Ports::range(8079, 8081).unwrap_or(Ports::ALL);
    [
        one(v4, 80, Protocol::Tcp, 8080),
        one(v4, 81, Protocol::Tcp, 8080),
        one(other, 80, Protocol::Tcp, 8080),
        (other, range, Protocol::Tcp, Backend::PORT_KEPT),
        one(v6, 80, Protocol::Tcp, 8080),
        one(v6, 443, Protocol::Tcp, 443),
        one(v4, 53, Protocol::Udp, 53),
        one(v6, 53, Protocol::Udp, 5353),
    ]
}

/// One of some ports.
pub(crate) fn any_port(ports: Ports, random: &mut Random) -> u16 {
    ports.first() + random.below(ports.count().into()) as u16
}

/// The source address that a client gets: every third one does.
pub(crate) fn source_address(of: Address) -> Option<Address> {
    let n = of.bits().checked_sub(client(of, 0).bits())?;
    if n >= CLIENTS_MAX.into() || n % 3 != 0 {
        return None;
    }
    Some(match of.family() {
        waxwing_packet::Family::V4 => Address::v4([10, 2, 0, 9]),
        waxwing_packet::Family::V6 => Address::from_bits(0xfd00_0002 << 96 | 9),
    })
}

/// The source addresses, and the clients that get one.
fn sources(plan: &Plan) -> ([(SourceId, Address); 2], SourcePool) {
    let vips = endpoints().map(|(vip, ..)| vip);
    let clients = vips
        .iter()
        .flat_map(|vip| (0..CLIENTS_MAX).map(|n| client(*vip, n)));
    let served = clients.filter(|client| source_address(*client).is_some());
    let mut networks: Vec<_> = served.map(|client| Prefix::new(client, 128)).collect();
    networks.sort_unstable_by_key(|prefix| prefix.network());
    networks.dedup();
    let addresses = [
        Address::v4([10, 2, 0, 9]),
        Address::from_bits(0xfd00_0002 << 96 | 9),
    ];
    let ids = [SourceId(1), SourceId(2)];
    let pool = SourcePool {
        clients: networks.into(),
        addresses: ids.into(),
        // About those that clients have themselves.
        ports: Ports::range(4000, 4000 + (plan.source_ports - 1)).unwrap_or(Ports::ALL),
    };
    ([(ids[0], addresses[0]), (ids[1], addresses[1])], pool)
}

/// The address of a server.
fn server(vip: Address, place: usize) -> Address {
    let base = match vip.family() {
        waxwing_packet::Family::V4 => Address::v4([10, 2, 0, 10]).bits(),
        waxwing_packet::Family::V6 => 0xfd00_0002 << 96 | 0x10,
    };
    Address::from_bits(base + place as u128)
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    weight: u32,
    healthy: bool,
    sessions: SessionsFate,
}

/// One service of the config.
#[derive(Clone, Debug)]
struct Wanted {
    backends: [Option<Entry>; PLACES],
    mid_stream: MidStream,
    no_backend: NoBackend,
}

/// A backend, by its service's place and its own.
type BackendKey = (usize, usize);

/// What is wanted, and the ids given.
pub(crate) struct Config {
    services: [Option<Wanted>; 8],
    sources: ([(SourceId, Address); 2], SourcePool),
    pub(crate) policy: Kind,
    ping: bool,
    timeouts: Timeouts,
    ids: BTreeMap<BackendKey, BackendId>,
    free: VecDeque<BackendId>,
    retired: BTreeMap<BackendKey, Backend>,
    last: BTreeMap<BackendKey, Backend>,
    generation: u64,
}

impl Config {
    pub(crate) fn new(plan: &Plan, random: &mut Random) -> Self {
        let [half_open, established, closing, udp] = plan.timeouts_s.map(Duration::from_secs);
        Self {
            services: std::array::from_fn(|_| Some(Self::service(random))),
            sources: sources(plan),
            policy: random.one(&KINDS),
            ping: true,
            timeouts: Timeouts {
                tcp_half_open: half_open,
                tcp_established: established,
                tcp_closing: closing,
                udp,
            },
            ids: BTreeMap::new(),
            free: (0..BACKENDS_MAX as u32).map(BackendId).collect(),
            retired: BTreeMap::new(),
            last: BTreeMap::new(),
            generation: 0,
        }
    }

    pub(crate) fn timeouts(&self) -> TimeoutTicks {
        self.timeouts.into()
    }

    const WELL: Entry = Entry {
        weight: 1,
        healthy: true,
        sessions: SessionsFate::Keep,
    };

    fn service(random: &mut Random) -> Wanted {
        Wanted {
            backends: std::array::from_fn(|at| {
                (at < 2 || random.chance(500)).then_some(Self::WELL)
            }),
            mid_stream: random.one(&[MidStream::Pick, MidStream::Drop]),
            no_backend: random.one(&[NoBackend::Reject, NoBackend::Drop]),
        }
    }

    /// Somebody changes something; what, in words.
    pub(crate) fn change(&mut self, random: &mut Random) -> &'static str {
        let at = random.index(self.services.len());
        let place = random.index(PLACES);
        let Some(service) = &mut self.services[at] else {
            self.services[at] = Some(Self::service(random));
            return "a service is added";
        };
        let fates = [
            SessionsFate::Keep,
            SessionsFate::Reset,
            SessionsFate::Repick,
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
                service.backends[place] = Some(Self::WELL);
                "a backend is added, or well again"
            }
            4 => {
                let fate = random.one(&fates);
                for backend in service.backends.iter_mut().flatten() {
                    (backend.healthy, backend.sessions) = (false, fate);
                }
                "all backends are down"
            }
            5 | 6 => {
                for backend in &mut service.backends {
                    *backend = Some(Self::WELL);
                }
                "all backends are well"
            }
            7 => {
                self.policy = random.one(&KINDS);
                "another policy"
            }
            8 => {
                self.ping = !self.ping;
                service.mid_stream = random.one(&[MidStream::Pick, MidStream::Drop]);
                service.no_backend = random.one(&[NoBackend::Reject, NoBackend::Drop]);
                "other manners"
            }
            9 => {
                if let Some(backend) = &mut service.backends[place] {
                    (backend.healthy, backend.sessions) = (false, random.one(&fates));
                }
                "a backend is down"
            }
            _ => {
                if let Some(backend) = &mut service.backends[place] {
                    backend.weight = random.below(3) as u32;
                }
                "another weight"
            }
        }
    }

    /// All is well from now on.
    pub(crate) fn mend(&mut self, random: &mut Random) {
        for service in &mut self.services {
            let service = service.get_or_insert_with(|| Self::service(random));
            service.backends = [Some(Self::WELL); PLACES];
        }
        self.policy = Kind::Steady;
    }

    /// The next snapshot, and the ids that it gives anew. Every worker has taken up the last one.
    pub(crate) fn snapshot(&mut self, gauges: &Gauges) -> (Snapshot, Vec<BackendId>) {
        self.generation += 1;
        let (mut services, mut live, mut new) = (Vec::new(), BTreeMap::new(), Vec::new());
        for (at, wanted) in self.services.iter().enumerate() {
            let Some(wanted) = wanted else { continue };
            let (vip, ports, protocol, server_port) = endpoints()[at];
            let mut service = Service {
                id: ServiceId(at as u32),
                name: format!("service-{at}").into(),
                vip,
                ports,
                protocol,
                source_nat: SourceUse::Auto,
                policy: 0,
                backends: Box::default(),
                mid_stream: wanted.mid_stream,
                no_backend: wanted.no_backend,
                timeouts: self.timeouts,
            };
            let mut ids = Vec::new();
            for (place, entry) in wanted.backends.iter().enumerate() {
                let Some(entry) = entry else { continue };
                let key = (at, place);
                let id = *self.ids.entry(key).or_insert_with(|| {
                    let id = self
                        .free
                        .pop_front()
                        .expect("there are more ids than places");
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
        let snapshot = snapshot.answering_ping(self.ping).with_sources(sources);
        (snapshot, new)
    }

    fn retire(&mut self, live: &BTreeMap<BackendKey, Backend>, gauges: &Gauges) {
        let Self {
            retired, ids, free, ..
        } = self;
        retired.retain(|key, backend| {
            let is_back = live.contains_key(key);
            let is_over = !is_back && gauges.active(backend.id) == 0;
            if is_over {
                free.extend(ids.remove(key));
            }
            !is_back && !is_over
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

/// The MAC address of a server.
/// Where a server is: behind the port itself, or in the VLAN on it.
pub(crate) fn server_port(address: Address) -> (PortId, VlanTags) {
    match address.bits() % 2 {
        0 => (BACK_VLAN, BACK_TAGS),
        _ => (BACK, VlanTags::NONE),
    }
}

pub(crate) fn server_mac(address: Address) -> Mac {
    let [.., last] = address.octets();
    Mac([2, 0, 0, 0, 2, last])
}

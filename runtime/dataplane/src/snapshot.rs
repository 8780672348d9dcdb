//! Services, backends and ports as one immutable value.
//!
//! Invariant: ids are stable. A service or backend keeps its id over every reload, and an id is
//! given to another only when no session refers to it any more; so a session's ids mean the same
//! in each snapshot that it lives through. A removed backend stays in the snapshot, with weight
//! 0 and out of its service's list, until its last session has ended.

use std::sync::Arc;
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use waxwing_packet::{Address, Mac, Protocol, Translation, VlanTags};

pub use crate::next_hops::{NextHop, NextHops};
use crate::ports::{Narrowest, Ports};
use crate::prefetch::prefetch;
use crate::session::Session;
pub use crate::source_nat::{SourceId, SourcePool, SourceUse, Sources};
use crate::time::ticks_of;

/// An attached interface, or a VLAN on one, by its place in [`Snapshot::ports`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct PortId(pub u8);

/// A service's stable id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ServiceId(pub u32);

/// A backend's stable id: one per service and endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct BackendId(pub u32);

impl PortId {
    /// No port of its own, but the other port of the bridge than the one that a packet came by: where a
    /// backend is whose place at the bridge is not known (transparent mode).
    pub const ACROSS: Self = Self(u8::MAX);

    /// As an index.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl ServiceId {
    /// As an index.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl BackendId {
    /// As an index.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// How long a session lives without a packet (RFC 5382 REQ-5, RFC 4787 REQ-5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// TCP, from the first SYN to the client's ACK of the SYN-ACK.
    pub tcp_half_open: Duration,
    /// TCP, established, or closed by one side only.
    pub tcp_established: Duration,
    /// TCP, closed by both sides or reset.
    pub tcp_closing: Duration,
    /// UDP.
    pub udp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_half_open: Duration::from_secs(240),
            tcp_established: Duration::from_secs(7440),
            tcp_closing: Duration::from_secs(240),
            udp: Duration::from_secs(120),
        }
    }
}

/// [`Timeouts`] in ticks, as the packet's way reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeoutTicks {
    /// See [`Timeouts::tcp_half_open`].
    pub tcp_half_open: u32,
    /// See [`Timeouts::tcp_established`].
    pub tcp_established: u32,
    /// See [`Timeouts::tcp_closing`].
    pub tcp_closing: u32,
    /// See [`Timeouts::udp`].
    pub udp: u32,
}

impl From<Timeouts> for TimeoutTicks {
    fn from(timeouts: Timeouts) -> Self {
        Self {
            tcp_half_open: ticks_of(timeouts.tcp_half_open),
            tcp_established: ticks_of(timeouts.tcp_established),
            tcp_closing: ticks_of(timeouts.tcp_closing),
            udp: ticks_of(timeouts.udp),
        }
    }
}

/// What happens to a TCP packet that belongs to no session and opens none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MidStream {
    /// The policy picks a backend, as for a new flow: connections survive a restart where the
    /// policy is consistent.
    #[default]
    Pick,
    /// It is dropped and counted.
    Drop,
}

/// What happens to a new flow of a service that has no backend for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum NoBackend {
    /// It is dropped and counted.
    #[default]
    Drop,
    /// Its client is told: RST (TCP), or port unreachable (UDP).
    Reject,
}

/// What happens to a backend's sessions, each at its client's next packet. What the backend itself
/// still says is forwarded as long as a session stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SessionsFate {
    /// They go on: the backend is well, drains, or may come back.
    #[default]
    Keep,
    /// They end, and their clients are told: RST (TCP), or port unreachable (UDP).
    Reset,
    /// They end, and the packet is one of a new flow: UDP that keeps no state goes on at another
    /// backend.
    Repick,
}

/// A VIP's address, ports and protocol, with the backends behind it.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its stable id.
    pub id: ServiceId,
    /// Its name in the config.
    pub name: Arc<str>,
    /// The address clients use.
    pub vip: Address,
    /// The ports clients use. Of several services that have a port the one with the fewest gets it.
    pub ports: Ports,
    /// The protocol clients use.
    pub protocol: Protocol,
    /// Which of its sessions get source NAT.
    pub source_nat: SourceUse,
    /// Index into [`crate::Epoch::policies`].
    pub policy: usize,
    /// The backends that picks index, in config order, weight 0 included.
    pub backends: Box<[BackendId]>,
    /// What happens to packets in the middle of an unknown connection.
    pub mid_stream: MidStream,
    /// What happens to new flows while no backend takes them.
    pub no_backend: NoBackend,
    /// Session timeouts.
    pub timeouts: Timeouts,
}

/// A server behind a service: all that a packet of one of its sessions needs, in one place.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Its stable id.
    pub id: BackendId,
    /// The one service that it serves. (A server behind two services is two backends.)
    pub service: ServiceId,
    /// The server's address.
    pub address: Address,
    /// The server's port, or [`Backend::PORT_KEPT`].
    pub port: u16,
    /// The service's VIP.
    pub vip: Address,
    /// The service's ports.
    pub vip_ports: Ports,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Share of new sessions; 0 takes none.
    pub weight: u32,
    /// Whether it is up: one that is down takes no new sessions, whatever its weight.
    pub healthy: bool,
    /// What happens to the sessions that it has. One that takes new ones keeps those it has.
    pub sessions: SessionsFate,
    /// Whether the client of a connection that it refuses is to try another: its RST is kept from the
    /// client, whose SYN comes again.
    pub retries_refused: bool,
    /// Its place in its service's backend list; `None` once it was removed from the config.
    pub place: Option<u32>,
    /// Its service's [`Service::policy`]; `None` once it was removed from the config.
    pub policy: Option<usize>,
    /// A request's destination: VIP becomes backend. Of a service with one port.
    pub to_backend: Translation,
    /// A reply's source: backend becomes VIP. Of a service with one port.
    pub to_client: Translation,
    /// Session timeouts, of its service.
    pub timeouts: TimeoutTicks,
}

impl Backend {
    /// In place of a port: each session goes to the port that its client used, for the service has many.
    pub const PORT_KEPT: u16 = 0;

    /// A backend of a service.
    #[must_use]
    pub fn new(id: BackendId, service: &Service, address: Address, port: u16, weight: u32) -> Self {
        Self {
            id,
            service: service.id,
            address,
            port,
            vip: service.vip,
            vip_ports: service.ports,
            protocol: service.protocol,
            weight,
            healthy: true,
            sessions: SessionsFate::Keep,
            retries_refused: false,
            place: None,
            policy: None,
            to_backend: Translation::new((service.vip, service.ports.first()), (address, port)),
            to_client: Translation::new((address, port), (service.vip, service.ports.first())),
            timeouts: service.timeouts.into(),
        }
    }

    /// The server's port for a session whose client used this one on the VIP.
    #[inline]
    #[must_use]
    pub const fn port_for(&self, service_port: u16) -> u16 {
        match self.port {
            Self::PORT_KEPT => service_port,
            port => port,
        }
    }

    /// Whether it takes new sessions.
    #[inline]
    #[must_use]
    pub const fn takes_new(&self) -> bool {
        self.weight > 0 && self.healthy
    }

    /// Whether it may have what a connection brings that it already has, new flows of it included:
    /// also while it drains.
    #[inline]
    #[must_use]
    pub const fn keeps_sessions(&self) -> bool {
        self.healthy && matches!(self.sessions, SessionsFate::Keep)
    }
}

/// An attached interface, or a VLAN on one: what frames leave by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Its name, for people.
    pub name: Arc<str>,
    /// Its MAC address.
    pub mac: Mac,
    /// The largest IP packet it carries, in bytes.
    pub mtu: u16,
    /// The attached interface whose rings its frames take: itself, but of a VLAN.
    pub wire: PortId,
    /// The tags of its frames: none but of a VLAN. (What arrives with tags is answered with them,
    /// whatever VLANs are known here.)
    pub tags: VlanTags,
    /// Whether VIPs are announced there.
    pub announces: bool,
    /// The bridge that it is a port of, in transparent mode.
    pub bridge: Option<Bridge>,
}

/// What a port of a bridge knows of it, in transparent mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bridge {
    /// Its other port.
    pub peer: PortId,
    /// Whose frames are for the balancer itself: both ports' MAC addresses, and the bridge's own.
    pub macs: [Mac; 3],
}

impl Port {
    /// An attached interface.
    #[must_use]
    pub const fn attached(id: PortId, name: Arc<str>, mac: Mac, mtu: u16) -> Self {
        Self {
            name,
            mac,
            mtu,
            wire: id,
            tags: VlanTags::NONE,
            announces: true,
            bridge: None,
        }
    }

    /// Whether it is an attached interface, and no VLAN on one.
    #[must_use]
    pub const fn is_attached(&self) -> bool {
        self.tags.count == 0
    }
}

/// Services, backends and ports: what a worker forwards by.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up with every change.
    pub generation: u64,
    services: Box<[Option<Service>]>,
    backends: Box<[Option<Backend>]>,
    ports: Box<[Port]>,
    by_endpoint: HashMap<(Address, Ports, Protocol), ServiceId>,
    ranges: HashMap<(Address, Protocol), Narrowest<ServiceId>>,
    sources: Sources,
    vips: Box<[Address]>,
    ping: bool,
}

impl Snapshot {
    /// Puts one together. `services` and `backends` come in any order, each with its own id; of
    /// two services on one VIP, ports and protocol (which the config refuses) the last one wins.
    #[must_use]
    pub fn new(
        generation: u64,
        services: Vec<Service>,
        mut backends: Vec<Backend>,
        ports: Vec<Port>,
    ) -> Self {
        let places: HashMap<BackendId, (u32, usize)> = services
            .iter()
            .flat_map(|s| (0..).zip(&s.backends).map(|(at, id)| (*id, (at, s.policy))))
            .collect();
        for backend in &mut backends {
            (backend.place, backend.policy) = places.get(&backend.id).copied().unzip();
        }
        let by_endpoint = services
            .iter()
            .map(|s| ((s.vip, s.ports, s.protocol), s.id))
            .collect();
        let mut ranges: HashMap<_, Vec<_>> = HashMap::new();
        for service in services.iter().filter(|s| s.ports.single().is_none()) {
            let of_vip = ranges.entry((service.vip, service.protocol)).or_default();
            of_vip.push((service.ports, service.id));
        }
        let narrowest = |(of, ranges)| (of, Narrowest::new(ranges));
        // A removed service's VIP is ours as long as its sessions live on.
        let of_backends = backends.iter().map(|b| b.vip);
        let mut vips: Vec<Address> = services.iter().map(|s| s.vip).chain(of_backends).collect();
        vips.sort_unstable();
        vips.dedup();
        Self {
            generation,
            services: by_index(services, |s| s.id.index()),
            backends: by_index(backends, |b| b.id.index()),
            ports: ports.into(),
            by_endpoint,
            ranges: ranges.into_iter().map(narrowest).collect(),
            sources: Sources::default(),
            vips: vips.into(),
            ping: true,
        }
    }

    /// The same, but with VIPs that answer ping, or do not.
    #[must_use]
    pub fn answering_ping(mut self, ping: bool) -> Self {
        self.ping = ping;
        self
    }

    /// The same, but with source addresses, which are ours as VIPs are.
    #[must_use]
    pub fn with_sources(mut self, sources: Sources) -> Self {
        let mut vips: Vec<Address> = self.vips.into_vec();
        vips.extend(sources.iter().map(|(_, address)| address));
        vips.sort_unstable();
        vips.dedup();
        self.vips = vips.into();
        self.sources = sources;
        self
    }

    /// Whether VIPs answer ping.
    #[inline]
    #[must_use]
    pub fn answers_ping(&self) -> bool {
        self.ping
    }

    /// The service that a packet to this VIP, port and protocol is for: the one with that port alone, or
    /// the one with the narrowest range around it.
    #[inline]
    #[must_use]
    pub fn service_at(&self, vip: Address, port: u16, protocol: Protocol) -> Option<&Service> {
        self.service_of(vip, Ports::one(port), protocol)
            .or_else(|| {
                let ranges = self.ranges.get(&(vip, protocol))?;
                self.service(ranges.at(port)?)
            })
    }

    /// The service that has just these ports of this VIP and protocol.
    #[inline]
    #[must_use]
    pub fn service_of(&self, vip: Address, ports: Ports, protocol: Protocol) -> Option<&Service> {
        self.by_endpoint
            .get(&(vip, ports, protocol))
            .and_then(|id| self.service(*id))
    }

    /// The source addresses.
    #[inline]
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The client's address as a session's backend sees it; `None` where the session's source address
    /// is one of another snapshot.
    #[inline]
    #[must_use]
    pub fn seen_by_backend(&self, session: &Session) -> Option<Address> {
        self.address_of(session.source, session.client)
    }

    /// The same of a session with this source address and this client.
    #[inline(always)]
    pub(crate) fn address_of(&self, source: SourceId, client: Address) -> Option<Address> {
        if source.is_client() {
            Some(client)
        } else {
            self.sources.address(source)
        }
    }

    /// A service by its id.
    #[inline]
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.index()).and_then(Option::as_ref)
    }

    /// A backend by its id.
    #[inline]
    #[must_use]
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.index()).and_then(Option::as_ref)
    }

    /// Has a backend fetched into the cache.
    #[inline(always)]
    pub(crate) fn prefetch_backend(&self, id: BackendId) {
        if let Some(backend) = self.backends.get(id.index()) {
            prefetch(backend);
        }
    }

    /// Whether the backends are too many to stay in the near caches by themselves.
    #[inline(always)]
    pub(crate) fn is_far(&self) -> bool {
        self.backends.len() > BACKENDS_NEAR
    }

    /// A port by its id.
    #[inline]
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())
    }

    /// Every port, in the order of their ids: the attached interfaces first, then VLANs on them.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Every service.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().flatten()
    }

    /// Every backend, the removed ones that still have sessions included.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().flatten()
    }

    /// Every address of ours once, sorted: VIPs and source addresses.
    #[must_use]
    pub fn vips(&self) -> &[Address] {
        &self.vips
    }

    /// Whether an address is ours: a VIP or a source address.
    #[inline]
    #[must_use]
    pub fn is_vip(&self, address: Address) -> bool {
        self.vips.binary_search(&address).is_ok()
    }
}

/// How many backends stay in a core's own caches, with what else each packet reads and counts of its backend.
const BACKENDS_NEAR: usize = 1024;

fn by_index<T>(items: Vec<T>, index: impl Fn(&T) -> usize) -> Box<[Option<T>]> {
    let len = items.iter().map(|item| index(item) + 1).max().unwrap_or(0);
    let mut slots: Vec<Option<T>> = (0..len).map(|_| None).collect();
    for item in items {
        let at = index(&item);
        slots[at] = Some(item);
    }
    slots.into()
}

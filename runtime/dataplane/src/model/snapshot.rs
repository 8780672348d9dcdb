//! The services, backends and ports that a worker forwards by, as one immutable value.
//!
//! Invariant: ids are stable (see [`super::ids`]), so a session's ids mean the same in every snapshot of its
//! lifetime. A removed backend stays in the snapshot, with weight 0 and outside its service's list, until
//! its last session has ended.

use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::{HashMap, HashMapExt};
use waxwing_packet::{Address, Protocol};

use super::fast::{self, BackendPath, Egress};
use super::ports::Narrowest;
use super::{Backend, BackendId, Port, PortId, Ports, Service, ServiceId, SourceId, Sources};
use crate::SourceLimit;
use crate::prefetch::prefetch;
use crate::session::Session;

/// What a worker forwards by.
#[derive(Debug)]
pub struct Snapshot {
    /// Increases with every change.
    pub generation: u64,
    services: Box<[Option<Service>]>,
    backends: Box<[Option<Backend>]>,
    ports: Box<[Port]>,
    /// What the fast path reads of backends and ports.
    pub(crate) paths: Box<[BackendPath]>,
    /// Whether the paths' reply ports are those of the hop table: as of its so many-th change.
    ports_as_of: AtomicU64,
    pub(crate) egresses: Box<[Egress; 256]>,
    by_endpoint: HashMap<(Address, Ports, Protocol), ServiceId>,
    /// A backend by the endpoint it serves at; its port may be [`Backend::PORT_KEPT`].
    servers: HashMap<(Address, u16, Protocol), BackendId>,
    ranges: HashMap<(Address, Protocol), Narrowest<ServiceId>>,
    sources: Sources,
    vips: Box<[Address]>,
    /// The balancer's own addresses and the broadcast addresses of its subnets, and the VIPs; sorted.
    own: Box<[Address]>,
    ping: bool,
    rejects_unserved: bool,
    source_limit: Option<SourceLimit>,
}

impl Default for Snapshot {
    fn default() -> Self {
        Self::new(0, Vec::new(), Vec::new(), Vec::new())
    }
}

impl Snapshot {
    /// `services` and `backends` may come in any order. If two services have one VIP, ports and protocol
    /// (the config refuses that), the last one wins.
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
        let servers = backends
            .iter()
            .map(|b| ((b.address, b.port, b.protocol), b.id))
            .collect();
        let mut ranges: HashMap<_, Vec<_>> = HashMap::new();
        for service in services.iter().filter(|s| s.ports.single().is_none()) {
            let of_vip = ranges.entry((service.vip, service.protocol)).or_default();
            of_vip.push((service.ports, service.id));
        }
        let narrowest = |(of, ranges)| (of, Narrowest::new(ranges));
        // Not a removed service's: another host may own it now. Its sessions go on, but nothing is answered.
        let mut vips: Vec<Address> = services.iter().map(|s| s.vip).collect();
        vips.sort_unstable();
        vips.dedup();
        let backends = by_index(backends, |b| b.id.index());
        Self {
            generation,
            services: by_index(services, |s| s.id.index()),
            paths: fast::paths(&backends),
            ports_as_of: AtomicU64::new(u64::MAX),
            egresses: fast::egresses(&ports),
            backends,
            ports: ports.into(),
            by_endpoint,
            servers,
            ranges: ranges.into_iter().map(narrowest).collect(),
            sources: Sources::default(),
            own: vips.clone().into(),
            vips: vips.into(),
            ping: true,
            rejects_unserved: false,
            source_limit: None,
        }
    }

    /// Sends all packets along the general path, for tests that compare it with the fast path.
    #[must_use]
    pub fn without_fast_path(mut self) -> Self {
        self.paths = Box::default();
        self
    }

    /// Sets whether VIPs answer ping.
    #[must_use]
    pub fn answering_ping(mut self, ping: bool) -> Self {
        self.ping = ping;
        self
    }

    /// Sets whether packets to unserved ports of VIPs are answered with an RST or port unreachable.
    #[must_use]
    pub fn rejecting_unserved(mut self, rejects: bool) -> Self {
        self.rejects_unserved = rejects;
        self
    }

    /// Sets how many new sessions one network of clients may open.
    #[must_use]
    pub fn limiting_sources(mut self, limit: Option<SourceLimit>) -> Self {
        self.source_limit = limit;
        self
    }

    /// Sets the source NAT addresses. Waxwing answers ARP, NDP and ping for them as it does for VIPs.
    #[must_use]
    pub fn with_sources(mut self, sources: Sources) -> Self {
        let mut vips: Vec<Address> = self.vips.into_vec();
        vips.extend(sources.iter().map(|(_, address)| address));
        vips.sort_unstable();
        vips.dedup();
        self.vips = vips.into();
        self.sources = sources;
        let own = std::mem::take(&mut self.own).into_vec();
        self.with_own(own)
    }

    /// Sets the balancer's own addresses and the broadcast addresses of its subnets: no packet from a network
    /// may have them as its source.
    #[must_use]
    pub fn with_own(mut self, mut own: Vec<Address>) -> Self {
        own.extend(&self.vips);
        own.sort_unstable();
        own.dedup();
        self.own = own.into();
        self
    }

    /// What [`Self::is_own`] finds, sorted.
    #[must_use]
    pub fn own(&self) -> &[Address] {
        &self.own
    }

    /// Whether no other host may send from this address: it is a VIP, the balancer's own, or the broadcast
    /// address of one of its subnets.
    #[must_use]
    pub fn is_own(&self, address: Address) -> bool {
        self.own.binary_search(&address).is_ok()
    }

    #[inline]
    #[must_use]
    pub fn answers_ping(&self) -> bool {
        self.ping
    }

    #[inline]
    #[must_use]
    pub fn rejects_unserved(&self) -> bool {
        self.rejects_unserved
    }

    /// How many new sessions one network of clients may open; `None` for any number.
    #[inline]
    #[must_use]
    pub fn source_limit(&self) -> Option<&SourceLimit> {
        self.source_limit.as_ref()
    }

    /// The service for a packet to this VIP, port and protocol: the one with exactly that port, else the
    /// one with the narrowest range around it.
    #[inline]
    #[must_use]
    pub fn service_at(&self, vip: Address, port: u16, protocol: Protocol) -> Option<&Service> {
        self.service_of(vip, Ports::one(port), protocol)
            .or_else(|| {
                let ranges = self.ranges.get(&(vip, protocol))?;
                self.service(ranges.at(port)?)
            })
    }

    /// A backend that serves at this endpoint.
    #[must_use]
    pub fn endpoint(&self, address: Address, port: u16, protocol: Protocol) -> Option<&Backend> {
        let of = |port| self.servers.get(&(address, port, protocol));
        let id = of(port).or_else(|| of(Backend::PORT_KEPT))?;
        self.backend(*id)
    }

    /// The service with exactly these ports.
    #[inline]
    #[must_use]
    pub fn service_of(&self, vip: Address, ports: Ports, protocol: Protocol) -> Option<&Service> {
        self.by_endpoint
            .get(&(vip, ports, protocol))
            .and_then(|id| self.service(*id))
    }

    #[inline]
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The client's address as the session's backend sees it; `None` if this snapshot does not have the
    /// session's source address.
    #[inline]
    #[must_use]
    pub fn seen_by_backend(&self, session: &Session) -> Option<Address> {
        self.address_of(session.source, session.client)
    }

    /// [`Self::seen_by_backend`] for a session with this source and client.
    #[inline(always)]
    pub(crate) fn address_of(&self, source: SourceId, client: Address) -> Option<Address> {
        if source.is_client() {
            Some(client)
        } else {
            self.sources.address(source)
        }
    }

    #[inline]
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(id.index()).and_then(Option::as_ref)
    }

    #[inline]
    #[must_use]
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(id.index()).and_then(Option::as_ref)
    }

    /// Takes over the ports of the backends' next hops, by id, if they have changed since the last call.
    #[inline(always)]
    pub(crate) fn follow_ports<P: Iterator<Item = PortId>>(
        &self,
        changes: u64,
        ports: impl FnOnce() -> P,
    ) {
        if self.ports_as_of.load(Ordering::Relaxed) != changes {
            self.take_ports(ports());
            self.ports_as_of.store(changes, Ordering::Relaxed);
        }
    }

    #[cold]
    #[inline(never)]
    fn take_ports(&self, ports: impl Iterator<Item = PortId>) {
        for (path, PortId(port)) in self.paths.iter().zip(ports) {
            path.reply_port.store(port, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    pub(crate) fn prefetch_backend(&self, id: BackendId) {
        if let Some(path) = self.paths.get(id.index()) {
            prefetch(path);
        }
    }

    /// Whether there are too many backends for all to stay in a core's own caches.
    #[inline(always)]
    pub(crate) fn is_far(&self) -> bool {
        self.backends.len() > BACKENDS_NEAR
    }

    #[inline]
    #[must_use]
    pub fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index())
    }

    /// All ports by id: attached interfaces first, then the VLANs on them.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.iter().flatten()
    }

    /// All backends, including removed ones that still have sessions.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        self.backends.iter().flatten()
    }

    /// The VIPs of all services and the source addresses, each once, sorted: those that answer ARP, NDP and
    /// ping, and are announced.
    #[must_use]
    pub fn vips(&self) -> &[Address] {
        &self.vips
    }

    /// Whether the address is in [`Self::vips`].
    #[inline]
    #[must_use]
    pub fn is_vip(&self, address: Address) -> bool {
        self.vips.binary_search(&address).is_ok()
    }
}

/// How many backends stay in a core's own caches, together with their counters and next hops.
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

//! The resolver's state: the kernel's routes and neighbours, as far as backends and clients need them.
//!
//! Invariant: it changes only by what the kernel reports and by its callers' requests, with time as an
//! argument. [`NextHopTable::publish`] derives every next hop from that state alone.

mod bridged;
mod neighbour;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use futures_util::StreamExt;
use tokio::time::Instant;
use waxwing_dataplane::HopTable;
use waxwing_dataplane::{BackendId, NextHop, PortId};
use waxwing_packet::{Address, VlanTags};

use crate::log_limit::LogLimit;
use crate::network::bridge::Stations;
use crate::network::hop_state::{Condition, HopState};
use crate::network::host::{HostNetwork, is_link_local};
use crate::network::kernel::{Kernel, Neighbour, NeighbourKey, NetworkChange, NoRoute, Route};
use crate::network::port::{MovedNeighbour, PortLink};
use crate::network::return_routes::{ReturnPlan, ReturnRoutes, ReturnState};
use crate::network::vlans::VlanPorts;
use neighbour::{NeighbourEntry, Probe, Reach, refusal};

/// The most neighbours probed in one pass; bounds the ARP and NDP that we cause.
const PROBES_MAX: usize = 256;

/// Concurrent requests to the kernel.
const AT_ONCE: usize = 64;

/// Where the packets to one backend address go.
struct BackendRoute {
    backends: Vec<BackendId>,
    /// `None` until the first look-up.
    route: Option<Result<Route, NoRoute>>,
    /// The outgoing interfaces of all its routes: its replies may come by each.
    links: Vec<u32>,
    /// Whether packets wait for its next hop.
    wanted: bool,
}

impl BackendRoute {
    fn neighbour(&self) -> Option<NeighbourKey> {
        let route = self.route.as_ref()?.as_ref().ok()?;
        Some((route.link, route.via))
    }
}

pub(crate) struct NextHopTable {
    ports: Vec<PortLink>,
    vlans: VlanPorts,
    return_routes: ReturnRoutes,
    moved: Vec<MovedNeighbour>,
    hops: Arc<HopTable>,
    host: HostNetwork,
    host_changed: bool,
    neighbours: BTreeMap<NeighbourKey, NeighbourEntry>,
    /// Where the stations of our bridge are (transparent mode).
    stations: Stations,
    /// Exactly the neighbours that some route in use leads to.
    probes: BTreeMap<NeighbourKey, Probe>,
    routes: BTreeMap<Address, BackendRoute>,
    addresses: HashMap<BackendId, Address>,
    routes_changed: bool,
    look_up_not_before: Option<Instant>,
    changed: bool,
    /// Of the lines about next hops.
    log_limit: LogLimit,
}

impl NextHopTable {
    pub(crate) fn new(ports: Vec<PortLink>, hops: Arc<HopTable>) -> Self {
        Self {
            vlans: VlanPorts::new(ports.clone()),
            return_routes: ReturnRoutes::new(),
            moved: Vec::new(),
            ports,
            hops,
            host: HostNetwork::default(),
            host_changed: true,
            neighbours: BTreeMap::new(),
            stations: Stations::default(),
            probes: BTreeMap::new(),
            routes: BTreeMap::new(),
            addresses: HashMap::new(),
            routes_changed: false,
            look_up_not_before: None,
            changed: false,
            log_limit: LogLimit::default(),
        }
    }

    /// Replaces the ports' links; then [`NextHopTable::read`] everything behind them.
    pub(crate) fn set_ports(&mut self, ports: Vec<PortLink>) {
        self.vlans.set_ports(ports.clone());
        self.ports = ports;
    }

    /// Reads all of the kernel's tables.
    pub(crate) async fn read(&mut self, kernel: &Kernel) -> io::Result<()> {
        self.host = HostNetwork::read(kernel).await?;
        self.host.vlans = self.vlans.update(&self.host).clone();
        self.note_stations(kernel.stations().await?);
        let mut gone: BTreeSet<NeighbourKey> = self.neighbours.keys().copied().collect();
        for neighbour in kernel.neighbours().await? {
            gone.remove(&neighbour.key);
            self.note_neighbour(neighbour);
        }
        for key in gone {
            self.note_gone(key);
        }
        self.host_changed = true;
        self.routes_changed = true;
        self.return_routes.note_change();
        self.changed = true;
        Ok(())
    }

    /// Applies one change. On [`NetworkChange::Overrun`] call [`NextHopTable::read`] instead.
    pub(crate) fn note(&mut self, change: NetworkChange) {
        match change {
            NetworkChange::Neighbour(neighbour) => return self.note_neighbour(neighbour),
            NetworkChange::NeighbourGone(key) => return self.note_gone(key),
            NetworkChange::Station(station) => return self.note_station(station),
            NetworkChange::StationGone(station) => return self.stations.note_gone(station),
            NetworkChange::Routes | NetworkChange::Overrun => {}
            NetworkChange::Link(link) => {
                self.host_changed |= self.host.links.get(&link.index) != Some(&link);
                self.host.links.insert(link.index, link);
            }
            NetworkChange::LinkGone(index) => {
                self.host_changed |= self.host.links.remove(&index).is_some();
            }
            NetworkChange::Address(address) => {
                self.host_changed |= self.host.addresses.insert(address);
            }
            NetworkChange::AddressGone(address) => {
                self.host_changed |= self.host.addresses.remove(&address);
            }
        }
        if self.host_changed {
            self.host.vlans = self.vlans.update(&self.host).clone();
        }
        // A link that came up, went down or was renamed changes states even if routes stay.
        self.changed |= self.host_changed;
        self.routes_changed = true;
        self.return_routes.note_change();
    }

    fn note_neighbour(&mut self, neighbour: Neighbour) {
        let wire = self.wire_of(neighbour.key.0);
        if wire.is_none() && !self.is_our_bridge(neighbour.key.0) {
            return;
        }
        let before = self.neighbours.get(&neighbour.key).copied();
        let entry = NeighbourEntry::next(before, neighbour);
        let turned = before.is_none_or(|before| before.reach != entry.reach);
        self.neighbours.insert(neighbour.key, entry);
        if let Some((wire, tags)) = wire
            && let Some(to) = entry.mac
        {
            let address = neighbour.key.1;
            let (from, client) = match self.probes.get_mut(&neighbour.key) {
                Some(probe) => (probe.last_mac.replace(to), None),
                None if is_link_local(address) => (None, None),
                None => (before.and_then(|it| it.mac), Some(address)),
            };
            self.moved
                .extend(from.filter(|from| *from != to).map(|from| MovedNeighbour {
                    wire,
                    tags,
                    client,
                    from,
                    to,
                }));
        }
        if let Some(probe) = self.probes.get_mut(&neighbour.key) {
            self.changed = true;
            if turned && matches!(entry.reach, Reach::Stale | Reach::Lost) {
                probe.at = None;
            }
        }
    }

    fn note_gone(&mut self, key: NeighbourKey) {
        let in_use = self.probes.get_mut(&key);
        match (self.neighbours.get_mut(&key), in_use) {
            (Some(entry), Some(probe)) if entry.mac.is_some() => {
                entry.reach = Reach::Lost;
                probe.at = None;
            }
            _ => {
                self.neighbours.remove(&key);
            }
        }
        self.changed |= self.probes.contains_key(&key);
    }

    /// Replaces the backends to resolve, and clears the next hops of those that left.
    pub(crate) fn track(&mut self, backends: Vec<(BackendId, Address)>) {
        let mut before = std::mem::take(&mut self.routes);
        let addresses = backends.iter().copied().collect();
        for (id, address) in backends {
            let entry = self.routes.entry(address);
            let known = entry.or_insert_with(|| {
                let before = before.remove(&address);
                let (route, links) = before.map_or((None, Vec::new()), |it| (it.route, it.links));
                BackendRoute {
                    backends: Vec::new(),
                    route,
                    links,
                    wanted: false,
                }
            });
            known.backends.push(id);
        }
        for id in std::mem::replace(&mut self.addresses, addresses).into_keys() {
            if !self.addresses.contains_key(&id) {
                self.hops.forget(id);
            }
        }
        self.forget_unused();
        self.changed = true;
    }

    /// Marks the backends that workers hold packets for.
    pub(crate) fn note_wanted(&mut self) {
        for id in self.hops.take_wanted() {
            let address = self.addresses.get(&id);
            if let Some(route) = address.and_then(|address| self.routes.get_mut(address)) {
                route.wanted = true;
            }
        }
    }

    /// Looks up new backends' routes at once, and all routes after a change. A storm of route changes
    /// costs at most a tenth of the time.
    pub(crate) async fn look_up_routes(&mut self, kernel: &Kernel, now: Instant) {
        let all = self.routes_changed && self.look_up_not_before.is_none_or(|at| now >= at);
        let due: Vec<Address> = self
            .routes
            .iter()
            .filter(|(_, known)| all || known.route.is_none())
            .map(|(address, _)| *address)
            .collect();
        if all {
            self.routes_changed = false;
        }
        if due.is_empty() {
            return;
        }
        let mut answers = futures_util::stream::iter(due)
            .map(async |address| {
                let route = kernel.route_to(address).await;
                (address, route, kernel.links_to(address).await)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((address, route, links)) = answers.next().await {
            if let Some(known) = self.routes.get_mut(&address) {
                self.changed |= known.route.as_ref() != Some(&route) || known.links != links;
                known.route = Some(route);
                known.links = links;
            }
        }
        drop(answers);
        self.look_up_not_before = Some(Instant::now() + now.elapsed() * 10);
        self.forget_unused();
    }

    /// Has the kernel probe every neighbour that is due.
    pub(crate) async fn probe(&mut self, kernel: &Kernel, now: Instant) {
        let wanted: BTreeSet<NeighbourKey> = self
            .routes
            .values_mut()
            .filter_map(|route| {
                let wanted = std::mem::take(&mut route.wanted);
                route.neighbour().filter(|_| wanted)
            })
            .collect();
        let is_due = |key: &NeighbourKey, probe: &Probe| {
            let reach = self.neighbours.get(key).map(|entry| entry.reach);
            probe.is_due(reach, wanted.contains(key), now)
        };
        let due: Vec<NeighbourKey> = self
            .probes
            .iter()
            .filter(|(key, probe)| is_due(key, probe))
            .map(|(key, _)| *key)
            .take(PROBES_MAX)
            .collect();
        let mut answers = futures_util::stream::iter(due)
            .map(async |key| (key, kernel.use_neighbour(key).await))
            .buffer_unordered(AT_ONCE);
        while let Some((key, answer)) = answers.next().await {
            let refusal = answer.err().as_ref().map(refusal);
            if let Some(probe) = self.probes.get_mut(&key) {
                self.changed |= probe.refusal != refusal;
                probe.at = Some(now);
                probe.refusal = refusal;
            }
        }
    }

    /// Returns the port id of a link: a port, or a VLAN device on one.
    fn port_of(&self, link: u32) -> Option<PortId> {
        port_of(&self.ports, &self.host, link)
    }

    /// Returns the attached port that a link's frames use, and their VLAN tags there.
    fn wire_of(&self, link: u32) -> Option<(PortId, VlanTags)> {
        if let Some(vlan) = self.host.vlans.get(&link) {
            return Some((vlan.wire, vlan.tags));
        }
        Some((self.port_of(link)?, VlanTags::NONE))
    }

    /// Sets where replies to clients go.
    pub(crate) fn set_return_plan(&mut self, plan: ReturnPlan) {
        self.return_routes.set_plan(plan);
    }

    /// Reads the routes to clients, if they changed.
    pub(crate) async fn read_return_routes(&mut self, kernel: &Kernel, now: Instant) {
        let (ports, host) = (&self.ports, &self.host);
        let port_of = |link| port_of(ports, host, link);
        let was_read = self.return_routes.read(kernel, now, port_of).await;
        self.return_routes.free_retired();
        if was_read {
            self.forget_unused();
            self.changed = true;
        }
    }

    /// Returns the neighbours whose MAC changed since the last call.
    pub(crate) fn take_moved(&mut self) -> Vec<MovedNeighbour> {
        std::mem::take(&mut self.moved)
    }

    /// Keeps probes of exactly the neighbours behind our ports that routes in use lead to.
    fn forget_unused(&mut self) {
        let mut before = std::mem::take(&mut self.probes);
        let backends = self.routes.values().filter_map(BackendRoute::neighbour);
        for key in backends.chain(self.return_routes.gateways().iter().copied()) {
            if self.is_ours(key.0) {
                let probe = before.remove(&key).unwrap_or_else(|| Probe {
                    last_mac: self.neighbours.get(&key).and_then(|entry| entry.mac),
                    ..Probe::default()
                });
                self.probes.entry(key).or_insert(probe);
            }
        }
        let probes = &self.probes;
        self.neighbours
            .retain(|key, entry| entry.reach != Reach::Lost || probes.contains_key(key));
    }

    /// Returns the links and addresses, if they changed since the last call.
    pub(crate) fn take_host(&mut self) -> Option<Arc<HostNetwork>> {
        std::mem::take(&mut self.host_changed).then(|| Arc::new(self.host.clone()))
    }

    /// Writes every next hop. Returns the state of each backend's next hop and of the return path, if
    /// something changed.
    pub(crate) fn publish(
        &mut self,
        now: Instant,
    ) -> Option<(BTreeMap<Address, HopState>, ReturnState)> {
        self.forget_stations();
        let now = now.into_std();
        if let Some(counts) = self.log_limit.summary(now) {
            tracing::info!("next hops that changed too, each logged at level debug: {counts}");
        }
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut states = BTreeMap::new();
        for (address, known) in &self.routes {
            let Some(route) = &known.route else { continue };
            let state = self.state(route);
            let hop = state
                .port
                .zip(state.mac)
                .map(|(port, mac)| NextHop { port, mac });
            let others = known.links.iter().filter_map(|link| self.port_of(*link));
            let others: Vec<PortId> = others.collect();
            for id in &known.backends {
                let before = self.hops.get(*id);
                self.hops.set_among(*id, hop, &others);
                if before != hop {
                    let kind = if hop.is_some() {
                        "resolved"
                    } else {
                        "not resolved"
                    };
                    match self.log_limit.allows(kind, now) {
                        true => tracing::info!(backend = %address, "next hop {state}"),
                        false => tracing::debug!(backend = %address, "next hop {state}"),
                    }
                }
            }
            states.insert(*address, state);
        }
        let gateways = self.return_routes.gateways().iter();
        let gateways = gateways
            .map(|(link, via)| {
                let (link, via) = (*link, *via);
                (via, self.state(&Ok(Route { link, via })))
            })
            .collect();
        Some((states, self.return_routes.publish(&self.hops, gateways)))
    }

    /// Returns whether a link is up and has a carrier; for a VLAN device its parent port too.
    fn is_up(&self, link: u32) -> bool {
        let wire = self.host.vlans.get(&link).map(|vlan| vlan.wire);
        let wire = wire.and_then(|id| self.ports.iter().find(|port| port.id == id));
        let links = [Some(link), wire.map(|port| port.link)];
        let mut links = links.into_iter().flatten();
        links.all(|link| {
            let link = self.host.links.get(&link);
            link.is_some_and(|link| link.up && link.carrier)
        })
    }

    fn state(&self, route: &Result<Route, NoRoute>) -> HopState {
        let unknown = |via, port, condition| HopState {
            via,
            port,
            mac: None,
            condition,
        };
        let route = match route {
            Ok(route) => route,
            Err(why) => return unknown(None, None, Condition::NoRoute(why.clone())),
        };
        let via = Some(route.via);
        let interface = self.host.link_name(route.link);
        let key = (route.link, route.via);
        let entry = self.neighbours.get(&key);
        let mac = entry.and_then(|entry| entry.mac);
        let Some((port, link)) = self.port_towards(route.link, mac) else {
            return unknown(via, None, Condition::NotAPort(interface));
        };
        let port = Some(port);
        let vlan = self.host.vlans.get(&route.link);
        if let Some(why) = vlan.and_then(|vlan| vlan.problem.clone()) {
            return unknown(via, port, Condition::Vlan(why));
        }
        if !self.is_up(link) {
            return unknown(via, port, Condition::LinkDown(self.host.link_name(link)));
        }
        let refusal = self
            .probes
            .get(&key)
            .and_then(|probe| probe.refusal.clone());
        if let Some(why) = refusal {
            return unknown(via, port, Condition::Refused(why));
        }
        let condition = match entry.map(|entry| entry.reach) {
            Some(Reach::Fresh) => Condition::Resolved,
            Some(Reach::Stale | Reach::Probing | Reach::Lost) => Condition::Checking,
            Some(Reach::Fixed) => Condition::Fixed,
            Some(Reach::Failed) => Condition::NoAnswer {
                via: route.via,
                interface,
            },
            Some(Reach::Resolving) | None => Condition::Resolving,
        };
        HopState {
            via,
            port,
            mac,
            condition,
        }
    }
}

fn port_of(ports: &[PortLink], host: &HostNetwork, link: u32) -> Option<PortId> {
    let port = ports.iter().find(|port| port.link == link);
    let port = port.map(|port| port.id);
    port.or_else(|| Some(host.vlans.get(&link)?.id))
}

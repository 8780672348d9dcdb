//! The resolver's knowledge: the kernel's routes and neighbours as far as backends need them.
//!
//! Invariant: it changes only by what the kernel said and what it was asked, with the time as an
//! argument; publishing writes each backend's next hop from nothing but that.

mod bridged;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::packet_route::neighbour::NeighbourState;
use tokio::time::Instant;
use waxwing_dataplane::snapshot::NextHops;
use waxwing_dataplane::{BackendId, NextHop, PortId};
use waxwing_packet::{Address, Mac, VlanTags};

use crate::network::bridge::Stations;
use crate::network::hop_state::{Condition, HopState};
use crate::network::host::HostNetwork;
use crate::network::kernel::{Change, Kernel, Neighbour, NeighbourKey, NoRoute, Route};
use crate::network::port::{MovedNeighbour, PortLink};
use crate::network::return_routes::{ReturnPlan, ReturnState, Returns};
use crate::network::vlans::Vlans;

/// The pause between two questions for a neighbour that does not answer.
const RETRY: Duration = Duration::from_secs(1);

/// The same while packets wait for it.
const RETRY_WANTED: Duration = Duration::from_millis(100);

/// The pause between two checks of a neighbour that stays stale. (One that turns stale, which the
/// kernel's own timers decide, is checked at once.)
const RECHECK: Duration = Duration::from_secs(30);

/// The most neighbours asked for in one pass: it bounds the ARP and NDP that we cause.
const ASKED_MAX: usize = 256;

/// Questions to the kernel under way at once.
const AT_ONCE: usize = 64;

/// What the kernel last said of a neighbour, reduced to what to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    Resolving,
    Fresh,
    Stale,
    /// The kernel is asking whether it still holds.
    Probing,
    Fixed,
    Failed,
    /// Taken out of the kernel's table without an unanswered question (`ip neigh flush`): the MAC
    /// is used on while the kernel is asked again, so that flushing the table costs no packets.
    Lost,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: Option<Mac>,
    reach: Reach,
}

impl Entry {
    /// What is known after a notification. The kernel says "failed" both of a neighbour that did
    /// not answer and of one that is being deleted; only the former was being asked before.
    fn next(before: Option<Self>, now: Neighbour) -> Self {
        let known = before.and_then(|entry| entry.mac);
        let was_asked = before.is_some_and(|entry| {
            !matches!(entry.reach, Reach::Fresh | Reach::Stale | Reach::Fixed)
        });
        let (reach, mac) = match now.state {
            NeighbourState::Reachable | NeighbourState::Delay => (Reach::Fresh, now.mac),
            NeighbourState::Probe => (Reach::Probing, now.mac),
            NeighbourState::Stale => (Reach::Stale, now.mac),
            NeighbourState::Permanent | NeighbourState::Noarp => (Reach::Fixed, now.mac),
            NeighbourState::Failed if was_asked || known.is_none() => (Reach::Failed, None),
            _ if known.is_some() => (Reach::Lost, known),
            _ => (Reach::Resolving, None),
        };
        Self { mac, reach }
    }
}

#[derive(Debug, Default)]
struct Asked {
    at: Option<Instant>,
    refusal: Option<String>,
    /// The MAC that it had last, also where it has none now.
    last: Option<Mac>,
}

struct Way {
    backends: Vec<BackendId>,
    /// `None` until it was first looked up.
    route: Option<Result<Route, NoRoute>>,
    wanted: bool,
}

pub(crate) struct Table {
    ports: Vec<PortLink>,
    vlans: Vlans,
    returns: Returns,
    moved: Vec<MovedNeighbour>,
    hops: Arc<NextHops>,
    facts: HostNetwork,
    facts_changed: bool,
    neighbours: BTreeMap<NeighbourKey, Entry>,
    /// Of a bridge whose ports are ours.
    stations: Stations,
    /// Only of neighbours that some way leads through.
    asked: BTreeMap<NeighbourKey, Asked>,
    ways: BTreeMap<Address, Way>,
    addresses: HashMap<BackendId, Address>,
    routes_changed: bool,
    look_up_not_before: Option<Instant>,
    changed: bool,
}

impl Table {
    pub(crate) fn new(ports: Vec<PortLink>, hops: Arc<NextHops>) -> Self {
        Self {
            vlans: Vlans::new(ports.clone()),
            returns: Returns::new(),
            moved: Vec::new(),
            ports,
            hops,
            facts: HostNetwork::default(),
            facts_changed: true,
            neighbours: BTreeMap::new(),
            stations: Stations::default(),
            asked: BTreeMap::new(),
            ways: BTreeMap::new(),
            addresses: HashMap::new(),
            routes_changed: false,
            look_up_not_before: None,
            changed: false,
        }
    }

    /// Reads everything from the kernel.
    pub(crate) async fn read(&mut self, kernel: &Kernel) -> io::Result<()> {
        self.facts = HostNetwork::read(kernel).await?;
        self.facts.vlans = self.vlans.update(&self.facts).clone();
        self.note_stations(kernel.stations().await?);
        let mut gone: BTreeSet<NeighbourKey> = self.neighbours.keys().copied().collect();
        for neighbour in kernel.neighbours().await? {
            gone.remove(&neighbour.key);
            self.note_neighbour(neighbour);
        }
        for key in gone {
            self.note_gone(key);
        }
        self.facts_changed = true;
        self.routes_changed = true;
        self.returns.note_change();
        self.changed = true;
        Ok(())
    }

    /// Takes in one change. ([`Change::Overrun`] is for [`Table::read`].)
    pub(crate) fn note(&mut self, change: Change) {
        match change {
            Change::Neighbour(neighbour) => return self.note_neighbour(neighbour),
            Change::NeighbourGone(key) => return self.note_gone(key),
            Change::Station(station) => return self.note_station(station),
            Change::StationGone(station) => return self.stations.note_gone(station),
            Change::Routes | Change::Overrun => {}
            Change::Link(link) => {
                self.facts_changed |= self.facts.links.get(&link.index) != Some(&link);
                self.facts.links.insert(link.index, link);
            }
            Change::LinkGone(index) => {
                self.facts_changed |= self.facts.links.remove(&index).is_some();
            }
            Change::Address(address) => self.facts_changed |= self.facts.addresses.insert(address),
            Change::AddressGone(address) => {
                self.facts_changed |= self.facts.addresses.remove(&address);
            }
        }
        if self.facts_changed {
            self.facts.vlans = self.vlans.update(&self.facts).clone();
        }
        // A link that came, went down or has another name changes states even where routes stay.
        self.changed |= self.facts_changed;
        self.routes_changed = true;
        self.returns.note_change();
    }

    fn note_neighbour(&mut self, neighbour: Neighbour) {
        let wire = self.wire_of(neighbour.key.0);
        if wire.is_none() && !self.is_our_bridge(neighbour.key.0) {
            return;
        }
        let before = self.neighbours.get(&neighbour.key).copied();
        let entry = Entry::next(before, neighbour);
        let turned = before.is_none_or(|before| before.reach != entry.reach);
        self.neighbours.insert(neighbour.key, entry);
        if let Some(asked) = self.asked.get_mut(&neighbour.key) {
            self.changed = true;
            if let Some((wire, tags)) = wire
                && let Some(to) = entry.mac
                && let Some(from) = asked.last.replace(to).filter(|from| *from != to)
            {
                let moved = MovedNeighbour {
                    wire,
                    tags,
                    from,
                    to,
                };
                self.moved.push(moved);
            }
            if turned && matches!(entry.reach, Reach::Stale | Reach::Lost) {
                asked.at = None;
            }
        }
    }

    fn note_gone(&mut self, key: NeighbourKey) {
        let in_use = self.asked.get_mut(&key);
        match (self.neighbours.get_mut(&key), in_use) {
            (Some(entry), Some(asked)) if entry.mac.is_some() => {
                entry.reach = Reach::Lost;
                asked.at = None;
            }
            _ => {
                self.neighbours.remove(&key);
            }
        }
        self.changed |= self.asked.contains_key(&key);
    }

    /// Replaces the backends to resolve.
    pub(crate) fn track(&mut self, backends: Vec<(BackendId, Address)>) {
        let mut before = std::mem::take(&mut self.ways);
        let addresses = backends.iter().copied().collect();
        for (id, address) in backends {
            self.ways
                .entry(address)
                .or_insert_with(|| Way {
                    backends: Vec::new(),
                    route: before.remove(&address).and_then(|way| way.route),
                    wanted: false,
                })
                .backends
                .push(id);
        }
        for id in std::mem::replace(&mut self.addresses, addresses).into_keys() {
            if !self.addresses.contains_key(&id) {
                self.hops.set(id, None);
            }
        }
        self.forget_unused();
        self.changed = true;
    }

    /// Takes up which backends packets wait for.
    pub(crate) fn note_wanted(&mut self) {
        for id in self.hops.take_wanted() {
            if let Some(way) = self.addresses.get(&id).and_then(|a| self.ways.get_mut(a)) {
                way.wanted = true;
            }
        }
    }

    /// Looks up new backends' routes at once, and all after a change; under a storm of route
    /// changes that takes at most a tenth of the time.
    pub(crate) async fn look_up_routes(&mut self, kernel: &Kernel, now: Instant) {
        let all = self.routes_changed && self.look_up_not_before.is_none_or(|at| now >= at);
        let due: Vec<Address> = self
            .ways
            .iter()
            .filter(|(_, w)| all || w.route.is_none())
            .map(|(a, _)| *a)
            .collect();
        if all {
            self.routes_changed = false;
        }
        if due.is_empty() {
            return;
        }
        let mut answers = futures_util::stream::iter(due)
            .map(async |address| (address, kernel.route_to(address).await))
            .buffer_unordered(AT_ONCE);
        while let Some((address, route)) = answers.next().await {
            if let Some(way) = self.ways.get_mut(&address) {
                self.changed |= way.route.as_ref() != Some(&route);
                way.route = Some(route);
            }
        }
        drop(answers);
        self.look_up_not_before = Some(Instant::now() + now.elapsed() * 10);
        self.forget_unused();
    }

    /// Has the kernel ask for every neighbour that is due.
    pub(crate) async fn ask(&mut self, kernel: &Kernel, now: Instant) {
        let wanted: BTreeSet<NeighbourKey> = self
            .ways
            .values_mut()
            .filter_map(|way| std::mem::take(&mut way.wanted).then(|| way.key()).flatten())
            .collect();
        let due: Vec<NeighbourKey> = self
            .asked
            .iter()
            .filter(|(key, asked)| self.is_due(**key, asked, wanted.contains(key), now))
            .map(|(key, _)| *key)
            .take(ASKED_MAX)
            .collect();
        let mut answers = futures_util::stream::iter(due)
            .map(async |key| (key, kernel.use_neighbour(key).await))
            .buffer_unordered(AT_ONCE);
        while let Some((key, answer)) = answers.next().await {
            let refusal = answer.err().as_ref().map(refusal);
            if let Some(asked) = self.asked.get_mut(&key) {
                self.changed |= asked.refusal != refusal;
                asked.at = Some(now);
                asked.refusal = refusal;
            }
        }
    }

    fn is_due(&self, key: NeighbourKey, asked: &Asked, wanted: bool, now: Instant) -> bool {
        let pause = match self.neighbours.get(&key).map(|entry| entry.reach) {
            // Asking for an entry made by hand would turn it into an ordinary one.
            Some(Reach::Fresh | Reach::Probing | Reach::Fixed) => return false,
            Some(Reach::Stale) => RECHECK,
            _ if wanted => RETRY_WANTED,
            _ => RETRY,
        };
        asked.at.is_none_or(|at| now.duration_since(at) >= pause)
    }

    /// The port, or the VLAN on one, that a link is.
    fn port_of(&self, link: u32) -> Option<PortId> {
        port_of(&self.ports, &self.facts, link)
    }

    /// The port whose frames a link's are, and their tags there.
    fn wire_of(&self, link: u32) -> Option<(PortId, VlanTags)> {
        if let Some(vlan) = self.facts.vlans.get(&link) {
            return Some((vlan.wire, vlan.tags));
        }
        Some((self.port_of(link)?, VlanTags::NONE))
    }

    /// Has replies to clients go by this plan from now on.
    pub(crate) fn follow(&mut self, plan: ReturnPlan) {
        self.returns.follow(plan);
    }

    /// Reads the routes to clients, if they changed.
    pub(crate) async fn read_routes(&mut self, kernel: &Kernel, now: Instant) {
        let (ports, facts) = (&self.ports, &self.facts);
        let port_of = |link| port_of(ports, facts, link);
        let was_read = self.returns.read(kernel, now, port_of).await;
        self.returns.free();
        if was_read {
            self.forget_unused();
            self.changed = true;
        }
    }

    /// The neighbours that have another MAC since the last call.
    pub(crate) fn take_moved(&mut self) -> Vec<MovedNeighbour> {
        std::mem::take(&mut self.moved)
    }

    /// Keeps track of exactly the neighbours that ways lead through, behind our ports.
    fn forget_unused(&mut self) {
        let mut before = std::mem::take(&mut self.asked);
        let ways = self.ways.values().filter_map(Way::key);
        for key in ways.chain(self.returns.gateways().iter().copied()) {
            if self.is_ours(key.0) {
                let asked = before.remove(&key).unwrap_or_else(|| Asked {
                    last: self.neighbours.get(&key).and_then(|entry| entry.mac),
                    ..Asked::default()
                });
                self.asked.entry(key).or_insert(asked);
            }
        }
        let asked = &self.asked;
        self.neighbours
            .retain(|key, e| e.reach != Reach::Lost || asked.contains_key(key));
    }

    /// The links and addresses, if they changed since the last call.
    pub(crate) fn take_facts(&mut self) -> Option<Arc<HostNetwork>> {
        std::mem::take(&mut self.facts_changed).then(|| Arc::new(self.facts.clone()))
    }

    /// Writes every next hop and gives every backend's state and that of the ways back, if something
    /// changed.
    pub(crate) fn publish(&mut self) -> Option<(BTreeMap<Address, HopState>, ReturnState)> {
        self.forget_stations();
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let mut states = BTreeMap::new();
        for (address, way) in &self.ways {
            let Some(route) = &way.route else { continue };
            let state = self.state(route);
            let hop = state
                .port
                .zip(state.mac)
                .map(|(port, mac)| NextHop { port, mac });
            for id in &way.backends {
                if self.hops.get(*id) != hop {
                    self.hops.set(*id, hop);
                    tracing::info!(backend = %address, "next hop {}", state);
                }
            }
            states.insert(*address, state);
        }
        let gateways = self.returns.gateways().iter();
        let gateways = gateways
            .map(|(link, via)| {
                let (link, via) = (*link, *via);
                (via, self.state(&Ok(Route { link, via })))
            })
            .collect();
        Some((states, self.returns.publish(&self.hops, gateways)))
    }

    /// Whether a link is up and has a carrier, and that which it is a VLAN on too.
    fn is_up(&self, link: u32) -> bool {
        let wire = self.facts.vlans.get(&link).map(|vlan| vlan.wire);
        let wire = wire.and_then(|id| self.ports.iter().find(|port| port.id == id));
        let links = [Some(link), wire.map(|port| port.link)];
        let mut links = links.into_iter().flatten();
        links.all(|link| {
            let link = self.facts.links.get(&link);
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
        let interface = self.facts.link_name(route.link);
        let key = (route.link, route.via);
        let entry = self.neighbours.get(&key);
        let mac = entry.and_then(|entry| entry.mac);
        let Some((port, link)) = self.port_towards(route.link, mac) else {
            return unknown(via, None, Condition::NotAPort(interface));
        };
        let port = Some(port);
        let vlan = self.facts.vlans.get(&route.link);
        if let Some(why) = vlan.and_then(|vlan| vlan.problem.clone()) {
            return unknown(via, port, Condition::Vlan(why));
        }
        if !self.is_up(link) {
            return unknown(via, port, Condition::LinkDown(self.facts.link_name(link)));
        }
        if let Some(why) = self.asked.get(&key).and_then(|asked| asked.refusal.clone()) {
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

fn port_of(ports: &[PortLink], facts: &HostNetwork, link: u32) -> Option<PortId> {
    let port = ports.iter().find(|port| port.link == link);
    let port = port.map(|port| port.id);
    port.or_else(|| Some(facts.vlans.get(&link)?.id))
}

impl Way {
    fn key(&self) -> Option<NeighbourKey> {
        let route = self.route.as_ref()?.as_ref().ok()?;
        Some((route.link, route.via))
    }
}

/// `ENOBUFS`: what the kernel says when its neighbour table is full.
const NO_BUFFERS: i32 = 105;

fn refusal(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(NO_BUFFERS) => "its neighbour table is full; raise net.ipv4.neigh.default.gc_thresh3 \
                             (net.ipv6.… for IPv6)"
            .into(),
        _ => error.to_string(),
    }
}

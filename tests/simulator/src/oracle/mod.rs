//! The invariants, checked at each turn of a worker: each frame that went in is compared with what
//! became of it, and the sessions of these frames with what their packets say they have to be.
//!
//! Invariant: the oracle believes the frames. It asks the core for what cannot be seen from outside
//! (which of two sessions of one flow is the present one), and then only to hold it against the core.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, DefaultHasher};

use waxwing_dataplane::session::{Session, SessionRef, Tuple};
use waxwing_dataplane::snapshot::{SessionsFate, TimeoutTicks};
use waxwing_dataplane::{Backend, NextHop, Now, PortId, Snapshot, Tick};
use waxwing_packet::{Address, IpPacket, Packet, Protocol, Transport, VlanTags, parse};

use crate::balancer::Balancer;
use crate::config::{BACK, PORT_MACS, server_mac, server_port};
use crate::pin::{Pin, Route, Shadow, Strays, is_opening, is_servers_syn};
use crate::translation;
use crate::view::{TCP, UDP, View, macs, view};
use crate::wire::{Fate, Handled};

/// A map that is the same in every run.
pub(crate) type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// What an oracle tells of a turn, beside that all was well.
#[derive(Default)]
pub(crate) struct Told {
    /// Flows whose session ended, or gave way to another.
    pub(crate) ended: Vec<Tuple>,
    /// Flows whose session is established.
    pub(crate) held: Vec<Tuple>,
}

/// A turn that is being looked at.
pub(crate) struct Turn<'a> {
    pub(crate) balancer: &'a Balancer,
    pub(crate) worker: usize,
    pub(crate) now: Now,
    /// The transmit rings were short of room.
    pub(crate) limited: bool,
}

impl Turn<'_> {
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.balancer.current[self.worker]
    }

    /// The session that the core has of a client's flow now.
    pub(crate) fn session(&self, tuple: &Tuple) -> Option<(SessionRef, Session)> {
        let sessions = &self.balancer.shared.sessions;
        sessions.find(sessions.hash(tuple), |session| {
            let vip = self.snapshot().backend(session.backend).map(|b| b.vip);
            tuple_of_session(session, vip) == Some(*tuple)
        })
    }
}

pub(crate) fn tuple_of_session(session: &Session, vip: Option<Address>) -> Option<Tuple> {
    Some(Tuple {
        source: session.client,
        destination: vip?,
        source_port: session.client_port,
        destination_port: session.service_port,
        protocol: session.protocol,
    })
}

pub(crate) struct Oracle {
    pub(crate) pins: Map<Tuple, Pin>,
    /// From what a backend answers to the client's flow.
    pub(crate) replies: Map<Tuple, Tuple>,
    /// Answers that mean another flow from this turn on: those of its batch were looked up before.
    displaced: Vec<Tuple>,
    pub(crate) strays: Strays,
    pub(crate) timeouts: TimeoutTicks,
    turn: u64,
    /// The latest reading of any worker's clock: they differ by a little.
    pub(crate) latest: Tick,
    pub(crate) touched: Vec<Tuple>,
    turns_since_audit: usize,
    pub(crate) told: Told,
}

impl Oracle {
    pub(crate) fn new(timeouts: TimeoutTicks) -> Self {
        Self {
            pins: Map::default(),
            replies: Map::default(),
            displaced: Vec::new(),
            strays: Strays::default(),
            timeouts,
            turn: 0,
            latest: Tick::default(),
            touched: Vec::new(),
            turns_since_audit: 0,
            told: Told::default(),
        }
    }

    /// Looks at a turn.
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub(crate) fn check(&mut self, turn: &Turn<'_>, handled: &[Handled]) -> Result<Told, String> {
        self.turn += 1;
        self.displaced.clear();
        self.latest = self.latest.max(turn.now.tick());
        for frame in handled {
            self.frame(turn, frame)
                .map_err(|why| format!("{why}\n    {frame:02x?}\n    {:?}", view(&frame.bytes)))?;
        }
        self.compare_touched(turn)?;
        self.turns_since_audit += 1;
        let sessions = turn.balancer.shared.sessions.len();
        if self.turns_since_audit * 16 > sessions {
            self.turns_since_audit = 0;
            self.audit(turn)?;
        }
        Ok(std::mem::take(&mut self.told))
    }

    fn frame(&mut self, turn: &Turn<'_>, frame: &Handled) -> Result<(), String> {
        if frame.fates.len() > 1 {
            return Err("a frame ended twice".into());
        }
        let fate = frame.fates.first();
        if let Some(Fate::Kernel(bytes)) = fate
            && *bytes != frame.bytes
        {
            return Err("the kernel got another frame than came".into());
        }
        let Some(came) = view(&frame.bytes) else {
            return self.unread(turn, frame);
        };
        let protocol = match came.protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            _ => return translation::of_icmp(frame, &came),
        };
        let tuple = Tuple {
            source: came.source,
            destination: came.destination,
            source_port: came.source_port,
            destination_port: came.destination_port,
            protocol,
        };
        let snapshot = turn.snapshot();
        let service = snapshot.service_at(tuple.destination, tuple.destination_port, protocol);
        if self.pins.contains_key(&tuple) || service.is_some() {
            self.request(turn, frame, &came, tuple)
        } else if self.displaced.contains(&tuple) {
            Ok(())
        } else if let Some(client) = self.answered_by(snapshot, &tuple) {
            self.reply(turn, frame, &came, client)
        } else {
            match fate {
                Some(Fate::Sent(..)) => Err("a frame of no session was sent on".into()),
                Some(Fate::Kernel(_)) if snapshot.is_vip(came.destination) => {
                    Err("a frame to a VIP went to the kernel".into())
                }
                _ => Ok(()),
            }
        }
    }

    /// The client's flow that a backend answers by this tuple now, and not only before.
    fn answered_by(&self, snapshot: &Snapshot, reply: &Tuple) -> Option<Tuple> {
        let client = *self.replies.get(reply)?;
        let pin = self.pins.get(&client)?;
        let backend = snapshot.backend(pin.backend)?;
        (reply_of(backend, &client, pin.source) == *reply).then_some(client)
    }

    /// A frame that the view makes nothing of (it has IP options, say), and the core perhaps does:
    /// its session is known to be there from now on, and no more.
    fn unread(&mut self, turn: &Turn<'_>, frame: &Handled) -> Result<(), String> {
        let Ok(Packet::Ip(packet)) = parse(&frame.bytes) else {
            return Ok(());
        };
        let (source_port, destination_port, protocol) = match packet.transport {
            Transport::Tcp {
                source,
                destination,
                ..
            } => (source, destination, Protocol::Tcp),
            Transport::Udp {
                source,
                destination,
            } => (source, destination, Protocol::Udp),
            Transport::Icmp { .. } => return Ok(()),
            Transport::Other(_) => {
                if packet.fragment.is_some_and(|fragment| fragment.offset > 0) {
                    self.stray(&packet, route_of(frame), turn.now.tick());
                }
                return Ok(());
            }
        };
        let tuple = Tuple {
            source: packet.source,
            destination: packet.destination,
            source_port,
            destination_port,
            protocol,
        };
        let client = self.replies.get(&tuple).copied().unwrap_or(tuple);
        let now = turn.now.tick();
        if let Some(pin) = self.pins.get_mut(&client) {
            touch(pin, self.turn, client, &mut self.touched);
            (pin.blurred, pin.may_end) = (true, true);
            pin.seen = pin.seen.max(now);
            pin.routes.push(route_of(frame));
            return Ok(());
        }
        self.adopt(turn, tuple, (0, route_of(frame)))
    }

    /// A fragment without ports is of any session between its addresses, or of none.
    fn stray(&mut self, packet: &IpPacket, route: Route, now: Tick) {
        let ends = (packet.source, packet.destination);
        self.strays.add(ends, route);
        let answered = self.replies.iter();
        let answered = answered.filter(|(reply, _)| (reply.source, reply.destination) == ends);
        let answered: Vec<Tuple> = answered.map(|(_, client)| *client).collect();
        for (tuple, pin) in &mut self.pins {
            if (tuple.source, tuple.destination) == ends || answered.contains(tuple) {
                pin.blurred = true;
                pin.seen = pin.seen.max(now);
            }
        }
    }

    /// A session that a frame may have made without being sent on.
    fn adopt(
        &mut self,
        turn: &Turn<'_>,
        tuple: Tuple,
        (flags, route): (u8, Route),
    ) -> Result<(), String> {
        let Some((_, session)) = turn.session(&tuple) else {
            return Ok(());
        };
        let backend = turn.snapshot().backend(session.backend);
        let backend = backend.ok_or("a session of an unknown backend")?;
        let source = source_of(turn.snapshot(), &session);
        let mut pin = self.new_pin(turn, backend, (flags, source), route);
        // Or a later one of the batch has made it.
        pin.blurred = true;
        self.pins.insert(tuple, pin);
        self.touched.push(tuple);
        self.note_reply(turn, backend, &tuple, source)
    }

    /// A frame of a client's flow.
    fn request(
        &mut self,
        turn: &Turn<'_>,
        frame: &Handled,
        came: &View,
        tuple: Tuple,
    ) -> Result<(), String> {
        if let Some(pin) = self.pins.get_mut(&tuple) {
            touch(pin, self.turn, tuple, &mut self.touched);
            pin.may_end |= pin.is_expired(&self.timeouts, tuple.protocol, self.latest)
                || may_end(turn, pin, came, tuple.protocol);
        }
        let pin = self.pins.get(&tuple);
        match frame.fates.first() {
            Some(Fate::Kernel(_)) => Err("a client's frame went to the kernel".into()),
            Some(Fate::Sent(port, out)) => {
                let went = view(out).ok_or("what was sent is no whole packet")?;
                if is_told(came, &went) {
                    let from = tuple.destination;
                    translation::of_refusal(frame, came, (*port, out), (from, &went))?;
                    return self.request_dropped(turn, frame, came, tuple);
                }
                if went.destination == came.source {
                    if pin.is_some_and(Pin::is_protected) {
                        return Err("a session that stands was refused".into());
                    }
                    let from = tuple.destination;
                    return translation::of_refusal(frame, came, (*port, out), (from, &went));
                }
                translation::of_request(frame, came, (*port, out), &went)?;
                self.forwarded(turn, frame, came, (tuple, &went))
            }
            None => self.request_dropped(turn, frame, came, tuple),
        }
    }

    fn forwarded(
        &mut self,
        turn: &Turn<'_>,
        frame: &Handled,
        came: &View,
        (tuple, went): (Tuple, &View),
    ) -> Result<(), String> {
        let snapshot = turn.snapshot();
        let backend = backend_of(snapshot, &tuple, went)
            .ok_or("a client's frame was sent to no backend of its service")?;
        let found = turn.session(&tuple);
        let source = (went.source, went.source_port);
        let before = self.pins.get(&tuple);
        let newer = before.is_some_and(|pin| {
            let expired = pin.is_expired(&self.timeouts, tuple.protocol, turn.now.tick());
            // Of a session that the same batch ended again, there is no more than its frame.
            let found = found.map_or(expired && !pin.blurred, |(at, session)| {
                let here = (session.backend, source_of(snapshot, &session));
                pin.at != Some(at) && here == (backend.id, source)
            });
            pin.may_end && pin.at.is_some() && found
        });
        let other = before.is_none_or(|pin| (pin.backend, pin.source) != (backend.id, source));
        let renewed = newer || other;
        if renewed {
            let old = self.pins.remove(&tuple);
            if let Some(pin) = &old {
                if !pin.may_end {
                    return Err(format!("a session moved: {pin:?} to {:?}", backend.id));
                }
                self.forget_reply(snapshot, &tuple, pin);
                self.told.ended.push(tuple);
            }
            let service = snapshot.service(backend.service);
            let listed = service.is_some_and(|s| s.backends.contains(&backend.id));
            if !listed || !(backend.takes_new() || backend.keeps_sessions()) {
                return Err(format!(
                    "a new session on {:?}, which takes none, after {old:?}",
                    backend.id
                ));
            }
            // An answer of the same batch goes by the way that it found.
            let route = old.map_or_else(|| route_of(frame), |pin| pin.route);
            let mut pin = self.new_pin(turn, backend, (came.flags, source), route);
            pin.unsure = newer && !is_opening(came.flags);
            self.pins.insert(tuple, pin);
            self.touched.push(tuple);
            // One that a full table had no room for up to the end of its batch has no answers.
            if found.is_some() {
                self.note_reply(turn, backend, &tuple, source)?;
            }
        }
        let (now, timeouts) = (turn.now.tick(), &self.timeouts);
        let Some(pin) = self.pins.get_mut(&tuple) else {
            return Ok(());
        };
        if pin.is_expired(timeouts, tuple.protocol, now) && !pin.blurred {
            return Err(format!("a session outlived its time: {pin:?} at {now:?}"));
        }
        pin.blurred |= pin.unsure && is_opening(came.flags);
        pin.shadow.client_says(came.flags);
        pin.seen = pin.seen.max(now);
        pin.routes.push(route_of(frame));
        Ok(())
    }

    fn new_pin(
        &self,
        turn: &Turn<'_>,
        backend: &Backend,
        (flags, source): (u8, (Address, u16)),
        route: Route,
    ) -> Pin {
        Pin {
            backend: backend.id,
            source,
            shadow: Shadow::first(flags),
            seen: turn.now.tick(),
            at: None,
            route,
            routes: Vec::new(),
            turn: self.turn,
            was_strong: false,
            was_open: false,
            evictions: 0,
            may_end: false,
            blurred: false,
            unsure: false,
        }
    }

    /// A backend's answer to a flow means one flow only.
    pub(crate) fn note_reply(
        &mut self,
        turn: &Turn<'_>,
        backend: &Backend,
        tuple: &Tuple,
        source: (Address, u16),
    ) -> Result<(), String> {
        let reply = reply_of(backend, tuple, source);
        let before = self.replies.insert(reply, *tuple);
        let Some(other) = before.filter(|before| before != tuple) else {
            return Ok(());
        };
        self.displaced.push(reply);
        let Some((_, session)) = turn.session(&other) else {
            // Whether it had to end is seen by the next audit; its hosts may feel it before that.
            self.told.ended.push(other);
            return Ok(());
        };
        let its = source_of(turn.snapshot(), &session);
        if let Some(backend) = turn.snapshot().backend(session.backend)
            && reply_of(backend, &other, its) == reply
        {
            return Err(format!("{tuple:?} and {other:?} have the same answers"));
        }
        Ok(())
    }

    pub(crate) fn forget_reply(&mut self, snapshot: &Snapshot, tuple: &Tuple, pin: &Pin) {
        if let Some(backend) = snapshot.backend(pin.backend) {
            let reply = reply_of(backend, tuple, pin.source);
            if self.replies.get(&reply) == Some(tuple) {
                self.replies.remove(&reply);
            }
        }
    }

    fn request_dropped(
        &mut self,
        turn: &Turn<'_>,
        frame: &Handled,
        came: &View,
        tuple: Tuple,
    ) -> Result<(), String> {
        let excused = is_excused(turn, came);
        if let Some(pin) = self.pins.get_mut(&tuple) {
            if pin.is_protected() && !excused {
                return Err(format!(
                    "a frame of a session that stands was dropped: {pin:?}"
                ));
            }
            pin.routes.push(route_of(frame));
            if pin.may_end {
                pin.blurred = true;
            } else {
                pin.shadow.client_says(came.flags);
                pin.seen = pin.seen.max(turn.now.tick());
            }
            return Ok(());
        }
        // It may have made a session all the same: what was dropped was then the packet alone.
        if excused {
            return self.adopt(turn, tuple, (came.flags, route_of(frame)));
        }
        Ok(())
    }

    /// A frame of a backend, in the session of this client's flow.
    fn reply(
        &mut self,
        turn: &Turn<'_>,
        frame: &Handled,
        came: &View,
        tuple: Tuple,
    ) -> Result<(), String> {
        let strays = &self.strays;
        let Some(pin) = self.pins.get_mut(&tuple) else {
            return Ok(());
        };
        touch(pin, self.turn, tuple, &mut self.touched);
        let now = turn.now.tick();
        let expired = pin.is_expired(&self.timeouts, tuple.protocol, now);
        let opens_another = tuple.protocol == Protocol::Tcp && is_servers_syn(came.flags);
        pin.may_end |= pin.is_expired(&self.timeouts, tuple.protocol, self.latest)
            || (opens_another && !pin.stayed_open());
        match frame.fates.first() {
            Some(Fate::Kernel(_)) => {
                let evicted = !pin.was_strong && evictions(turn.balancer) > pin.evictions;
                // Replies are looked up before the batch's new sessions are made.
                let is_new = pin.at.is_none();
                if !(pin.may_end || evicted || pin.blurred || is_new) {
                    return Err(format!(
                        "the answer of a session went to the kernel: {pin:?}"
                    ));
                }
                return Ok(());
            }
            Some(Fate::Sent(port, out)) => {
                if expired && !pin.blurred {
                    return Err(format!("a session outlived its time: {pin:?} at {now:?}"));
                }
                let went = view(out).ok_or("what was sent is no whole packet")?;
                let told = is_told(came, &went);
                if told {
                    let vip = came.destination == tuple.source;
                    let from = if vip {
                        tuple.destination
                    } else {
                        came.destination
                    };
                    translation::of_refusal(frame, came, (*port, out), (from, &went))?;
                } else {
                    translation::of_reply(frame, came, (*port, out), (&tuple, &went))?;
                }
                let route = route_to(*port, out);
                let is_known = route == pin.route || pin.routes.contains(&route);
                if !(told || is_known || strays.has(&tuple, route)) {
                    return Err(format!("{route:?} is not the way to the client: {pin:?}"));
                }
            }
            None if pin.is_protected() && !is_excused(turn, came) => {
                return Err(format!("an answer of a session was dropped: {pin:?}"));
            }
            // It was looked up before this turn made the session, or found the session's end.
            None if expired || pin.at.is_none() => return Ok(()),
            None => {}
        }
        pin.shadow.server_says(came.flags);
        pin.seen = pin.seen.max(now);
        Ok(())
    }
}

/// Notes that a frame of the session is looked at.
fn touch(pin: &mut Pin, turn: u64, tuple: Tuple, touched: &mut Vec<Tuple>) {
    if pin.turn != turn {
        pin.turn = turn;
        pin.was_strong = pin.is_strong();
        pin.was_open = pin.shadow.is_open();
        touched.push(tuple);
    }
}

/// Whether a client's frame may end the session, or meets its end.
fn may_end(turn: &Turn<'_>, pin: &Pin, came: &View, protocol: Protocol) -> bool {
    let Some(backend) = turn.snapshot().backend(pin.backend) else {
        return false;
    };
    let opening = protocol == Protocol::Tcp && is_opening(came.flags);
    let weak = !pin.stayed_strong();
    pin.blurred
        || backend.sessions != SessionsFate::Keep
        || (opening && !pin.stayed_open())
        || (opening && !backend.healthy && (weak || pin.shadow.has_nothing()))
        || (weak && evictions(turn.balancer) > pin.evictions)
}

/// Whether a frame may be dropped although its session stands.
fn is_excused(turn: &Turn<'_>, came: &View) -> bool {
    turn.limited || came.hop_limit <= 1 || came.end - came.network > 1500
}

/// Whether a packet went no further for want of a hop, and its sender was told. It is one of its session
/// all the same.
fn is_told(came: &View, went: &View) -> bool {
    let is_error = !matches!(went.protocol, TCP | UDP);
    came.hop_limit <= 1 && went.destination == came.source && is_error
}

/// Sessions that all workers have evicted.
pub(crate) fn evictions(balancer: &Balancer) -> u64 {
    balancer.counters.iter().map(|c| c.evicted.get()).sum()
}

fn backend_of<'a>(snapshot: &'a Snapshot, tuple: &Tuple, went: &View) -> Option<&'a Backend> {
    snapshot.backends().find(|b| {
        let port = tuple.destination_port;
        (b.vip, b.protocol) == (tuple.destination, tuple.protocol)
            && b.vip_ports.contains(port)
            && (b.address, b.port_for(port)) == (went.destination, went.destination_port)
    })
}

/// The client's address and port as a session's backend sees them.
pub(crate) fn source_of(snapshot: &Snapshot, session: &Session) -> (Address, u16) {
    let address = snapshot.seen_by_backend(session);
    (address.unwrap_or(session.client), session.source_port)
}

fn reply_of(backend: &Backend, tuple: &Tuple, source: (Address, u16)) -> Tuple {
    Tuple {
        source: backend.address,
        destination: source.0,
        source_port: backend.port_for(tuple.destination_port),
        destination_port: source.1,
        protocol: tuple.protocol,
    }
}

fn vlan_tags(frame: &[u8]) -> VlanTags {
    match parse(frame) {
        Ok(Packet::Ip(packet)) => packet.ethernet.tags,
        _ => VlanTags::NONE,
    }
}

/// The way that a client's frame came by.
fn route_of(frame: &Handled) -> Route {
    let (_, mac) = macs(&frame.bytes);
    let port = frame.port;
    (NextHop { port, mac }, vlan_tags(&frame.bytes))
}

/// The way that a frame to a client took.
fn route_to(port: PortId, out: &[u8]) -> Route {
    let (mac, _) = macs(out);
    (NextHop { port, mac }, vlan_tags(out))
}

/// The link of a frame to a backend.
pub(crate) fn is_link_to(backend: Address, (port, out): (PortId, &[u8])) -> bool {
    let link = (server_mac(backend), PORT_MACS[BACK.index()]);
    port == BACK && macs(out) == link && vlan_tags(out) == server_port(backend).1
}

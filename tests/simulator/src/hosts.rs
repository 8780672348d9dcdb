//! Clients and servers: sockets, connections, and what each says to a frame that reaches it.
//!
//! Invariant: a connection knows both of its ends. So it is seen at once where a byte came to
//! another server than the one that took the connection, or to another client.

use waxwing_dataplane::session::Tuple;
use waxwing_packet::{Address, Link, Mac, Protocol, TcpFlags, VlanTag, VlanTags};
use waxwing_testkit::build;

use crate::attacker::any_service;
use crate::config::{BACK, FRONT, PORT_MACS, server_mac, server_port, source_address};
use crate::oracle::{Map, Told};
use crate::plan::Plan;
use crate::random::Random;
use crate::siege;
use crate::tcp::{End, Habits, Pause, Segment, State, refuse};
use crate::view::{TCP, UDP, View};

/// What an attacker's datagrams begin with: whoever gets one knows that nobody vouches for it.
pub(crate) const FORGED: &[u8] = b"forged!!";

/// The address of the clients' gateways.
const GATEWAY: Address = Address::v4([198, 51, 100, 1]);

/// A frame on its way from a host, and the port of the balancer that it comes to.
pub(crate) type Departure = (waxwing_dataplane::PortId, Vec<u8>);

/// One TCP connection, from its client's SYN on.
pub(crate) struct Connection {
    pub(crate) tuple: Tuple,
    pub(crate) client: End,
    /// What its server will do.
    habits: Habits,
    /// The server that took it, and its port.
    pub(crate) taken_by: Option<(Address, u16)>,
    /// The balancer has an established session for it.
    held: bool,
    /// That session ended although neither end wanted that, and it was right.
    harmed: bool,
    /// One of its ends reset it.
    aborted: bool,
}

/// A server's end, and which connection it is of.
struct Socket {
    connection: usize,
    end: End,
}

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Client(usize),
    Server(Tuple),
}

pub(crate) struct Hosts {
    pub(crate) connections: Vec<Connection>,
    by_initial: Map<u32, usize>,
    by_client: Map<Tuple, usize>,
    sockets: Map<Tuple, Socket>,
    /// Each client's gateway: it may fail over to another.
    gateways: Vec<(Mac, VlanTags)>,
    /// So many of the latest connections are attacked: of more, most would be over.
    victims: usize,
    next_initial: u32,
    /// Sessions may have ended while an answer was under way.
    pub(crate) sessions_hurry: bool,
    pub(crate) completed: u64,
    pub(crate) datagrams: u64,
}

impl Hosts {
    pub(crate) fn new(plan: &Plan, random: &mut Random) -> Self {
        let gateways = (0..plan.clients).map(|_| gateway(random)).collect();
        Self {
            connections: Vec::new(),
            by_initial: Map::default(),
            by_client: Map::default(),
            sockets: Map::default(),
            gateways,
            victims: plan.transfers.unwrap_or(60),
            next_initial: random.next() as u32,
            sessions_hurry: plan.change_us > 0 || plan.jump_us > 0,
            completed: 0,
            datagrams: 0,
        }
    }

    /// Initial sequence numbers go up, so that no old segment fits a new connection (RFC 6528).
    fn initial(&mut self, random: &mut Random) -> u32 {
        let step = random.between(1 << 20, 1 << 21) as u32;
        self.next_initial = self.next_initial.wrapping_add(step);
        self.next_initial
    }

    /// The link of a client's frames; of a stranger, those of some gateway.
    pub(crate) fn link_from(&self, client: Address) -> (Link, VlanTags) {
        let [.., n] = client.octets();
        let (source, tags) = self.gateways[usize::from(n) % self.gateways.len()];
        let destination = PORT_MACS[FRONT.index()];
        (
            Link {
                source,
                destination,
            },
            tags,
        )
    }

    /// A client's way to the balancer goes by another machine from now on, which says so (RFC 5227
    /// section 3).
    pub(crate) fn fail_over(&mut self, random: &mut Random) -> Departure {
        let at = random.index(self.gateways.len());
        self.gateways[at] = gateway(random);
        let (mac, tags) = self.gateways[at];
        let announcement = build::ArpRequest {
            mac,
            tags,
            sender: GATEWAY,
            target: GATEWAY,
        };
        (FRONT, announcement.frame())
    }

    /// A flow from some client to some service of the protocol.
    pub(crate) fn any_flow(plan: &Plan, protocol: Protocol, random: &mut Random) -> Tuple {
        let (vip, port) = any_service(random, protocol);
        Tuple {
            source: client(vip, random.below(plan.clients)),
            destination: vip,
            source_port: 4000 + random.below(plan.client_ports) as u16,
            destination_port: port,
            protocol,
        }
    }

    /// A client opens a connection, unless it has one on that tuple.
    pub(crate) fn connect(
        &mut self,
        plan: &Plan,
        now_us: u64,
        random: &mut Random,
        out: &mut Vec<Departure>,
    ) -> Option<Side> {
        if plan.transfers.is_some_and(|n| n == self.connections.len()) {
            return None;
        }
        let tuple = Self::any_flow(plan, Protocol::Tcp, random);
        let before = self.by_client.get(&tuple).map(|at| &self.connections[*at]);
        if before.is_some_and(|connection| connection.client.is_at_work()) {
            return None;
        }
        let [client, mut server] = match plan.transfers {
            Some(_) => siege::habits(random),
            None => [habits(random, plan), habits(random, plan)],
        };
        server.closes_first |= !client.closes_first;
        let initial = self.initial(random);
        let number = self.connections.len();
        let mut segments = Vec::new();
        let stream = (number as u32, server.total);
        let end = End::client(stream, client, initial, now_us, &mut segments);
        self.connections.push(Connection {
            tuple,
            client: end,
            habits: server,
            taken_by: None,
            held: false,
            harmed: false,
            aborted: false,
        });
        self.by_initial.insert(initial, number);
        self.by_client.insert(tuple, number);
        self.depart(&tuple, FRONT, segments, out);
        Some(Side::Client(number))
    }

    /// A client sends a datagram.
    pub(crate) fn ask(&mut self, plan: &Plan, random: &mut Random, out: &mut Vec<Departure>) {
        let tuple = Self::any_flow(plan, Protocol::Udp, random);
        let count = random.index(64);
        let payload = [mark(&tuple).to_be_bytes().to_vec(), random.bytes(count)].concat();
        out.push((
            FRONT,
            self.datagram(&tuple, FRONT, &payload, random.chance(100)),
        ));
        self.datagrams += 1;
    }

    fn datagram(
        &self,
        tuple: &Tuple,
        port: waxwing_dataplane::PortId,
        payload: &[u8],
        bare: bool,
    ) -> Vec<u8> {
        let (link, tags) = self.link(tuple, port);
        let mut frame = build::Udp {
            link,
            tags,
            source: (tuple.source, tuple.source_port),
            destination: (tuple.destination, tuple.destination_port),
            payload,
            ..Default::default()
        }
        .frame();
        if bare
            && let Some(view) = crate::view::view(&frame)
            && !view.v6
        {
            let at = view.checksum_at();
            frame[at..at + 2].fill(0);
        }
        frame
    }

    /// The link of a host's frames to a port of the balancer.
    pub(crate) fn link(&self, tuple: &Tuple, port: waxwing_dataplane::PortId) -> (Link, VlanTags) {
        if port == FRONT {
            return self.link_from(tuple.source);
        }
        let link = Link {
            source: server_mac(tuple.source),
            destination: PORT_MACS[BACK.index()],
        };
        (link, server_port(tuple.source).1)
    }

    /// Segments leave a host.
    fn depart(
        &self,
        tuple: &Tuple,
        port: waxwing_dataplane::PortId,
        segments: Vec<Segment>,
        out: &mut Vec<Departure>,
    ) {
        let (link, tags) = self.link(tuple, port);
        for segment in segments {
            let frame = build::Tcp {
                link,
                tags,
                source: (tuple.source, tuple.source_port),
                destination: (tuple.destination, tuple.destination_port),
                flags: TcpFlags(segment.flags),
                sequence: segment.sequence,
                acknowledgment: segment.acknowledgment,
                payload: &segment.payload,
                ..Default::default()
            };
            out.push((port, frame.frame()));
        }
    }

    /// A frame reaches the hosts behind a port. The sides that are to be woken at another time now.
    pub(crate) fn arrive(
        &mut self,
        port: waxwing_dataplane::PortId,
        (frame, view): (&[u8], &View),
        now_us: u64,
        random: &mut Random,
        out: &mut Vec<Departure>,
    ) -> Result<Option<Side>, String> {
        let protocol = match view.protocol {
            TCP => Protocol::Tcp,
            UDP => Protocol::Udp,
            _ => return Ok(None),
        };
        if !view.is_right(frame) {
            return Ok(None);
        }
        // As the host that it comes to sees itself.
        let tuple = Tuple {
            source: view.destination,
            destination: view.source,
            source_port: view.destination_port,
            destination_port: view.source_port,
            protocol,
        };
        let payload = &frame[view.payload..view.end];
        match (protocol, port) {
            (Protocol::Udp, _) => self
                .datagram_arrives(&tuple, port, payload, out)
                .map(|()| None),
            (Protocol::Tcp, FRONT) => self.segment_to_client(&tuple, view, payload, now_us, out),
            (Protocol::Tcp, _) => {
                self.segment_to_server(&tuple, view, payload, now_us, random, out)
            }
        }
    }

    fn datagram_arrives(
        &mut self,
        tuple: &Tuple,
        port: waxwing_dataplane::PortId,
        payload: &[u8],
        out: &mut Vec<Departure>,
    ) -> Result<(), String> {
        if payload.starts_with(FORGED) {
            return Ok(());
        }
        if port == BACK {
            out.push((BACK, self.datagram(tuple, BACK, payload, false)));
            return Ok(());
        }
        // A source port may be another client's by now, where its session had to go before its time.
        let may_be_late = self.sessions_hurry && source_address(tuple.source).is_some();
        if !payload.starts_with(&mark(tuple).to_be_bytes()) && !may_be_late {
            return Err(format!("{tuple:?} got an answer to another's question"));
        }
        self.completed += 1;
        Ok(())
    }

    fn segment_to_client(
        &mut self,
        tuple: &Tuple,
        view: &View,
        payload: &[u8],
        now_us: u64,
        out: &mut Vec<Departure>,
    ) -> Result<Option<Side>, String> {
        let header = (view.flags, view.sequence, view.acknowledgment);
        let mut segments = Vec::new();
        let number = self.by_client.get(tuple).copied();
        let Some(number) = number.filter(|at| self.connections[*at].client.is_alive()) else {
            // A host that never sent anything under this address is a machine of an attacker's.
            if number.is_some() {
                segments.extend(refuse(header, payload.len() as u32));
                self.depart(tuple, FRONT, segments, out);
            }
            return Ok(None);
        };
        let connection = &mut self.connections[number];
        let was_done = connection.client.is_done();
        connection
            .client
            .receive(header, payload, now_us, &mut segments)?;
        self.completed += u64::from(!was_done && connection.client.is_done());
        let state = connection.client.state;
        connection.judge(Side::Client(number), state)?;
        self.depart(tuple, FRONT, segments, out);
        Ok(Some(Side::Client(number)))
    }

    fn segment_to_server(
        &mut self,
        tuple: &Tuple,
        view: &View,
        payload: &[u8],
        now_us: u64,
        random: &mut Random,
        out: &mut Vec<Departure>,
    ) -> Result<Option<Side>, String> {
        let header = (view.flags, view.sequence, view.acknowledgment);
        let mut segments = Vec::new();
        let opening = crate::pin::is_opening(view.flags);
        let known = self.sockets.get(tuple).is_some_and(|socket| {
            let end = &socket.end;
            end.is_alive() && !(opening && end.is_done())
        });
        if known {
            let Some(socket) = self.sockets.get_mut(tuple) else {
                return Ok(None);
            };
            let number = socket.connection;
            socket.end.receive(header, payload, now_us, &mut segments)?;
            let state = socket.end.state;
            let connection = &mut self.connections[number];
            if state == State::Open {
                let here = (tuple.source, tuple.source_port);
                let taker = *connection.taken_by.get_or_insert(here);
                if taker != here {
                    return Err(format!(
                        "connection {number} was taken by {taker:?} and {here:?}"
                    ));
                }
            }
            connection.judge(Side::Server(*tuple), state)?;
            self.depart(tuple, BACK, segments, out);
            return Ok(Some(Side::Server(*tuple)));
        }
        let connection = self.by_initial.get(&view.sequence).copied();
        if let Some(number) = connection.filter(|_| opening) {
            let initial = self.initial(random);
            let Connection { habits, client, .. } = &self.connections[number];
            let stream = (number as u32, client.total());
            let end = End::server(
                stream,
                *habits,
                (initial, view.sequence),
                now_us,
                &mut segments,
            );
            self.sockets.insert(
                *tuple,
                Socket {
                    connection: number,
                    end,
                },
            );
        } else if !opening || random.chance(200) {
            segments.extend(refuse(header, payload.len() as u32));
        } else if random.chance(800) {
            // Somebody's SYN: it is answered, and nothing is kept of it.
            segments.push(Segment {
                flags: TcpFlags::SYN | TcpFlags::ACK,
                sequence: random.next() as u32,
                acknowledgment: view.sequence.wrapping_add(1),
                payload: Vec::new(),
            });
        }
        self.depart(tuple, BACK, segments, out);
        Ok(connection.map(|_| Side::Server(*tuple)))
    }

    fn end(&self, side: Side) -> Option<&End> {
        match side {
            Side::Client(number) => Some(&self.connections[number].client),
            Side::Server(tuple) => self.sockets.get(&tuple).map(|socket| &socket.end),
        }
    }

    /// When a side wants to be woken.
    pub(crate) fn wake_at_us(&self, side: Side) -> Option<u64> {
        self.end(side)?.wake_at_us()
    }

    pub(crate) fn wake(
        &mut self,
        side: Side,
        now_us: u64,
        out: &mut Vec<Departure>,
    ) -> Result<(), String> {
        let mut segments = Vec::new();
        let (tuple, port, number) = match side {
            Side::Client(number) => {
                let connection = &mut self.connections[number];
                connection.client.wake(now_us, &mut segments);
                (connection.tuple, FRONT, number)
            }
            Side::Server(tuple) => {
                let Some(socket) = self.sockets.get_mut(&tuple) else {
                    return Ok(());
                };
                socket.end.wake(now_us, &mut segments);
                (tuple, BACK, socket.connection)
            }
        };
        let state = self.end(side).map(|end| end.state);
        if let Some(state) = state {
            self.connections[number].judge(side, state)?;
        }
        self.depart(&tuple, port, segments, out);
        Ok(())
    }

    /// What the oracle has found out of the balancer's sessions.
    pub(crate) fn hear(&mut self, told: &Told) {
        for tuple in &told.held {
            if let Some(at) = self.by_client.get(tuple) {
                let connection = &mut self.connections[*at];
                connection.held |= connection.client.state == State::Open;
            }
        }
        for tuple in &told.ended {
            if let Some(at) = self.by_client.get(tuple) {
                self.connections[*at].harmed = true;
            }
        }
    }

    /// The connections that the balancer holds, that nobody harmed, and that are not over.
    pub(crate) fn unfinished(&self) -> usize {
        let held = |c: &&Connection| c.held && !c.harmed && !c.aborted && c.client.is_at_work();
        self.connections.iter().filter(held).count()
    }

    /// How many connections were opened and taken by a server.
    pub(crate) fn taken(&self) -> usize {
        let is_taken = |c: &&Connection| c.taken_by.is_some();
        self.connections.iter().filter(is_taken).count()
    }

    /// How many are not over.
    pub(crate) fn under_way(&self) -> usize {
        let is_at_work = |c: &&Connection| c.client.is_at_work();
        self.connections.iter().filter(is_at_work).count()
    }

    /// Whether every connection came to its good end.
    pub(crate) fn are_unharmed(&self) -> Result<(), String> {
        let harmed = self.connections.iter().find(|c| !c.client.is_done());
        harmed.map_or(Ok(()), |c| {
            Err(format!("{:?} is {:?}", c.tuple, c.client.state))
        })
    }

    /// A connection of a client that is not over.
    pub(crate) fn any_victim(&self, random: &mut Random) -> Option<&Connection> {
        let recent = self.connections.len().checked_sub(1)?;
        let at = recent - random.index(recent.min(self.victims) + 1);
        Some(&self.connections[at]).filter(|connection| connection.client.is_at_work())
    }
}

impl Connection {
    /// An end that was open and is not any more has to have a reason. A server that a SYN came to,
    /// and that did not take the connection, has no part in it; nor has one whose client is done, and
    /// may have gone on to another connection.
    fn judge(&mut self, side: Side, state: State) -> Result<(), String> {
        let has_part = match side {
            Side::Client(_) => true,
            Side::Server(tuple) => {
                let here = (tuple.source, tuple.source_port);
                self.taken_by == Some(here) && !self.client.is_done()
            }
        };
        match state {
            State::Aborted => self.aborted = true,
            _ if !has_part => {}
            State::Reset | State::GaveUp if self.held && !(self.harmed || self.aborted) => {
                return Err(format!(
                    "a connection that nobody harmed broke ({state:?} at {side:?}): {:?}",
                    self.tuple
                ));
            }
            State::Reset | State::GaveUp => self.aborted = true,
            State::SynSent | State::SynReceived | State::Open => {}
        }
        Ok(())
    }
}

/// Tells a flow's datagrams from another's.
fn mark(tuple: &Tuple) -> u64 {
    let bits = tuple.source.bits() ^ tuple.destination.bits().rotate_left(64);
    let ports = u64::from(tuple.source_port) << 16 | u64::from(tuple.destination_port);
    (bits >> 64) as u64 ^ bits as u64 ^ ports.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// More clients of a family than there ever are, damaged addresses among them.
pub(crate) const CLIENTS_MAX: u64 = 64;

/// A client's address, of the VIP's family.
pub(crate) fn client(vip: Address, n: u64) -> Address {
    let base = match vip.family() {
        waxwing_packet::Family::V4 => Address::v4([198, 51, 100, 0]).bits(),
        waxwing_packet::Family::V6 => 0x2001_0db8_0002 << 80,
    };
    Address::from_bits(base + 7 + u128::from(n))
}

/// Whether it is one of them.
pub(crate) fn is_client(plan: &Plan, address: Address) -> bool {
    (0..plan.clients).any(|n| address == client(address, n))
}

fn gateway(random: &mut Random) -> (Mac, VlanTags) {
    let mac = Mac([2, 0, 0, 0, 1, random.below(4) as u8]);
    let tag = |tpid, random: &mut Random| VlanTag {
        tpid,
        tci: random.below(4096) as u16,
    };
    let tags = match random.below(4) {
        0 => VlanTags::one(tag(0x8100, random)),
        1 => VlanTags::two(tag(0x88a8, random), tag(0x8100, random)),
        _ => VlanTags::NONE,
    };
    (mac, tags)
}

fn habits(random: &mut Random, plan: &Plan) -> Habits {
    let total = random.one(&[0, 1, 100, 700, 3_000, 12_000]);
    let idle_us = plan.timeouts_s[1] * 1_300_000;
    Habits {
        total,
        segment: random.one(&[1, 100, 536, 1_400]).max(total / 60).max(1),
        flight: random.between(1, 8) as u32,
        closes_first: random.chance(500),
        resets_at: random
            .chance(80)
            .then(|| random.below(u64::from(total) + 2) as u32),
        pause: random.chance(200).then(|| Pause {
            at: 1 + random.below(u64::from(total) + 1) as u32,
            wait_us: random.below(idle_us),
            every: 0,
        }),
        opens_too: random.chance(50),
    }
}

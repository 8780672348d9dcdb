//! Clients and servers: their sockets and connections, and their answers to frames.
//!
//! Invariant: the simulator knows both ends of each connection. It finds at once when a byte reaches another
//! server than the one that accepted the connection, or another client.

mod arrivals;
mod behaviour;
mod connection;
mod departures;
mod tcp;

use waxwing_dataplane::PortId;
use waxwing_dataplane::session::Tuple;
use waxwing_packet::{Mac, Protocol, VlanTag, VlanTags};

use self::connection::Socket;
pub(crate) use self::connection::{Connection, Side};
use self::tcp::{State, TcpEnd};
use crate::addresses::{BACK, FRONT, any_service, client};
use crate::oracle::Findings;
use crate::plan::Plan;
use crate::random::{Map, Random};

/// The prefix of an attacker's datagrams, by which receivers recognize them.
pub(crate) const FORGED: &[u8] = b"forged!!";

/// A frame that a host sends, and the balancer's port that it goes to.
pub(crate) type Departure = (PortId, Vec<u8>);

/// All clients and servers.
pub(crate) struct Hosts {
    pub(crate) connections: Vec<Connection>,
    /// Connections by the client's initial sequence number.
    by_initial: Map<u32, usize>,
    /// The latest connection of each client tuple.
    by_client: Map<Tuple, usize>,
    sockets: Map<Tuple, Socket>,
    /// MAC address and VLAN tags of each client's gateway, which may fail over.
    gateways: Vec<(Mac, VlanTags)>,
    /// The number of latest connections that attackers choose from; most older ones have ended.
    victims: usize,
    next_initial: u32,
    /// Whether sessions may end while an answer is in flight.
    pub(crate) sessions_may_end_early: bool,
    /// Connections and exchanges of datagrams that completed.
    pub(crate) completed: u64,
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
            sessions_may_end_early: plan.change_us > 0 || plan.jump_us > 0,
            completed: 0,
        }
    }

    /// Draws an initial sequence number. They increase, so that no old segment fits a new connection (RFC
    /// 6528).
    fn initial_sequence(&mut self, random: &mut Random) -> u32 {
        let step = random.between(1 << 20, 1 << 21) as u32;
        self.next_initial = self.next_initial.wrapping_add(step);
        self.next_initial
    }

    /// Draws a flow of the protocol from a client to a service.
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

    fn end(&self, side: Side) -> Option<&TcpEnd> {
        match side {
            Side::Client(number) => Some(&self.connections[number].client),
            Side::Server(tuple) => self.sockets.get(&tuple).map(|socket| &socket.end),
        }
    }

    /// When an end must be woken.
    pub(crate) fn wake_at_us(&self, side: Side) -> Option<u64> {
        self.end(side)?.wake_at_us()
    }

    /// Handles the timeout of an end.
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
            self.connections[number].check_state(side, state)?;
        }
        self.depart(&tuple, port, segments, out);
        Ok(())
    }

    /// Notes the oracle's findings about the balancer's sessions.
    pub(crate) fn apply(&mut self, findings: &Findings) {
        for tuple in &findings.established {
            if let Some(at) = self.by_client.get(tuple) {
                let connection = &mut self.connections[*at];
                connection.was_established |= connection.client.state == State::Open;
            }
        }
        for tuple in &findings.ended {
            if let Some(at) = self.by_client.get(tuple) {
                self.connections[*at].lost_session = true;
            }
        }
    }

    /// The number of connections that must still complete.
    pub(crate) fn unfinished(&self) -> usize {
        let connections = self.connections.iter();
        connections.filter(|c| c.must_complete()).count()
    }

    /// The number of connections that a server accepted.
    pub(crate) fn accepted(&self) -> usize {
        let connections = self.connections.iter();
        connections.filter(|c| c.accepted_by.is_some()).count()
    }

    /// The number of connections whose client is active.
    pub(crate) fn active(&self) -> usize {
        let connections = self.connections.iter();
        connections.filter(|c| c.client.is_active()).count()
    }

    /// Checks that every connection completed.
    pub(crate) fn check_all_completed(&self) -> Result<(), String> {
        let incomplete = self.connections.iter().find(|c| !c.client.is_done());
        incomplete.map_or(Ok(()), |c| {
            Err(format!("{:?} is {:?}", c.tuple, c.client.state))
        })
    }

    /// Draws a recent connection to attack, if it is active.
    pub(crate) fn any_victim(&self, random: &mut Random) -> Option<&Connection> {
        let recent = self.connections.len().checked_sub(1)?;
        let at = recent - random.index(recent.min(self.victims) + 1);
        Some(&self.connections[at]).filter(|connection| connection.client.is_active())
    }
}

/// Draws MAC address and VLAN tags of a gateway.
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

/// A value that identifies a flow's datagrams.
fn mark(tuple: &Tuple) -> u64 {
    let bits = tuple.source.bits() ^ tuple.destination.bits().rotate_left(64);
    let ports = u64::from(tuple.source_port) << 16 | u64::from(tuple.destination_port);
    (bits >> 64) as u64 ^ bits as u64 ^ ports.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

//! Frames that clients and servers send.

use waxwing_dataplane::PortId;
use waxwing_dataplane::session::Tuple;
use waxwing_packet::{Address, Link, Protocol, TcpFlags, VlanTags};
use waxwing_testkit::build;

use super::behaviour::{any_behaviour, transfer_behaviour};
use super::connection::{Connection, Side};
use super::tcp::{Segment, TcpEnd};
use super::{Departure, Hosts, gateway, mark};
use crate::addresses::{BACK, FRONT, PORT_MACS, server_mac, server_port};
use crate::plan::Plan;
use crate::random::Random;

/// The address of the clients' gateways.
const GATEWAY: Address = Address::v4([198, 51, 100, 1]);

impl Hosts {
    /// Lets a client open a connection. Returns its end; `None` if the drawn tuple has an active connection.
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
        if before.is_some_and(|connection| connection.client.is_active()) {
            return None;
        }
        let [client, mut server] = match plan.transfers {
            Some(_) => transfer_behaviour(random),
            None => [any_behaviour(random, plan), any_behaviour(random, plan)],
        };
        server.closes_first |= !client.closes_first;
        let initial = self.initial_sequence(random);
        let number = self.connections.len();
        let mut segments = Vec::new();
        let stream = (number as u32, server.total);
        let end = TcpEnd::client(stream, client, initial, now_us, &mut segments);
        self.connections.push(Connection {
            tuple,
            client: end,
            server_behaviour: server,
            accepted_by: None,
            was_established: false,
            lost_session: false,
            was_aborted: false,
        });
        self.by_initial.insert(initial, number);
        self.by_client.insert(tuple, number);
        self.depart(&tuple, FRONT, segments, out);
        Some(Side::Client(number))
    }

    /// Lets a client send a datagram.
    pub(crate) fn send_datagram(
        &mut self,
        plan: &Plan,
        random: &mut Random,
        out: &mut Vec<Departure>,
    ) {
        let tuple = Self::any_flow(plan, Protocol::Udp, random);
        let count = random.index(64);
        let payload = [mark(&tuple).to_be_bytes().to_vec(), random.bytes(count)].concat();
        out.push((
            FRONT,
            self.datagram(&tuple, FRONT, &payload, random.chance(100)),
        ));
    }

    /// Builds a datagram, without a checksum if `bare` (IPv4 only).
    pub(super) fn datagram(
        &self,
        tuple: &Tuple,
        port: PortId,
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

    /// The link header of a client's frames; unknown sources use one of the gateways.
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

    /// Replaces a client's gateway by another machine. Returns its announcement (RFC 5227 section 3).
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

    /// The link header of a host's frames to a port of the balancer.
    pub(crate) fn link(&self, tuple: &Tuple, port: PortId) -> (Link, VlanTags) {
        if port == FRONT {
            return self.link_from(tuple.source);
        }
        let link = Link {
            source: server_mac(tuple.source),
            destination: PORT_MACS[BACK.index()],
        };
        (link, server_port(tuple.source).1)
    }

    /// Sends segments from a host.
    pub(super) fn depart(
        &self,
        tuple: &Tuple,
        port: PortId,
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
}

//! Builders for the frames of clients and backends, and access to what was sent.

use crate::world::{
    BACK, BACKEND_PORT, CLIENT_MAC, FRONT, PORT_MACS, Plan, SERVICE_PORT, World, backend_mac,
};
use waxwing_dataplane::PortId;
use waxwing_dataplane::session::Direction;
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{
    Address, IpPacket, Link, Mac, Packet, Protocol, TcpFlags, VlanTag, VlanTags, parse,
};
use waxwing_testkit::{build, conversation};

pub(crate) const SYN: u8 = TcpFlags::SYN;
pub(crate) const ACK: u8 = TcpFlags::ACK;
pub(crate) const SYN_ACK: u8 = SYN | ACK;
pub(crate) const FIN_ACK: u8 = TcpFlags::FIN | ACK;
pub(crate) const RST: u8 = TcpFlags::RST;

/// The initial sequence number of every server here, which clients acknowledge.
pub(crate) const SERVER_ISN: u32 = 0x7fff_0000;

/// The link header of the client's frames.
pub(crate) const FROM_CLIENT: Link = Link {
    source: CLIENT_MAC,
    destination: PORT_MACS[0],
};

/// No tags, a VLAN's, and a VLAN's inside a provider's.
pub(crate) const TAGS: [VlanTags; 3] = {
    let inner = VlanTag {
        tpid: 0x8100,
        tci: 100,
    };
    let outer = VlanTag {
        tpid: 0x88a8,
        tci: 7,
    };
    [
        VlanTags::NONE,
        VlanTags::one(inner),
        VlanTags::two(outer, inner),
    ]
};

/// From the client to the VIP.
pub(crate) fn request(plan: Plan, client_port: u16, flags: u8) -> Vec<u8> {
    request_to(plan, client_port, SERVICE_PORT, flags)
}

pub(crate) fn request_to(plan: Plan, client_port: u16, port: u16, flags: u8) -> Vec<u8> {
    build::Tcp {
        destination: (plan.vip, port),
        ..segment(plan, client_port, flags)
    }
    .frame()
}

/// The parts of a client's frame, for tests to change.
pub(crate) fn segment(plan: Plan, client_port: u16, flags: u8) -> build::Tcp<'static> {
    build::Tcp {
        link: FROM_CLIENT,
        source: (plan.client, client_port),
        destination: (plan.vip, SERVICE_PORT),
        flags: TcpFlags(flags),
        acknowledgment: SERVER_ISN + 1,
        payload: b"GET",
        ..build::Tcp::default()
    }
}

/// The parts of a client's ping of the VIP, for tests to change.
pub(crate) fn ping(plan: Plan, payload: &[u8]) -> build::Echo<'_> {
    build::Echo {
        link: FROM_CLIENT,
        source: plan.client,
        destination: plan.vip,
        payload,
        ..build::Echo::default()
    }
}

/// A datagram from the client to the VIP.
pub(crate) fn datagram(plan: Plan, client_port: u16, payload: &[u8]) -> Vec<u8> {
    build::Tcp {
        payload,
        ..segment(plan, client_port, 0)
    }
    .frame_of(Protocol::Udp)
}

/// A datagram from a backend to the client.
pub(crate) fn datagram_back(plan: Plan, backend: u32, client_port: u16) -> Vec<u8> {
    reply_segment(plan, backend, client_port, 0).frame_of(Protocol::Udp)
}

/// From a backend to the client.
pub(crate) fn reply(plan: Plan, backend: u32, client_port: u16, flags: u8) -> Vec<u8> {
    reply_segment(plan, backend, client_port, flags).frame()
}

/// The parts of a backend's frame, for tests to change.
pub(crate) fn reply_segment(
    plan: Plan,
    backend: u32,
    client_port: u16,
    flags: u8,
) -> build::Tcp<'static> {
    build::Tcp {
        link: from_server(backend),
        source: (plan.backend(backend), BACKEND_PORT),
        destination: (plan.client, client_port),
        flags: TcpFlags(flags),
        sequence: SERVER_ISN,
        payload: b"200",
        ..build::Tcp::default()
    }
}

/// A packet between the client and the first backend, and the port that it arrives at.
pub(crate) fn packet(
    plan: Plan,
    client_port: u16,
    (direction, flags): (Direction, TcpFlags),
) -> (PortId, Vec<u8>) {
    match direction {
        Direction::Forward => (FRONT, request(plan, client_port, flags.0)),
        Direction::Reply => (BACK, reply(plan, 0, client_port, flags.0)),
    }
}

/// Sends the packets of a text such as `>S <SA >A`, each of which must be forwarded.
pub(crate) fn play(world: &mut World, client_port: u16, packets: &str) {
    for step in conversation::packets(packets) {
        let (port, frame) = packet(world.settings.plan, client_port, step);
        one(&world.frame(port, &frame));
    }
}

/// The frame with its last byte changed, so that the transport checksum is wrong.
pub(crate) fn damaged(mut frame: Vec<u8>) -> Vec<u8> {
    *frame.last_mut().expect("a payload") ^= 1;
    frame
}

/// The link header of a backend's frames.
pub(crate) fn from_server(backend: u32) -> Link {
    Link {
        source: backend_mac(backend),
        destination: PORT_MACS[1],
    }
}

/// The link header of frames from the servers' side.
pub(crate) const FROM_SERVERS: Link = Link {
    source: Mac([2, 0, 0, 0, 2, 0xfe]),
    destination: PORT_MACS[1],
};

/// Port unreachable to the client, about a packet that was forwarded to a backend.
pub(crate) fn error_back(plan: Plan, source: Address, quote: &[u8]) -> Vec<u8> {
    build::Error {
        link: FROM_SERVERS,
        source,
        destination: plan.client,
        ..port_unreachable(plan, quote)
    }
    .frame()
}

/// Port unreachable to the VIP, about a packet that was sent to the client.
pub(crate) fn error_to(plan: Plan, source: Address, quote: &[u8]) -> Vec<u8> {
    build::Error {
        source,
        ..port_unreachable(plan, quote)
    }
    .frame()
}

/// The parts of an error from the clients' side, for tests to change.
pub(crate) fn port_unreachable(plan: Plan, quote: &[u8]) -> build::Error<'_> {
    build::Error {
        link: FROM_CLIENT,
        tags: VlanTags::NONE,
        source: plan.client,
        destination: plan.vip,
        hop_limit: 50,
        error: IcmpError::port_unreachable(plan.vip.family()),
        quote,
    }
}

pub(crate) fn ip(frame: &[u8]) -> IpPacket {
    build::verify_checksums(frame).expect("its checksums are right");
    match parse(frame) {
        Ok(Packet::Ip(packet)) => packet,
        other => panic!("not an IP packet: {other:?}"),
    }
}

pub(crate) fn ports(packet: &IpPacket) -> (u16, u16) {
    build::ports(packet).unwrap_or_else(|| panic!("no ports: {packet:?}"))
}

/// The one frame that was sent, and its port.
pub(crate) fn one(sent: &[(PortId, Vec<u8>)]) -> (PortId, IpPacket) {
    assert_eq!(sent.len(), 1, "{sent:?}");
    (sent[0].0, ip(&sent[0].1))
}

/// Opens a connection, up to the client's ACK.
pub(crate) fn establish(world: &mut World, client_port: u16, backend: u32) {
    let plan = world.settings.plan;
    one(&world.frame(FRONT, &request(plan, client_port, SYN)));
    one(&world.frame(BACK, &reply(plan, backend, client_port, SYN_ACK)));
    one(&world.frame(FRONT, &request(plan, client_port, ACK)));
}

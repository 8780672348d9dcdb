//! Attack frames: from unknown sources, forged segments and errors, spoofed replies, mutated copies.
//!
//! Invariant: attackers are blind. They know addresses and ports but no sequence number, so forged segments
//! are far outside every window.

use waxwing_dataplane::session::Tuple;
use waxwing_dataplane::{Backend, PortId};
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{Address, Family, Link, Mac, Protocol, TcpFlags, VlanTags};
use waxwing_testkit::build;

use crate::addresses::{BACK, FRONT, PORT_MACS, any_service, server_mac, service_addresses};
use crate::hosts::{Connection, Departure, FORGED, Hosts};
use crate::plan::Plan;
use crate::random::Random;
use crate::view::view;

const ACK: u8 = TcpFlags::ACK;

/// Draws an address that no host has.
fn unused_address(vip: Address, random: &mut Random) -> Address {
    let n = random.below(1 << 16) as u8;
    match vip.family() {
        Family::V4 => Address::v4([172, 16, random.next() as u8, n]),
        Family::V6 => Address::from_bits(0x2001_0db8_0666 << 80 | u128::from(random.next())),
    }
}

/// A segment from an unknown source.
pub(super) fn unknown_source(hosts: &Hosts, flags: u8, random: &mut Random) -> Departure {
    let destination = any_service(random, Protocol::Tcp);
    let source = unused_address(destination.0, random);
    let (link, tags) = hosts.link_from(source);
    let segment = build::Tcp {
        link,
        tags,
        source: (source, random.next() as u16),
        destination,
        hop_limit: random.one(&[1, 2, 64, 255]),
        flags: TcpFlags(flags),
        sequence: random.next() as u32,
        acknowledgment: random.next() as u32,
        payload: b"",
    };
    (FRONT, segment.frame())
}

/// A segment from one of a few unknown sources, which a server may have answered before.
pub(super) fn blind_handshake(hosts: &Hosts, random: &mut Random) -> Departure {
    let mut services = service_addresses().into_iter();
    let tcp = services.find(|(_, ports, protocol, _)| {
        *protocol == Protocol::Tcp && ports.single().is_some() && random.chance(500)
    });
    let (vip, port) = tcp.map_or_else(
        || any_service(random, Protocol::Tcp),
        |(vip, ports, ..)| (vip, ports.first()),
    );
    let source = match vip.family() {
        Family::V4 => Address::v4([172, 17, 0, random.below(8) as u8]),
        Family::V6 => Address::from_bits(BLIND_V6 | u128::from(random.below(8))),
    };
    let (link, tags) = hosts.link_from(source);
    let segment = build::Tcp {
        link,
        tags,
        source: (source, 5000),
        destination: (vip, port),
        flags: TcpFlags(random.one(&[
            TcpFlags::SYN,
            TcpFlags::SYN,
            ACK,
            ACK,
            ACK,
            TcpFlags::FIN | ACK,
        ])),
        sequence: 1000,
        acknowledgment: random.next() as u32,
        ..Default::default()
    };
    (FRONT, segment.frame())
}

/// Whether an address is a source of [`blind_handshake`].
pub(crate) fn is_blind(address: Address) -> bool {
    match address.family() {
        Family::V4 => address.v4_octets()[..2] == [172, 17],
        Family::V6 => address.bits() >> 64 == BLIND_V6 >> 64,
    }
}

/// The network of blind handshakes.
const BLIND_V6: u128 = 0x2001_0db8_0667 << 80;

/// A datagram from an unknown source.
pub(super) fn unknown_datagram(hosts: &Hosts, random: &mut Random) -> Departure {
    let destination = any_service(random, Protocol::Udp);
    let source = unused_address(destination.0, random);
    let (link, tags) = hosts.link_from(source);
    let datagram = build::Udp {
        link,
        tags,
        source: (source, random.next() as u16),
        destination,
        hop_limit: random.one(&[1, 64]),
        payload: FORGED,
    };
    (FRONT, datagram.frame())
}

/// Forged segments with a connection's addresses and ports, in the name of either end, from either side.
pub(super) fn forged_segments(hosts: &Hosts, random: &mut Random, out: &mut Vec<Departure>) {
    let Some(victim) = hosts.any_victim(random) else {
        return;
    };
    let kinds = [
        TcpFlags::RST,
        TcpFlags::RST | ACK,
        TcpFlags::FIN | ACK,
        TcpFlags::SYN,
        TcpFlags::PSH | ACK,
        0xff,
        0,
    ];
    for _ in 0..random.between(1, 4) {
        let (port, ends) = sides(victim, random);
        let (mut link, tags) = hosts.link(&ends, port);
        if random.chance(300) {
            link.source = Mac([2, 0, 0, 0, 66, 66]);
        }
        let numbers = (victim.client.send_next(), victim.client.receive_next());
        let (sequence, acknowledgment) = if port == FRONT {
            numbers
        } else {
            (numbers.1, numbers.0)
        };
        // Attackers of both sides do not agree on numbers: a pair that fits would move the return hop.
        let far = if port == FRONT { 1 << 31 } else { 1 << 30 };
        let segment = build::Tcp {
            link,
            tags,
            source: (ends.source, ends.source_port),
            destination: (ends.destination, ends.destination_port),
            flags: TcpFlags(random.one(&kinds)),
            sequence: sequence.wrapping_add(far),
            acknowledgment: acknowledgment.wrapping_add(far),
            payload: FORGED,
            ..Default::default()
        };
        out.push(from_any_side((port, segment.frame()), random));
    }
}

/// A frame that arrives now and then on the wrong side.
fn from_any_side((port, mut frame): Departure, random: &mut Random) -> Departure {
    if random.chance(700) {
        return (port, frame);
    }
    let other = if port == FRONT { BACK } else { FRONT };
    frame[..6].copy_from_slice(&PORT_MACS[other.index()].0);
    (other, frame)
}

/// A connection's tuple on one side of the balancer, and that side's port. An attacker does not know when
/// source NAT changed the client's port.
fn sides(victim: &Connection, random: &mut Random) -> (PortId, Tuple) {
    let Some((source, source_port)) = victim.accepted_by.filter(|_| random.chance(400)) else {
        return (FRONT, victim.tuple);
    };
    let ends = Tuple {
        source,
        destination: victim.tuple.source,
        source_port,
        destination_port: victim.tuple.source_port,
        protocol: Protocol::Tcp,
    };
    (BACK, ends)
}

/// A packet from a backend's address in a flow that may exist.
pub(super) fn spoofed_reply(plan: &Plan, random: &mut Random) -> Departure {
    let protocol = random.one(&[Protocol::Tcp, Protocol::Udp]);
    let flow = Hosts::any_flow(plan, protocol, random);
    let server_port = service_addresses()
        .into_iter()
        .find(|e| (e.0, e.2) == (flow.destination, protocol) && e.1.contains(flow.destination_port))
        .map_or(0, |e| match e.3 {
            Backend::PORT_KEPT => flow.destination_port,
            port => port,
        });
    let server = match flow.destination.family() {
        Family::V4 => Address::v4([10, 2, 0, 10 + random.below(5) as u8]),
        Family::V6 => Address::from_bits((0xfd00_0002 << 96) + 0x10 + u128::from(random.below(5))),
    };
    let link = Link {
        source: server_mac(server),
        destination: PORT_MACS[BACK.index()],
    };
    let source = (server, server_port);
    let destination = (flow.source, flow.source_port);
    let frame = match protocol {
        // Its sequence number is outside any window.
        Protocol::Tcp => build::Tcp {
            link,
            source,
            destination,
            flags: TcpFlags(TcpFlags::RST),
            hop_limit: 1,
            ..Default::default()
        }
        .frame(),
        Protocol::Udp => build::Udp {
            link,
            source,
            destination,
            payload: FORGED,
            ..Default::default()
        }
        .frame(),
    };
    from_any_side((BACK, frame), random)
}

/// A copy of an observed frame with some bytes changed; `None` if its receiver would accept it.
pub(super) fn mutated(seen: &[Departure], random: &mut Random) -> Option<Departure> {
    if seen.is_empty() {
        return None;
    }
    let (port, mut frame) = seen[random.index(seen.len())].clone();
    scramble(&mut frame, random);
    (!is_acceptable(&frame)).then_some((port, frame))
}

/// Changes some bytes, mostly in the headers.
pub(super) fn scramble(frame: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.between(1, 6) {
        if frame.is_empty() {
            return;
        }
        let at = random.index(frame.len());
        match random.below(8) {
            0 => frame.truncate(at.max(1)),
            1 => frame.insert(at, random.next() as u8),
            2 => frame[at] = random.one(&[0, 1, 0x7f, 0x80, 0xff]),
            3 => frame[at] ^= 1 << random.below(8),
            _ if frame.len() > 54 => frame[random.index(54)] = random.next() as u8,
            _ => frame[at] = random.next() as u8,
        }
    }
}

/// Whether the receiver of a frame finds no error in it.
pub(super) fn is_acceptable(frame: &[u8]) -> bool {
    view(frame).is_some_and(|view| view.has_valid_checksums(frame) || view.has_no_checksum(frame))
}

/// A query to a VIP: ping, ARP or neighbour solicitation; or an error about a connection.
pub(super) fn query(hosts: &Hosts, random: &mut Random) -> Departure {
    let (vip, port) = any_service(random, Protocol::Tcp);
    let source = unused_address(vip, random);
    let (link, tags) = hosts.link_from(source);
    let frame = match (random.below(3), vip.family()) {
        (0, Family::V4) => build::ArpRequest {
            mac: link.source,
            tags: VlanTags::NONE,
            sender: source,
            target: vip,
        }
        .frame(),
        (0, Family::V6) => build::NeighborSolicitation {
            mac: link.source,
            tags,
            source,
            target: vip,
        }
        .frame(),
        (1, _) => build::Echo {
            link,
            tags,
            source,
            destination: vip,
            payload: b"are you there",
            ..Default::default()
        }
        .frame(),
        _ => return icmp_error(hosts, (vip, port), random),
    };
    (FRONT, frame)
}

/// An ICMP error about a connection or an unknown flow: destination unreachable, too big, time exceeded. Its
/// source is a router on either side.
pub(super) fn icmp_error(hosts: &Hosts, vip: (Address, u16), random: &mut Random) -> Departure {
    let source = unused_address(vip.0, random);
    let unknown = Tuple {
        source,
        destination: vip.0,
        source_port: 4000,
        destination_port: vip.1,
        protocol: Protocol::Tcp,
    };
    let victim = hosts.any_victim(random);
    let (port, ends) = victim.map_or((FRONT, unknown), |victim| sides(victim, random));
    let (link, tags) = hosts.link(&ends, port);
    // The packet that the router claims to have received.
    let quoted = build::Tcp {
        source: (ends.destination, ends.destination_port),
        destination: (ends.source, ends.source_port),
        ..Default::default()
    };
    let kinds: &[(u8, u8)] = match ends.source.family() {
        Family::V4 => &[(3, 1), (3, 3), (3, 4), (11, 0)],
        Family::V6 => &[(1, 0), (1, 4), (2, 0), (3, 0)],
    };
    let (kind, code) = random.one(kinds);
    let error = build::Error {
        link,
        tags,
        source: unused_address(ends.source, random),
        destination: ends.destination,
        hop_limit: 64,
        error: IcmpError {
            kind,
            code,
            parameter: 1280,
        },
        quote: &quoted.frame()[14..],
    };
    from_any_side((port, error.frame()), random)
}

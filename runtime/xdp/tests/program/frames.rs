//! Addresses, rules, and functions that build frames.

use std::net::IpAddr;

use waxwing_dataplane::PortId;
use waxwing_dataplane::steering::Rules;
use waxwing_packet::{Address, Mac};

pub(crate) const PORT: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// A further MAC of the port, as VRRP uses.
pub(crate) const FURTHER: [u8; 6] = [0, 0, 0x5e, 0, 1, 7];
pub(crate) const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
pub(crate) const ALL: [u8; 6] = [0xff; 6];

/// The solicited-node group of an address ending in 00:0010 (RFC 2464 section 7).
pub(crate) const SOLICITED: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 0x10];

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const VIP: &str = "203.0.113.10";
pub(crate) const VIP6: &str = "2001:db8::10";
pub(crate) const CLIENT: &str = "198.51.100.7";
pub(crate) const CLIENT6: &str = "2001:db8:1::7";
pub(crate) const BACKEND: &str = "10.2.0.11";
pub(crate) const BACKEND6: &str = "2001:db8:2::11";
/// VIP of a UDP service with a port range.
pub(crate) const RANGE_VIP: &str = "203.0.113.20";
pub(crate) const RANGE_BACKEND: &str = "10.2.0.20";
/// VIP of a removed service that still has sessions.
pub(crate) const REMOVED_VIP: &str = "203.0.113.30";
pub(crate) const REMOVED_VIP6: &str = "2001:db8::30";
/// A source NAT address.
pub(crate) const SOURCE: &str = "10.2.0.9";
pub(crate) const LOCAL: &str = "10.2.0.1";
pub(crate) const LOCAL6: &str = "2001:db8:2::1";

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn rules() -> Rules {
    let at = |text: &str, port, protocol| (Address::from(ip(text)), port, protocol);
    Rules {
        services: [
            at(VIP, 80, TCP),
            at(VIP, 53, UDP),
            at(VIP6, 80, TCP),
            at(RANGE_VIP, Rules::ANY_PORT, UDP),
        ]
        .into(),
        vips: [VIP, VIP6, RANGE_VIP, REMOVED_VIP, REMOVED_VIP6, SOURCE]
            .map(|text| ip(text).into())
            .into(),
        answered: [VIP, VIP6, RANGE_VIP, SOURCE]
            .map(|text| ip(text).into())
            .into(),
        backends: [
            at(BACKEND, 8080, TCP),
            at(BACKEND6, 8080, TCP),
            at(RANGE_BACKEND, Rules::ANY_PORT, UDP),
        ]
        .into(),
        locals: [ip(LOCAL).into(), ip(LOCAL6).into()].into(),
        macs: Vec::new(),
        further_macs: [(PortId(0), Mac(FURTHER))].into(),
        bridge: None,
    }
}

pub(crate) fn ethernet(
    destination: [u8; 6],
    tags: &[[u8; 4]],
    kind: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = destination.to_vec();
    frame.extend([2, 0, 0, 0, 0, 0xee]);
    frame.extend(tags.concat());
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

pub(crate) fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend([0; 16]);
    bytes
}

/// `options` is the length of the options in 32-bit words; `fragment` is the field of flags and offset.
pub(crate) fn ipv4(
    from: &str,
    to: &str,
    protocol: u8,
    options: u8,
    fragment: u16,
    rest: &[u8],
) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (ip(from), ip(to)) else {
        panic!("not IPv4")
    };
    let mut packet = vec![0x45 + options, 0, 0, 0, 0, 0];
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(vec![1; 4 * usize::from(options)]);
    packet.extend(rest);
    packet
}

/// Each extension header is its type and its length, in units of eight bytes.
pub(crate) fn ipv6(
    from: &str,
    to: &str,
    extensions: &[(u8, u8)],
    protocol: u8,
    rest: &[u8],
) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (ip(from), ip(to)) else {
        panic!("not IPv6")
    };
    let mut chain: Vec<u8> = extensions.iter().map(|&(kind, _)| kind).collect();
    chain.push(protocol);
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, chain[0], 255];
    packet.extend(from.octets());
    packet.extend(to.octets());
    for (&(_, units), &next) in extensions.iter().zip(&chain[1..]) {
        packet.extend([next, units - 1]);
        packet.extend(vec![0; 8 * usize::from(units) - 2]);
    }
    packet.extend(rest);
    packet
}

pub(crate) fn arp(operation: u8, target: &str) -> Vec<u8> {
    let IpAddr::V4(target) = ip(target) else {
        panic!("not IPv4")
    };
    let mut packet = vec![
        0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 0xee, 198, 51, 100, 7,
    ];
    packet.extend([0; 6]);
    packet.extend(target.octets());
    packet
}

pub(crate) fn solicitation(kind: u8, target: &str) -> Vec<u8> {
    let IpAddr::V6(target) = ip(target) else {
        panic!("not IPv6")
    };
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message
}

pub(crate) fn v4(payload: &[u8]) -> Vec<u8> {
    ethernet(PORT, &[], 0x0800, payload)
}

pub(crate) fn v6(payload: &[u8]) -> Vec<u8> {
    ethernet(PORT, &[], 0x86dd, payload)
}

/// Fragment headers behind next header and reserved byte: offset, flags, identification.
pub(crate) const FIRST: [u8; 6] = [0, 1, 0, 0, 0, 7];

pub(crate) const LATER: [u8; 6] = [0, 8, 0, 0, 0, 7];
pub(crate) const ATOMIC: [u8; 6] = [0, 0, 0, 0, 0, 7];

pub(crate) fn ipv6_fragment(
    from: &str,
    to: &str,
    place: [u8; 6],
    protocol: u8,
    rest: &[u8],
) -> Vec<u8> {
    let mut packet = ipv6(from, to, &[(44, 1)], protocol, rest);
    packet[42..48].copy_from_slice(&place);
    packet
}

/// An ICMP error of this type about a packet.
pub(crate) fn error(kind: u8, quoted: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat()
}

pub(crate) const ROUTER: &str = "10.2.0.254";
pub(crate) const ROUTER6: &str = "2001:db8:2::fe";

//! Services, replies, ICMP, fragments to a VIP, and neighbours.

use waxwing_xdp::Class::{Arp, Direct, Fragment, Icmp, Ndp, Other, Pass, Reply, Service};

use crate::frames::{
    ALL, BACKEND, BACKEND6, CLIENT, CLIENT6, FIRST, FURTHER, ICMP, ICMPV6, LOCAL, LOCAL6, OTHER,
    PORT, REMOVED_VIP, REMOVED_VIP6, SOLICITED, TCP, UDP, VIP, VIP6, arp, ethernet, ipv4, ipv6,
    ipv6_fragment, ports, solicitation, v4, v6,
};
use crate::{Row, rows};

const TAG: [u8; 4] = [0x81, 0, 0, 5];
const SERVICE_TAG: [u8; 4] = [0x88, 0xa8, 0, 7];

pub(crate) fn services_and_replies() -> Vec<Row> {
    let tcp = |from, to, [source, destination]: [u16; 2]| {
        ipv4(from, to, TCP, 0, 0, &ports(source, destination))
    };
    let udp =
        |from, to, source, destination| v4(&ipv4(from, to, UDP, 0, 0, &ports(source, destination)));
    let tcp6 =
        |from, to, source, destination| v6(&ipv6(from, to, &[], TCP, &ports(source, destination)));
    let extended = |headers: &[_]| v6(&ipv6(CLIENT6, VIP6, headers, TCP, &ports(9, 80)));
    let request = tcp(CLIENT, VIP, [40000, 80]);
    let reply = tcp(BACKEND, CLIENT, [8080, 40000]);
    rows! {
        "tcp to a service": v4(&request) => Service;
        "udp to a service": udp(CLIENT, VIP, 9, 53) => Service;
        "tcp to a udp service's port": v4(&tcp(CLIENT, VIP, [9, 53])) => Other;
        "another port of a VIP": v4(&tcp(CLIENT, VIP, [9, 81])) => Other;
        "ssh to the host": v4(&tcp(CLIENT, LOCAL, [9, 22])) => Pass;
        "with IPv4 options": v4(&ipv4(CLIENT, VIP, TCP, 10, 0, &ports(9, 80))) => Service;
        "don't fragment": v4(&ipv4(CLIENT, VIP, TCP, 0, 0x4000, &ports(9, 80))) => Service;
        "a reply": v4(&reply) => Reply;
        "a backend's other port": v4(&tcp(BACKEND, CLIENT, [9, 9])) => Pass;
        "a backend's other protocol": udp(BACKEND, CLIENT, 8080, 9) => Pass;
        "a reply to the host's health check": v4(&tcp(BACKEND, LOCAL, [8080, 9])) => Pass;
        "a client to a backend directly": v4(&tcp(CLIENT, BACKEND, [9, 8080])) => Direct;
        "a client to a backend's other port": v4(&tcp(CLIENT, BACKEND, [9, 22])) => Pass;
        "a client to a backend directly over IPv6": tcp6(CLIENT6, BACKEND6, 9, 8080) => Direct;
        "a backend to a service": v4(&tcp(BACKEND, VIP, [8080, 80])) => Service;
        "to a further MAC of the port": ethernet(FURTHER, &[], 0x0800, &request) => Service;
        "to another host's MAC": ethernet(OTHER, &[], 0x0800, &request) => Pass;
        "a unicast packet in a broadcast frame": ethernet(ALL, &[], 0x0800, &request) => Pass;
        "one tag": ethernet(PORT, &[TAG], 0x0800, &request) => Service;
        "two tags": ethernet(PORT, &[SERVICE_TAG, TAG], 0x0800, &reply) => Reply;
        "three tags": ethernet(PORT, &[TAG; 3], 0x0800, &request) => Pass;
        "gre to a VIP": v4(&ipv4(CLIENT, VIP, 47, 0, 0, &ports(9, 80))) => Other;
        "tcp over IPv6": tcp6(CLIENT6, VIP6, 9, 80) => Service;
        "another port over IPv6": tcp6(CLIENT6, VIP6, 9, 81) => Other;
        "extension headers": extended(&[(0, 1), (60, 3), (43, 2)]) => Service;
        "a long extension header": extended(&[(60, 100)]) => Service;
        "too many extension headers": extended(&[(60, 1); 7]) => Other;
        "a reply over IPv6": tcp6(BACKEND6, CLIENT6, 8080, 9) => Reply;
        "a reply to a health check over IPv6": tcp6(BACKEND6, LOCAL6, 8080, 9) => Pass;
    }
}

pub(crate) fn icmp() -> Vec<Row> {
    let ping = |to| v4(&ipv4(CLIENT, to, ICMP, 0, 0, &[8; 16]));
    rows! {
        "ping to a VIP": ping(VIP) => Icmp;
        "ping to a removed VIP": ping(REMOVED_VIP) => Icmp;
        "ping to the host": ping(LOCAL) => Pass;
        "ping to a VIP over IPv6": v6(&ipv6(CLIENT6, VIP6, &[], ICMPV6, &[128; 16])) => Icmp;
        "another EtherType": ethernet(PORT, &[], 0x88cc, &[0; 64]) => Pass;
    }
}

pub(crate) fn fragments() -> Vec<Row> {
    let fragment =
        |to, protocol, place, rest: &[u8]| v4(&ipv4(CLIENT, to, protocol, 0, place, rest));
    let first6 = v6(&ipv6_fragment(CLIENT6, VIP6, FIRST, TCP, &ports(9, 80)));
    let atomic = v6(&ipv6(CLIENT6, VIP6, &[(0, 1), (44, 1)], TCP, &ports(9, 80)));
    rows! {
        "first fragment to a VIP": fragment(VIP, UDP, 0x2000, &ports(9, 53)) => Fragment;
        "later fragment to a VIP": fragment(VIP, UDP, 0x0010, &[0; 24]) => Fragment;
        "a fragment of a ping to a VIP": fragment(VIP, ICMP, 0x2000, &[8; 16]) => Fragment;
        "a fragment to the host": fragment(LOCAL, UDP, 0x2000, &ports(9, 53)) => Pass;
        "IPv6 fragment to a VIP": first6 => Fragment;
        "atomic IPv6 fragment after options": atomic => Service;
    }
}

pub(crate) fn neighbours() -> Vec<Row> {
    let request = |to, tags: &[_], target| ethernet(to, tags, 0x0806, &arp(1, target));
    let to_group = |kind, target| {
        let message = solicitation(kind, target);
        let packet = ipv6(CLIENT6, "ff02::1:ff00:10", &[], ICMPV6, &message);
        ethernet(SOLICITED, &[], 0x86dd, &packet)
    };
    let unicast = v6(&ipv6(CLIENT6, VIP6, &[], ICMPV6, &solicitation(135, VIP6)));
    rows! {
        "ARP request for a VIP": request(ALL, &[], VIP) => Arp;
        "unicast ARP request for a VIP": request(PORT, &[], VIP) => Arp;
        "tagged ARP request for a VIP": request(ALL, &[TAG], VIP) => Arp;
        "ARP request for another address": request(ALL, &[], LOCAL) => Pass;
        "ARP request for a removed VIP": request(ALL, &[], REMOVED_VIP) => Pass;
        "an ARP reply": ethernet(PORT, &[], 0x0806, &arp(2, VIP)) => Pass;
        "solicitation of a VIP": to_group(135, VIP6) => Ndp;
        "solicitation of another address": to_group(135, CLIENT6) => Pass;
        "solicitation of a removed VIP": to_group(135, REMOVED_VIP6) => Pass;
        "unicast solicitation of a VIP": unicast => Ndp;
        "other ICMPv6 to the group": to_group(136, VIP6) => Pass;
    }
}

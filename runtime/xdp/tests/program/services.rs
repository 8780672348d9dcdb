//! Services, replies, ICMP, fragments to a VIP, and neighbours: each a frame and its class.

use waxwing_xdp::Class::{Arp, Fragment, Icmp, Ndp, Other, Pass, Reply, Service};

use crate::Row;
use crate::frames::{
    ALL, BACKEND, BACKEND6, CLIENT, CLIENT6, FIRST, ICMP, ICMPV6, LOCAL, LOCAL6, OTHER, PORT,
    SOLICITED, TCP, UDP, VIP, VIP6, arp, ethernet, ipv4, ipv6, ipv6_fragment, ports, solicitation,
    v4, v6,
};

pub(crate) fn services_and_replies() -> Vec<Row> {
    let to_service = ipv4(CLIENT, VIP, TCP, 0, 0, &ports(40000, 80));
    let reply = ipv4(BACKEND, CLIENT, TCP, 0, 0, &ports(8080, 40000));
    vec![
        ("tcp to a service", v4(&to_service), Service),
        (
            "udp to a service",
            v4(&ipv4(CLIENT, VIP, UDP, 0, 0, &ports(9, 53))),
            Service,
        ),
        (
            "tcp to a udp service's port",
            v4(&ipv4(CLIENT, VIP, TCP, 0, 0, &ports(9, 53))),
            Other,
        ),
        (
            "another port of a VIP",
            v4(&ipv4(CLIENT, VIP, TCP, 0, 0, &ports(9, 81))),
            Other,
        ),
        (
            "ssh to the host",
            v4(&ipv4(CLIENT, LOCAL, TCP, 0, 0, &ports(9, 22))),
            Pass,
        ),
        (
            "with IPv4 options",
            v4(&ipv4(CLIENT, VIP, TCP, 10, 0, &ports(9, 80))),
            Service,
        ),
        (
            "dont-fragment is no fragment",
            v4(&ipv4(CLIENT, VIP, TCP, 0, 0x4000, &ports(9, 80))),
            Service,
        ),
        ("a reply", v4(&reply), Reply),
        (
            "a backend's other port",
            v4(&ipv4(BACKEND, CLIENT, TCP, 0, 0, &ports(9, 9))),
            Pass,
        ),
        (
            "a backend's other protocol",
            v4(&ipv4(BACKEND, CLIENT, UDP, 0, 0, &ports(8080, 9))),
            Pass,
        ),
        (
            "a reply to the host's probe",
            v4(&ipv4(BACKEND, LOCAL, TCP, 0, 0, &ports(8080, 9))),
            Pass,
        ),
        (
            "a client to a backend directly",
            v4(&ipv4(CLIENT, BACKEND, TCP, 0, 0, &ports(9, 8080))),
            Pass,
        ),
        (
            "a backend to a service",
            v4(&ipv4(BACKEND, VIP, TCP, 0, 0, &ports(8080, 80))),
            Service,
        ),
        (
            "another host's frame",
            ethernet(OTHER, &[], 0x0800, &to_service),
            Pass,
        ),
        (
            "unicast in a broadcast frame",
            ethernet(ALL, &[], 0x0800, &to_service),
            Pass,
        ),
        (
            "one tag",
            ethernet(PORT, &[[0x81, 0, 0, 5]], 0x0800, &to_service),
            Service,
        ),
        (
            "two tags",
            ethernet(PORT, &[[0x88, 0xa8, 0, 7], [0x81, 0, 0, 5]], 0x0800, &reply),
            Reply,
        ),
        (
            "three tags",
            ethernet(PORT, &[[0x81, 0, 0, 5]; 3], 0x0800, &to_service),
            Pass,
        ),
        (
            "gre to a VIP",
            v4(&ipv4(CLIENT, VIP, 47, 0, 0, &ports(9, 80))),
            Other,
        ),
        (
            "tcp over IPv6",
            v6(&ipv6(CLIENT6, VIP6, &[], TCP, &ports(9, 80))),
            Service,
        ),
        (
            "another port over IPv6",
            v6(&ipv6(CLIENT6, VIP6, &[], TCP, &ports(9, 81))),
            Other,
        ),
        (
            "extension headers",
            v6(&ipv6(
                CLIENT6,
                VIP6,
                &[(0, 1), (60, 3), (43, 2)],
                TCP,
                &ports(9, 80),
            )),
            Service,
        ),
        (
            "a long extension header",
            v6(&ipv6(CLIENT6, VIP6, &[(60, 100)], TCP, &ports(9, 80))),
            Service,
        ),
        (
            "more extension headers than are read",
            v6(&ipv6(CLIENT6, VIP6, &[(60, 1); 7], TCP, &ports(9, 80))),
            Other,
        ),
        (
            "a reply over IPv6",
            v6(&ipv6(BACKEND6, CLIENT6, &[], TCP, &ports(8080, 9))),
            Reply,
        ),
        (
            "a probe's reply over IPv6",
            v6(&ipv6(BACKEND6, LOCAL6, &[], TCP, &ports(8080, 9))),
            Pass,
        ),
    ]
}

pub(crate) fn icmp_fragments_and_neighbors() -> Vec<Row> {
    let ping = ipv4(CLIENT, VIP, ICMP, 0, 0, &[8; 16]);
    let asks = |target| {
        ipv6(
            CLIENT6,
            "ff02::1:ff00:10",
            &[],
            ICMPV6,
            &solicitation(135, target),
        )
    };
    vec![
        ("ping to a VIP", v4(&ping), Icmp),
        (
            "ping to the host",
            v4(&ipv4(CLIENT, LOCAL, ICMP, 0, 0, &[8; 16])),
            Pass,
        ),
        (
            "ping to a VIP over IPv6",
            v6(&ipv6(CLIENT6, VIP6, &[], ICMPV6, &[128; 16])),
            Icmp,
        ),
        (
            "first fragment to a VIP",
            v4(&ipv4(CLIENT, VIP, UDP, 0, 0x2000, &ports(9, 53))),
            Fragment,
        ),
        (
            "later fragment to a VIP",
            v4(&ipv4(CLIENT, VIP, UDP, 0, 0x0010, &[0; 24])),
            Fragment,
        ),
        (
            "a fragment of a ping to a VIP",
            v4(&ipv4(CLIENT, VIP, ICMP, 0, 0x2000, &[8; 16])),
            Fragment,
        ),
        (
            "a fragment to the host",
            v4(&ipv4(CLIENT, LOCAL, UDP, 0, 0x2000, &ports(9, 53))),
            Pass,
        ),
        (
            "IPv6 fragment to a VIP",
            v6(&ipv6_fragment(CLIENT6, VIP6, FIRST, TCP, &ports(9, 80))),
            Fragment,
        ),
        (
            "a whole IPv6 fragment after options",
            v6(&ipv6(CLIENT6, VIP6, &[(0, 1), (44, 1)], TCP, &ports(9, 80))),
            Service,
        ),
        (
            "who has a VIP",
            ethernet(ALL, &[], 0x0806, &arp(1, VIP)),
            Arp,
        ),
        (
            "who has a VIP, asked directly",
            ethernet(PORT, &[], 0x0806, &arp(1, VIP)),
            Arp,
        ),
        (
            "who has a VIP, tagged",
            ethernet(ALL, &[[0x81, 0, 0, 5]], 0x0806, &arp(1, VIP)),
            Arp,
        ),
        (
            "who has another address",
            ethernet(ALL, &[], 0x0806, &arp(1, LOCAL)),
            Pass,
        ),
        (
            "an ARP reply",
            ethernet(PORT, &[], 0x0806, &arp(2, VIP)),
            Pass,
        ),
        (
            "solicitation for a VIP",
            ethernet(SOLICITED, &[], 0x86dd, &asks(VIP6)),
            Ndp,
        ),
        (
            "solicitation for another",
            ethernet(SOLICITED, &[], 0x86dd, &asks(CLIENT6)),
            Pass,
        ),
        (
            "unicast solicitation for a VIP",
            v6(&ipv6(CLIENT6, VIP6, &[], ICMPV6, &solicitation(135, VIP6))),
            Ndp,
        ),
        (
            "a group's other ICMPv6",
            ethernet(
                SOLICITED,
                &[],
                0x86dd,
                &ipv6(
                    CLIENT6,
                    "ff02::1:ff00:10",
                    &[],
                    ICMPV6,
                    &solicitation(136, VIP6),
                ),
            ),
            Pass,
        ),
        (
            "another EtherType",
            ethernet(PORT, &[], 0x88cc, &[0; 64]),
            Pass,
        ),
    ]
}

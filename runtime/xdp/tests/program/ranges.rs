//! Services with a range of ports, and source addresses of source NAT: each a frame and its class.

use waxwing_xdp::Class::{Arp, Error, Fragment, Icmp, Other, Pass, Reply, Service};

use crate::Row;
use crate::frames::{
    ALL, BACKEND, CLIENT, ICMP, LOCAL, RANGE_BACKEND, RANGE_VIP, ROUTER, SOURCE, TCP, UDP, VIP,
    arp, error, ethernet, ipv4, ports, v4,
};

pub(crate) fn ranges_and_source_addresses() -> Vec<Row> {
    let udp = |from, to, at| v4(&ipv4(from, to, UDP, 0, 0, &ports(at, 7)));
    let tcp = |from, to, at| v4(&ipv4(from, to, TCP, 0, 0, &ports(at, 7)));
    let about = |protocol| {
        let forwarded = ipv4(CLIENT, RANGE_BACKEND, protocol, 0, 0, &ports(40000, 7));
        v4(&ipv4(ROUTER, CLIENT, ICMP, 0, 0, &error(3, &forwarded)))
    };
    let replied = ipv4(SOURCE, BACKEND, TCP, 0, 0, &ports(40000, 8080));
    vec![
        ("to a range's VIP", udp(CLIENT, RANGE_VIP, 9), Service),
        ("its other protocol", tcp(CLIENT, RANGE_VIP, 9), Other),
        (
            "a reply from any port",
            udp(RANGE_BACKEND, CLIENT, 9),
            Reply,
        ),
        (
            "from any port, the other protocol",
            tcp(RANGE_BACKEND, CLIENT, 9),
            Pass,
        ),
        (
            "from any port, to the host",
            udp(RANGE_BACKEND, LOCAL, 9),
            Pass,
        ),
        (
            "a range's backend to its own VIP",
            udp(RANGE_BACKEND, RANGE_VIP, 9),
            Service,
        ),
        (
            "a range's backend to a VIP without a range",
            udp(RANGE_BACKEND, VIP, 9),
            Reply,
        ),
        ("an error about a packet to any port", about(UDP), Error),
        ("an error about one of the other protocol", about(TCP), Pass),
        (
            "a reply to a source address",
            tcp(BACKEND, SOURCE, 8080),
            Reply,
        ),
        (
            "anything to a source address",
            tcp(BACKEND, SOURCE, 9),
            Other,
        ),
        (
            "an error to a source address",
            v4(&ipv4(ROUTER, SOURCE, ICMP, 0, 0, &error(3, &replied))),
            Icmp,
        ),
        (
            "a fragment to a source address",
            v4(&ipv4(BACKEND, SOURCE, TCP, 0, 0x2000, &ports(8080, 9))),
            Fragment,
        ),
        (
            "who has a source address",
            ethernet(ALL, &[], 0x0806, &arp(1, SOURCE)),
            Arp,
        ),
    ]
}

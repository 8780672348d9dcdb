//! Services with a port range, and source NAT addresses.

use waxwing_xdp::Class::{Arp, Error, Fragment, Icmp, Other, Pass, Reply, Service};

use crate::frames::{
    ALL, BACKEND, CLIENT, ICMP, LOCAL, RANGE_BACKEND, RANGE_VIP, ROUTER, SOURCE, TCP, UDP, VIP,
    arp, error, ethernet, ipv4, ports, v4,
};
use crate::{Row, rows};

pub(crate) fn ranges_and_source_addresses() -> Vec<Row> {
    let udp = |from, to| v4(&ipv4(from, to, UDP, 0, 0, &ports(9, 7)));
    let tcp = |from, to, port| v4(&ipv4(from, to, TCP, 0, 0, &ports(port, 7)));
    let error_about = |protocol| {
        let forwarded = ipv4(CLIENT, RANGE_BACKEND, protocol, 0, 0, &ports(40000, 7));
        v4(&ipv4(ROUTER, CLIENT, ICMP, 0, 0, &error(3, &forwarded)))
    };
    let forwarded = ipv4(SOURCE, BACKEND, TCP, 0, 0, &ports(40000, 8080));
    let to_source = v4(&ipv4(ROUTER, SOURCE, ICMP, 0, 0, &error(3, &forwarded)));
    let fragment = v4(&ipv4(BACKEND, SOURCE, TCP, 0, 0x2000, &ports(8080, 9)));
    rows! {
        "to the VIP of a range": udp(CLIENT, RANGE_VIP) => Service;
        "to the VIP of a range, other protocol": tcp(CLIENT, RANGE_VIP, 9) => Other;
        "a reply from any port": udp(RANGE_BACKEND, CLIENT) => Reply;
        "from any port, other protocol": tcp(RANGE_BACKEND, CLIENT, 9) => Pass;
        "from any port, to the host": udp(RANGE_BACKEND, LOCAL) => Pass;
        "a range's backend to its own VIP": udp(RANGE_BACKEND, RANGE_VIP) => Service;
        "a range's backend to a VIP without a range": udp(RANGE_BACKEND, VIP) => Reply;
        "an error about a packet to any port": error_about(UDP) => Error;
        "an error about the other protocol": error_about(TCP) => Pass;
        "a reply to a source address": tcp(BACKEND, SOURCE, 8080) => Reply;
        "any other packet to a source address": tcp(BACKEND, SOURCE, 9) => Other;
        "an error to a source address": to_source => Icmp;
        "a fragment to a source address": fragment => Fragment;
        "ARP request for a source address": ethernet(ALL, &[], 0x0806, &arp(1, SOURCE)) => Arp;
    }
}

//! Fragments from servers: each a frame and its class.

use waxwing_xdp::Class::{Fragment, Pass, Reply, Service};

use crate::Row;
use crate::frames::{
    ATOMIC, BACKEND, BACKEND6, CLIENT, CLIENT6, FIRST, ICMP, ICMPV6, LATER, LOCAL, LOCAL6, TCP,
    UDP, VIP6, ipv4, ipv6_fragment, ports, v4, v6,
};

/// All fragments of a server's TCP and UDP, whatever their ports: a worker that has only some of them
/// would wait for the others.
pub(crate) fn fragments_of_servers() -> Vec<Row> {
    let v4_fragment =
        |from, to, protocol, place, rest: &[u8]| v4(&ipv4(from, to, protocol, 0, place, rest));
    let v6_fragment = |from, to, place, protocol, rest: &[u8]| {
        v6(&ipv6_fragment(from, to, place, protocol, rest))
    };
    vec![
        (
            "a reply's first fragment",
            v4_fragment(BACKEND, CLIENT, TCP, 0x2000, &ports(8080, 9)),
            Fragment,
        ),
        (
            "a reply's middle fragment",
            v4_fragment(BACKEND, CLIENT, TCP, 0x2010, &[0; 24]),
            Fragment,
        ),
        (
            "a reply's last fragment",
            v4_fragment(BACKEND, CLIENT, TCP, 0x0010, &[0; 24]),
            Fragment,
        ),
        (
            "the first fragment from another port of a server",
            v4_fragment(BACKEND, CLIENT, UDP, 0x2000, &ports(53, 9)),
            Fragment,
        ),
        (
            "a later fragment of a server's other protocol",
            v4_fragment(BACKEND, CLIENT, UDP, 0x0010, &[0; 24]),
            Fragment,
        ),
        (
            "a fragment of a server's ping",
            v4_fragment(BACKEND, CLIENT, ICMP, 0x2000, &[8; 16]),
            Pass,
        ),
        (
            "a server's fragment to the host",
            v4_fragment(BACKEND, LOCAL, UDP, 0x0010, &[0; 24]),
            Pass,
        ),
        (
            "a fragment from no server",
            v4_fragment(CLIENT, BACKEND, UDP, 0x0010, &[0; 24]),
            Pass,
        ),
        (
            "a reply's first fragment over IPv6",
            v6_fragment(BACKEND6, CLIENT6, FIRST, TCP, &ports(8080, 9)),
            Fragment,
        ),
        (
            "a reply's later fragment over IPv6",
            v6_fragment(BACKEND6, CLIENT6, LATER, TCP, &[0; 24]),
            Fragment,
        ),
        (
            "a server's fragment that begins with options",
            v6_fragment(BACKEND6, CLIENT6, LATER, 60, &[0; 24]),
            Fragment,
        ),
        (
            "a fragment of a server's ping over IPv6",
            v6_fragment(BACKEND6, CLIENT6, LATER, ICMPV6, &[0; 24]),
            Pass,
        ),
        (
            "a server's fragment to the host over IPv6",
            v6_fragment(BACKEND6, LOCAL6, LATER, TCP, &[0; 24]),
            Pass,
        ),
        (
            "a fragment that is whole, to a service",
            v6_fragment(CLIENT6, VIP6, ATOMIC, TCP, &ports(9, 80)),
            Service,
        ),
        (
            "a fragment that is whole, of a reply",
            v6_fragment(BACKEND6, CLIENT6, ATOMIC, TCP, &ports(8080, 9)),
            Reply,
        ),
        (
            "a fragment that is whole, from a server's other port",
            v6_fragment(BACKEND6, CLIENT6, ATOMIC, TCP, &ports(9, 9)),
            Pass,
        ),
        (
            "half a fragment header",
            v6(&ipv6_fragment(CLIENT6, VIP6, FIRST, TCP, &[])[..44]),
            Pass,
        ),
    ]
}

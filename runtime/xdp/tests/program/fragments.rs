//! Fragments from servers.

use waxwing_xdp::Class::{Fragment, Pass, Reply, Service};

use crate::frames::{
    ATOMIC, BACKEND, BACKEND6, CLIENT, CLIENT6, FIRST, ICMP, ICMPV6, LATER, LOCAL, LOCAL6, TCP,
    UDP, VIP6, ipv4, ipv6_fragment, ports, v4, v6,
};
use crate::{Row, rows};

/// All fragments of a server's TCP and UDP are taken, whatever their ports: a worker that gets only some
/// would wait for the others.
pub(crate) fn fragments_of_servers() -> Vec<Row> {
    let fragment =
        |from, to, protocol, place, rest: &[u8]| v4(&ipv4(from, to, protocol, 0, place, rest));
    let fragment6 = |from, to, place, protocol, rest: &[u8]| {
        v6(&ipv6_fragment(from, to, place, protocol, rest))
    };
    let rest = &[0; 24];
    let truncated = v6(&ipv6_fragment(CLIENT6, VIP6, FIRST, TCP, &[])[..44]);
    rows! {
        "first fragment of a reply": fragment(BACKEND, CLIENT, TCP, 0x2000, &ports(8080, 9)) => Fragment;
        "middle fragment of a reply": fragment(BACKEND, CLIENT, TCP, 0x2010, rest) => Fragment;
        "last fragment of a reply": fragment(BACKEND, CLIENT, TCP, 0x0010, rest) => Fragment;
        "first fragment from another port": fragment(BACKEND, CLIENT, UDP, 0x2000, &ports(53, 9)) => Fragment;
        "later fragment of another protocol": fragment(BACKEND, CLIENT, UDP, 0x0010, rest) => Fragment;
        "a fragment of a server's ping": fragment(BACKEND, CLIENT, ICMP, 0x2000, &[8; 16]) => Pass;
        "a server's fragment to the host": fragment(BACKEND, LOCAL, UDP, 0x0010, rest) => Pass;
        "a fragment to a server": fragment(CLIENT, BACKEND, UDP, 0x0010, rest) => Fragment;
        "a fragment between other hosts": fragment(CLIENT, LOCAL, UDP, 0x0010, rest) => Pass;
        "first fragment over IPv6": fragment6(BACKEND6, CLIENT6, FIRST, TCP, &ports(8080, 9)) => Fragment;
        "later fragment over IPv6": fragment6(BACKEND6, CLIENT6, LATER, TCP, rest) => Fragment;
        "a fragment that starts with options": fragment6(BACKEND6, CLIENT6, LATER, 60, rest) => Fragment;
        "a fragment of a ping over IPv6": fragment6(BACKEND6, CLIENT6, LATER, ICMPV6, rest) => Pass;
        "a fragment to the host over IPv6": fragment6(BACKEND6, LOCAL6, LATER, TCP, rest) => Pass;
        "atomic fragment to a service": fragment6(CLIENT6, VIP6, ATOMIC, TCP, &ports(9, 80)) => Service;
        "atomic fragment of a reply": fragment6(BACKEND6, CLIENT6, ATOMIC, TCP, &ports(8080, 9)) => Reply;
        "atomic fragment from another port": fragment6(BACKEND6, CLIENT6, ATOMIC, TCP, &ports(9, 9)) => Pass;
        "half a fragment header": truncated => Pass;
    }
}

//! ICMP errors about packets to servers.

use waxwing_xdp::Class::{Error, Icmp, Pass};

use crate::frames::{
    BACKEND, BACKEND6, CLIENT, CLIENT6, FIRST, ICMP, ICMPV6, LATER, LOCAL, OTHER, PORT, ROUTER,
    ROUTER6, TCP, UDP, VIP, error, ethernet, ipv4, ipv6, ipv6_fragment, ports, v4, v6,
};
use crate::{Row, rows};

fn forwarded_v4() -> Vec<u8> {
    ipv4(CLIENT, BACKEND, TCP, 0, 0, &ports(40000, 8080))
}

fn forwarded_v6() -> Vec<u8> {
    ipv6(CLIENT6, BACKEND6, &[], TCP, &ports(40000, 8080))
}

pub(crate) fn errors_v4() -> Vec<Row> {
    let tag = [0x81, 0, 0, 5];
    let forwarded = forwarded_v4();
    let of_kind =
        |from, to, kind, quoted: &[u8]| v4(&ipv4(from, to, ICMP, 0, 0, &error(kind, quoted)));
    let from_router = |kind| of_kind(ROUTER, CLIENT, kind, &forwarded);
    let about = |quoted: &[u8]| of_kind(ROUTER, CLIENT, 3, quoted);
    let about_packet = |protocol, fragment, port| {
        about(&ipv4(
            CLIENT,
            BACKEND,
            protocol,
            0,
            fragment,
            &ports(40000, port),
        ))
    };
    let packet = ipv4(ROUTER, CLIENT, ICMP, 0, 0, &error(3, &forwarded));
    let with_options = ipv4(CLIENT, BACKEND, TCP, 10, 0, &ports(40000, 8080));
    let both_with_options = ipv4(ROUTER, CLIENT, ICMP, 10, 0, &error(3, &with_options));
    let from_backend = ipv4(BACKEND, CLIENT, TCP, 0, 0, &ports(8080, 40000));
    let fragment = ipv4(ROUTER, CLIENT, ICMP, 0, 0x2000, &error(3, &forwarded));
    rows! {
        "unreachable, about a packet to a backend": from_router(3) => Error;
        "time exceeded": from_router(11) => Error;
        "parameter problem": from_router(12) => Error;
        "from the backend itself": of_kind(BACKEND, CLIENT, 3, &forwarded) => Error;
        "source quench": from_router(4) => Pass;
        "a redirect": from_router(5) => Error;
        "an echo that contains a packet": from_router(8) => Pass;
        "to the host itself": of_kind(ROUTER, LOCAL, 3, &forwarded) => Pass;
        "to a VIP": of_kind(ROUTER, VIP, 3, &forwarded) => Icmp;
        "options in both headers": v4(&both_with_options) => Error;
        "eight bytes quoted": about(&forwarded[..28]) => Error;
        "no ports quoted": about(&forwarded[..22]) => Pass;
        "nothing quoted": about(&[]) => Pass;
        "an IPv6 packet quoted": about(&forwarded_v6()) => Pass;
        "about another port": about_packet(TCP, 0, 81) => Pass;
        "about another protocol": about_packet(UDP, 0, 8080) => Pass;
        "about a packet from a backend": about(&from_backend) => Error;
        "about a first fragment": about_packet(TCP, 0x2000, 8080) => Error;
        "about a later fragment": about_packet(TCP, 0x2001, 8080) => Pass;
        "a fragmented error": v4(&fragment) => Pass;
        "tagged error": ethernet(PORT, &[tag], 0x0800, &packet) => Error;
        "an error to another host's MAC": ethernet(OTHER, &[], 0x0800, &packet) => Pass;
    }
}

pub(crate) fn errors_v6() -> Vec<Row> {
    let forwarded = forwarded_v6();
    let of_kind =
        |kind, quoted: &[u8]| v6(&ipv6(ROUTER6, CLIENT6, &[], ICMPV6, &error(kind, quoted)));
    let fragment = |place| ipv6_fragment(CLIENT6, BACKEND6, place, TCP, &ports(40000, 8080));
    let extended = |headers: &[_]| ipv6(CLIENT6, BACKEND6, headers, TCP, &ports(40000, 8080));
    let quoted = extended(&[(0, 1), (60, 3), (43, 2)]);
    let both_extended = ipv6(
        ROUTER6,
        CLIENT6,
        &[(0, 1), (60, 2)],
        ICMPV6,
        &error(2, &quoted),
    );
    rows! {
        "unreachable over IPv6": of_kind(1, &forwarded) => Error;
        "packet too big": of_kind(2, &forwarded) => Error;
        "time exceeded over IPv6": of_kind(3, &forwarded) => Error;
        "parameter problem over IPv6": of_kind(4, &forwarded) => Error;
        "an unknown error over IPv6": of_kind(100, &forwarded) => Pass;
        "not an error, over IPv6": of_kind(0, &forwarded) => Pass;
        "an IPv4 packet quoted over IPv6": of_kind(1, &forwarded_v4()) => Pass;
        "extension headers in both packets": v6(&both_extended) => Error;
        "about a first fragment over IPv6": of_kind(2, &fragment(FIRST)) => Error;
        "about an atomic fragment": of_kind(2, &extended(&[(0, 1), (44, 1)])) => Error;
        "about a later fragment over IPv6": of_kind(2, &fragment(LATER)) => Pass;
    }
}

//! ICMP errors about packets to servers: each a frame and its class.

use waxwing_xdp::Class::{Error, Icmp, Pass};

use crate::Row;
use crate::frames::{
    BACKEND, BACKEND6, CLIENT, CLIENT6, FIRST, ICMP, ICMPV6, LATER, LOCAL, OTHER, PORT, ROUTER,
    ROUTER6, TCP, UDP, VIP, error, ethernet, ipv4, ipv6, ipv6_fragment, ports, v4, v6,
};

pub(crate) fn errors() -> Vec<Row> {
    let forwarded = ipv4(CLIENT, BACKEND, TCP, 0, 0, &ports(40000, 8080));
    let forwarded6 = ipv6(CLIENT6, BACKEND6, &[], TCP, &ports(40000, 8080));
    let says =
        |from, to, kind, quoted: &[u8]| v4(&ipv4(from, to, ICMP, 0, 0, &error(kind, quoted)));
    let about = |quoted: Vec<u8>| says(ROUTER, CLIENT, 3, &quoted);
    let says6 =
        |kind, quoted: &[u8]| v6(&ipv6(ROUTER6, CLIENT6, &[], ICMPV6, &error(kind, quoted)));
    let later6 = ipv6_fragment(CLIENT6, BACKEND6, LATER, TCP, &ports(40000, 8080));
    vec![
        (
            "unreachable, of a packet to a backend",
            says(ROUTER, CLIENT, 3, &forwarded),
            Error,
        ),
        ("time exceeded", says(ROUTER, CLIENT, 11, &forwarded), Error),
        (
            "parameter problem",
            says(ROUTER, CLIENT, 12, &forwarded),
            Error,
        ),
        (
            "the backend's own",
            says(BACKEND, CLIENT, 3, &forwarded),
            Error,
        ),
        ("source quench", says(ROUTER, CLIENT, 4, &forwarded), Pass),
        ("a redirect", says(ROUTER, CLIENT, 5, &forwarded), Pass),
        (
            "an echo that carries a packet",
            says(ROUTER, CLIENT, 8, &forwarded),
            Pass,
        ),
        (
            "to the host itself",
            says(ROUTER, LOCAL, 3, &forwarded),
            Pass,
        ),
        ("to a VIP", says(ROUTER, VIP, 3, &forwarded), Icmp),
        (
            "with options outside and inside",
            v4(&ipv4(
                ROUTER,
                CLIENT,
                ICMP,
                10,
                0,
                &error(3, &ipv4(CLIENT, BACKEND, TCP, 10, 0, &ports(40000, 8080))),
            )),
            Error,
        ),
        ("eight bytes quoted", about(forwarded[..28].to_vec()), Error),
        ("no ports quoted", about(forwarded[..22].to_vec()), Pass),
        ("nothing quoted", about(Vec::new()), Pass),
        ("a wrong version quoted", about(forwarded6.clone()), Pass),
        (
            "of another port",
            about(ipv4(CLIENT, BACKEND, TCP, 0, 0, &ports(40000, 81))),
            Pass,
        ),
        (
            "of another protocol",
            about(ipv4(CLIENT, BACKEND, UDP, 0, 0, &ports(40000, 8080))),
            Pass,
        ),
        (
            "of a backend's own packet",
            about(ipv4(BACKEND, CLIENT, TCP, 0, 0, &ports(8080, 40000))),
            Pass,
        ),
        (
            "of a first fragment",
            about(ipv4(CLIENT, BACKEND, TCP, 0, 0x2000, &ports(40000, 8080))),
            Error,
        ),
        (
            "of a later fragment",
            about(ipv4(CLIENT, BACKEND, TCP, 0, 0x2001, &ports(40000, 8080))),
            Pass,
        ),
        (
            "an error in fragments",
            v4(&ipv4(
                ROUTER,
                CLIENT,
                ICMP,
                0,
                0x2000,
                &error(3, &forwarded),
            )),
            Pass,
        ),
        (
            "tagged",
            ethernet(
                PORT,
                &[[0x81, 0, 0, 5]],
                0x0800,
                &ipv4(ROUTER, CLIENT, ICMP, 0, 0, &error(3, &forwarded)),
            ),
            Error,
        ),
        (
            "in another host's frame",
            ethernet(
                OTHER,
                &[],
                0x0800,
                &ipv4(ROUTER, CLIENT, ICMP, 0, 0, &error(3, &forwarded)),
            ),
            Pass,
        ),
        ("unreachable over IPv6", says6(1, &forwarded6), Error),
        ("packet too big", says6(2, &forwarded6), Error),
        ("time exceeded over IPv6", says6(3, &forwarded6), Error),
        ("parameter problem over IPv6", says6(4, &forwarded6), Error),
        ("an unknown error over IPv6", says6(100, &forwarded6), Pass),
        ("no error at all over IPv6", says6(0, &forwarded6), Pass),
        ("an IPv4 quote over IPv6", says6(1, &forwarded), Pass),
        (
            "extension headers outside and inside",
            v6(&ipv6(
                ROUTER6,
                CLIENT6,
                &[(0, 1), (60, 2)],
                ICMPV6,
                &error(
                    2,
                    &ipv6(
                        CLIENT6,
                        BACKEND6,
                        &[(0, 1), (60, 3), (43, 2)],
                        TCP,
                        &ports(40000, 8080),
                    ),
                ),
            )),
            Error,
        ),
        (
            "of a first fragment over IPv6",
            says6(
                2,
                &ipv6_fragment(CLIENT6, BACKEND6, FIRST, TCP, &ports(40000, 8080)),
            ),
            Error,
        ),
        (
            "of a fragment that is whole",
            says6(
                2,
                &ipv6(
                    CLIENT6,
                    BACKEND6,
                    &[(0, 1), (44, 1)],
                    TCP,
                    &ports(40000, 8080),
                ),
            ),
            Error,
        ),
        ("of a later fragment over IPv6", says6(2, &later6), Pass),
    ]
}

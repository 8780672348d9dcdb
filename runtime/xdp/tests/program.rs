//! The XDP program, frame by frame, under the kernel's `BPF_PROG_TEST_RUN`: a frame in, the class
//! it is put in out. Needs no interface and no namespace, but the privilege to load a program.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Failed, Trial};
use waxwing_dataplane::steering::Rules;
use waxwing_packet::{Address, Mac};
use waxwing_xdp::{Class, Options, Program};

use Class::{Arp, Error, Fragment, Icmp, Ndp, Other, Pass, Reply, Service};

const PORT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ALL: [u8; 6] = [0xff; 6];
/// The solicited-node group of an address ending in 00:0010 (RFC 2464 section 7).
const SOLICITED: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 0x10];

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const VIP: &str = "203.0.113.10";
const VIP6: &str = "2001:db8::10";
const CLIENT: &str = "198.51.100.7";
const CLIENT6: &str = "2001:db8:1::7";
const BACKEND: &str = "10.2.0.11";
const BACKEND6: &str = "2001:db8:2::11";
const LOCAL: &str = "10.2.0.1";
const LOCAL6: &str = "2001:db8:2::1";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn rules() -> Rules {
    let at = |text: &str, port, protocol| (Address::from(ip(text)), port, protocol);
    Rules {
        services: [at(VIP, 80, TCP), at(VIP, 53, UDP), at(VIP6, 80, TCP)].into(),
        vips: [ip(VIP).into(), ip(VIP6).into()].into(),
        backends: [at(BACKEND, 8080, TCP), at(BACKEND6, 8080, TCP)].into(),
        locals: [ip(LOCAL).into(), ip(LOCAL6).into()].into(),
        macs: Vec::new(),
    }
}

fn ethernet(destination: [u8; 6], tags: &[[u8; 4]], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = destination.to_vec();
    frame.extend([2, 0, 0, 0, 0, 0xee]);
    frame.extend(tags.concat());
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    let mut bytes = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    bytes.extend([0; 16]);
    bytes
}

/// An IPv4 packet with `options` 32-bit words of options and this fragment field.
fn ipv4(from: &str, to: &str, protocol: u8, options: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
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

/// An IPv6 packet with extension headers: each its own type and its length in eight bytes.
fn ipv6(from: &str, to: &str, extensions: &[(u8, u8)], protocol: u8, rest: &[u8]) -> Vec<u8> {
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

fn arp(operation: u8, target: &str) -> Vec<u8> {
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

fn solicitation(kind: u8, target: &str) -> Vec<u8> {
    let IpAddr::V6(target) = ip(target) else {
        panic!("not IPv6")
    };
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message
}

fn v4(payload: &[u8]) -> Vec<u8> {
    ethernet(PORT, &[], 0x0800, payload)
}

fn v6(payload: &[u8]) -> Vec<u8> {
    ethernet(PORT, &[], 0x86dd, payload)
}

type Test = Box<dyn FnOnce(&mut Program) -> Result<(), Failed> + Send>;
type Row = (&'static str, Vec<u8>, Class);

fn services_and_replies() -> Vec<Row> {
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

fn icmp_fragments_and_neighbors() -> Vec<Row> {
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

/// A fragment header's place and identification, behind its type and a reserved byte.
const FIRST: [u8; 6] = [0, 1, 0, 0, 0, 7];
const LATER: [u8; 6] = [0, 8, 0, 0, 0, 7];
const ATOMIC: [u8; 6] = [0, 0, 0, 0, 0, 7];

/// An IPv6 packet with this fragment header.
fn ipv6_fragment(from: &str, to: &str, place: [u8; 6], protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut packet = ipv6(from, to, &[(44, 1)], protocol, rest);
    packet[42..48].copy_from_slice(&place);
    packet
}

/// All fragments of a server's TCP and UDP, whatever their ports: a worker that has only some of them
/// would wait for the others.
fn fragments_of_servers() -> Vec<Row> {
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

/// What a router or a backend says of a packet: a message of this type, and the packet.
fn error(kind: u8, quoted: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0], quoted].concat()
}

const ROUTER: &str = "10.2.0.254";
const ROUTER6: &str = "2001:db8:2::fe";

fn errors() -> Vec<Row> {
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

/// A frame cut at every length is either classed or passed, and never an error.
fn cut_anywhere(program: &mut Program) -> Result<(), Failed> {
    let quoted = ipv4(CLIENT, BACKEND, TCP, 2, 0, &ports(9, 8080));
    let quoted6 = ipv6_fragment(CLIENT6, BACKEND6, FIRST, TCP, &ports(9, 8080));
    let whole = [
        v4(&ipv4(CLIENT, VIP, TCP, 2, 0, &ports(9, 80))),
        v6(&ipv6(CLIENT6, VIP6, &[(0, 1), (60, 2)], TCP, &ports(9, 80))),
        ethernet(ALL, &[[0x81, 0, 0, 5]], 0x0806, &arp(1, VIP)),
        v6(&ipv6(CLIENT6, VIP6, &[], ICMPV6, &solicitation(135, VIP6))),
        v4(&ipv4(ROUTER, CLIENT, ICMP, 2, 0, &error(3, &quoted))),
        v6(&ipv6(
            ROUTER6,
            CLIENT6,
            &[(0, 1)],
            ICMPV6,
            &error(2, &quoted6),
        )),
    ];
    for frame in whole {
        let expected = program.classify(&frame)?;
        for len in 14..frame.len() {
            let class = program.classify(&frame[..len])?;
            let icmp_without_target = class == Icmp && expected == Ndp;
            if class != Pass && class != expected && !icmp_without_target {
                return Err(format!("cut to {len} bytes: {class:?}").into());
            }
        }
    }
    Ok(())
}

/// Rules taken away no longer match, those that stay do.
fn rules_change(program: &mut Program) -> Result<(), Failed> {
    let tcp = v4(&ipv4(CLIENT, VIP, TCP, 0, 0, &ports(9, 80)));
    let udp = v4(&ipv4(CLIENT, VIP, UDP, 0, 0, &ports(9, 53)));
    let reply = v4(&ipv4(BACKEND, CLIENT, TCP, 0, 0x0010, &[0; 24]));
    let mut fewer = rules();
    fewer.backends.clear();
    fewer.services.remove(&(ip(VIP).into(), 53, UDP));
    let mut seen = Vec::new();
    for set in [&fewer, &rules(), &Rules::default(), &rules()] {
        program.apply(set)?;
        let [tcp, udp, reply] = [&tcp, &udp, &reply].map(|frame| program.classify(frame));
        seen.push((tcp?, udp?, reply?));
    }
    let expected = [
        (Service, Other, Pass),
        (Service, Service, Fragment),
        (Pass, Pass, Pass),
        (Service, Service, Fragment),
    ];
    if seen == expected {
        Ok(())
    } else {
        Err(format!("{seen:?}").into())
    }
}

/// More rules than there is room for are refused whole.
fn too_many_rules(program: &mut Program) -> Result<(), Failed> {
    let mut many = rules();
    many.locals = (0..65).map(Address::from_bits).collect();
    let Err(text) = program.apply(&many) else {
        return Err("accepted".into());
    };
    if !text.contains("65 local addresses") {
        return Err(text.into());
    }
    let reply = v4(&ipv4(BACKEND, LOCAL, TCP, 0, 0, &ports(8080, 9)));
    match program.classify(&reply)? {
        Pass => Ok(()),
        other => Err(format!("the rules before are gone: {other:?}").into()),
    }
}

fn main() {
    let arguments = Arguments::from_args();
    let options = Options {
        services_max: 64,
        backends_max: 64,
        locals_max: 64,
        ..Options::default()
    };
    let loaded = Program::load(&options, 1, 1).and_then(|mut program| {
        // A test run receives on the loopback device, whose index is 1.
        program.set_port(1, Mac(PORT), 0, 1)?;
        Ok(program)
    });
    let (program, refused) = match loaded {
        Ok(program) => (Some(program), None),
        Err(error @ waxwing_xdp::XdpError::Privilege { .. }) => (None, Some(error)),
        Err(error) => panic!("{error}"),
    };
    if let Some(error) = &refused {
        println!("skipped, as the program cannot be loaded: {error}");
    }
    let program = Arc::new(Mutex::new(program));
    let skip = refused.is_some();
    let trial = |name: &str, test: Test| {
        let program = Arc::clone(&program);
        let run = move || {
            let mut program = program.lock().map_err(|_| "an earlier test panicked")?;
            let program = program.as_mut().ok_or("not loaded")?;
            program.apply(&rules())?;
            test(program)
        };
        Trial::test(name, run).with_ignored_flag(skip)
    };
    let rows = services_and_replies()
        .into_iter()
        .chain(icmp_fragments_and_neighbors())
        .chain(fragments_of_servers())
        .chain(errors());
    let mut trials: Vec<Trial> = rows
        .map(|(name, frame, expected)| {
            trial(
                name,
                Box::new(move |program| {
                    let class = program.classify(&frame)?;
                    if class == expected {
                        Ok(())
                    } else {
                        Err(format!("{class:?}").into())
                    }
                }),
            )
        })
        .collect();
    trials.push(trial("frames cut anywhere", Box::new(cut_anywhere)));
    trials.push(trial("rules come and go", Box::new(rules_change)));
    trials.push(trial(
        "too many rules are refused",
        Box::new(too_many_rules),
    ));
    libtest_mimic::run(&arguments, trials).exit();
}

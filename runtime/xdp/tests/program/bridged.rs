//! A port of a bridge beside one that is none: which frames between others each takes.

use libtest_mimic::Failed;
use waxwing_packet::Mac;
use waxwing_xdp::Class::{self, Arp, Error, Fragment, Icmp, Ndp, Pass, Reply, Service};
use waxwing_xdp::{Addressees, Program};

use crate::LOOPBACK;
use crate::frames::{
    ALL, BACKEND, BACKEND6, CLIENT, CLIENT6, ICMP, ICMPV6, LATER, LOCAL, LOCAL6, OTHER, PORT,
    ROUTER, TCP, UDP, VIP, VIP6, arp, error, ethernet, ipv4, ipv6, ipv6_fragment, ports,
    solicitation,
};

/// The bridge's other port, and the bridge itself.
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BRIDGE: [u8; 6] = [2, 0, 0, 0, 0, 3];

/// A frame, what a port of no bridge makes of it, and what a bridge's makes of it.
pub(crate) type Row = (&'static str, Vec<u8>, Class, Class);

pub(crate) fn bridged_frames() -> Vec<Row> {
    let tag = &[[0x81, 0, 0, 5]];
    let v4 = |to, packet: &[u8]| ethernet(to, &[], 0x0800, packet);
    let v6 = |to, packet: &[u8]| ethernet(to, &[], 0x86dd, packet);
    let request = ipv4(CLIENT, VIP, TCP, 0, 0, &ports(9, 80));
    let request6 = ipv6(CLIENT6, VIP6, &[], TCP, &ports(9, 80));
    let reply = ipv4(BACKEND, CLIENT, TCP, 0, 0, &ports(8080, 9));
    let reply6 = ipv6(BACKEND6, CLIENT6, &[], TCP, &ports(8080, 9));
    let probed = ipv4(BACKEND, LOCAL, TCP, 0, 0, &ports(8080, 9));
    let probed6 = ipv6(BACKEND6, LOCAL6, &[], TCP, &ports(8080, 9));
    let ssh = ipv4(BACKEND, CLIENT, TCP, 0, 0, &ports(22, 9));
    let direct = ipv4(CLIENT, BACKEND, TCP, 0, 0, &ports(9, 8080));
    let later = ipv4(BACKEND, CLIENT, UDP, 0, 0x0010, &[0; 24]);
    let later6 = ipv6_fragment(BACKEND6, CLIENT6, LATER, TCP, &[0; 24]);
    let later_to_vip = ipv4(CLIENT, VIP, UDP, 0, 0x0010, &[0; 24]);
    let sent = ipv4(CLIENT, BACKEND, TCP, 0, 0, &ports(9, 8080));
    let told = ipv4(ROUTER, CLIENT, ICMP, 0, 0, &error(3, &sent));
    let ping = ipv4(CLIENT, VIP, ICMP, 0, 0, &[8; 16]);
    let asked = ipv6(CLIENT6, VIP6, &[], ICMPV6, &solicitation(135, VIP6));
    vec![
        ("a request", v4(PORT, &request), Service, Service),
        ("a reply", v4(PORT, &reply), Reply, Reply),
        ("a reply to the router", v4(OTHER, &reply), Pass, Reply),
        ("the same over IPv6", v6(OTHER, &reply6), Pass, Reply),
        (
            "the same, tagged",
            ethernet(OTHER, tag, 0x0800, &reply),
            Pass,
            Reply,
        ),
        ("a reply to the other port", v4(PEER, &reply), Pass, Reply),
        ("a reply to all", v4(ALL, &reply), Pass, Pass),
        (
            "a fragment to the router",
            v4(OTHER, &later),
            Pass,
            Fragment,
        ),
        (
            "the same fragment over IPv6",
            v6(OTHER, &later6),
            Pass,
            Fragment,
        ),
        ("an error to the router", v4(OTHER, &told), Pass, Error),
        ("a probe's answer", v4(BRIDGE, &probed), Pass, Pass),
        (
            "the same answer over IPv6",
            v6(BRIDGE, &probed6),
            Pass,
            Pass,
        ),
        ("a server's ssh", v4(OTHER, &ssh), Pass, Pass),
        ("a direct request", v4(OTHER, &direct), Pass, Pass),
        (
            "a request to the other port",
            v4(PEER, &request),
            Pass,
            Service,
        ),
        (
            "a request to the bridge",
            v6(BRIDGE, &request6),
            Pass,
            Service,
        ),
        (
            "a request to who has the VIP now",
            v4(OTHER, &request),
            Pass,
            Pass,
        ),
        ("its fragment", v4(OTHER, &later_to_vip), Pass, Pass),
        ("its ping", v4(OTHER, &ping), Pass, Pass),
        ("ping to the bridge", v4(BRIDGE, &ping), Pass, Icmp),
        ("its unicast solicitation", v6(OTHER, &asked), Pass, Pass),
        (
            "its unicast ARP",
            ethernet(OTHER, &[], 0x0806, &arp(1, VIP)),
            Pass,
            Pass,
        ),
        (
            "ARP to all",
            ethernet(ALL, &[], 0x0806, &arp(1, VIP)),
            Arp,
            Arp,
        ),
        ("a solicitation", v6(PORT, &asked), Ndp, Ndp),
        (
            "STP",
            ethernet([1, 0x80, 0xc2, 0, 0, 0], &[], 0x0027, &[0; 46]),
            Pass,
            Pass,
        ),
    ]
}

/// What each kind of port makes of a row's frame.
pub(crate) fn on_each_port(
    program: &mut Program,
    (_, frame, alone, bridged): &Row,
) -> Result<(), Failed> {
    let macs = [PORT, PEER, BRIDGE].map(Mac);
    let mut on = |addressees| {
        program.set_port(LOOPBACK, addressees, 0, 1)?;
        program.classify(frame)
    };
    let seen_bridged = on(Addressees::Bridged(macs))?;
    // Last, as all other rows want it.
    let seen_alone = on(Addressees::Own(Mac(PORT)))?;
    if (seen_alone, seen_bridged) == (*alone, *bridged) {
        Ok(())
    } else {
        Err(format!("alone {seen_alone:?}, bridged {seen_bridged:?}").into())
    }
}

//! Frames between other hosts: their class on a bridged port and on any other port.

use libtest_mimic::Failed;
use waxwing_dataplane::PortId;
use waxwing_packet::Mac;
use waxwing_xdp::Class::{self, Arp, Direct, Error, Fragment, Icmp, Ndp, Pass, Reply, Service};
use waxwing_xdp::{MacFilter, Program};

use crate::frames::{
    ALL, BACKEND, BACKEND6, CLIENT, CLIENT6, ICMP, ICMPV6, LATER, LOCAL, LOCAL6, OTHER, PORT,
    ROUTER, TCP, UDP, VIP, VIP6, arp, error, ethernet, ipv4, ipv6, ipv6_fragment, ports,
    solicitation,
};
use crate::{LOOPBACK, MTU, rows};

/// MAC of the bridge's other port.
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// MAC of the bridge itself.
const BRIDGE: [u8; 6] = [2, 0, 0, 0, 0, 3];
const STP: [u8; 6] = [1, 0x80, 0xc2, 0, 0, 0];

/// Name, frame, class on a port that is not bridged, class on a bridged port.
pub(crate) type Row = (&'static str, Vec<u8>, Class, Class);

pub(crate) fn bridged_frames() -> Vec<Row> {
    let tag = &[[0x81, 0, 0, 5]];
    let v4 = |to, packet: &[u8]| ethernet(to, &[], 0x0800, packet);
    let v6 = |to, packet: &[u8]| ethernet(to, &[], 0x86dd, packet);
    let arp = |to| ethernet(to, &[], 0x0806, &arp(1, VIP));
    let request = ipv4(CLIENT, VIP, TCP, 0, 0, &ports(9, 80));
    let request6 = ipv6(CLIENT6, VIP6, &[], TCP, &ports(9, 80));
    let reply = ipv4(BACKEND, CLIENT, TCP, 0, 0, &ports(8080, 9));
    let reply6 = ipv6(BACKEND6, CLIENT6, &[], TCP, &ports(8080, 9));
    let check_reply = ipv4(BACKEND, LOCAL, TCP, 0, 0, &ports(8080, 9));
    let check_reply6 = ipv6(BACKEND6, LOCAL6, &[], TCP, &ports(8080, 9));
    let ssh = ipv4(BACKEND, CLIENT, TCP, 0, 0, &ports(22, 9));
    let direct = ipv4(CLIENT, BACKEND, TCP, 0, 0, &ports(9, 8080));
    let later = ipv4(BACKEND, CLIENT, UDP, 0, 0x0010, &[0; 24]);
    let later6 = ipv6_fragment(BACKEND6, CLIENT6, LATER, TCP, &[0; 24]);
    let later_to_vip = ipv4(CLIENT, VIP, UDP, 0, 0x0010, &[0; 24]);
    let error = ipv4(ROUTER, CLIENT, ICMP, 0, 0, &error(3, &direct));
    let ping = ipv4(CLIENT, VIP, ICMP, 0, 0, &[8; 16]);
    let solicitation = ipv6(CLIENT6, VIP6, &[], ICMPV6, &solicitation(135, VIP6));
    rows! {
        "a request": v4(PORT, &request) => Service, Service;
        "a reply": v4(PORT, &reply) => Reply, Reply;
        "a reply to the router": v4(OTHER, &reply) => Pass, Reply;
        "a reply to the router over IPv6": v6(OTHER, &reply6) => Pass, Reply;
        "a tagged reply to the router": ethernet(OTHER, tag, 0x0800, &reply) => Pass, Reply;
        "a reply to the other port": v4(PEER, &reply) => Pass, Reply;
        "a broadcast reply": v4(ALL, &reply) => Pass, Pass;
        "a fragment to the router": v4(OTHER, &later) => Pass, Fragment;
        "a fragment to the router over IPv6": v6(OTHER, &later6) => Pass, Fragment;
        "an error to the router": v4(OTHER, &error) => Pass, Error;
        "a reply to a health check": v4(BRIDGE, &check_reply) => Pass, Pass;
        "a reply to a health check over IPv6": v6(BRIDGE, &check_reply6) => Pass, Pass;
        "a server's ssh": v4(OTHER, &ssh) => Pass, Pass;
        "a client to a backend directly": v4(OTHER, &direct) => Pass, Direct;
        "a request to the other port": v4(PEER, &request) => Pass, Service;
        "a request to the bridge": v6(BRIDGE, &request6) => Pass, Service;
        "a request to another owner of the VIP": v4(OTHER, &request) => Pass, Pass;
        "a fragment to another owner": v4(OTHER, &later_to_vip) => Pass, Pass;
        "ping to another owner": v4(OTHER, &ping) => Pass, Pass;
        "ping to the bridge": v4(BRIDGE, &ping) => Pass, Icmp;
        "unicast solicitation of another owner": v6(OTHER, &solicitation) => Pass, Pass;
        "unicast ARP request to another owner": arp(OTHER) => Pass, Pass;
        "broadcast ARP request": arp(ALL) => Arp, Arp;
        "a solicitation": v6(PORT, &solicitation) => Ndp, Ndp;
        "STP": ethernet(STP, &[], 0x0027, &[0; 46]) => Pass, Pass;
    }
}

/// Classifies a row's frame on both kinds of port.
pub(crate) fn on_each_port(
    program: &mut Program,
    (_, frame, expected_alone, expected_bridged): &Row,
) -> Result<(), Failed> {
    let macs = [PORT, PEER, BRIDGE].map(Mac);
    let mut classify = |filter| {
        program.set_port(PortId(0), (LOOPBACK, MTU), filter, 1)?;
        program.classify(frame)
    };
    let bridged = classify(MacFilter::Bridged(macs))?;
    // Last, because all other tests need this filter.
    let alone = classify(MacFilter::Own(Mac(PORT)))?;
    if (alone, bridged) == (*expected_alone, *expected_bridged) {
        Ok(())
    } else {
        Err(format!("not bridged {alone:?}, bridged {bridged:?}").into())
    }
}

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use rtnetlink::packet_core::Parseable;
use rtnetlink::packet_route::route::RouteMessageBuffer;

use super::super::test_message::attribute;
use super::*;

const MAIN: u8 = 254;
const UNICAST: u8 = 1;
const BLACKHOLE: u8 = 6;
const LOCAL: u8 = 2;

fn destination(octets: &[u8]) -> Vec<u8> {
    attribute(1, octets)
}

fn link(index: u32) -> Vec<u8> {
    attribute(4, &index.to_ne_bytes())
}

fn gateway(octets: &[u8]) -> Vec<u8> {
    attribute(5, octets)
}

fn metric(value: u32) -> Vec<u8> {
    attribute(6, &value.to_ne_bytes())
}

/// A member of `RTA_MULTIPATH` (`struct rtnexthop`).
fn member(flags: u8, weight: u8, index: u32, attributes: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + attributes.len()).unwrap();
    let head = [&len.to_ne_bytes()[..], &[flags, weight - 1]].concat();
    [&head, &index.to_ne_bytes()[..], attributes].concat()
}

/// `RTM_NEWROUTE` (`struct rtmsg` and attributes).
fn message(family: u8, len: u8, table: u8, kind: u8, attributes: &[Vec<u8>]) -> RouteMessage {
    let header = [family, len, 0, 0, table, 3, 0, kind, 0, 0, 0, 0];
    let bytes = [&header[..], &attributes.concat()].concat();
    RouteMessage::parse(&RouteMessageBuffer::new(&&bytes[..])).unwrap()
}

fn v4(len: u8, table: u8, kind: u8, attributes: &[Vec<u8>]) -> Option<RouteEntry> {
    entry(&message(2, len, table, kind, attributes))
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn hop(link: u32, via: Option<&str>, weight: u16) -> RouteHop {
    RouteHop {
        link,
        via: via.map(address),
        weight,
        plain: true,
    }
}

#[test]
fn routes_are_parsed_as_the_kernel_writes_them() {
    let default = v4(0, MAIN, UNICAST, &[gateway(&[10, 1, 0, 2]), link(3)]).unwrap();
    assert_eq!(default.prefix, Prefix::new(address("0.0.0.0"), 0));
    assert_eq!(default.hops, [hop(3, Some("10.1.0.2"), 1)]);

    let connected = v4(
        24,
        MAIN,
        UNICAST,
        &[destination(&[10, 2, 0, 0]), metric(100), link(4)],
    )
    .unwrap();
    assert_eq!(connected.prefix, Prefix::new(address("10.2.0.0"), 24));
    assert_eq!(
        (connected.metric, connected.hops),
        (100, vec![hop(4, None, 1)])
    );

    let v6: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
    let attributes = [gateway(&v6.octets()), link(3), metric(1024)];
    let default = entry(&message(10, 0, MAIN, UNICAST, &attributes)).unwrap();
    assert_eq!(default.prefix, Prefix::new(address("::"), 0));
    assert_eq!(default.hops, [hop(3, Some("fe80::1"), 1)]);

    // An IPv6 gateway of an IPv4 route (RFC 5549): `struct rtvia`.
    let via = [&10_u16.to_ne_bytes()[..], &v6.octets()].concat();
    let attributes = [attribute(18, &via), link(3)];
    assert_eq!(
        v4(0, MAIN, UNICAST, &attributes).unwrap().hops,
        [hop(3, Some("fe80::1"), 1)]
    );
}

#[test]
fn dead_next_hops_of_a_multipath_route_are_left_out() {
    let several = [
        member(0, 1, 3, &gateway(&[10, 1, 0, 2])),
        member(1, 1, 4, &gateway(&[10, 3, 0, 2])),
        member(0, 4, 5, &gateway(&[10, 4, 0, 2])),
    ];
    let attributes = [attribute(9, &several.concat())];
    let entry = v4(0, MAIN, UNICAST, &attributes).unwrap();
    let expected = [hop(3, Some("10.1.0.2"), 1), hop(5, Some("10.4.0.2"), 4)];
    assert_eq!(entry.hops, expected);
}

#[test]
fn a_route_names_a_nexthop_object_if_the_kernel_does_not_expand_it() {
    let id = attribute(RTA_NH_ID, &7_u32.to_ne_bytes());
    let entry = |attributes: &[Vec<u8>]| v4(0, MAIN, UNICAST, attributes).unwrap();
    assert_eq!(entry(std::slice::from_ref(&id)).nexthop, Some(7));
    let expanded = entry(&[id.clone(), gateway(&[10, 1, 0, 2]), link(3)]);
    assert_eq!((expanded.nexthop, expanded.hops.len()), (None, 1));
    assert_eq!(v4(24, MAIN, BLACKHOLE, &[id]).unwrap().nexthop, None);
}

#[test]
fn a_blackhole_route_has_no_next_hop() {
    let entry = v4(24, MAIN, BLACKHOLE, &[destination(&[10, 9, 9, 0])]).unwrap();
    assert_eq!(entry.hops, []);
}

#[test]
fn an_encapsulating_route_is_not_plain() {
    // RTA_ENCAP_TYPE: MPLS.
    let attributes = [link(3), attribute(21, &1_u16.to_ne_bytes())];
    assert!(!v4(0, MAIN, UNICAST, &attributes).unwrap().hops[0].plain);
}

#[test]
fn other_tables_and_local_routes_are_ignored() {
    let own = [destination(&[10, 1, 0, 1]), link(3)];
    assert_eq!(v4(32, 255, LOCAL, &own), None, "the host's own address");
    assert_eq!(
        v4(32, MAIN, LOCAL, &own),
        None,
        "the same in the main table"
    );
    assert_eq!(v4(32, 100, UNICAST, &own), None, "a policy routing table");
    // A table id above 255 is in an attribute only; the header says RT_TABLE_COMPAT (252).
    let named = [link(3), attribute(15, &1000_u32.to_ne_bytes())];
    assert_eq!(v4(0, 252, UNICAST, &named), None);
}

#[test]
fn the_route_with_the_lowest_metric_wins() {
    let attributes = |m, n| [gateway(&[10, 1, 0, n]), link(3), metric(m)];
    let entries = [(100, 1), (50, 2), (200, 3)]
        .map(|(m, n)| v4(0, MAIN, UNICAST, &attributes(m, n)).unwrap());
    let best = best(entries);
    let hops: Vec<_> = best.into_values().flatten().collect();
    assert_eq!(hops, [hop(3, Some("10.1.0.2"), 1)]);
}

#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use rtnetlink::packet_core::Parseable;
use rtnetlink::packet_route::route::RouteMessageBuffer;

use super::*;

const MAIN: u8 = 254;
const UNICAST: u8 = 1;
const BLACKHOLE: u8 = 6;
const LOCAL: u8 = 2;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [&len.to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

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
fn message(family: u8, len: u8, table: u8, kind: u8, parts: &[Vec<u8>]) -> RouteMessage {
    let header = [family, len, 0, 0, table, 3, 0, kind, 0, 0, 0, 0];
    let bytes = [&header[..], &parts.concat()].concat();
    RouteMessage::parse(&RouteMessageBuffer::new(&&bytes[..])).unwrap()
}

fn v4(len: u8, table: u8, kind: u8, parts: &[Vec<u8>]) -> Option<Entry> {
    entry(&message(2, len, table, kind, parts))
}

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

fn hop(link: u32, via: Option<&str>, weight: u16) -> Hop {
    Hop {
        link,
        via: via.map(address),
        weight,
        plain: true,
    }
}

#[test]
fn routes_are_read_as_the_kernel_writes_them() {
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
    let parts = [gateway(&v6.octets()), link(3), metric(1024)];
    let default = entry(&message(10, 0, MAIN, UNICAST, &parts)).unwrap();
    assert_eq!(default.prefix, Prefix::new(address("::"), 0));
    assert_eq!(default.hops, [hop(3, Some("fe80::1"), 1)]);

    // An IPv6 gateway of an IPv4 route (RFC 5549): `struct rtvia`.
    let via = [&10_u16.to_ne_bytes()[..], &v6.octets()].concat();
    let parts = [attribute(18, &via), link(3)];
    assert_eq!(
        v4(0, MAIN, UNICAST, &parts).unwrap().hops,
        [hop(3, Some("fe80::1"), 1)]
    );
}

#[test]
fn of_several_ways_those_that_are_dead_are_left_out() {
    let several = [
        member(0, 1, 3, &gateway(&[10, 1, 0, 2])),
        member(1, 1, 4, &gateway(&[10, 3, 0, 2])),
        member(0, 4, 5, &gateway(&[10, 4, 0, 2])),
    ];
    let parts = [attribute(9, &several.concat())];
    let entry = v4(0, MAIN, UNICAST, &parts).unwrap();
    let expected = [hop(3, Some("10.1.0.2"), 1), hop(5, Some("10.4.0.2"), 4)];
    assert_eq!(entry.hops, expected);
}

#[test]
fn a_route_that_refuses_leads_nowhere() {
    let entry = v4(24, MAIN, BLACKHOLE, &[destination(&[10, 9, 9, 0])]).unwrap();
    assert_eq!(entry.hops, []);
}

#[test]
fn a_route_that_encapsulates_is_not_plain() {
    // RTA_ENCAP_TYPE: MPLS.
    let parts = [link(3), attribute(21, &1_u16.to_ne_bytes())];
    assert!(!v4(0, MAIN, UNICAST, &parts).unwrap().hops[0].plain);
}

#[test]
fn other_tables_and_what_is_not_forwarded_do_not_count() {
    let own = [destination(&[10, 1, 0, 1]), link(3)];
    assert_eq!(v4(32, 255, LOCAL, &own), None, "the host's own address");
    assert_eq!(
        v4(32, MAIN, LOCAL, &own),
        None,
        "the same in the main table"
    );
    assert_eq!(v4(32, 100, UNICAST, &own), None, "a policy's table");
    // A table above 255 is named by an attribute alone; the header says 252.
    let named = [link(3), attribute(15, &1000_u32.to_ne_bytes())];
    assert_eq!(v4(0, 252, UNICAST, &named), None);
}

#[test]
fn the_lowest_metric_counts() {
    let parts = |m, n| [gateway(&[10, 1, 0, n]), link(3), metric(m)];
    let entries =
        [(100, 1), (50, 2), (200, 3)].map(|(m, n)| v4(0, MAIN, UNICAST, &parts(m, n)).unwrap());
    let best = best(entries);
    let hops: Vec<_> = best.into_values().flatten().collect();
    assert_eq!(hops, [hop(3, Some("10.1.0.2"), 1)]);
}

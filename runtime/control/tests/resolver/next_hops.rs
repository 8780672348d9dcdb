//! Next hops of backends.

use std::time::Instant;

use waxwing_dataplane::{BackendId, PortId};

use crate::bed::{SERVER_MAC, ip, parse, sysctl};
use crate::setup::{BACKEND, Bed, OTHER_MAC, PATIENCE, PORT};

pub(crate) fn behind_gateway() {
    let bed = Bed::new();
    ip(&format!(
        "-n {} route add 192.0.2.0/24 via 10.77.0.2",
        bed.namespaces.balancer
    ));
    bed.track("192.0.2.9");
    bed.expect("192.0.2.9", "resolved", Some(SERVER_MAC));
    assert_eq!(
        bed.resolver.states()[&parse("192.0.2.9")].via,
        Some(parse("10.77.0.2"))
    );
    // The next hop goes with the route.
    ip(&format!(
        "-n {} route del 192.0.2.0/24",
        bed.namespaces.balancer
    ));
    bed.expect("192.0.2.9", "this host has no route", None);
    // An IPv6 gateway for an IPv4 network (RFC 5549).
    ip(&format!(
        "-n {} route add 192.0.2.0/24 via inet6 fd77::2",
        bed.namespaces.balancer
    ));
    bed.expect("192.0.2.9", "resolved", Some(SERVER_MAC));
    assert_eq!(
        bed.resolver.states()[&parse("192.0.2.9")].via,
        Some(parse("fd77::2"))
    );
}

pub(crate) fn changed_mac() {
    let bed = Bed::new();
    // The change is not announced: the kernel notices it when it verifies the entry.
    bed.resolves("10.77.0.2");
    bed.set_server_mac(OTHER_MAC);
    bed.expect("10.77.0.2", "resolved", Some(OTHER_MAC));
}

pub(crate) fn announced_mac() {
    let bed = Bed::new();
    sysctl(&bed.namespaces.server, "net.ipv4.conf.s1.arp_notify=1");
    sysctl(
        &bed.namespaces.balancer,
        "net.ipv4.neigh.p1.base_reachable_time_ms=3600000",
    );
    bed.resolves("10.77.0.2");
    bed.set_server_mac(OTHER_MAC);
    bed.expect("10.77.0.2", "resolved", Some(OTHER_MAC));
}

pub(crate) fn gone_and_back() {
    let bed = Bed::new();
    bed.resolves("10.77.0.2");
    ip(&format!(
        "-n {} addr del 10.77.0.2/24 dev s1",
        bed.namespaces.server
    ));
    bed.expect("10.77.0.2", "10.77.0.2 does not answer on p1", None);
    ip(&format!(
        "-n {} addr add 10.77.0.2/24 dev s1",
        bed.namespaces.server
    ));
    bed.expect("10.77.0.2", "resolved", Some(SERVER_MAC));
}

pub(crate) fn neighbour_flush() {
    let bed = Bed::new();
    bed.resolves("10.77.0.2");
    for _ in 0..5 {
        ip(&format!(
            "-n {} neigh flush dev p1",
            bed.namespaces.balancer
        ));
        for _ in 0..10 {
            bed.wait(5);
            assert!(
                bed.hops.get(BACKEND).is_some(),
                "the next hop was cleared for a moment"
            );
        }
    }
    bed.expect("10.77.0.2", "resolved", Some(SERVER_MAC));
}

pub(crate) fn link_down() {
    let bed = Bed::new();
    bed.resolves("10.77.0.2");
    ip(&format!("-n {} link set s1 down", bed.namespaces.server));
    bed.expect("10.77.0.2", "p1 is down", None);
    ip(&format!("-n {} link set s1 up", bed.namespaces.server));
    bed.expect("10.77.0.2", "resolved", Some(SERVER_MAC));
}

pub(crate) fn unreachable() {
    let bed = Bed::new();
    bed.track("198.51.100.1");
    bed.expect("198.51.100.1", "this host has no route to it", None);
    bed.track("10.77.0.1");
    bed.expect("10.77.0.1", "it is an address of this host", None);
    ip(&format!(
        "-n {} link add p2 type veth peer name q2",
        bed.namespaces.balancer
    ));
    ip(&format!(
        "-n {} addr add 10.78.0.1/24 dev p2",
        bed.namespaces.balancer
    ));
    ip(&format!("-n {} link set p2 up", bed.namespaces.balancer));
    bed.track("10.78.0.2");
    bed.expect(
        "10.78.0.2",
        "the route leaves through p2, which is not a [[port]]",
        None,
    );
    // Several backends, one of them reachable; and the host's addresses, which steering rules need.
    let backends = [
        (BACKEND, parse("10.77.0.2")),
        (BackendId(4), parse("198.51.100.1")),
    ];
    bed.resolver.track(backends.to_vec());
    bed.expect("10.77.0.2", "resolved", Some(SERVER_MAC));
    assert_eq!(bed.hops.get(BackendId(4)), None);
    let locals = bed.resolver.host().borrow().locals();
    assert!(locals.contains(&parse("10.78.0.1")) && locals.contains(&parse("fd77::1")));
}

pub(crate) fn untracked() {
    let bed = Bed::new();
    bed.resolves("10.77.0.2");
    bed.resolver.track(Vec::new());
    let settled = Instant::now() + PATIENCE;
    while bed.hops.get(BACKEND).is_some() {
        assert!(Instant::now() < settled, "the next hop stayed");
        bed.wait(20);
    }
}

/// The port joins a bridge while the resolver runs.
pub(crate) fn behind_bridge() {
    let bed = Bed::new();
    bed.resolves("10.77.0.2");
    let balancer = &bed.namespaces.balancer;
    for change in [
        "link add br0 type bridge forward_delay 0",
        "link set br0 up",
        "addr flush dev p1",
        "link set p1 master br0",
        "addr add 10.77.0.1/24 dev br0",
    ] {
        ip(&format!("-n {balancer} {change}"));
    }
    bed.expect("10.77.0.2", "resolved", Some(SERVER_MAC));
    // A station that the bridge forgets stays known.
    ip(&format!("-n {balancer} link set br0 type bridge fdb_flush"));
    for _ in 0..10 {
        bed.wait(5);
        let hop = bed.hops.get(BACKEND);
        assert!(hop.is_some_and(|hop| hop.port == PORT), "{hop:?}");
    }
    // A station that the bridge never saw is on the opposite port.
    ip(&format!(
        "-n {balancer} neigh replace 10.77.0.9 lladdr {OTHER_MAC} dev br0 nud permanent"
    ));
    bed.track("10.77.0.9");
    bed.expect_at(PortId::ACROSS, "10.77.0.9", "resolved", Some(OTHER_MAC));
    let learned = format!("-n {balancer} fdb add {OTHER_MAC} dev p1 master static");
    let bridge = std::process::Command::new("bridge")
        .args(learned.split(' '))
        .status()
        .unwrap();
    assert!(bridge.success(), "bridge {learned}");
    bed.expect("10.77.0.9", "resolved", Some(OTHER_MAC));
    // The bridge stays up while one of its ports is up, but stations behind the other are unreachable.
    ip(&format!("-n {balancer} link add d1 type veth peer name d2"));
    ip(&format!("-n {balancer} link set d2 up"));
    ip(&format!("-n {balancer} link set d1 master br0 up"));
    ip(&format!("-n {balancer} link set p1 down"));
    bed.expect("10.77.0.9", "p1 is down", None);
    ip(&format!("-n {balancer} link set p1 up"));
    bed.expect("10.77.0.9", "resolved", Some(OTHER_MAC));
}

//! The return path: gateways and routes to clients.

use std::time::Instant;

use waxwing_control::network::port::MovedNeighbour;
use waxwing_control::network::return_routes::{ReturnPlan, ReturnState};
use waxwing_packet::{Mac, VlanTags};

use crate::bed::{SERVER_MAC, ip, parse};
use crate::setup::{Bed, OTHER_MAC, PATIENCE, PORT};

/// Last-hop mode: gateways are resolved in it too.
const LAST_HOP: ReturnPlan = ReturnPlan {
    by_routes: false,
    routes_max: 100,
};

impl Bed {
    /// Waits until the return path is in this state.
    fn expect_return_state(&self, what: &str, holds: impl Fn(&ReturnState) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.resolver.return_state()) {
            let known = self.resolver.return_state();
            assert!(Instant::now() < deadline, "waited for {what}: {known:?}");
            self.wait(20);
        }
    }

    fn ip(&self, line: &str) {
        ip(&format!("-n {} {line}", self.namespaces.balancer));
    }
}

/// Returns whether the gateways are exactly these, each with its MAC.
fn are_gateways(known: &ReturnState, expected: &[(&str, Mac)]) -> bool {
    let mut gateways: Vec<_> = known
        .gateways
        .iter()
        .map(|(address, state)| (*address, state.mac))
        .collect();
    gateways.sort_unstable_by_key(|(address, _)| *address);
    let mut expected: Vec<_> = expected
        .iter()
        .map(|(address, mac)| (parse(address), Some(*mac)))
        .collect();
    expected.sort_unstable_by_key(|(address, _)| *address);
    gateways == expected
}

pub(crate) fn gateway_moves() {
    let bed = Bed::new();
    bed.ip("route add 192.0.2.0/24 via 10.77.0.2");
    bed.ip("route add 2001:db8::/32 via fd77::2");
    bed.resolver.set_return_plan(LAST_HOP);
    let gateways = |mac| [("10.77.0.2", mac), ("fd77::2", mac)];
    bed.expect_return_state("the gateways", |known| {
        !known.by_routes && are_gateways(known, &gateways(SERVER_MAC))
    });
    assert!(bed.moves.lock().unwrap().is_empty());
    bed.set_server_mac(OTHER_MAC);
    bed.expect_return_state("the new MAC", |known| {
        are_gateways(known, &gateways(OTHER_MAC))
    });
    let moved = MovedNeighbour {
        client: None,
        wire: PORT,
        tags: VlanTags::NONE,
        from: SERVER_MAC,
        to: OTHER_MAC,
    };
    assert_eq!(*bed.moves.lock().unwrap(), [moved, moved]);
    // Gone until the kernel gives up, then back with another MAC.
    ip(&format!(
        "-n {} addr del 10.77.0.2/24 dev s1",
        bed.namespaces.server
    ));
    bed.expect_return_state("an unresolved gateway", |known| {
        known.gateways.iter().any(|(_, state)| state.mac.is_none())
    });
    bed.set_server_mac(SERVER_MAC);
    ip(&format!(
        "-n {} addr add 10.77.0.2/24 dev s1",
        bed.namespaces.server
    ));
    bed.expect_return_state("the old MAC", |known| {
        are_gateways(known, &gateways(SERVER_MAC))
    });
    assert_eq!(bed.moves.lock().unwrap().len(), 4);
}

pub(crate) fn routes() {
    let bed = Bed::new();
    let by_routes = ReturnPlan {
        by_routes: true,
        ..LAST_HOP
    };
    bed.resolver.set_return_plan(by_routes);
    bed.expect_return_state("the connected networks", |known| {
        known.by_routes && known.routes >= 2 && known.gateways.is_empty()
    });
    let connected = bed.resolver.return_state().routes;
    bed.ip("route add default via 10.77.0.2");
    bed.expect_return_state("the gateway", |known| {
        known.routes == connected + 1 && are_gateways(known, &[("10.77.0.2", SERVER_MAC)])
    });
    bed.ip("route add 203.0.113.0/24 nexthop via 10.77.0.2 weight 2 nexthop via 10.77.0.3");
    bed.expect_return_state("a second gateway that does not answer", |known| {
        let unresolved = known.gateways.iter().filter(|(_, hop)| hop.mac.is_none());
        known.gateways.len() == 2 && unresolved.count() == 1
    });
    bed.ip("route del 203.0.113.0/24");
    bed.ip("route del default");
    bed.expect_return_state("both routes to be gone", |known| {
        known.routes == connected && known.gateways.is_empty()
    });
    // The kernel does not report each route that goes with a link.
    bed.ip("route add default via 10.77.0.2");
    bed.ip("link set p1 down");
    bed.expect_return_state("the IPv4 routes to be gone", |known| {
        known.gateways.is_empty()
    });
    bed.resolver.set_return_plan(LAST_HOP);
    bed.expect_return_state("the last hop", |known| !known.by_routes);
}

pub(crate) fn unfollowed_routes() {
    let bed = Bed::new();
    bed.resolver.set_return_plan(ReturnPlan {
        by_routes: true,
        routes_max: 1,
    });
    bed.expect_return_state("too many routes", |known| {
        let problem = known.problem.as_ref();
        !known.by_routes && problem.is_some_and(|text| text.contains("routes_max = 1"))
    });
    // In last-hop mode that is not a problem.
    bed.resolver.set_return_plan(ReturnPlan {
        by_routes: false,
        routes_max: 1,
    });
    bed.expect_return_state("no problem", |known| known.problem.is_none());
    bed.resolver.set_return_plan(ReturnPlan {
        by_routes: true,
        routes_max: 100,
    });
    bed.expect_return_state("a high enough limit", |known| {
        known.by_routes && known.problem.is_none()
    });
    bed.ip("rule add from 10.9.0.0/16 table 100");
    bed.expect_return_state("the rule", |known| {
        let problem = known.problem.as_ref();
        known.by_routes && problem.is_some_and(|text| text.contains("ip rule"))
    });
    bed.ip("rule del from 10.9.0.0/16 table 100");
    bed.expect_return_state("no rule", |known| known.problem.is_none());
}

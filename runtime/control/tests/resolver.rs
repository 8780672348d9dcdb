//! The resolver against a real kernel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bed;

use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bed::{Namespaces, SERVER_MAC, ip, parse, sysctl};
use waxwing_control::network::kernel::Kernel;
use waxwing_control::network::port::{MovedNeighbour, PortLink};
use waxwing_control::network::resolver::Resolver;
use waxwing_control::network::return_routes::{ReturnPlan, ReturnState};
use waxwing_dataplane::snapshot::NextHops;
use waxwing_dataplane::{BackendId, NextHop, PortId};
use waxwing_packet::{Mac, VlanTags};

const BACKEND: BackendId = BackendId(3);
const PORT: PortId = PortId(1);
const OTHER_MAC: Mac = Mac([2, 0, 0, 0, 0, 0x12]);
/// Long enough for the kernel to give a neighbour up with the short timers set below.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let tests: &[(&str, fn())] = &[
        ("an IPv4 neighbour is resolved", || {
            Bed::new().resolves("10.77.0.2");
        }),
        ("an IPv6 neighbour is resolved", || {
            Bed::new().resolves("fd77::2");
        }),
        (
            "a backend behind a gateway gets the gateway's MAC",
            behind_gateway,
        ),
        (
            "a changed MAC is noticed without a packet from the server",
            changed_mac,
        ),
        ("an announced MAC is taken up at once", announced_mac),
        (
            "a server that is gone clears the next hop, and its return sets it",
            gone_and_back,
        ),
        (
            "flushing the neighbour table does not clear the next hop",
            flush,
        ),
        ("a link that goes down clears the next hop", link_down),
        (
            "a backend without a route, or through no port, says so",
            no_way,
        ),
        (
            "a backend that is no longer tracked has no next hop",
            untracked,
        ),
        (
            "behind a bridge a backend is at the port that its MAC was seen at",
            bridged,
        ),
        (
            "a gateway of a route is kept known, and told of when it moves",
            gateway_moves,
        ),
        ("routes come and go with the kernel's", routes),
        (
            "more routes than may be are not followed, and neither are rules",
            routes_that_are_not_followed,
        ),
    ];
    bed::run(libtest_mimic::Arguments::from_args(), tests, false)
}

/// The namespaces and the resolver that runs in one of them.
struct Bed {
    namespaces: Namespaces,
    runtime: tokio::runtime::Runtime,
    resolver: Resolver,
    hops: Arc<NextHops>,
    moves: Arc<Mutex<Vec<MovedNeighbour>>>,
}

impl Bed {
    fn new() -> Self {
        let namespaces = Namespaces::enter();
        // Timers that let a test see the kernel give up: seconds become tenths of seconds.
        for family in ["ipv4", "ipv6"] {
            for setting in [
                "base_reachable_time_ms=1000",
                "retrans_time_ms=100",
                "delay_first_probe_time=1",
            ] {
                sysctl(
                    &namespaces.balancer,
                    &format!("net.{family}.neigh.p1.{setting}"),
                );
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let hops = Arc::new(NextHops::new(64));
        let moves = Arc::new(Mutex::default());
        let resolver = runtime.block_on(start(Arc::clone(&hops), Arc::clone(&moves)));
        Self {
            moves,
            namespaces,
            runtime,
            resolver,
            hops,
        }
    }

    fn track(&self, address: &str) {
        self.resolver.track(vec![(BACKEND, parse(address))]);
    }

    fn resolves(&self, address: &str) {
        self.track(address);
        self.expect(address, "resolved", Some(SERVER_MAC));
        let state = &self.resolver.states()[&parse(address)];
        assert_eq!(state.via, Some(parse(address)));
    }

    /// Waits until the backend has this next hop, and its state a text that begins so.
    fn expect(&self, address: &str, text: &str, mac: Option<Mac>) {
        self.expect_at(PORT, address, text, mac);
    }

    fn expect_at(&self, port: PortId, address: &str, text: &str, mac: Option<Mac>) {
        let hop = mac.map(|mac| NextHop { port, mac });
        let deadline = Instant::now() + PATIENCE;
        let is_so = || {
            let states = self.resolver.states();
            let said = states
                .get(&parse(address))
                .map(|state| state.condition.to_string());
            let good = self.hops.get(BACKEND) == hop
                && said.as_ref().is_some_and(|said| said.starts_with(text));
            (good, said)
        };
        while !is_so().0 {
            assert!(
                Instant::now() < deadline,
                "waited for {hop:?} and \"{text}\", got {:?} and {:?}",
                self.hops.get(BACKEND),
                is_so().1
            );
            self.wait(20);
        }
    }

    /// Lets the resolver work for a while.
    fn wait(&self, millis: u64) {
        self.runtime
            .block_on(async { tokio::time::sleep(Duration::from_millis(millis)).await });
    }

    fn set_server_mac(&self, mac: Mac) {
        ip(&format!(
            "-n {} link set s1 address {}",
            self.namespaces.server, mac
        ));
    }
}

async fn start(hops: Arc<NextHops>, moves: Arc<Mutex<Vec<MovedNeighbour>>>) -> Resolver {
    let links = Kernel::connect().unwrap().links().await.unwrap();
    let link = links.iter().find(|link| link.name == "p1").unwrap();
    let port = PortLink {
        id: PORT,
        name: "p1".into(),
        link: link.index,
    };
    let on_move = move |moved| moves.lock().unwrap().push(moved);
    Resolver::start(vec![port], hops, on_move).await.unwrap()
}

fn behind_gateway() {
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
    // The route moves, and the next hop with it.
    ip(&format!(
        "-n {} route del 192.0.2.0/24",
        bed.namespaces.balancer
    ));
    bed.expect("192.0.2.9", "no route", None);
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

fn changed_mac() {
    let bed = Bed::new();
    // Nothing announces the change: the kernel finds out when it is made to check the entry.
    bed.resolves("10.77.0.2");
    bed.set_server_mac(OTHER_MAC);
    bed.expect("10.77.0.2", "resolved", Some(OTHER_MAC));
}

fn announced_mac() {
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

fn gone_and_back() {
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

fn flush() {
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

fn link_down() {
    let bed = Bed::new();
    bed.resolves("10.77.0.2");
    ip(&format!("-n {} link set s1 down", bed.namespaces.server));
    bed.expect("10.77.0.2", "p1 is down", None);
    ip(&format!("-n {} link set s1 up", bed.namespaces.server));
    bed.expect("10.77.0.2", "resolved", Some(SERVER_MAC));
}

fn no_way() {
    let bed = Bed::new();
    bed.track("198.51.100.1");
    bed.expect(
        "198.51.100.1",
        "no route: in no network that this host reaches",
        None,
    );
    bed.track("10.77.0.1");
    bed.expect("10.77.0.1", "the address is this host's own", None);
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
        "route leaves through p2, which is not a [[port]]",
        None,
    );
    // Several at once, one of them good; and the host's own addresses as the rules need them.
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

/// The mode with the last hop: its gateways are known all the same.
const LAST_HOP: ReturnPlan = ReturnPlan {
    by_routes: false,
    routes_max: 100,
};

impl Bed {
    /// Waits until what is known of the ways back is as it should be.
    fn expect_returns(&self, what: &str, is_so: impl Fn(&ReturnState) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(&self.resolver.returns()) {
            let known = self.resolver.returns();
            assert!(Instant::now() < deadline, "waited for {what}: {known:?}");
            self.wait(20);
        }
    }

    fn ip(&self, line: &str) {
        ip(&format!("-n {} {line}", self.namespaces.balancer));
    }
}

/// Whether the gateways are these, each with this MAC.
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

fn gateway_moves() {
    let bed = Bed::new();
    bed.ip("route add 192.0.2.0/24 via 10.77.0.2");
    bed.ip("route add 2001:db8::/32 via fd77::2");
    bed.resolver.follow(LAST_HOP);
    let gateways = |mac| [("10.77.0.2", mac), ("fd77::2", mac)];
    bed.expect_returns("the gateways", |known| {
        !known.by_routes && are_gateways(known, &gateways(SERVER_MAC))
    });
    assert!(bed.moves.lock().unwrap().is_empty());
    bed.set_server_mac(OTHER_MAC);
    bed.expect_returns("the new MAC", |known| {
        are_gateways(known, &gateways(OTHER_MAC))
    });
    let moved = MovedNeighbour {
        wire: PORT,
        tags: VlanTags::NONE,
        from: SERVER_MAC,
        to: OTHER_MAC,
    };
    assert_eq!(*bed.moves.lock().unwrap(), [moved, moved]);
    // Gone for long enough to be given up, and back with another MAC.
    ip(&format!(
        "-n {} addr del 10.77.0.2/24 dev s1",
        bed.namespaces.server
    ));
    bed.expect_returns("one to be missed", |known| {
        known.gateways.iter().any(|(_, state)| state.mac.is_none())
    });
    bed.set_server_mac(SERVER_MAC);
    ip(&format!(
        "-n {} addr add 10.77.0.2/24 dev s1",
        bed.namespaces.server
    ));
    bed.expect_returns("the old MAC", |known| {
        are_gateways(known, &gateways(SERVER_MAC))
    });
    assert_eq!(bed.moves.lock().unwrap().len(), 4);
}

fn routes() {
    let bed = Bed::new();
    let by_routes = ReturnPlan {
        by_routes: true,
        ..LAST_HOP
    };
    bed.resolver.follow(by_routes);
    bed.expect_returns("the connected networks", |known| {
        known.by_routes && known.routes >= 2 && known.gateways.is_empty()
    });
    let connected = bed.resolver.returns().routes;
    bed.ip("route add default via 10.77.0.2");
    bed.expect_returns("the gateway", |known| {
        known.routes == connected + 1 && are_gateways(known, &[("10.77.0.2", SERVER_MAC)])
    });
    bed.ip("route add 203.0.113.0/24 nexthop via 10.77.0.2 weight 2 nexthop via 10.77.0.3");
    bed.expect_returns("a second gateway, which nobody is", |known| {
        let unresolved = known.gateways.iter().filter(|(_, hop)| hop.mac.is_none());
        known.gateways.len() == 2 && unresolved.count() == 1
    });
    bed.ip("route del 203.0.113.0/24");
    bed.ip("route del default");
    bed.expect_returns("it to go", |known| {
        known.routes == connected && known.gateways.is_empty()
    });
    // What goes with a link is not told of by the kernel route by route.
    bed.ip("route add default via 10.77.0.2");
    bed.ip("link set p1 down");
    bed.expect_returns("the IPv4 routes to go", |known| known.gateways.is_empty());
    bed.resolver.follow(LAST_HOP);
    bed.expect_returns("the last hop", |known| !known.by_routes);
}

fn routes_that_are_not_followed() {
    let bed = Bed::new();
    bed.resolver.follow(ReturnPlan {
        by_routes: true,
        routes_max: 1,
    });
    bed.expect_returns("too many routes", |known| {
        let problem = known.problem.as_ref();
        !known.by_routes && problem.is_some_and(|text| text.contains("routes_max = 1"))
    });
    // Where replies go to the last hop anyway that is no problem.
    bed.resolver.follow(ReturnPlan {
        by_routes: false,
        routes_max: 1,
    });
    bed.expect_returns("no problem", |known| known.problem.is_none());
    bed.resolver.follow(ReturnPlan {
        by_routes: true,
        routes_max: 100,
    });
    bed.expect_returns("room for them", |known| {
        known.by_routes && known.problem.is_none()
    });
    bed.ip("rule add from 10.9.0.0/16 table 100");
    bed.expect_returns("the rule", |known| {
        let problem = known.problem.as_ref();
        known.by_routes && problem.is_some_and(|text| text.contains("ip rule"))
    });
    bed.ip("rule del from 10.9.0.0/16 table 100");
    bed.expect_returns("no rule", |known| known.problem.is_none());
}

fn untracked() {
    let bed = Bed::new();
    bed.resolves("10.77.0.2");
    bed.resolver.track(Vec::new());
    let settled = Instant::now() + PATIENCE;
    while bed.hops.get(BACKEND).is_some() {
        assert!(Instant::now() < settled, "the next hop stayed");
        bed.wait(20);
    }
}

/// The port becomes a bridge's while the resolver runs; then it is as if it had always been.
fn bridged() {
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
    // What the bridge forgets, while it hears nothing from the server, stays known.
    ip(&format!("-n {balancer} link set br0 type bridge fdb_flush"));
    for _ in 0..10 {
        bed.wait(5);
        let hop = bed.hops.get(BACKEND);
        assert!(hop.is_some_and(|hop| hop.port == PORT), "{hop:?}");
    }
    // A station that it never saw is across of whoever asks for it.
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
    // The bridge itself is up as long as one of its ports is; but not for whom is behind another.
    ip(&format!("-n {balancer} link add d1 type veth peer name d2"));
    ip(&format!("-n {balancer} link set d2 up"));
    ip(&format!("-n {balancer} link set d1 master br0 up"));
    ip(&format!("-n {balancer} link set p1 down"));
    bed.expect("10.77.0.9", "p1 is down", None);
    ip(&format!("-n {balancer} link set p1 up"));
    bed.expect("10.77.0.9", "resolved", Some(OTHER_MAC));
}

//! The four hops of a request and its reply (figure 2.3 of the textbook), in both topologies: the balancer
//! as the servers' gateway, and as a bridge in front of their gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use waxwing_packet::{Mac, Packet, parse};
use waxwing_tests::topology::{CLIENT4, CLIENT6, VIP4, VIP6, VipRoute, server4, server6};
use waxwing_tests::{
    Capture, Config, Detour, Inline, Layout, Namespace, Topology, Waxwing, actors,
};

use crate::traffic::{web, who_answers};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(each_hop_is_as_documented_in_routed_mode, "nginx", "curl"),
    scenario!(
        each_hop_is_as_documented_in_transparent_mode,
        "nginx",
        "curl"
    ),
];

/// After this time without a frame, a capture is complete.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// Returns a topology in which the client reaches the VIPs through a router, which tests replace.
pub(crate) fn network(servers: u8, queues: u32) -> Result<Topology> {
    Topology::new(Layout {
        servers,
        queues,
        vips: VipRoute::Gateway,
        ..Layout::default()
    })
}

/// Returns the config of the web service in transparent mode.
pub(crate) fn transparent(topology: &Topology) -> Config {
    let mut config = web(topology);
    config.mode = Some("transparent");
    config
}

/// Names of MAC addresses for test messages.
struct Names(BTreeMap<[u8; 6], String>);

impl Names {
    fn new(topology: &Topology, router: (&Namespace, &str)) -> Result<Self> {
        let mut names = BTreeMap::new();
        names.insert(router.0.mac(router.1)?, "router".to_owned());
        for port in ["front", "back"] {
            names.insert(topology.balancer.mac(port)?, format!("balancer {port}"));
        }
        for (number, server) in (1..).zip(&topology.servers) {
            names.insert(server.mac("eth0")?, format!("server {number}"));
        }
        Ok(Self(names))
    }

    fn of(&self, Mac(mac): Mac) -> String {
        let unknown = || format!("{mac:02x?}");
        self.0.get(&mac).cloned().unwrap_or_else(unknown)
    }
}

/// MAC addresses, by name, and hop limits of the packets between two addresses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    macs: BTreeSet<(String, String)>,
    hop_limits: BTreeSet<u8>,
}

fn seen(frames: &[Vec<u8>], (source, destination): (IpAddr, IpAddr), names: &Names) -> Seen {
    let mut seen = Seen::default();
    for frame in frames {
        let Ok(Packet::Ip(packet)) = parse(frame) else {
            continue;
        };
        if (packet.source, packet.destination) == (source.into(), destination.into()) {
            let link = packet.ethernet;
            let macs = (names.of(link.source), names.of(link.destination));
            seen.macs.insert(macs);
            seen.hop_limits.insert(packet.hop_limit);
        }
    }
    seen
}

/// A row of the figure's table: addresses, and the expected packets between them.
type Step = ((IpAddr, IpAddr), Seen);

/// Returns the table: frames on the router's link (steps 1 and 4) and on a server's link (steps 2 and 3). In
/// transparent mode step 4 has the MAC addresses of both servers.
fn figure(
    is_transparent: bool,
    [client, vip]: [IpAddr; 2],
    (number, server): (u8, IpAddr),
) -> [Step; 4] {
    let row = |source, destination, macs: &[(&str, &str)], hop_limit| {
        let named = |(from, to): &(&str, &str)| ((*from).to_owned(), (*to).to_owned());
        let seen = Seen {
            macs: macs.iter().map(named).collect(),
            hop_limits: [hop_limit].into(),
        };
        ((source, destination), seen)
    };
    let own = &*format!("server {number}");
    // Linux sends with 64. Two routers are between client and balancer in routed mode, one in transparent
    // mode; a bridge does not count.
    if is_transparent {
        let both = [("server 1", "router"), ("server 2", "router")];
        [
            row(client, vip, &[("router", "balancer front")], 63),
            row(client, server, &[("balancer back", own)], 63),
            row(server, client, &[(own, "router")], 64),
            row(vip, client, &both, 64),
        ]
    } else {
        [
            row(client, vip, &[("router", "balancer front")], 62),
            row(client, server, &[("balancer back", own)], 61),
            row(server, client, &[(own, "balancer back")], 64),
            row(vip, client, &[("balancer front", "router")], 63),
        ]
    }
}

fn each_hop_is_as_documented_in_routed_mode() -> Result<()> {
    let topology = network(2, 1)?;
    let detour = Detour::new(&topology, "front", 1500)?;
    assert_figure(&topology, &web(&topology), (&detour.near, "balancer"))
}

fn each_hop_is_as_documented_in_transparent_mode() -> Result<()> {
    let topology = network(2, 1)?;
    let inline = Inline::new(&topology)?;
    assert_figure(
        &topology,
        &transparent(&topology),
        (&inline.router, "balancer"),
    )
}

/// Fetches a page from each server through the VIPs, and compares all frames on the router's and the servers'
/// links with the figure's table.
fn assert_figure(topology: &Topology, config: &Config, router: (&Namespace, &str)) -> Result<()> {
    let is_transparent = config.mode.is_some();
    let names = Names::new(topology, router)?;
    let _servers = actors::nginx_servers(topology, 8080, 1 << 20)?;
    let waxwing = Waxwing::start(topology, config)?;
    let at_router = Capture::of_wire(router.0, router.1)?;
    let at_servers = topology
        .servers
        .iter()
        .map(|server| Capture::of_wire(server, "eth0"))
        .collect::<Result<Vec<_>>>()?;
    for vip in [VIP4, VIP6] {
        let answers = who_answers(&topology.client, vip, 2)?;
        ensure!(answers == ["server=1\n", "server=2\n"], "{answers:?}");
    }
    let at_router = at_router.take(QUIET)?;
    for (number, capture) in (1..).zip(at_servers) {
        let at_server = capture.take(QUIET)?;
        for (client, vip, server) in [
            (CLIENT4, VIP4, server4(number)),
            (CLIENT6, VIP6, server6(number)),
        ] {
            let table = figure(is_transparent, [client, vip], (number, server));
            let wires = [&at_router, &at_server, &at_server, &at_router];
            for (step, ((addresses, expected), frames)) in (1..).zip(table.into_iter().zip(wires)) {
                let found = seen(frames, addresses, &names);
                ensure!(
                    found == expected,
                    "step {step}, {addresses:?}: {found:?}, expected {expected:?}"
                );
            }
        }
    }
    waxwing.stop().map(drop)
}

//! Figure 2.3 of the textbook, step by step, in both of its topologies: the balancer as the servers'
//! gateway, and on the wire to the gateway that they have.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use waxwing_packet::{Mac, Packet, parse};
use waxwing_tests::topology::{CLIENT4, CLIENT6, VIP4, VIP6, VipRoute, server4, server6};
use waxwing_tests::{
    Capture, Config, Detour, Inline, Layout, Namespace, Topology, Waxwing, actors,
};

use crate::traffic::{curl, host, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(each_step_is_as_it_says_routed, "nginx", "curl"),
    scenario!(each_step_is_as_it_says_transparent, "nginx", "curl"),
];

/// How long nothing must pass until all has passed.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// Hosts whose clients have a router, so that its place can be taken.
pub(crate) fn network(servers: u8, queues: u32) -> Result<Topology> {
    Topology::new(Layout {
        servers,
        queues,
        vips: VipRoute::Gateway,
        ..Layout::default()
    })
}

/// The web service, in transparent mode.
pub(crate) fn transparent(topology: &Topology) -> Config {
    let mut config = web(topology);
    config.mode = Some("transparent");
    config
}

/// Who has which MAC address, for people.
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

/// What is seen of the packets between two addresses: their MAC addresses, by name, and hop limits.
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

/// A row of the figure's table: addresses, and what is to be seen of the packets between them.
type Step = ((IpAddr, IpAddr), Seen);

/// The table: what passes the router's wire (steps 1 and 4), and a server's (steps 2 and 3). In
/// transparent mode step 4 tells the servers apart, so that it is of both.
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
    // Linux sends with 64. Between client and balancer are two routers in the one network, and one in
    // the other; a bridge is none.
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

fn each_step_is_as_it_says_routed() -> Result<()> {
    let topology = network(2, 1)?;
    let detour = Detour::new(&topology, "front", 1500)?;
    assert_figure(&topology, &web(&topology), (&detour.near, "balancer"))
}

fn each_step_is_as_it_says_transparent() -> Result<()> {
    let topology = network(2, 1)?;
    let inline = Inline::new(&topology)?;
    assert_figure(
        &topology,
        &transparent(&topology),
        (&inline.router, "balancer"),
    )
}

/// Fetches a page from each server through the VIPs, and compares all that passed the router's and the
/// servers' wires meanwhile with the figure's table.
fn assert_figure(topology: &Topology, config: &Config, router: (&Namespace, &str)) -> Result<()> {
    let is_transparent = config.mode.is_some();
    let names = Names::new(topology, router)?;
    let _servers = [1, 2]
        .map(|number| actors::nginx(topology, number, 8080, 1 << 20))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let waxwing = Waxwing::start(topology, config)?;
    let at_router = Capture::of_wire(router.0, router.1)?;
    let at_servers = topology
        .servers
        .iter()
        .map(|server| Capture::of_wire(server, "eth0"))
        .collect::<Result<Vec<_>>>()?;
    for vip in [VIP4, VIP6] {
        let mut answers: Vec<String> = (0..2)
            .map(|_| curl(&topology.client, &format!("http://{}/", host(vip))))
            .collect::<Result<_>>()?;
        answers.sort();
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
                    "step {step}, {addresses:?}: {found:?} in place of {expected:?}"
                );
            }
        }
    }
    waxwing.stop().map(drop)
}

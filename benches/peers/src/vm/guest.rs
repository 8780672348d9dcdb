//! Those that are compared, each started as its users would, and measured in a network of its own.
//!
//! Invariant: all forward by the same cards between the same client and servers, and all but plain
//! routing choose between two servers in turns.

use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::echo::Echo;
use waxwing_tests::topology::{VIP4, Wires, server4};
use waxwing_tests::vm::guest::{Report, Scenario};
use waxwing_tests::{Config, Layout, Service, Topology, Waxwing, actors, process};

use crate::measure::{self, Targets};

/// Of the service: the VIP's and the servers' ports.
const HTTP: (u16, u16) = (80, 8080);
const ECHO: (u16, u16) = (7, 7777);

/// What the kernel's balancers need, which nothing loads by itself.
const MODULES: [&str; 7] = [
    "ip_vs",
    "ip_vs_rr",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_numgen",
    "nf_conntrack",
];

pub(crate) const IPVS: &str = "IPVS NAT";
pub(crate) const NFTABLES: &str = "nftables DNAT";
pub(crate) const ROUTED: &str = "plain routing";

/// In the order in which each round measures them.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "Waxwing, zero-copy",
        run: |report| waxwing("require", report),
    },
    Scenario {
        name: "Waxwing, copy mode",
        run: |report| waxwing("off", report),
    },
    Scenario {
        name: IPVS,
        run: |report| kernel(ipvs, report),
    },
    Scenario {
        name: NFTABLES,
        run: |report| kernel(nftables, report),
    },
    Scenario {
        name: ROUTED,
        run: routed,
    },
];

/// The network, with servers that serve.
struct Bed {
    topology: Topology,
    _servers: Vec<(process::Process, Echo)>,
}

impl Bed {
    fn new() -> Result<Self> {
        let topology = Topology::new(Layout {
            servers: 2,
            wires: Wires::Cards,
            ..Layout::default()
        })?;
        let serve = |number: u8| {
            let namespace = &topology.servers[usize::from(number) - 1];
            let nginx = actors::nginx(&topology, number, HTTP.1, 0)?;
            Ok((nginx, Echo::start(namespace, ECHO.1)?))
        };
        let servers = (1..=2).map(serve).collect::<Result<_>>()?;
        Ok(Self {
            topology,
            _servers: servers,
        })
    }

    /// Measures what answers at the VIP.
    fn measure(&self, report: &Report) -> Result<()> {
        let targets = Targets {
            http: SocketAddr::new(VIP4, HTTP.0),
            echo: SocketAddr::new(VIP4, ECHO.0),
        };
        measure::all(&self.topology.client, targets, report)
    }
}

fn waxwing(zero_copy: &'static str, report: &Report) -> Result<()> {
    let bed = Bed::new()?;
    let mut config = Config::new(&bed.topology)
        .with(Service::v4("http", "tcp", HTTP, 2))
        .with(Service::v4("echo", "udp", ECHO, 2));
    config.zero_copy = Some(zero_copy);
    let waxwing = Waxwing::start(&bed.topology, &config)?;
    let sockets = waxwing.status()?.sockets();
    let is_wanted = |is: bool| is == (zero_copy == "require");
    ensure!(
        sockets.len() == 2 && sockets.iter().all(|socket| is_wanted(socket.zero_copy)),
        "`zero_copy = \"{zero_copy}\"` gave {sockets:?}"
    );
    bed.measure(report)?;
    waxwing.stop().map(drop)
}

/// What the kernel's own balancers do at the VIP, which is an address of the host's then.
fn kernel(begin: fn(&Topology) -> Result<()>, report: &Report) -> Result<()> {
    for module in MODULES {
        process::run(Command::new("modprobe").arg(module))?;
    }
    let bed = Bed::new()?;
    let balancer = &bed.topology.balancer;
    balancer.ip(&format!("addr add {VIP4}/32 dev front\n"))?;
    begin(&bed.topology)?;
    bed.measure(report)
}

fn ipvs(topology: &Topology) -> Result<()> {
    for (kind, (port, backend)) in [("-t", HTTP), ("-u", ECHO)] {
        let service = format!("{VIP4}:{port}");
        let ipvsadm = |arguments: &[&str]| topology.balancer.run("ipvsadm", arguments);
        ipvsadm(&["-A", kind, &service, "-s", "rr"])?;
        for number in 1..=2 {
            let server = format!("{}:{backend}", server4(number));
            ipvsadm(&["-a", kind, &service, "-r", &server, "-m"])?;
        }
    }
    Ok(())
}

fn nftables(topology: &Topology) -> Result<()> {
    let rule = |protocol: &str, (port, backend): (u16, u16)| {
        format!(
            "ip daddr {VIP4} {protocol} dport {port} dnat ip to numgen inc mod 2 map \
             {{ 0 : {} . {backend}, 1 : {} . {backend} }}\n",
            server4(1),
            server4(2)
        )
    };
    let rules = format!(
        "table ip bench {{\nchain prerouting {{\n\
         type nat hook prerouting priority dstnat;\n{}{}}}\n}}\n",
        rule("tcp", HTTP),
        rule("udp", ECHO)
    );
    let file = topology.scratch.write("bench.nft", rules)?;
    let file = file.to_str().context("a path that is text")?;
    topology.balancer.run("nft", &["-f", file]).map(drop)
}

/// The kernel between client and server, and no balancer.
fn routed(report: &Report) -> Result<()> {
    let bed = Bed::new()?;
    let targets = Targets {
        http: SocketAddr::new(server4(1), HTTP.1),
        echo: SocketAddr::new(server4(1), ECHO.1),
    };
    measure::all(&bed.topology.client, targets, report)
}

//! The guest's side: measures one contender under all loads.
//!
//! Invariant: all contenders forward between the same virtio cards, with the same client and servers.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use waxwing_tests::echo::Echo;
use waxwing_tests::vm::guest::{Report, Scenario};
use waxwing_tests::{actors, process};

use super::round_trips;
use crate::contender::{Contender, Poll, Settings, Variant};
use crate::network::{Network, Protocol, Service};
use crate::wrk::Wrk;

const HTTP: Service = Service {
    name: "http",
    protocol: Protocol::Tcp,
    port: 80,
    backend_port: 8080,
};
const ECHO: Service = Service {
    name: "echo",
    protocol: Protocol::Udp,
    port: 7,
    backend_port: 7777,
};

/// Capacity of Waxwing's session table.
const SESSIONS_MAX: u64 = 100_000;
/// Seconds of each load.
const SECONDS: u32 = 3;
/// HTTP connections that are open at once.
const CONNECTIONS: u32 = 16;

/// Modules of the kernel's balancers, which nothing loads automatically.
const MODULES: [&str; 7] = [
    "ip_vs",
    "ip_vs_rr",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_numgen",
    "nf_conntrack",
];

pub(super) const IPVS: Contender = Contender::Ipvs;
pub(super) const NFTABLES: Contender = Contender::Nftables;
pub(super) const ROUTING: Contender = Contender::Routing;
const ZERO_COPY: Contender = Contender::Waxwing(Variant::ZeroCopy);
const COPY_MODE: Contender = Contender::Waxwing(Variant::CopyMode);

/// The contenders as scenarios, named by their labels.
pub(super) static SCENARIOS: [Scenario; 5] = [
    Scenario {
        name: ZERO_COPY.label(),
        run: |report| measure(ZERO_COPY, report),
    },
    Scenario {
        name: COPY_MODE.label(),
        run: |report| measure(COPY_MODE, report),
    },
    Scenario {
        name: IPVS.label(),
        run: |report| measure(IPVS, report),
    },
    Scenario {
        name: NFTABLES.label(),
        run: |report| measure(NFTABLES, report),
    },
    Scenario {
        name: ROUTING.label(),
        run: |report| measure(ROUTING, report),
    },
];

/// A load.
#[derive(Clone, Copy)]
pub(super) struct Load {
    /// Its name in file names.
    pub(super) word: &'static str,
    /// Its title, by which the guest reports the rate.
    pub(super) title: &'static str,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Datagrams,
    Http { keep_alive: bool },
}

pub(super) const LOADS: [Load; 3] = [
    Load {
        word: "datagrams",
        title: "datagrams there and back, established flows, a second",
        kind: Kind::Datagrams,
    },
    Load {
        word: "requests",
        title: "HTTP requests on connections that stay, a second",
        kind: Kind::Http { keep_alive: true },
    },
    Load {
        word: "connections",
        title: "HTTP requests with a connection each, a second",
        kind: Kind::Http { keep_alive: false },
    },
];

/// Measures a contender under all loads, on a new network.
fn measure(contender: Contender, report: &Report) -> Result<()> {
    if matches!(contender, Contender::Ipvs | Contender::Nftables) {
        for module in MODULES {
            process::run(Command::new("modprobe").arg(module))?;
        }
    }
    let network = Network::of_cards(contender.servers())?;
    let topology = &network.topology;
    let serve = |number: u8| {
        let namespace = &topology.servers[usize::from(number) - 1];
        let nginx = actors::nginx(topology, number, HTTP.backend_port, 0)?;
        Ok((nginx, Echo::start(namespace, ECHO.backend_port)?))
    };
    let _servers = (1..=network.servers())
        .map(serve)
        .collect::<Result<Vec<_>>>()?;
    let settings = Settings {
        services: &[HTTP, ECHO],
        poll: Poll::Adaptive,
        sessions_max: SESSIONS_MAX,
    };
    let running = contender.start(&network, &settings)?;
    for load in LOADS {
        let rate = load.run(contender, &network).context(load.title)?;
        report.measured(load.title, rate);
    }
    running.stop()
}

impl Load {
    /// Applies the load through a contender. Returns the rate per second.
    fn run(self, contender: Contender, network: &Network) -> Result<f64> {
        let client = &network.topology.client;
        match self.kind {
            Kind::Datagrams => {
                let time = Duration::from_secs(SECONDS.into());
                let rate = client.enter(|| round_trips::measure(contender.target(ECHO), time))?;
                Ok(rate?)
            }
            Kind::Http { keep_alive } => Wrk {
                target: contender.target(HTTP),
                connections: CONNECTIONS,
                seconds: SECONDS,
                keep_alive,
            }
            .run(client),
        }
    }
}

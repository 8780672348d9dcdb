//! The contenders of the floods: Waxwing, and the kernel's NAT by nftables.

use std::fs;

use anyhow::{Context as _, Result};
use waxwing_tests::config::SourceNat;
use waxwing_tests::{Config, Waxwing};

use super::generator::SOURCES;
use super::rows::{ECHO, Field, REFUSING, WEB};
use crate::contender::kernel;
use crate::network::{Network, Protocol, Service};

/// The ports of the servers. Nobody listens on the last.
pub(super) const SERVER_WEB: u16 = 8080;
pub(super) const SERVER_ECHO: u16 = 5353;
const SERVER_REFUSING: u16 = 9;
/// The pool of source ports of a field with few, and how many these are.
const PORTS: &str = "20000-20999";
pub(super) const PORT_COUNT: u64 = 1_000;
/// The address of Waxwing's pool; the kernel's is its own.
const POOL: &str = "10.2.0.9";

const SERVICES: [Service; 3] = [
    service("web", Protocol::Tcp, WEB, SERVER_WEB),
    service("refusing", Protocol::Tcp, REFUSING, SERVER_REFUSING),
    service("echo", Protocol::Udp, ECHO, SERVER_ECHO),
];

const fn service(name: &'static str, protocol: Protocol, port: u16, backend_port: u16) -> Service {
    Service {
        name,
        protocol,
        port,
        backend_port,
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Contender {
    Waxwing,
    Nftables,
}

/// A contender that serves.
pub(super) enum Running<'a> {
    Waxwing(Box<Waxwing<'a>>),
    Nftables(&'a Network),
}

impl Contender {
    pub(super) const ALL: [Self; 2] = [Self::Waxwing, Self::Nftables];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Waxwing => "Waxwing",
            Self::Nftables => "nftables",
        }
    }

    pub(super) fn start<'a>(self, network: &'a Network, field: &Field) -> Result<Running<'a>> {
        match self {
            Self::Waxwing => {
                let config = config(network, field);
                let start = || Waxwing::start(&network.topology, &config);
                network
                    .as_contender(start)
                    .map(|waxwing| Running::Waxwing(Box::new(waxwing)))
            }
            Self::Nftables => {
                kernel::nftables(network, &SERVICES)?;
                let balancer = &network.topology.balancer;
                // Answers to forged sources leave, too.
                balancer.ip(&format!("route add {SOURCES} via 10.1.0.2\n"))?;
                if field.few_ports {
                    let rules = format!(
                        "table ip pool {{\nchain postrouting {{\n\
                         type nat hook postrouting priority srcnat;\n\
                         oifname back ip protocol {{ tcp, udp }} snat to 10.2.0.1:{PORTS}\n}}\n}}\n"
                    );
                    let file = network.topology.scratch.write("pool.nft", rules)?;
                    let file = file.to_str().context("the path is not UTF-8")?;
                    balancer.run("nft", &["-f", file])?;
                }
                Ok(Running::Nftables(network))
            }
        }
    }
}

fn config(network: &Network, field: &Field) -> Config {
    let mut config = Config::new(&network.topology);
    config.sessions_max = field.sessions;
    for service in SERVICES {
        let ports = (service.port, service.backend_port);
        let mut service =
            waxwing_tests::Service::v4(service.name, service.protocol.label(), ports, 1);
        service.source_nat = field.few_ports.then_some("always");
        config = config.with(service);
    }
    if field.few_ports {
        config = config.with_sources(vec![SourceNat {
            clients: Vec::new(),
            addresses: vec![POOL],
            ports: PORTS,
        }]);
    }
    config
}

impl Running<'_> {
    /// The sessions in its table.
    pub(super) fn sessions(&self) -> Result<u64> {
        match self {
            Self::Waxwing(waxwing) => Ok(waxwing.status()?.sessions()),
            Self::Nftables(network) => {
                let read = || fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
                let count = network.topology.balancer.enter(read)??;
                count.trim().parse().context("the count of connections")
            }
        }
    }

    /// What the status says about a flood.
    pub(super) fn problem(&self) -> Result<Option<String>> {
        let Self::Waxwing(waxwing) = self else {
            return Ok(None);
        };
        let status = waxwing.status()?;
        let problems = status.0["problems"].as_array().into_iter().flatten();
        let mut texts = problems.filter_map(|problem| problem.as_str());
        let flood = texts.find(|text| text.contains("unassured sessions/s"));
        Ok(flood.map(str::to_owned))
    }

    pub(super) fn stop(self) -> Result<()> {
        match self {
            Self::Waxwing(waxwing) => waxwing.stop().map(drop),
            Self::Nftables(_) => Ok(()),
        }
    }
}

//! The contenders: each is configured and started as its users would do it.
//!
//! Invariant: all contenders serve the same services at [`VIP`] and send new flows to the same servers in
//! turn. Exceptions: the bare forwarder sends everything to one server, and plain routing has no VIP. In
//! a pinned network, every process of a contender runs on the contender's CPU.

mod bare;
pub(crate) mod kernel;
pub(crate) mod proxy;

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Result, ensure};
use waxwing_tests::topology::server4;
use waxwing_tests::{Config, Process, Waxwing};

use crate::network::{Network, Service, VIP};

/// What forwards the traffic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contender {
    /// AF_XDP without a balancer: the upper bound.
    Bare,
    Waxwing(Variant),
    Ipvs,
    Nftables,
    /// The kernel's forwarding, without a balancer.
    Routing,
    /// A proxy: terminates each connection and opens another.
    Haproxy,
    /// Another proxy.
    NginxStream,
}

/// How Waxwing is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Variant {
    RoundRobin,
    Maglev,
    /// Policy `round_robin`; fails unless every socket is in zero-copy mode.
    ZeroCopy,
    /// Policy `round_robin`; zero-copy is off.
    CopyMode,
}

/// How contenders that use AF_XDP wait for frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Poll {
    /// Spin for a while, then sleep.
    Adaptive,
    /// Never sleep, and drive the device.
    Busy,
}

/// What a contender is started with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) services: &'a [Service],
    pub(crate) poll: Poll,
    /// Capacity of Waxwing's session table.
    pub(crate) sessions_max: u64,
}

impl Contender {
    /// Its name in tables and charts.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Bare => "bare AF_XDP forwarder",
            Self::Waxwing(Variant::RoundRobin) => "Waxwing, round_robin",
            Self::Waxwing(Variant::Maglev) => "Waxwing, maglev",
            Self::Waxwing(Variant::ZeroCopy) => "Waxwing, zero-copy",
            Self::Waxwing(Variant::CopyMode) => "Waxwing, copy mode",
            Self::Ipvs => "IPVS NAT",
            Self::Nftables => "nftables DNAT",
            Self::Routing => "plain routing",
            Self::Haproxy => "HAProxy, TCP",
            Self::NginxStream => "nginx stream",
        }
    }

    /// Its name without details.
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Waxwing(_) => "Waxwing",
            Self::Ipvs => "IPVS",
            Self::Nftables => "nftables",
            Self::Routing => "routing",
            Self::Haproxy => "HAProxy",
            Self::NginxStream => "nginx",
        }
    }

    /// The servers that its network needs.
    pub(crate) fn servers(self) -> u8 {
        if self == Self::Bare { 1 } else { 2 }
    }

    /// Where clients reach a service.
    pub(crate) fn target(self, service: Service) -> SocketAddr {
        match self {
            Self::Routing => SocketAddr::new(server4(1), service.backend_port),
            _ => SocketAddr::new(VIP.into(), service.port),
        }
    }

    /// Starts it on the balancer's host; returns once it serves.
    pub(crate) fn start<'a>(
        self,
        network: &'a Network,
        settings: &Settings<'_>,
    ) -> Result<Running<'a>> {
        let mut running = Running {
            waxwing: None,
            process: None,
        };
        match self {
            Self::Waxwing(variant) => {
                running.waxwing = Some(variant.start(network, settings)?);
            }
            Self::Ipvs => kernel::ipvs(network, settings.services)?,
            Self::Nftables => kernel::nftables(network, settings.services)?,
            Self::Routing => {}
            Self::Bare => running.process = Some((self, bare::start(network, settings)?)),
            Self::Haproxy => {
                running.process = Some((
                    self,
                    proxy::haproxy(network, settings.services, "roundrobin")?,
                ));
            }
            Self::NginxStream => {
                running.process = Some((self, proxy::nginx(network, settings.services)?));
            }
        }
        Ok(running)
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

impl Variant {
    /// The policy's name in the config.
    pub(crate) const fn policy(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::RoundRobin | Self::ZeroCopy | Self::CopyMode => "round_robin",
        }
    }

    /// The value of `zero_copy` in the config; `None` keeps the default.
    const fn zero_copy(self) -> Option<&'static str> {
        match self {
            Self::ZeroCopy => Some("require"),
            Self::CopyMode => Some("off"),
            Self::RoundRobin | Self::Maglev => None,
        }
    }

    fn start<'a>(self, network: &'a Network, settings: &Settings<'_>) -> Result<Waxwing<'a>> {
        let mut config = Config::new(&network.topology);
        // The policy is measured, not its fallback.
        config.module_share = Some(0);
        for service in settings.services {
            let Service {
                name,
                protocol,
                port,
                backend_port,
            } = *service;
            let ports = (port, backend_port);
            let mut service =
                waxwing_tests::Service::v4(name, protocol.label(), ports, network.servers());
            service.policy = self.policy().to_owned();
            config = config.with(service);
        }
        config.zero_copy = self.zero_copy();
        config.sessions_max = settings.sessions_max;
        config.poll = match settings.poll {
            Poll::Adaptive => "adaptive",
            Poll::Busy => "busy",
        };
        let waxwing = network.as_contender(|| Waxwing::start(&network.topology, &config))?;
        if let Some(zero_copy) = self.zero_copy() {
            let sockets = waxwing.status()?.sockets();
            let is_expected = |is: bool| is == (self == Self::ZeroCopy);
            ensure!(
                sockets.len() == 2 && sockets.iter().all(|socket| is_expected(socket.zero_copy)),
                "`zero_copy = \"{zero_copy}\"` resulted in {sockets:?}"
            );
        }
        Ok(waxwing)
    }
}

/// A contender that serves.
pub(crate) struct Running<'a> {
    waxwing: Option<Waxwing<'a>>,
    /// Killed on drop. The kernel's rules are removed with their namespace.
    process: Option<(Contender, Process)>,
}

impl Running<'_> {
    /// Stops it.
    pub(crate) fn stop(self) -> Result<()> {
        if let Some((contender, mut process)) = self.process {
            ensure!(
                process.try_wait()?.is_none(),
                "the {contender} exited during the measurement:\n{}",
                process.stderr()
            );
        }
        self.waxwing
            .map_or(Ok(()), |waxwing| waxwing.stop().map(drop))
    }
}

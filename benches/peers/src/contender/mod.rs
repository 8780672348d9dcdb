//! Those that are compared, each started as its users would.
//!
//! Invariant: all serve the same address and port, over the same servers in turns; what they run is on the
//! contender's processor.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{built_program, wait_for, wait_listening};
use waxwing_tests::{Config, Process, Service, Topology, Waxwing};

use crate::bed::{Bed, PORT, VIP};

/// Room for every session that a run can make.
pub(crate) const SESSIONS_MAX: u64 = 4_000_000;

/// Who forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Contender {
    /// AF_XDP without a balancer: the ceiling.
    Bare,
    /// Waxwing with this policy.
    Waxwing(&'static str),
    /// The kernel's own NAT.
    Nftables,
    /// A proxy: it ends each connection and makes another.
    Haproxy,
    /// Another.
    NginxStream,
}

/// How contenders that read frames themselves wait for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Poll {
    /// They spin a while, then sleep.
    Adaptive,
    /// They never sleep, and drive the device.
    Busy,
}

/// What is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bare => f.pad("bare AF_XDP forwarder"),
            Self::Waxwing(policy) => f.pad(&format!("Waxwing, {policy}")),
            Self::Nftables => f.pad("nftables DNAT"),
            Self::Haproxy => f.pad("HAProxy, TCP"),
            Self::NginxStream => f.pad("nginx stream"),
        }
    }
}

/// A contender that serves.
pub(crate) struct Running<'a> {
    waxwing: Option<Waxwing<'a>>,
    /// Ended when dropped. The kernel's rules go with their namespace.
    process: Option<(Contender, Process)>,
}

impl Contender {
    /// Starts it in the middle of a bed, and returns once it serves.
    pub(crate) fn start(self, bed: &Bed, protocol: Protocol, poll: Poll) -> Result<Running<'_>> {
        let mut running = Running {
            waxwing: None,
            process: None,
        };
        match self {
            Self::Waxwing(policy) => {
                let config = waxwing_config(bed, policy, protocol, poll);
                let start = || Waxwing::start(&bed.topology, &config);
                running.waxwing = Some(bed.cores.as_contender(start)?);
            }
            Self::Nftables => nftables(bed, protocol)?,
            Self::Bare => running.process = Some((self, bare(bed, protocol, poll)?)),
            Self::Haproxy => running.process = Some((self, haproxy(bed)?)),
            Self::NginxStream => running.process = Some((self, nginx_stream(bed)?)),
        }
        Ok(running)
    }

    /// What it is called where there is little room.
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Waxwing(_) => "Waxwing",
            Self::Nftables => "nftables",
            Self::Haproxy => "HAProxy",
            Self::NginxStream => "nginx",
        }
    }

    /// Whether it sends all to one server: it chooses none.
    pub(crate) fn has_one_server(self) -> bool {
        self == Self::Bare
    }
}

impl Running<'_> {
    /// Ends it, and asserts that it served to the end.
    pub(crate) fn stop(self) -> Result<()> {
        if let Some((contender, mut process)) = self.process {
            let ended = process.try_wait()?;
            ensure!(
                ended.is_none(),
                "the {contender} has ended while it was measured:\n{}",
                process.stderr()
            );
        }
        self.waxwing
            .map_or(Ok(()), |waxwing| waxwing.stop().map(drop))
    }
}

fn waxwing_config(bed: &Bed, policy: &str, protocol: Protocol, poll: Poll) -> Config {
    let ports = (PORT, PORT);
    let mut service = Service::v4("bench", protocol.label(), ports, bed.servers());
    service.policy = policy.to_owned();
    let mut config = Config::new(&bed.topology).with(service);
    config.sessions_max = SESSIONS_MAX;
    config.poll = match poll {
        Poll::Adaptive => "adaptive",
        Poll::Busy => "busy",
    };
    config
}

/// The bare forwarder knows one server, which has the VIP itself, and so needs no NAT.
fn bare(bed: &Bed, protocol: Protocol, poll: Poll) -> Result<Process> {
    let Topology {
        client,
        balancer,
        servers,
        ..
    } = &bed.topology;
    let server = servers.first().context("there is a server")?;
    server.ip(&format!("addr add {VIP}/32 dev lo\n"))?;
    let port = |name, mac: [u8; 6]| {
        let octets = mac.map(|octet| format!("{octet:02x}"));
        format!("{name}={}", octets.join(":"))
    };
    let front = port("front", client.mac("eth0")?);
    let back = port("back", server.mac("eth0")?);
    let service = format!("{VIP}:{PORT}/{}", protocol.label());
    let cpu = bed.cores.contender.to_string();
    let mut arguments = vec![
        "--port",
        &front,
        "--port",
        &back,
        "--service",
        &service,
        "--cpu",
        &cpu,
    ];
    if poll == Poll::Busy {
        arguments.push("--busy");
    }
    let program = built_program("bare-forwarder")?;
    let spawn = || balancer.spawn(program, &arguments);
    let mut process = bed.cores.as_contender(spawn)?;
    wait_for("the bare forwarder to be ready", &mut process, |process| {
        Ok(process.stdout().contains("ready"))
    })?;
    Ok(process)
}

fn nftables(bed: &Bed, protocol: Protocol) -> Result<()> {
    let servers = bed.server_addresses().enumerate();
    let map: Vec<String> = servers
        .map(|(number, address)| format!("{number} : {address} . {PORT}"))
        .collect();
    let (protocol, count) = (protocol.label(), map.len());
    let rules = format!(
        "table ip bench {{\n\
           chain prerouting {{\n\
             type nat hook prerouting priority dstnat;\n\
             ip daddr {VIP} {protocol} dport {PORT} dnat ip to numgen inc mod {count} map {{ {} }}\n\
           }}\n\
         }}\n",
        map.join(", ")
    );
    let file = bed.topology.scratch.write("bench.nft", rules)?;
    let file = file.to_str().context("a path that is text")?;
    bed.topology.balancer.run("nft", &["-f", file]).map(drop)
}

fn haproxy(bed: &Bed) -> Result<Process> {
    let servers: String = bed
        .server_addresses()
        .map(|address| format!("  server {address} {address}:{PORT}\n"))
        .collect();
    let config = format!(
        "global\n  nbthread 1\n  maxconn 4096\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         listen bench\n  bind {VIP}:{PORT}\n  balance roundrobin\n{servers}"
    );
    let file = bed.topology.scratch.write("haproxy.cfg", config)?;
    let file = file.to_str().context("a path that is text")?;
    proxy(bed, "haproxy", &["-db", "-f", file])
}

fn nginx_stream(bed: &Bed) -> Result<Process> {
    let servers: String = bed
        .server_addresses()
        .map(|address| format!("server {address}:{PORT}; "))
        .collect();
    let scratch = &bed.topology.scratch;
    let root = scratch.path().display();
    let config = format!(
        "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n\
         daemon off; worker_processes 1; user root; pid {root}/stream.pid;\n\
         error_log {root}/stream.log;\n\
         events {{ worker_connections 8192; }}\n\
         stream {{\n\
           upstream bench {{ {servers}}}\n\
           server {{ listen {VIP}:{PORT} backlog=4096; tcp_nodelay on; proxy_pass bench; }}\n\
         }}\n"
    );
    let file = scratch.write("stream.conf", config)?;
    let file = file.to_str().context("a path that is text")?;
    proxy(bed, "nginx", &["-c", file])
}

/// A proxy has the VIP itself.
fn proxy(bed: &Bed, program: &str, arguments: &[&str]) -> Result<Process> {
    let balancer = &bed.topology.balancer;
    balancer.ip(&format!("addr add {VIP}/32 dev lo\n"))?;
    let spawn = || balancer.spawn(program, arguments);
    let mut process = bed.cores.as_contender(spawn)?;
    wait_listening(balancer, &mut process, PORT)?;
    Ok(process)
}

//! The balancer's config, as a value that tests change and write to a file. An unset option is not written,
//! so that it takes the balancer's default.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Serialize, Serializer};

pub use crate::config::health::{Ejection, HealthCheck, Tls};
use crate::topology::{self, Topology, VIP4, VIP6};

mod health;

#[derive(Clone, Debug, Default, Serialize)]
pub struct Config {
    /// The modules' watched folder.
    pub modules: PathBuf,
    /// The folder of what survives a restart.
    pub state: PathBuf,
    /// What one policy may take of a worker's time, in percent; 0: all of it.
    pub module_share: Option<u32>,
    /// Capacity of the session table.
    pub sessions_max: u64,
    /// Maximum number of services.
    pub services_max: Option<u32>,
    /// Maximum number of backends.
    pub backends_max: Option<u32>,
    /// How a worker waits for packets: `adaptive` or `busy`.
    pub poll: &'static str,
    /// `auto`, `require` or `off`.
    pub zero_copy: Option<&'static str>,
    /// `routed` (the default) or `transparent`.
    pub mode: Option<&'static str>,
    /// How replies find their next hop: `last-hop` or `route`.
    pub return_path: Option<&'static str>,
    /// What senders to unserved ports of VIPs get: `reject` or `drop`.
    pub unserved: Option<&'static str>,
    pub canary: Canary,
    admin: Admin,
    /// Where metrics are served.
    #[serde(serialize_with = "metrics", skip_serializing_if = "Option::is_none")]
    pub metrics: Option<&'static str>,
    /// Interfaces to attach to.
    #[serde(rename = "port")]
    pub ports: Vec<Port>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_nat: Vec<SourceNat>,
    #[serde(rename = "service")]
    pub services: Vec<Service>,
}

#[derive(Clone, Debug, Default, Serialize)]
struct Admin {
    socket: PathBuf,
    read_socket: Option<PathBuf>,
    listen: Option<&'static str>,
    token_file: Option<PathBuf>,
}

fn metrics<S: Serializer>(listen: &Option<&str>, to: S) -> Result<S::Ok, S::Error> {
    BTreeMap::from([("listen", listen)]).serialize(to)
}

#[derive(Clone, Default, Debug, Serialize)]
pub struct Canary {
    /// How long a new build serves as a canary on one worker.
    pub time: &'static str,
}

/// An interface to attach to.
#[derive(Clone, Debug, Serialize)]
pub struct Port {
    pub interface: String,
    pub faces: Option<&'static str>,
}

/// Addresses for source NAT, and the clients whose sessions get one.
#[derive(Clone, Debug, Serialize)]
pub struct SourceNat {
    /// The clients' networks.
    pub clients: Vec<&'static str>,
    pub addresses: Vec<&'static str>,
    /// The range of ports of each address.
    pub ports: &'static str,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Ports {
    One(u16),
    /// A range such as `8000-8099`, or `all`.
    Many(&'static str),
}

#[derive(Clone, Debug, Serialize)]
pub struct Service {
    pub name: String,
    pub vip: IpAddr,
    pub port: Ports,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    pub policy: String,
    /// Source NAT: `auto` or `always`.
    pub source_nat: Option<&'static str>,
    /// Names of the signals that the backends' health checks yield.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<&'static str>,
    /// What to do with sessions of a backend that went down: `keep`, `reset` or `repick`.
    pub on_down: Option<&'static str>,
    /// What to do when a backend refuses a connection: `pass` or `retry`.
    pub on_refused: Option<&'static str>,
    /// Time in which a recovered backend's weight rises to its full value.
    pub slow_start: Option<&'static str>,
    /// How long a draining backend keeps its sessions.
    pub drain_timeout: Option<&'static str>,
    /// What to do with new sessions while no backend is up: `drop` or `reject`.
    pub all_down: Option<&'static str>,
    /// What to do with a TCP packet that has neither a session nor a SYN.
    pub mid_stream: Option<&'static str>,
    /// Whether a server's reply without a session opens one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub adopt_replies: bool,
    /// Panic mode: below this percentage of healthy backends, all backends are used.
    pub panic_threshold: Option<u8>,
    /// When failed sessions eject a backend.
    pub ejection: Option<Ejection>,
    /// The policy's own config.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub policy_config: BTreeMap<String, toml::Value>,
    /// Session timeouts, by config key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub timeouts: BTreeMap<&'static str, &'static str>,
    /// Health checks; a healthy backend passes all of them.
    #[serde(rename = "health", skip_serializing_if = "Vec::is_empty")]
    pub health: Vec<HealthCheck>,
    #[serde(rename = "backend")]
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Backend {
    pub address: IpAddr,
    /// `None` if the service has several ports.
    pub port: Option<u16>,
    /// 0 drains the backend.
    pub weight: u32,
    /// Without a name, address and port name the backend.
    pub name: Option<String>,
    /// Whether the backend serves only while no main backend is healthy.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
    /// The number that policies group backends by.
    pub tag: u32,
    /// Overrides of the service's health checks, by config key.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub health: toml::Table,
}

impl Backend {
    /// Returns a backend of weight 1.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address,
            port: Some(port),
            weight: 1,
            name: None,
            backup: false,
            tag: 0,
            health: toml::Table::new(),
        }
    }
}

impl Config {
    /// Returns a config with a topology's ports and no service.
    pub fn new(topology: &Topology) -> Self {
        let directory = topology.scratch.path();
        let ports = topology.ports().iter().map(|name| Port {
            interface: (*name).to_owned(),
            faces: None,
        });
        Self {
            modules: directory.join("modules"),
            state: directory.join("state"),
            canary: Canary { time: "1s" },
            sessions_max: 100_000,
            poll: "adaptive",
            admin: Admin {
                socket: directory.join("run/waxwing.sock"),
                ..Admin::default()
            },
            ports: ports.collect(),
            ..Self::default()
        }
    }

    /// Adds a service.
    pub fn with(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// Sets the source addresses.
    pub fn with_sources(mut self, source_nat: Vec<SourceNat>) -> Self {
        self.source_nat = source_nat;
        self
    }

    /// Sets the admin socket's path.
    #[must_use]
    pub fn with_socket(mut self, path: PathBuf) -> Self {
        self.admin.socket = path;
        self
    }

    /// Serves the API on a TCP port too, for those who have this file's token.
    #[must_use]
    pub fn listening(mut self, listen: &'static str, token_file: PathBuf) -> Self {
        self.admin.listen = Some(listen);
        self.admin.token_file = Some(token_file);
        self
    }

    /// Adds the socket that changes nothing. Returns its path.
    pub fn add_read_socket(&mut self) -> PathBuf {
        let path = self.admin.socket.with_file_name("read.sock");
        self.admin.read_socket = Some(path.clone());
        path
    }

    /// Returns the admin socket's path.
    pub fn socket(&self) -> &Path {
        &self.admin.socket
    }

    /// Returns a service by name.
    pub fn service_mut(&mut self, name: &str) -> Result<&mut Service> {
        self.services
            .iter_mut()
            .find(|service| service.name == name)
            .ok_or_else(|| anyhow::anyhow!("the config has no service {name}"))
    }

    /// Returns the text of the config file.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

impl Service {
    /// Returns a service on [`VIP4`] over servers 1 to `servers`, round robin.
    pub fn v4(name: &str, protocol: &'static str, ports: (u16, u16), servers: u8) -> Self {
        let servers = (1..=servers).map(topology::server4);
        Self::new(name, VIP4, protocol, ports, servers)
    }

    /// Returns a service on [`VIP6`] over servers 1 to `servers`, round robin.
    pub fn v6(name: &str, protocol: &'static str, ports: (u16, u16), servers: u8) -> Self {
        let servers = (1..=servers).map(topology::server6);
        Self::new(name, VIP6, protocol, ports, servers)
    }

    /// Sets a range of ports, or all; backends get the client's destination port.
    pub fn on_ports(mut self, ports: &'static str) -> Self {
        self.port = Ports::Many(ports);
        for backend in &mut self.backends {
            backend.port = None;
        }
        self
    }

    /// Adds a health check.
    pub fn checked(mut self, check: HealthCheck) -> Self {
        self.health.push(check);
        self
    }

    fn new(
        name: &str,
        vip: IpAddr,
        protocol: &'static str,
        (port, backend_port): (u16, u16),
        servers: impl Iterator<Item = IpAddr>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            vip,
            port: Ports::One(port),
            protocol,
            source_nat: None,
            policy: "round_robin".to_owned(),
            signals: Vec::new(),
            on_down: None,
            on_refused: None,
            slow_start: None,
            drain_timeout: None,
            all_down: None,
            mid_stream: None,
            adopt_replies: false,
            panic_threshold: None,
            ejection: None,
            policy_config: BTreeMap::new(),
            timeouts: BTreeMap::new(),
            health: Vec::new(),
            backends: servers
                .map(|address| Backend::new(address, backend_port))
                .collect(),
        }
    }
}

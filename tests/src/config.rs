//! The balancer's config as a value, to vary and write out.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

pub use crate::config::health::{Ejection, HealthCheck, Tls};
use crate::topology::{self, Topology, VIP4, VIP6};

mod health;

/// A config file.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// The watched folder.
    pub modules: PathBuf,
    /// How long a new build serves on one worker only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<&'static str>,
    /// Size of the session table.
    pub sessions_max: u64,
    /// The most services, where it is not the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services_max: Option<u32>,
    /// The most backends, likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backends_max: Option<u32>,
    /// What a worker does while nothing arrives.
    pub poll: &'static str,
    /// Whether frames are shared with the driver: `auto`, `require` or `off`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zero_copy: Option<&'static str>,
    /// Where the balancer stands: `routed`, which is the default, or `transparent`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<&'static str>,
    /// Where replies go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub return_path: Option<&'static str>,
    admin: Admin,
    /// Interfaces to attach to.
    #[serde(rename = "port")]
    pub ports: Vec<Port>,
    /// Source addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_nat: Vec<SourceNat>,
    /// Services.
    #[serde(rename = "service")]
    pub services: Vec<Service>,
}

#[derive(Clone, Debug, Serialize)]
struct Admin {
    socket: PathBuf,
}

/// An interface to attach to.
#[derive(Clone, Debug, Serialize)]
pub struct Port {
    /// Its name.
    pub interface: String,
}

/// Source addresses, and who gets one.
#[derive(Clone, Debug, Serialize)]
pub struct SourceNat {
    /// Networks of clients that do.
    pub clients: Vec<&'static str>,
    /// The addresses.
    pub addresses: Vec<&'static str>,
    /// The ports of each.
    pub ports: &'static str,
}

/// A service's ports.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Ports {
    /// One.
    One(u16),
    /// A range, or `all`.
    Many(&'static str),
}

/// A service.
#[derive(Clone, Debug, Serialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its address.
    pub vip: IpAddr,
    /// Its ports.
    pub port: Ports,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its policy's name.
    pub policy: String,
    /// Who gets a source address: `auto` or `always`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_nat: Option<&'static str>,
    /// Names of its backends' signals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub signals: Vec<&'static str>,
    /// What becomes of the sessions of a backend that went down: `keep`, `reset` or `repick`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_down: Option<&'static str>,
    /// What becomes of a connection that a backend refuses: `pass` or `retry`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_refused: Option<&'static str>,
    /// How long the weight of a backend that recovers ramps up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<&'static str>,
    /// How long the sessions of a backend that drains live on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_timeout: Option<&'static str>,
    /// What new sessions get while no backend is up: `drop` or `reject`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all_down: Option<&'static str>,
    /// What becomes of TCP packets of no session and without SYN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mid_stream: Option<&'static str>,
    /// Below this percentage of backends that are up, all are used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub panic_threshold: Option<u8>,
    /// When failures of sessions take a backend out for a while.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ejection: Option<Ejection>,
    /// What the policy gets.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub policy_config: BTreeMap<String, toml::Value>,
    /// How long its sessions live, by the config's keys.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub timeouts: BTreeMap<&'static str, &'static str>,
    /// Checks, all of which a backend must pass.
    #[serde(rename = "health", skip_serializing_if = "Vec::is_empty")]
    pub health: Vec<HealthCheck>,
    /// Its servers.
    #[serde(rename = "backend")]
    pub backends: Vec<Backend>,
}

/// A server of a service.
#[derive(Clone, Debug, Serialize)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port; none where its service has many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its weight; 0 drains.
    pub weight: u32,
    /// What it is called; else by address and port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether it serves only while no other backend is up.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub backup: bool,
    /// What is otherwise with its health checks, by the config's keys.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub health: toml::Table,
}

impl Backend {
    /// A server of weight 1.
    #[must_use]
    pub fn new(address: IpAddr, port: u16) -> Self {
        Self {
            address,
            port: Some(port),
            weight: 1,
            name: None,
            backup: false,
            health: toml::Table::new(),
        }
    }
}

impl Config {
    /// The ports of a topology and no service yet.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        let directory = topology.scratch.path();
        let ports = topology.ports().iter().map(|name| Port {
            interface: (*name).to_owned(),
        });
        Self {
            modules: directory.join("modules"),
            canary: None,
            sessions_max: 100_000,
            services_max: None,
            backends_max: None,
            poll: "adaptive",
            zero_copy: None,
            mode: None,
            return_path: None,
            admin: Admin {
                socket: directory.join("waxwing.sock"),
            },
            ports: ports.collect(),
            source_nat: Vec::new(),
            services: Vec::new(),
        }
    }

    /// With one more service.
    #[must_use]
    pub fn with(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// With these source addresses.
    #[must_use]
    pub fn with_sources(mut self, source_nat: Vec<SourceNat>) -> Self {
        self.source_nat = source_nat;
        self
    }

    /// The admin socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.admin.socket
    }

    /// The service of a name, to change it.
    ///
    /// # Errors
    /// There is none.
    pub fn service_mut(&mut self, name: &str) -> Result<&mut Service> {
        self.services
            .iter_mut()
            .find(|service| service.name == name)
            .ok_or_else(|| anyhow::anyhow!("the config has no service {name}"))
    }

    /// As the text of a file.
    ///
    /// # Errors
    /// A value has no form in TOML.
    pub fn to_toml(&self) -> Result<String> {
        Ok(toml::to_string(self)?)
    }
}

impl Service {
    /// A service on [`VIP4`], in turns over servers 1 to `servers`.
    #[must_use]
    pub fn v4(name: &str, protocol: &'static str, ports: (u16, u16), servers: u8) -> Self {
        Self::new(
            name,
            VIP4,
            protocol,
            ports,
            (1..=servers).map(topology::server4),
        )
    }

    /// A service on [`VIP6`], in turns over servers 1 to `servers`.
    #[must_use]
    pub fn v6(name: &str, protocol: &'static str, ports: (u16, u16), servers: u8) -> Self {
        Self::new(
            name,
            VIP6,
            protocol,
            ports,
            (1..=servers).map(topology::server6),
        )
    }

    /// The same with many ports, each of which is its servers' own.
    #[must_use]
    pub fn on_ports(mut self, ports: &'static str) -> Self {
        self.port = Ports::Many(ports);
        for backend in &mut self.backends {
            backend.port = None;
        }
        self
    }

    /// The same with one more check.
    #[must_use]
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

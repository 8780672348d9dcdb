//! The validated config as values: everything outside a service.

pub(crate) mod health;
pub(crate) mod service;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use waxwing_dataplane::model::Faces;
use waxwing_dataplane::{Ports, SourceLimit};
use waxwing_packet::{Address, Protocol};
use waxwing_plugin::CanaryRules;

use crate::network::return_routes::ReturnPlan;

use super::added::AddedBackends;
use super::named_key;
use super::names::remedy;
use super::problem::{Located, Problem, Severity, SourceText, Span};
use service::{Backend, Service, SourceNat};

/// The whole config, with defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// The watched folder of modules; `None`: only built-in policies.
    pub modules: Option<Located<PathBuf>>,
    /// The folder of what survives a restart; `None`: the program's.
    pub state: Option<Located<PathBuf>>,
    /// How a new module build is tried on the first worker.
    pub canary: CanaryRules,
    /// What one policy module may take of a worker's time, in percent; 0: all.
    pub module_share: u32,
    /// Maximum concurrent sessions.
    pub sessions_max: usize,
    /// Maximum services, including removed ones that still have sessions.
    pub services_max: usize,
    /// Maximum backends over all services, including removed ones that still have sessions.
    pub backends_max: usize,
    /// Of so many new TCP sessions of a backend one is sampled; 0: none.
    pub sample_sessions: u32,
    /// Key of the client hash that policies see.
    pub cluster_key: ClusterKey,
    /// One mode for all ports, because their sockets share one memory area.
    pub zero_copy: ZeroCopy,
    pub poll: Poll,
    pub mode: Located<Mode>,
    pub return_path: ReturnPath,
    /// Maximum kernel routes to read.
    pub routes_max: usize,
    /// Whether VIPs answer ping.
    pub ping: bool,
    /// What happens to packets to unserved ports of VIPs.
    pub unserved: Unserved,
    /// How many new sessions one network of clients may open; `None`: any number.
    pub source_limit: Option<SourceLimit>,
    pub admin: AdminConfig,
    /// Where metrics are served; `None`: on the admin socket alone.
    pub metrics: Option<SocketAddr>,
    pub workers: Workers,
    pub rings: Rings,
    /// In file order.
    pub ports: Vec<Port>,
    /// In file order.
    pub source_nat: Vec<SourceNat>,
    /// In file order.
    pub services: Vec<Service>,
    /// The backends of its services that are not in the file.
    pub(crate) added: AddedBackends,
    /// Services without a valid required value, which has a placeholder. None in a config that is valid.
    pub(super) incomplete: Vec<Service>,
    pub(super) source: Arc<SourceText>,
}

/// `[admin]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdminConfig {
    /// Path of the admin socket.
    pub socket: Located<PathBuf>,
    /// The group whose members may use it; `None`: its owner alone.
    pub group: Option<Located<String>>,
    /// Path of a socket that changes nothing.
    pub read_socket: Option<Located<PathBuf>>,
    /// The group whose members may use that; `None`: every user of this host.
    pub read_group: Option<Located<String>>,
    /// A TCP port for the API.
    pub listen: Option<AdminListen>,
}

/// A TCP port for the API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AdminListen {
    /// A loopback address, and the port.
    pub address: SocketAddr,
    /// The file that has the token.
    pub token_file: PathBuf,
}

/// `[workers]`: which CPUs the workers run on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workers {
    /// Whether each worker stays on one CPU.
    pub pin: bool,
    /// CPU of worker 0, 1, and so on; empty: worker n on CPU n.
    pub cpus: Vec<Located<usize>>,
}

/// `[rings]`: ring and memory sizes, for each queue of each port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rings {
    /// Descriptors in each of a socket's four rings; a power of two.
    pub size: u32,
    /// Memory frames of 4 KiB: at least twice `size`, to fill the receive and the transmit ring.
    /// A jumbo packet takes several frames.
    pub frames: u32,
}

impl Rings {
    /// Rings of `size` descriptors with the default of four frames for each.
    #[must_use]
    pub const fn of_size(size: u32) -> Self {
        Self {
            size,
            frames: 4 * size,
        }
    }
}

/// `[[port]]`: an interface to attach to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    pub interface: Located<Arc<str>>,
    /// Who is behind it; `None` if it is to be found out.
    pub faces: Option<Faces>,
}

/// Whether the driver shares frames with the worker or copies them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ZeroCopy {
    /// Share if the driver can; otherwise copy, and show it in `waxwing status`.
    #[default]
    Auto,
    /// Share; fail if the driver cannot.
    Require,
    /// Copy.
    Off,
}

/// What an idle worker does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Poll {
    /// Spins for a while, then sleeps until a frame arrives.
    #[default]
    Adaptive,
    /// Never sleeps, and drives the device from its own thread (preferred busy polling).
    Busy,
}

/// Where the balancer stands in the network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// The servers' gateway: a layer-3 hop between its ports.
    #[default]
    Routed,
    /// A bridge of two ports between the servers and their router, which stays their gateway.
    Transparent,
}

impl Mode {
    /// The value in the config and in `status`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Transparent => "transparent",
        }
    }
}

/// How the next hop of a reply is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReturnPath {
    /// The MAC and port that the client's packets come from.
    #[default]
    LastHop,
    /// The kernel's main routing table.
    Route,
}

/// What happens to a TCP or UDP packet to a VIP's port that no service has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unserved {
    /// Its sender gets an RST or port unreachable, within a rate limit.
    #[default]
    Reject,
    /// It is dropped silently.
    Drop,
}

/// The key of the hash that policies balance by. Balancers of one cluster share it, so that
/// consistent policies agree. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterKey(pub u128);

impl Default for ClusterKey {
    /// A fixed, public key: balancers agree with each other and across restarts, but a client that
    /// knows the key can choose its backend.
    fn default() -> Self {
        Self(u128::from_be_bytes(*b"waxwing-cluster!"))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// Why [`Config::find_backend`] found no backend. The message says which names exist.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnknownBackend {
    #[error(
        "there is no service \"{name}\"; {}",
        remedy(name, known, "the services are")
    )]
    Service { name: String, known: Vec<Arc<str>> },
    #[error(
        "service \"{service}\" has no backend \"{name}\"; {}",
        remedy(name, known, "its backends are")
    )]
    Backend {
        service: String,
        name: String,
        known: Vec<String>,
    },
}

impl Config {
    /// Returns the folder of what survives a restart; `program`: if the config names none.
    #[must_use]
    pub fn state_folder(&self, program: PathBuf) -> PathBuf {
        self.state.as_ref().map_or(program, |it| it.value.clone())
    }

    /// Returns an error at a place in the config, for a check that looks at the system.
    #[must_use]
    pub fn error_at(&self, span: Span, text: impl Into<String>) -> Problem {
        Problem::at(&self.source, Severity::Error, span, text)
    }

    /// Returns an error about a table that a module refused: at the key that its text names, if it names one.
    #[must_use]
    pub(crate) fn error_in(&self, table: Span, text: String) -> Problem {
        let span = named_key::find(self.source.text(), table, &text);
        self.error_at(span.unwrap_or(table), text)
    }

    /// Returns a warning at a place in the config, for a check that looks at the system.
    #[must_use]
    pub fn warning_at(&self, span: Span, text: impl Into<String>) -> Problem {
        Problem::at(&self.source, Severity::Warning, span, text)
    }

    /// Returns the config with its incomplete services, whose modules can be checked. Each has a VIP of its
    /// own, so that none is taken for another.
    pub(crate) fn with_incomplete(mut self) -> Self {
        for (number, mut service) in (1_u128..).zip(std::mem::take(&mut self.incomplete)) {
            service.vip.value = IpAddr::from(Ipv6Addr::from_bits(number)).into();
            self.services.push(service);
        }
        self
    }

    /// Returns the names of the bridge's two ports; `None` in routed mode.
    #[must_use]
    pub fn bridged(&self) -> Option<[&str; 2]> {
        match (self.mode.value, &self.ports[..]) {
            (Mode::Transparent, [first, second]) => {
                Some([&first.interface.value, &second.interface.value])
            }
            _ => None,
        }
    }

    /// Returns the text that this config was read from.
    #[must_use]
    pub fn source(&self) -> &SourceText {
        &self.source
    }

    /// Returns the name of every policy in use, each once, in the order of first use. The index of
    /// a service's policy here is [`waxwing_dataplane::Service::policy`].
    #[must_use]
    pub fn policies(&self) -> Vec<Arc<str>> {
        let mut seen = HashSet::new();
        let names = self.services.iter().map(|service| &service.policy.value);
        names.filter(|name| seen.insert(*name)).cloned().collect()
    }

    /// Returns a service and the index of one of its backends. `backend` is a backend's name or
    /// endpoint.
    ///
    /// # Errors
    /// No service or backend has that name.
    pub fn find_backend(
        &self,
        service: &str,
        backend: &str,
    ) -> Result<(&Service, usize), UnknownBackend> {
        let mut services = self.services.iter();
        let entry = services.find(|it| &*it.name.value == service);
        let entry = entry.ok_or_else(|| UnknownBackend::Service {
            name: service.to_owned(),
            known: self
                .services
                .iter()
                .map(|it| Arc::clone(&it.name.value))
                .collect(),
        })?;
        let index = entry.backends.iter().position(|it| it.is_called(backend));
        let index = index.ok_or_else(|| UnknownBackend::Backend {
            service: service.to_owned(),
            name: backend.to_owned(),
            known: entry.backends.iter().map(Backend::handle).collect(),
        })?;
        Ok((entry, index))
    }

    /// Returns the services by endpoint. A [`waxwing_dataplane::Service`] with the same endpoint
    /// was made from that entry, and has its backends in the same order.
    #[must_use]
    pub fn by_endpoint(&self) -> HashMap<(Address, Ports, Protocol), &Service> {
        let key = |s: &Service| (s.vip.value, s.ports.value, s.protocol.value);
        self.services.iter().map(|s| (key(s), s)).collect()
    }

    /// Returns the settings that the resolver needs to choose the next hop of replies.
    #[must_use]
    pub fn return_plan(&self) -> ReturnPlan {
        ReturnPlan {
            by_routes: self.return_path == ReturnPath::Route,
            routes_max: self.routes_max,
        }
    }

    /// Returns the keys that differ from `running` and need a restart, because they size
    /// allocations or decide what is attached at start.
    #[must_use]
    pub fn needs_restart(&self, running: &Self) -> Vec<&'static str> {
        let changed = [
            ("modules", self.modules != running.modules),
            ("state", self.state != running.state),
            ("[canary]", self.canary != running.canary),
            ("module_share", self.module_share != running.module_share),
            ("sessions_max", self.sessions_max != running.sessions_max),
            ("services_max", self.services_max != running.services_max),
            ("backends_max", self.backends_max != running.backends_max),
            ("cluster_key", self.cluster_key != running.cluster_key),
            ("zero_copy", self.zero_copy != running.zero_copy),
            ("poll", self.poll != running.poll),
            ("mode", self.mode != running.mode),
            ("[admin]", self.admin != running.admin),
            ("[metrics]", self.metrics != running.metrics),
            ("[workers] pin", self.workers.pin != running.workers.pin),
            ("[workers] cpus", self.workers.cpus != running.workers.cpus),
            ("[rings]", self.rings != running.rings),
            ("[[port]]", self.ports != running.ports),
        ];
        changed
            .into_iter()
            .filter_map(|(key, changed)| changed.then_some(key))
            .collect()
    }
}

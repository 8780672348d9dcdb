//! The config: TOML text in, a validated [`Config`] out, or everything that is wrong with it.
//!
//! Invariant: a [`Config`] that [`Reading::finish`] hands out has been checked in full, as far as
//! that goes without looking at the system; and no text whatever makes reading panic.
//!
//! The text is read from the `toml` crate's spanned parse tree by hand. Serde's derive would be
//! shorter, but it stops at the first error and forgets where a value stood; here every error is
//! found in one go, and a check made later (does the interface exist?) can still point at its line:
//!
//! ```text
//! lb.toml:12:1: [[service]] has no key `prot`; did you mean `port`?
//!    12 | prot = 80
//!       | ^^^^
//! ```

mod check;
mod health;
mod problem;
mod reader;
mod schema;
mod sections;
mod source_nat;
mod values;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use waxwing_dataplane::Ports;
use waxwing_dataplane::model::{Backend as SnapshotBackend, MidStream, SourceUse, Timeouts};
use waxwing_packet::{Address, Protocol};

use crate::network::return_routes::ReturnPlan;

pub use health::{AllDown, Check, Ejection, Health, OnDown, OnRefused, Override, Pace, Tls};
pub use source_nat::SourceNat;

pub use problem::{ConfigErrors, Located, Position, Problem, Severity, Source, Span, judge};

/// The largest config file that is read, in bytes: some 100,000 services.
const FILE_MAX: u64 = 64 << 20;

/// The whole config, defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// The watched folder of modules, or `None` where only the built-in policies serve.
    pub modules: Option<Located<PathBuf>>,
    /// How long a new build of a module serves on one worker only; 0 gives it to all at once.
    pub canary: Duration,
    /// The most sessions at once.
    pub sessions_max: usize,
    /// The most services, those included that are gone from the config but still have sessions.
    pub services_max: usize,
    /// The most backends, over all services, counted likewise.
    pub backends_max: usize,
    /// Keys the hash that policies see.
    pub cluster_key: ClusterKey,
    /// Whether frames are shared with the drivers: one mode for all ports, whose sockets share
    /// one memory.
    pub zero_copy: ZeroCopy,
    /// Whether a worker sleeps.
    pub poll: Poll,
    /// Where it stands between clients and servers.
    pub mode: Located<Mode>,
    /// Where replies to clients go.
    pub return_path: ReturnPath,
    /// The most of the kernel's routes that are read.
    pub routes_max: usize,
    /// Whether VIPs answer ping.
    pub ping: bool,
    /// `[admin]`.
    pub admin: Admin,
    /// `[workers]`.
    pub workers: Workers,
    /// `[rings]`.
    pub rings: Rings,
    /// Every `[[port]]`, in the order of the file.
    pub ports: Vec<Port>,
    /// Every `[[source_nat]]`, in the order of the file.
    pub source_nat: Vec<SourceNat>,
    /// Every `[[service]]`, in the order of the file.
    pub services: Vec<Service>,
    source: Arc<Source>,
}

/// The admin socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// Its path.
    pub socket: Located<PathBuf>,
}

/// Which CPUs the workers run on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Workers {
    /// Whether each worker stays on one CPU.
    pub pin: bool,
    /// The CPU of each worker in turn; empty for CPU 0, 1, 2 and so on.
    pub cpus: Vec<Located<usize>>,
}

/// Sizes of the rings and the memory behind them, for each queue of each port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rings {
    /// Descriptors in each of a socket's four rings; a power of two.
    pub size: u32,
    /// Frames of memory, of 4 KiB each: at least twice the size, one ring's worth to receive into and
    /// one to transmit from. A jumbo frame takes several.
    pub frames: u32,
}

impl Rings {
    /// Of this size, with four frames of memory for each descriptor of a ring.
    #[must_use]
    pub const fn of_size(size: u32) -> Self {
        Self {
            size,
            frames: 4 * size,
        }
    }
}

/// An interface to attach to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// The interface's name.
    pub interface: Located<Arc<str>>,
}

/// Whether frames are shared with the driver or copied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ZeroCopy {
    /// Shared where the driver can, else copied, and reported.
    #[default]
    Auto,
    /// Shared; a driver that cannot is an error.
    Require,
    /// Copied.
    Off,
}

/// What a worker does while nothing arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Poll {
    /// It spins a while, then sleeps until a frame arrives.
    #[default]
    Adaptive,
    /// It never sleeps, and drives the device from its own thread (preferred busy polling).
    Busy,
}

/// Where the balancer stands, and so what it does to what it forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// It is the servers' gateway: a hop of layer 3 between its ports.
    #[default]
    Routed,
    /// The servers' gateway is their router, and it is on the wire between: a bridge of two ports.
    Transparent,
}

impl Mode {
    /// The word in the config and in `status`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::Transparent => "transparent",
        }
    }
}

/// How a reply finds its way to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReturnPath {
    /// To the MAC and port that the client's packets come from.
    #[default]
    LastHop,
    /// Where the kernel's main routing table says.
    Route,
}

/// The key of the hash that policies balance by: equal on every balancer of a cluster, so that
/// consistent policies agree. It does not print.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ClusterKey(pub u128);

impl Default for ClusterKey {
    /// A fixed key: without one in the config, balancers agree with each other and with
    /// themselves after a restart, but a client that knows the key can choose its backend.
    fn default() -> Self {
        Self(u128::from_be_bytes(*b"waxwing-cluster!"))
    }
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// A service: what clients connect to, and who serves them.
#[derive(Clone, PartialEq, Debug)]
pub struct Service {
    /// Its name: unique, 1 to 64 letters, digits, `.`, `_`, `-`.
    pub name: Located<Arc<str>>,
    /// The address clients use.
    pub vip: Located<Address>,
    /// The ports clients use.
    pub ports: Located<Ports>,
    /// TCP or UDP.
    pub protocol: Located<Protocol>,
    /// The name of the module that picks its backends.
    pub policy: Located<Arc<str>>,
    /// What the module is handed: a JSON object.
    pub policy_config: Located<Arc<str>>,
    /// What becomes of TCP packets in the middle of an unknown connection.
    pub mid_stream: MidStream,
    /// Which of its sessions get a source address, where it says so.
    pub source_nat: Option<Located<SourceUse>>,
    /// Names of its backends' signals, by their place.
    pub signals: Vec<Arc<str>>,
    /// How long sessions live without a packet.
    pub timeouts: Timeouts,
    /// What its backends' health is judged by, and what follows.
    pub health: Health,
    /// Its backends, in the order of the file.
    pub backends: Vec<Backend>,
    /// The table's header.
    pub span: Span,
}

/// A server behind a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Its address.
    pub address: Located<Address>,
    /// Its port; none where its service has many, each of which is its own.
    pub port: Option<Located<u16>>,
    /// Its share of new sessions; 0 takes none.
    pub weight: u32,
    /// A name for people; its endpoint where it has none.
    pub name: Option<Located<Arc<str>>>,
    /// A number that means something to the policy alone.
    pub tag: u32,
    /// Whether it takes new sessions only while no other backend does.
    pub backup: bool,
    /// What it has otherwise than its service's checks.
    pub health: Override,
}

impl Backend {
    /// Its port as a snapshot has it.
    #[must_use]
    pub fn snapshot_port(&self) -> u16 {
        self.port
            .map_or(SnapshotBackend::PORT_KEPT, |port| port.value)
    }

    /// Its address and port; its address alone where it has all of its service's ports.
    fn endpoint(&self) -> String {
        let address = IpAddr::from(self.address.value);
        self.port.map_or_else(
            || address.to_string(),
            |port| SocketAddr::new(address, port.value).to_string(),
        )
    }

    /// What people call it: its name, if it has one, and its endpoint.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("{} ({})", name.value, self.endpoint()),
            None => self.endpoint(),
        }
    }

    /// Whether a text means it: its name, or its endpoint.
    #[must_use]
    pub fn is_called(&self, text: &str) -> bool {
        let named = self.name.as_ref().is_some_and(|name| &*name.value == text);
        let address = IpAddr::from(self.address.value);
        named
            || match self.port {
                Some(port) => text.parse() == Ok(SocketAddr::new(address, port.value)),
                None => text.parse() == Ok(address),
            }
    }
}

impl Config {
    /// Reads and checks a file; gives warnings beside the config.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<(Self, Vec<Problem>), ConfigErrors> {
        Self::read_file(path)?.finish()
    }

    /// Reads and checks a text; `path` names it in problems, and its folder is the one that
    /// relative paths start from.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str, path: &Path) -> Result<(Self, Vec<Problem>), ConfigErrors> {
        Self::read(text, path).finish()
    }

    /// Reads a file, to look at it more closely before [`Reading::finish`].
    ///
    /// # Errors
    /// Only that the file cannot be read at all.
    pub fn read_file(path: &Path) -> Result<Reading, ConfigErrors> {
        let whole_file = |text: String| Problem::whole_file(path, Severity::Error, text);
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(FILE_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| {
                whole_file(format!(
                    "the config cannot be read: {error}; write the path of a readable file after \
                     `--config`"
                ))
            })?;
        if bytes.len() as u64 > FILE_MAX {
            let text = format!("the file is larger than {} MiB: no config", FILE_MAX >> 20);
            return Err(whole_file(text).into());
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = std::str::from_utf8(&bytes) {
            let at = error.valid_up_to();
            let problem = Problem::at(
                &Source::new(path, &text),
                Severity::Error,
                (at..at).into(),
                "this byte is not UTF-8; write the file in UTF-8",
            );
            return Err(problem.into());
        }
        Ok(Self::read(&text, path))
    }

    /// Reads a text, to look at it more closely before [`Reading::finish`].
    #[must_use]
    pub fn read(text: &str, path: &Path) -> Reading {
        sections::read(&Arc::new(Source::new(path, text)))
    }

    /// An error at a place in the config, found by looking at the system.
    #[must_use]
    pub fn error_at(&self, span: Span, text: impl Into<String>) -> Problem {
        Problem::at(&self.source, Severity::Error, span, text)
    }

    /// A warning at a place in the config, found by looking at the system.
    #[must_use]
    pub fn warning_at(&self, span: Span, text: impl Into<String>) -> Problem {
        Problem::at(&self.source, Severity::Warning, span, text)
    }

    /// In transparent mode, the names of the bridge's two ports.
    #[must_use]
    pub fn bridged(&self) -> Option<[&str; 2]> {
        match (self.mode.value, &self.ports[..]) {
            (Mode::Transparent, [first, second]) => {
                Some([&first.interface.value, &second.interface.value])
            }
            _ => None,
        }
    }

    /// The text that this was read from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The name of every policy in use, each once, in the order of its first service. A service's
    /// place here is [`waxwing_dataplane::Service::policy`].
    #[must_use]
    pub fn policies(&self) -> Vec<Arc<str>> {
        let mut seen = HashSet::new();
        let names = self.services.iter().map(|service| &service.policy.value);
        names.filter(|name| seen.insert(*name)).cloned().collect()
    }

    /// A service and the place of one of its backends, by what people call them.
    ///
    /// # Errors
    /// There is none; the text names those that there are.
    pub fn find_backend(&self, service: &str, backend: &str) -> Result<(&Service, usize), String> {
        let entry = self.services.iter().find(|it| &*it.name.value == service);
        let entry = entry.ok_or_else(|| {
            let names: Vec<&str> = self.services.iter().map(|it| &*it.name.value).collect();
            format!(
                "there is no service \"{service}\"; the services are: {}",
                names.join(", ")
            )
        })?;
        let place = entry.backends.iter().position(|it| it.is_called(backend));
        let place = place.ok_or_else(|| {
            let names: Vec<String> = entry.backends.iter().map(Backend::title).collect();
            format!(
                "service \"{service}\" has no backend \"{backend}\"; its backends are: {}",
                names.join(", ")
            )
        })?;
        Ok((entry, place))
    }

    /// The services by their endpoint, to find the one that a [`waxwing_dataplane::Service`] was
    /// made from; its backends are in the order of that one's.
    #[must_use]
    pub fn by_endpoint(&self) -> HashMap<(Address, Ports, Protocol), &Service> {
        let key = |s: &Service| (s.vip.value, s.ports.value, s.protocol.value);
        self.services.iter().map(|s| (key(s), s)).collect()
    }

    /// Where replies to clients go, as the resolver knows it.
    #[must_use]
    pub fn return_plan(&self) -> ReturnPlan {
        ReturnPlan {
            by_routes: self.return_path == ReturnPath::Route,
            routes_max: self.routes_max,
        }
    }

    /// The keys that differ from `running` and that only a restart puts into effect, because what
    /// they set is allocated or attached at the start.
    #[must_use]
    pub fn needs_restart(&self, running: &Self) -> Vec<&'static str> {
        let ports = |config: &Self| -> Vec<_> {
            config
                .ports
                .iter()
                .map(|p| p.interface.value.clone())
                .collect()
        };
        let cpus =
            |config: &Self| -> Vec<_> { config.workers.cpus.iter().map(|cpu| cpu.value).collect() };
        let modules = |config: &Self| config.modules.as_ref().map(|m| m.value.clone());
        let changed = [
            ("modules", modules(self) != modules(running)),
            ("canary", self.canary != running.canary),
            ("sessions_max", self.sessions_max != running.sessions_max),
            ("services_max", self.services_max != running.services_max),
            ("backends_max", self.backends_max != running.backends_max),
            ("cluster_key", self.cluster_key != running.cluster_key),
            ("zero_copy", self.zero_copy != running.zero_copy),
            ("poll", self.poll != running.poll),
            ("mode", self.mode.value != running.mode.value),
            (
                "[admin] socket",
                self.admin.socket.value != running.admin.socket.value,
            ),
            ("[workers] pin", self.workers.pin != running.workers.pin),
            ("[workers] cpus", cpus(self) != cpus(running)),
            ("[rings]", self.rings != running.rings),
            ("[[port]]", ports(self) != ports(running)),
        ];
        changed
            .into_iter()
            .filter_map(|(key, changed)| changed.then_some(key))
            .collect()
    }
}

/// A config as far as it could be read, with the problems found so far. What is wrong in it is
/// left out of the config, so that a look at the system can go on with the rest and all problems
/// print together.
#[derive(Debug)]
pub struct Reading {
    config: Config,
    problems: Vec<Problem>,
}

impl Reading {
    /// The config, without what is wrong in it.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Adds problems found by looking at the system (see [`Config::error_at`]).
    pub fn add(&mut self, problems: impl IntoIterator<Item = Problem>) {
        self.problems.extend(problems);
    }

    /// The config and its warnings.
    ///
    /// # Errors
    /// All problems, where one is an error.
    pub fn finish(self) -> Result<(Config, Vec<Problem>), ConfigErrors> {
        let warnings = judge(self.problems)?;
        Ok((self.config, warnings))
    }
}

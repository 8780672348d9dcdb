//! A service, its backends, and the source addresses.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use waxwing_dataplane::Ports;
use waxwing_dataplane::model::{Backend as SnapshotBackend, MidStream, SourceUse, Timeouts};
use waxwing_packet::{Address, Prefix, Protocol};

use super::health::{CheckOverride, HealthConfig};
use crate::config::problem::{Located, Span};

/// `[[service]]`: an endpoint that clients connect to, and the backends behind it.
#[derive(Clone, PartialEq, Debug)]
pub struct Service {
    /// Unique; 1 to 64 letters, digits, `.`, `_`, `-`.
    pub name: Located<Arc<str>>,
    /// The virtual IP address, which clients use.
    pub vip: Located<Address>,
    /// The ports that clients use.
    pub ports: Located<Ports>,
    pub protocol: Located<Protocol>,
    /// Name of the module that picks a backend for each new session.
    pub policy: Located<Arc<str>>,
    /// The module's config: a JSON object.
    pub policy_config: Located<Arc<str>>,
    /// Whether its policy gives the backends other shares than their weights on purpose.
    pub uneven: bool,
    /// What to do with a TCP packet of an unknown connection that does not open one.
    pub mid_stream: MidStream,
    /// Whether a server's reply without a session opens one; where the key is, if so.
    pub adopt_replies: Option<Span>,
    /// Which sessions get a source address; `None`: the key is absent.
    pub source_nat: Option<Located<SourceUse>>,
    /// Its share of the session table; `None`: all of it.
    pub sessions_max: Option<u32>,
    /// Names of the backends' signals, by index.
    pub signals: Vec<Arc<str>>,
    /// How long an idle session lives.
    pub timeouts: Timeouts,
    pub health: HealthConfig,
    /// In file order.
    pub backends: Vec<Backend>,
    /// The table's header.
    pub span: Span,
}

/// `[[service.backend]]`: a server behind a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    pub address: Located<Address>,
    /// `None` if the service has several ports: a session then keeps the port that its client used.
    pub port: Option<Located<u16>>,
    /// Its share of new sessions; 0: none.
    pub weight: u32,
    /// A name for people, shown beside the endpoint.
    pub name: Option<Located<Arc<str>>>,
    /// A number for the policy; the balancer does not interpret it.
    pub tag: u32,
    /// Whether it takes new sessions only when no main backend does.
    pub backup: bool,
    /// Where its checks differ from those of the service.
    pub health: CheckOverride,
    /// Whether an operator added it while the balancer ran.
    pub is_added: bool,
}

impl Backend {
    /// Returns the port as the snapshot stores it.
    #[must_use]
    pub fn snapshot_port(&self) -> u16 {
        self.port
            .map_or(SnapshotBackend::PORT_KEPT, |port| port.value)
    }

    /// Returns the address and port, or the address alone if the backend has no port of its own.
    fn endpoint(&self) -> String {
        let address = IpAddr::from(self.address.value);
        self.port.map_or_else(
            || address.to_string(),
            |port| SocketAddr::new(address, port.value).to_string(),
        )
    }

    /// Returns its name, if any, and its endpoint.
    #[must_use]
    pub fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("{} ({})", name.value, self.endpoint()),
            None => self.endpoint(),
        }
    }

    /// Returns what a command calls it: its name, or its endpoint if it has none.
    #[must_use]
    pub fn handle(&self) -> String {
        match &self.name {
            Some(name) => name.value.to_string(),
            None => self.endpoint(),
        }
    }

    /// Returns whether `text` is its name or its endpoint.
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

/// `[[source_nat]]`: source addresses, and the clients that get one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceNat {
    /// Networks whose clients get a source address at every service.
    pub clients: Vec<Located<Prefix>>,
    /// The source addresses.
    pub addresses: Vec<Located<Address>>,
    /// The ports of each address.
    pub ports: Ports,
    /// The table's header.
    pub span: Span,
}

//! What is checked, and what came of it.
//!
//! Invariant: plain values; the target's JSON is all that a module learns of the balancer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use waxwing_packet::Protocol;

use super::tls::CheckTls;

/// A config that a module is to take.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckConfig {
    /// The service's name, for messages.
    pub service: Arc<str>,
    /// JSON text, an object.
    pub json: Arc<str>,
}

/// A backend's endpoint, and how it is checked.
#[derive(Clone, Debug)]
pub struct CheckTarget {
    /// The service's name.
    pub service: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// Where the check connects, and nowhere else.
    pub address: SocketAddr,
    /// The service's protocol. The check may use another.
    pub protocol: Protocol,
    /// The check's config, JSON text that [`CheckHost::bind`](super::CheckHost::bind) was given.
    pub config_json: Arc<str>,
    /// How the check asks for TLS, where it may.
    pub tls: Option<Arc<CheckTls>>,
    /// The time for all of it.
    pub timeout: Duration,
    /// The names of the service's signals, by place.
    pub signals: Arc<[Arc<str>]>,
}

/// The target as the module reads it.
#[derive(Serialize)]
struct Told<'a> {
    service: &'a str,
    backend: &'a str,
    address: IpAddr,
    port: u16,
    protocol: &'a str,
    timeout_ms: u64,
    server_name: &'a str,
    signals: Vec<&'a str>,
}

impl CheckTarget {
    /// No backend: a config is tried, and nothing may be connected to.
    pub(super) fn of_config(config: &CheckConfig) -> Self {
        Self {
            service: Arc::clone(&config.service),
            backend: "".into(),
            address: (Ipv4Addr::UNSPECIFIED, 0).into(),
            protocol: Protocol::Tcp,
            config_json: Arc::clone(&config.json),
            tls: None,
            timeout: Duration::ZERO,
            signals: Arc::new([]),
        }
    }

    /// The text for the module.
    pub(super) fn json(&self) -> String {
        let address = self.address.ip().to_string();
        let name = self.tls.as_ref().and_then(|tls| tls.server_name());
        let told = Told {
            service: &self.service,
            backend: &self.backend,
            address: self.address.ip(),
            port: self.address.port(),
            protocol: match self.protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
            },
            timeout_ms: u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX),
            server_name: name.unwrap_or(&address),
            signals: self.signals.iter().map(|name| &**name).collect(),
        };
        // It has no map whose keys could be no strings, which is all that could fail.
        serde_json::to_string(&told).unwrap_or_default()
    }
}

/// How a backend is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckVerdict {
    /// Well.
    Healthy,
    /// Not well, or that could not be found out.
    Unhealthy,
    /// Well, and wants no new sessions.
    Draining,
}

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckOutcome {
    /// How the backend is.
    pub verdict: CheckVerdict,
    /// Why, for people: the module's own words, or the host's. Without control characters.
    pub reason: String,
    /// What is made of the backend's weight, in percent; `None` leaves it.
    pub weight: Option<u16>,
    /// New values of the backend's signals; `None` leaves one.
    pub signals: [Option<u32>; 4],
    /// How long it took.
    pub took: Duration,
    /// Whether the module failed, and not the backend:
    /// [`CheckHost::recover`](super::CheckHost::recover) is to be told.
    pub fault: bool,
    /// Whether nothing was found out about the backend, for the balancer itself was short of files, ports
    /// or memory: the verdict is [`CheckVerdict::Unhealthy`] then and should not count, and the reason
    /// says what is missing.
    pub inconclusive: bool,
}

//! The target of a check, and the outcome of a run.
//!
//! Invariant: plain values; the target's JSON is all that a module learns about the balancer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use waxwing_packet::Protocol;

use super::tls::CheckTls;

/// A config that a module has to accept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckConfig {
    /// The service's name, for messages.
    pub service: Arc<str>,
    /// JSON text, an object.
    pub json: Arc<str>,
}

/// A backend's endpoint and the check's settings for it.
#[derive(Clone, Debug)]
pub struct CheckTarget {
    /// The service's name.
    pub service: Arc<str>,
    /// The backend's name.
    pub backend: Arc<str>,
    /// The only address and port that the check can connect to.
    pub address: SocketAddr,
    /// The service's protocol. The check may use another.
    pub protocol: Protocol,
    /// The check's config, JSON text that [`CheckHost::bind`](super::CheckHost::bind) was given.
    pub config_json: Arc<str>,
    /// TLS settings, if TLS is set up.
    pub tls: Option<Arc<CheckTls>>,
    /// The time limit of the whole run.
    pub timeout: Duration,
    /// The names of the service's signals, by index.
    pub signals: Arc<[Arc<str>]>,
}

#[derive(Serialize)]
struct TargetJson<'a> {
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
    /// Returns a target without a backend, for trying a config: nothing can be connected to.
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

    /// Returns the target as JSON for the module.
    pub(super) fn json(&self) -> String {
        let address = self.address.ip().to_string();
        let name = self.tls.as_ref().and_then(|tls| tls.server_name());
        let target = TargetJson {
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
        // Serialization fails only for maps with keys that are not strings; this has none.
        serde_json::to_string(&target).unwrap_or_default()
    }
}

/// The state of a backend, by a check.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckVerdict {
    /// It is healthy.
    Healthy,
    /// It is unhealthy, or its state could not be determined.
    Unhealthy,
    /// It is healthy and wants no new sessions.
    Draining,
}

/// The outcome of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckOutcome {
    /// The state of the backend.
    pub verdict: CheckVerdict,
    /// The reason: the module's text, or the host's. Without control characters.
    pub reason: String,
    /// The factor for the backend's weight, in percent; `None` leaves it.
    pub weight: Option<u16>,
    /// New values of the backend's signals; `None` leaves a value unchanged.
    pub signals: [Option<u32>; 4],
    /// How long the run took.
    pub took: Duration,
    /// Whether the module failed rather than the backend; if so, call
    /// [`CheckHost::recover`](super::CheckHost::recover).
    pub fault: bool,
    /// Whether the run says nothing about the backend, because the balancer itself ran out of
    /// files, ports or memory. The verdict is [`CheckVerdict::Unhealthy`] then and should not
    /// count; the reason names the missing resource.
    pub inconclusive: bool,
    /// The lines that the module logged.
    pub log: Vec<String>,
}

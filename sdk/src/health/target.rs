//! The backend that a check asks.
//!
//! Invariant: the host states everything about a target, and nothing changes during a run.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io;

use serde::{Deserialize, Serialize};

use super::{Conn, Datagrams, system};
use crate::Protocol;

/// The backend that a check asks, and the connections to it.
#[derive(Clone, Debug)]
pub struct Target(Fields);

/// A target as the host writes it in JSON. A host of a later minor version may add keys.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fields {
    pub(crate) service: String,
    pub(crate) backend: String,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) timeout_ms: u64,
    pub(crate) server_name: String,
    pub(crate) signals: Vec<String>,
}

impl Target {
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(json)
            .map(Self)
            .map_err(|error| format!("cannot read the target from the host: {error}"))
    }

    /// Returns the service's name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// Returns the backend's name.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.0.backend
    }

    /// Returns the backend's address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.0.address
    }

    /// Returns the port that the check connects to: the backend's port unless the operator sets
    /// another.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.0.port
    }

    /// Returns the service's protocol. A check may use the other protocol too.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.0.protocol
    }

    /// Returns how long the whole run may take.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_millis(self.0.timeout_ms)
    }

    /// Returns the host name to ask for, in TLS and in HTTP; the address as text if the operator
    /// sets none.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.0.server_name
    }

    /// Returns the operator's names of the backend's signals, by index.
    #[must_use]
    pub fn signals(&self) -> &[String] {
        &self.0.signals
    }

    /// Returns the index of the signal that the operator gave this name, for
    /// [`super::Verdict::signal`].
    #[must_use]
    pub fn signal_index(&self, name: &str) -> Option<usize> {
        self.0.signals.iter().position(|signal| signal == name)
    }

    /// Connects over TCP. The host limits the number of connections that are open at once.
    ///
    /// # Errors
    /// Fails if the target refuses, is unreachable or does not answer, and over the host's limit.
    pub fn connect(&self) -> io::Result<Conn> {
        Conn::open(self.socket_address(), self.timeout())
    }

    /// Opens a socket for datagrams to and from the target. It counts as a connection.
    ///
    /// # Errors
    /// Fails if there is no route to the target, and over the host's limit.
    pub fn connect_udp(&self) -> io::Result<Datagrams> {
        Datagrams::open(self.socket_address(), self.timeout())
    }

    const fn socket_address(&self) -> SocketAddr {
        SocketAddr::new(self.address(), self.port())
    }

    /// Returns the time since an arbitrary start. It never goes back; its resolution is a
    /// millisecond or better. A module has no other clock: `std::time::Instant` panics there.
    #[must_use]
    pub fn now(&self) -> Duration {
        system::now()
    }

    /// Sleeps. The time counts towards [`Target::timeout`].
    pub fn sleep(&self, time: Duration) {
        system::sleep(time);
    }

    /// Writes a line to the balancer's log at debug level; natively, to standard error. The host
    /// truncates long lines and drops lines over its limit.
    pub fn log(&self, line: fmt::Arguments<'_>) {
        system::log(&line.to_string());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    /// The target in ABI.md.
    const JSON: &str = r#"{"service":"web","backend":"s1","address":"10.2.0.11","port":8080,
        "protocol":"tcp","timeout_ms":1500,"server_name":"api.example","signals":["queue","load"]}"#;

    #[test]
    fn a_target_has_the_hosts_values() {
        let target = Target::parse(JSON.as_bytes()).unwrap();
        assert_eq!((target.service(), target.backend()), ("web", "s1"));
        assert_eq!(target.address(), IpAddr::from([10, 2, 0, 11]));
        assert_eq!((target.port(), target.protocol()), (8080, Protocol::Tcp));
        assert_eq!(target.timeout(), Duration::from_millis(1500));
        assert_eq!(target.server_name(), "api.example");
        assert_eq!(target.signals(), ["queue", "load"]);
        assert_eq!(
            (target.signal_index("load"), target.signal_index("x")),
            (Some(1), None)
        );
    }

    #[test]
    fn unknown_keys_are_ignored_and_missing_ones_are_errors() {
        let more = JSON.replacen('{', r#"{"zone":"a","#, 1);
        assert!(Target::parse(more.as_bytes()).is_ok());
        let less = JSON.replace(r#""port":8080,"#, "");
        let error = Target::parse(less.as_bytes()).unwrap_err();
        assert!(error.contains("missing field `port`"), "{error}");
        let udp = JSON
            .replace("tcp", "udp")
            .replace("10.2.0.11", "2001:db8::1");
        let udp = Target::parse(udp.as_bytes()).unwrap();
        assert_eq!(
            (udp.protocol(), udp.address().is_ipv6()),
            (Protocol::Udp, true)
        );
    }
}

//! The one backend that a check is about.
//!
//! Invariant: what it says comes from the host and does not change during a run.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;
use core::time::Duration;
use std::io;

use serde::{Deserialize, Serialize};

use super::{Conn, Datagrams, system};
use crate::Protocol;

/// The backend that a check asks, and the way to it.
#[derive(Clone, Debug)]
pub struct Target(Fields);

/// A target as the host writes it, in JSON. A host of a later minor version may say more.
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
            .map_err(|error| format!("the target that the host wrote: {error}"))
    }

    /// The service's name.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.0.service
    }

    /// The backend's name.
    #[must_use]
    pub fn backend(&self) -> &str {
        &self.0.backend
    }

    /// The backend's address.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.0.address
    }

    /// The port that the check connects to: the backend's own unless the operator names another.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.0.port
    }

    /// The protocol of the service. A check may connect by the other one too.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        self.0.protocol
    }

    /// How long the whole run may take.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        Duration::from_millis(self.0.timeout_ms)
    }

    /// The name of the host to ask for, in TLS and in HTTP; the address's text if the operator sets
    /// none.
    #[must_use]
    pub fn server_name(&self) -> &str {
        &self.0.server_name
    }

    /// The names that the operator has given to the backend's signals, by their place.
    #[must_use]
    pub fn signals(&self) -> &[String] {
        &self.0.signals
    }

    /// The place of the signal that the operator has given this name, for [`super::Verdict::signal`].
    #[must_use]
    pub fn signal(&self, name: &str) -> Option<usize> {
        self.0.signals.iter().position(|signal| signal == name)
    }

    /// Connects by TCP. A limited number of connections may be open at once.
    ///
    /// # Errors
    /// The target refused it, is not reachable or did not answer; or the host's limit is reached.
    pub fn connect(&self) -> io::Result<Conn> {
        Conn::open(self)
    }

    /// A socket for datagrams to and from the target. It counts as a connection.
    ///
    /// # Errors
    /// There is no way to the target, or the host's limit is reached.
    pub fn connect_udp(&self) -> io::Result<Datagrams> {
        Datagrams::open(self)
    }

    /// The time since an arbitrary start, in whole milliseconds or better; it never goes back. (A
    /// module has no other clock: `std::time::Instant` panics there.)
    #[must_use]
    pub fn now(&self) -> Duration {
        system::now()
    }

    /// Waits. The time counts towards [`Target::timeout`].
    pub fn sleep(&self, time: Duration) {
        system::sleep(time);
    }

    /// Writes a line into the balancer's log, at debug level; natively to standard error. Of long lines
    /// and of many the host keeps a part.
    pub fn log(&self, line: fmt::Arguments<'_>) {
        system::log(&line.to_string());
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    /// As ABI.md shows it.
    const JSON: &str = r#"{"service":"web","backend":"s1","address":"10.2.0.11","port":8080,
        "protocol":"tcp","timeout_ms":1500,"server_name":"api.example","signals":["queue","load"]}"#;

    #[test]
    fn a_target_is_what_the_host_wrote() {
        let target = Target::parse(JSON.as_bytes()).unwrap();
        assert_eq!((target.service(), target.backend()), ("web", "s1"));
        assert_eq!(target.address(), IpAddr::from([10, 2, 0, 11]));
        assert_eq!((target.port(), target.protocol()), (8080, Protocol::Tcp));
        assert_eq!(target.timeout(), Duration::from_millis(1500));
        assert_eq!(target.server_name(), "api.example");
        assert_eq!(target.signals(), ["queue", "load"]);
        assert_eq!((target.signal("load"), target.signal("x")), (Some(1), None));
    }

    #[test]
    fn what_a_later_host_adds_is_no_error_and_what_is_missing_is() {
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

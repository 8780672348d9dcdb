//! Runs a health check natively, against a server that the test started.
//!
//! Invariant: config, target and verdict pass through the code that they pass through in a module.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddr;
use core::time::Duration;

use crate::health::{Fields, run};
use crate::{HealthCheck, Protocol, Unhealthy, Verdict};

/// The target of a [`check()`]: a server of the test, with a timeout of one second.
#[derive(Clone, Debug)]
pub struct TestTarget(Fields);

impl TestTarget {
    /// Makes the target for the server at this address.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self(Fields {
            service: "service".to_string(),
            backend: "backend".to_string(),
            address: address.ip(),
            port: address.port(),
            protocol: Protocol::Tcp,
            timeout_ms: 1000,
            server_name: address.ip().to_string(),
            signals: Vec::new(),
        })
    }

    /// Sets [`crate::Target::timeout`], in whole milliseconds. Natively it applies to each call
    /// that waits.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.0.timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Sets [`crate::Target::server_name`].
    #[must_use]
    pub fn server_name(mut self, name: &str) -> Self {
        self.0.server_name = name.to_string();
        self
    }

    /// Sets [`crate::Target::signals`].
    #[must_use]
    pub fn signals(mut self, names: &[&str]) -> Self {
        self.0.signals = names.iter().map(ToString::to_string).collect();
        self
    }

    /// Sets [`crate::Target::protocol`].
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.0.protocol = protocol;
        self
    }
}

impl From<SocketAddr> for TestTarget {
    fn from(address: SocketAddr) -> Self {
        Self::new(address)
    }
}

/// Makes a check with this config, JSON text, and runs it. [`crate::health`] has an example.
///
/// # Errors
/// The target is unhealthy, or the check refuses its config, which the host would do before any
/// run.
///
/// # Panics
/// Panics if the check panics.
pub fn check<H: HealthCheck>(
    config: &str,
    target: impl Into<TestTarget>,
) -> Result<Verdict, Unhealthy> {
    let target = serde_json::to_vec(&target.into().0).map_err(|error| error.to_string())?;
    let mut check = run::configure::<H>(config.as_bytes()).map_err(|error| error.to_string())?;
    let (record, reason): (_, String) = run::check(&mut check, &target)?;
    Verdict::read(&record, reason)
}

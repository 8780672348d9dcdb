//! How a service judges the health of its backends, and what follows from the result.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::problem::{Located, Span};

/// The health keys of a `[[service]]`.
#[derive(Clone, PartialEq, Debug)]
pub struct HealthConfig {
    /// A backend is up while all checks pass. Empty: always up.
    pub checks: Vec<HealthCheck>,
    /// Whether failures of client connections count too.
    pub ejection: Option<Ejection>,
    pub on_down: OnDown,
    pub on_refused: OnRefused,
    /// How long a recovered backend takes to reach its full weight; 0: at once.
    pub slow_start: Duration,
    /// How long a draining backend keeps its sessions; `None`: until they end.
    pub drain_timeout: Option<Duration>,
    pub all_down: AllDown,
    /// If fewer backends than this are up, in percent, health is ignored; 0: never.
    pub panic_threshold: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            checks: Vec::new(),
            ejection: None,
            on_down: OnDown::default(),
            on_refused: OnRefused::default(),
            slow_start: Duration::ZERO,
            drain_timeout: None,
            all_down: AllDown::default(),
            panic_threshold: 0,
        }
    }
}

/// `[[service.health]]`: a health check of every backend of a service.
#[derive(Clone, PartialEq, Debug)]
pub struct HealthCheck {
    /// The module's name.
    pub module: Located<Arc<str>>,
    /// The module's config: a JSON object.
    pub config: Located<Arc<str>>,
    pub timing: CheckTiming,
    /// How much an interval varies, in percent.
    pub jitter: u32,
    /// The port to connect to; `None`: the backend's own.
    pub port: Option<u16>,
    pub tls: TlsConfig,
    /// The table's header.
    pub span: Span,
}

/// How often a check runs, and how many equal results in a row change the backend's state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckTiming {
    /// Time between the starts of two checks.
    pub interval: Duration,
    /// The interval while the latest results contradict the backend's state.
    pub fast_interval: Duration,
    /// Maximum duration of one check.
    pub timeout: Duration,
    /// Successes in a row that bring the backend up.
    pub rise: u32,
    /// Failures in a row that take the backend down.
    pub fall: u32,
}

/// `[service.health.tls]`: how a check verifies the server's certificate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsConfig {
    /// A PEM file of trusted roots; `None`: the system's.
    pub roots: Option<Located<PathBuf>>,
    /// The name sent as SNI and required in the certificate; `None`: the backend's address.
    pub server_name: Option<Located<Arc<str>>>,
    /// `false` accepts any certificate.
    pub verify: bool,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            roots: None,
            server_name: None,
            verify: true,
        }
    }
}

/// `[service.ejection]`: when failures of client connections take a backend out (outlier
/// detection).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ejection {
    /// Failed connections within `window` that eject a backend.
    pub failures: u32,
    pub window: Duration,
    /// How long the first ejection lasts. Each further one lasts twice as long.
    pub time: Duration,
    /// Maximum duration of an ejection.
    pub time_max: Duration,
    /// Minimum share of the service's backends that stays in, in percent.
    pub min_healthy: u32,
}

/// What happens to the sessions of a backend that goes down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnDown {
    /// They continue: the server may be alive, and only the check fails.
    #[default]
    Keep,
    /// The client gets a RST or an ICMP port unreachable.
    Reset,
    /// The next packet goes to another backend.
    Repick,
}

/// What happens to a connection that a backend refuses (RST in reply to the SYN).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnRefused {
    /// The client gets the RST.
    #[default]
    Pass,
    /// The RST is dropped; the client's next SYN goes to another backend, if there is one.
    Retry,
}

/// What happens to new sessions while no backend is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AllDown {
    /// The client gets a RST or an ICMP port unreachable.
    #[default]
    Reject,
    /// They are dropped.
    Drop,
}

/// `[service.backend.health]`: where a backend's checks differ from those of its service. `None`:
/// as the service has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckOverride {
    /// `false`: the backend is not checked.
    pub enabled: bool,
    /// See [`HealthCheck::port`].
    pub port: Option<u16>,
    /// See [`CheckTiming::interval`].
    pub interval: Option<Duration>,
    /// See [`CheckTiming::fast_interval`].
    pub fast_interval: Option<Duration>,
    /// See [`CheckTiming::timeout`].
    pub timeout: Option<Duration>,
    /// See [`CheckTiming::rise`].
    pub rise: Option<u32>,
    /// See [`CheckTiming::fall`].
    pub fall: Option<u32>,
}

impl Default for CheckOverride {
    fn default() -> Self {
        Self {
            enabled: true,
            port: None,
            interval: None,
            fast_interval: None,
            timeout: None,
            rise: None,
            fall: None,
        }
    }
}

impl CheckOverride {
    /// Returns the timing of a check with these overrides applied.
    #[must_use]
    pub fn apply(&self, timing: CheckTiming) -> CheckTiming {
        let interval = self.interval.unwrap_or(timing.interval);
        let fast_interval = self.fast_interval.unwrap_or(timing.fast_interval);
        CheckTiming {
            interval,
            fast_interval: fast_interval.min(interval),
            timeout: self.timeout.unwrap_or(timing.timeout),
            rise: self.rise.unwrap_or(timing.rise),
            fall: self.fall.unwrap_or(timing.fall),
        }
    }
}

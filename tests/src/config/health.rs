//! The health tables of a config.

use std::path::PathBuf;

use serde::Serialize;

/// A health check of a service's backends. An unset option takes the balancer's default.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HealthCheck {
    /// The module's name.
    pub check: String,
    /// The module's own config.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub config: toml::Table,
    /// Time between two checks of a backend.
    pub interval: Option<&'static str>,
    /// Time between two checks while the result is undecided.
    pub fast_interval: Option<&'static str>,
    /// Longest duration of a check.
    pub timeout: Option<&'static str>,
    /// Consecutive successes after which the check is passing.
    pub rise: Option<u32>,
    /// Consecutive failures after which the check is failing.
    pub fall: Option<u32>,
    /// Random variation of the intervals, in percent.
    pub jitter: Option<u32>,
    /// The port to check instead of the backend's.
    pub port: Option<u16>,
    /// TLS settings for modules that start TLS.
    pub tls: Option<Tls>,
}

/// TLS settings of a health check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tls {
    /// File of the trusted certificates, in PEM.
    pub roots: Option<PathBuf>,
    /// Name that the server's certificate must have.
    pub server_name: Option<&'static str>,
    /// Whether to verify the server's certificate.
    pub verify: Option<bool>,
}

/// When failed sessions eject a backend, and for how long.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ejection {
    /// Failures within [`Self::window`] that eject a backend.
    pub failures: u32,
    /// Time in which failures are counted.
    pub window: &'static str,
    /// Duration of the first ejection.
    pub time: &'static str,
    /// Longest duration of an ejection, after repeated ejections.
    pub time_max: &'static str,
    /// Percentage of the backends that must not be ejected.
    pub min_healthy: u8,
}

impl HealthCheck {
    /// Returns a check by a module, with the balancer's default options.
    pub fn new(check: &str) -> Self {
        Self {
            check: check.to_owned(),
            ..Self::default()
        }
    }

    /// Sets the module's own config, from the text of a TOML document.
    pub fn with(mut self, config: &str) -> Self {
        let parsed = config.parse();
        self.config = parsed.unwrap_or_else(|error| panic!("{error}\n{config}"));
        self
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::config::{Backend, Service};

    #[test]
    fn a_service_with_checks_is_written_as_an_operator_would() {
        let mut service = Service::v4("web", "tcp", (80, 8080), 1).checked(HealthCheck {
            interval: Some("200ms"),
            fall: Some(3),
            ..HealthCheck::new("http").with("path = \"/healthz\"\nstatus = \"200-399\"")
        });
        service.on_down = Some("reset");
        service.ejection = Some(Ejection {
            failures: 5,
            window: "10s",
            time: "2s",
            time_max: "5m",
            min_healthy: 50,
        });
        service.backends[0]
            .health
            .insert("port".into(), 9100.into());
        let backup = Backend::new([10, 2, 0, 12].into(), 8080);
        service.backends.push(Backend {
            backup: true,
            ..backup
        });
        let written: toml::Table = toml::to_string(&service).unwrap().parse().unwrap();
        let expected: toml::Table = "
            name = 'web'
            vip = '203.0.113.10'
            port = 80
            protocol = 'tcp'
            policy = 'round_robin'
            on_down = 'reset'
            [ejection]
            failures = 5
            window = '10s'
            time = '2s'
            time_max = '5m'
            min_healthy = 50
            [[health]]
            check = 'http'
            config = { path = '/healthz', status = '200-399' }
            interval = '200ms'
            fall = 3
            [[backend]]
            address = '10.2.0.11'
            port = 8080
            weight = 1
            tag = 0
            health = { port = 9100 }
            [[backend]]
            address = '10.2.0.12'
            port = 8080
            weight = 1
            tag = 0
            backup = true
            "
        .parse()
        .unwrap();
        assert_eq!(written, expected);
    }
}

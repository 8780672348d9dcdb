//! The config's tables about health, to vary and write out.

use std::path::PathBuf;

use serde::Serialize;

/// A check of a service's backends. What is not set is left to the balancer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct HealthCheck {
    /// The module's name.
    pub check: String,
    /// What the module gets.
    #[serde(skip_serializing_if = "toml::Table::is_empty")]
    pub config: toml::Table,
    /// Between two checks of a backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<&'static str>,
    /// The same while it is undecided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_interval: Option<&'static str>,
    /// The longest that a check may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<&'static str>,
    /// Checks passed in a row until it passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rise: Option<u32>,
    /// Checks failed in a row until it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fall: Option<u32>,
    /// By how much intervals differ, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<u32>,
    /// Where it connects to, if not to the backend's own port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How connections are secured where the module asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

/// How a check's connections are secured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tls {
    /// The certificates to trust, in PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roots: Option<PathBuf>,
    /// The name that the server's certificate must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<&'static str>,
    /// Whether the certificate is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<bool>,
}

/// When failures of sessions take a backend out for a while.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ejection {
    /// So many failures ..
    pub failures: u32,
    /// .. in this time.
    pub window: &'static str,
    /// How long it is out the first time.
    pub time: &'static str,
    /// The longest that it is out, however often it comes back in vain.
    pub time_max: &'static str,
    /// Percentage of the backends that stay in.
    pub min_healthy: u8,
}

impl HealthCheck {
    /// A check by this module, as often as the balancer likes.
    #[must_use]
    pub fn new(check: &str) -> Self {
        Self {
            check: check.to_owned(),
            ..Self::default()
        }
    }

    /// The same with this for the module: the text of a TOML document.
    ///
    /// # Panics
    /// It is no TOML.
    #[must_use]
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
            health = { port = 9100 }
            [[backend]]
            address = '10.2.0.12'
            port = 8080
            weight = 1
            backup = true
            "
        .parse()
        .unwrap();
        assert_eq!(written, expected);
    }
}

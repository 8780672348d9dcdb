//! Health in the output of `waxwing status --json`.

use serde::Deserialize;
use serde_json::Value;

use super::{Status, list};

/// A backend's health. Times are in seconds since the epoch.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Health {
    /// `up`, `down`, `checking`, `draining`, `disabled` or `ejected`.
    pub state: String,
    /// When the state began.
    pub since: f64,
    pub reason: String,
    /// The current weight, in percent of the configured weight.
    pub weight_percent: u64,
    /// The checks, in the config's order.
    pub checks: Vec<CheckHealth>,
    /// The last changes, oldest first.
    pub history: Vec<Change>,
}

/// The state of one check of a backend.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CheckHealth {
    /// The module's name.
    pub check: String,
    /// `passing`, `failing` or `undecided`.
    pub state: String,
    /// The last result's reason.
    pub reason: String,
    /// Duration of the last run, in microseconds.
    pub latency_us: Option<u64>,
    /// When the last run ended.
    pub last_at: Option<f64>,
}

/// A change of a backend's health.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Change {
    pub at: f64,
    pub state: String,
    pub reason: String,
}

/// Punctuality of checks, over all backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Punctuality {
    /// Checks started so far.
    pub runs: u64,
    /// Checks running.
    pub running: u64,
    /// The most that run at once.
    pub running_max: u64,
    /// The 99th percentile of lateness, in milliseconds.
    pub late_p99_ms: u64,
    /// The largest lateness, in milliseconds.
    pub late_max_ms: u64,
}

/// Selects a backend of a service: by index in the config, name, address, or address and port.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// Its index, from 0.
    At(usize),
    /// Its name.
    Called(&'a str),
}

impl From<usize> for Which<'_> {
    fn from(place: usize) -> Self {
        Self::At(place)
    }
}

impl<'a> From<&'a str> for Which<'a> {
    fn from(name: &'a str) -> Self {
        Self::Called(name)
    }
}

impl Which<'_> {
    fn is(self, place: usize, backend: &Value) -> bool {
        match self {
            Self::At(at) => at == place,
            Self::Called(name) => {
                let address = backend["address"].as_str().unwrap_or_default();
                let endpoint = format!("{address}:{}", backend["port"]);
                backend["name"] == name || address == name || endpoint == name
            }
        }
    }
}

impl Status {
    /// Returns a backend's health; the default if there is no such backend.
    pub fn health<'a>(&self, service: &str, backend: impl Into<Which<'a>>) -> Health {
        let which = backend.into();
        let backends = self.service(service).map(|found| &found["backends"]);
        let found = backends
            .map_or(&[][..], list)
            .iter()
            .enumerate()
            .find(|(place, backend)| which.is(*place, backend));
        found.map_or_else(Health::default, |(_, backend)| {
            Health::deserialize(&backend["health"]).unwrap_or_default()
        })
    }

    /// Returns the states of all backends of a service, in the config's order.
    pub fn states(&self, service: &str) -> Vec<&str> {
        let backends = self.service(service).map(|found| &found["backends"]);
        let backends = backends.map_or(&[][..], list).iter();
        backends
            .map(|backend| backend["health"]["state"].as_str().unwrap_or_default())
            .collect()
    }

    /// Returns for each backend of a service whether the workers send it new sessions, in the config's order.
    pub fn takes_new(&self, service: &str) -> Vec<bool> {
        let backends = self.service(service).map(|found| &found["backends"]);
        let takes = |backend: &Value| {
            let healthy = backend["healthy"].as_bool().unwrap_or(false);
            healthy && backend["weight"].as_u64().unwrap_or(0) > 0
        };
        backends.map_or(&[][..], list).iter().map(takes).collect()
    }

    /// Returns for each backend of a service whether the workers treat it as healthy, in the config's order.
    pub fn healthy(&self, service: &str) -> Vec<bool> {
        let backends = self.service(service).map(|found| &found["backends"]);
        let backends = backends.map_or(&[][..], list).iter();
        backends
            .map(|backend| backend["healthy"].as_bool().unwrap_or_default())
            .collect()
    }

    /// Returns the punctuality of checks.
    pub fn punctuality(&self) -> Punctuality {
        Punctuality::deserialize(&self.0["health_checks"]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status() -> Status {
        let health = json!({
            "state": "down", "since": 17, "reason": "connection refused", "weight_percent": 0,
            "checks": [{ "check": "http", "state": "failing", "latency_us": null }],
            "history": [{ "at": 17.5, "state": "down", "reason": "connection refused" }],
        });
        let backends = json!([
            {
                "name": "one", "address": "10.2.0.11", "port": 80, "weight": 1, "healthy": true,
                "health": { "state": "up" },
            },
            { "name": null, "address": "10.2.0.12", "port": 80, "weight": 1, "health": health },
        ]);
        Status(json!({ "services": [{ "name": "web", "backends": backends }] }))
    }

    #[test]
    fn a_backend_is_found_by_any_of_its_names() {
        for (which, state) in [
            (Which::At(0), "up"),
            ("one".into(), "up"),
            ("10.2.0.11".into(), "up"),
            ("10.2.0.12:80".into(), "down"),
            (Which::At(2), ""),
            ("two".into(), ""),
        ] {
            assert_eq!(status().health("web", which).state, state, "{which:?}");
        }
    }

    #[test]
    fn what_is_not_there_reads_as_nothing() {
        let health = status().health("web", 1);
        assert_eq!(health.reason, "connection refused");
        assert_eq!(health.checks[0].latency_us, None);
        assert_eq!(health.history[0].state, "down");
        assert_eq!(status().health("mail", 0), Health::default());
        assert_eq!(status().states("web"), ["up", "down"]);
        assert_eq!(status().takes_new("web"), [true, false]);
        assert_eq!(status().punctuality(), Punctuality::default());
    }
}

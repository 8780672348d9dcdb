//! What the status says of health.

use serde::Deserialize;
use serde_json::Value;

use super::{Status, list};

/// A backend's health. Times are in seconds since the epoch.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Health {
    /// `up`, `down`, `checking`, `draining`, `disabled` or `ejected`.
    pub state: String,
    /// Since when.
    pub since: f64,
    /// Why.
    pub reason: String,
    /// The share of its weight that it has now.
    pub weight_percent: u64,
    /// Its checks, in the config's order.
    pub checks: Vec<CheckHealth>,
    /// The last changes, the oldest first.
    pub history: Vec<Change>,
}

/// What one check says of a backend.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CheckHealth {
    /// The module's name.
    pub check: String,
    /// `passing`, `failing` or `undecided`.
    pub state: String,
    /// What the last one found.
    pub reason: String,
    /// How long it took, in microseconds.
    pub latency_us: Option<u64>,
    /// When it ended.
    pub last_at: Option<f64>,
}

/// A change of a backend's health.
#[derive(Clone, PartialEq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Change {
    /// When.
    pub at: f64,
    /// The state from then on.
    pub state: String,
    /// Why.
    pub reason: String,
}

/// How punctual checks are, over all backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Punctuality {
    /// Checks begun since the start.
    pub runs: u64,
    /// Checks under way.
    pub running: u64,
    /// What 99 of 100 were late by at most, in milliseconds.
    pub late_p99_ms: u64,
    /// What the latest was late by.
    pub late_max_ms: u64,
}

/// A backend of a service: by its place in the config, its name, address, or address and port.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// Its place, from 0.
    At(usize),
    /// What it is called.
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
    /// A backend's health; of a backend that is not there, and where its form is another, nothing.
    #[must_use]
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

    /// The states of all backends of a service, in the config's order.
    #[must_use]
    pub fn states(&self, service: &str) -> Vec<&str> {
        let backends = self.service(service).map(|found| &found["backends"]);
        let backends = backends.map_or(&[][..], list).iter();
        backends
            .map(|backend| backend["health"]["state"].as_str().unwrap_or_default())
            .collect()
    }

    /// Whether new sessions go to each backend of a service, by what the workers have: in the config's
    /// order.
    #[must_use]
    pub fn takes_new(&self, service: &str) -> Vec<bool> {
        let backends = self.service(service).map(|found| &found["backends"]);
        let takes = |backend: &Value| {
            let healthy = backend["healthy"].as_bool().unwrap_or(false);
            healthy && backend["weight"].as_u64().unwrap_or(0) > 0
        };
        backends.map_or(&[][..], list).iter().map(takes).collect()
    }

    /// Whether the backends of a service are healthy by what the workers work with, in the config's
    /// order.
    #[must_use]
    pub fn healthy(&self, service: &str) -> Vec<bool> {
        let backends = self.service(service).map(|found| &found["backends"]);
        let backends = backends.map_or(&[][..], list).iter();
        backends
            .map(|backend| backend["healthy"].as_bool().unwrap_or_default())
            .collect()
    }

    /// How punctual checks are.
    #[must_use]
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

//! Metrics: makes a number of the server's Prometheus page a signal of the backend, such as the
//! queue length of an inference server. Policies balance on signals.
//!
//! Invariant: the page is read line by line and not kept, so its length costs no memory; a value
//! that is not a number never becomes a signal.

mod sample;

use std::collections::BTreeMap;
use std::io::BufRead;

use serde::Deserialize;
use waxwing_sdk::abi::SIGNALS;
use waxwing_sdk::health::http::{self, Request};
use waxwing_sdk::health::lines::{quote, read_line};
use waxwing_sdk::{ConfigError, HealthCheck, Target, Unhealthy, Verdict, export_health_check};

use crate::sample::Selector;

/// Longest line, in bytes.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// `config = { metric = 'vllm:num_requests_waiting{model_name="m"}', signal = "queue" }`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the metric, with the labels that a sample must have in braces.
    metric: String,
    /// The signal to set: a name from the service's `signals`, or 0 to 3.
    #[serde(default)]
    signal: Signal,
    /// Path of the page.
    #[serde(default = "default_path")]
    path: String,
    /// Additional headers, such as `authorization`.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Whether to use TLS.
    #[serde(default)]
    tls: bool,
    /// Factor on the number.
    #[serde(default = "default_scale")]
    scale: f64,
    /// How to combine several matching samples.
    #[serde(default)]
    several: Several,
    /// What it means if the page does not have the metric.
    #[serde(default)]
    missing: Missing,
}

fn default_path() -> String {
    "/metrics".to_string()
}

fn default_scale() -> f64 {
    1.0
}

/// A signal, as the operator writes it.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(untagged, expecting = "expected a signal's name, or 0 to 3")]
pub enum Signal {
    /// By index.
    Index(usize),
    /// By its name in the service's `signals`.
    Name(String),
}

impl Default for Signal {
    fn default() -> Self {
        Self::Index(0)
    }
}

/// How to combine several matching samples.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Several {
    #[default]
    Sum,
    /// The largest one.
    Max,
}

/// What it means if the page does not have the metric.
#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The backend is unhealthy.
    #[default]
    Unhealthy,
    /// The backend is healthy, and the signal keeps its value.
    Ignore,
}

/// The request, and what to take from the page.
pub struct Metrics {
    request: Request,
    selector: Selector,
    config: Config,
}

impl HealthCheck for Metrics {
    type Config = Config;

    fn new(config: Config) -> Result<Self, ConfigError> {
        let selector =
            Selector::parse(&config.metric).map_err(|error| error.at("config.metric"))?;
        let mut request = Request::new("GET", &config.path)
            .map_err(|error| error.at("config.path"))?
            .header("accept", "text/plain; version=0.0.4")?;
        for (name, value) in &config.headers {
            request = request
                .header(name, value)
                .map_err(|error| error.at("config.headers"))?;
        }
        if matches!(config.signal, Signal::Index(index) if index >= SIGNALS) {
            return Err("config.signal: a backend has the signals 0 to 3".into());
        }
        if !config.scale.is_finite() {
            return Err("config.scale: expected a number such as 0.001".into());
        }
        Ok(Self {
            request,
            selector,
            config,
        })
    }

    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
        let index = self.signal_index(target)?;
        let connection = target.connect()?;
        let (connection, port_default) = if self.config.tls {
            (connection.tls(&["http/1.1"])?, 443)
        } else {
            (connection, 80)
        };
        let host = http::host(target.server_name(), target.port(), port_default);
        let mut page = self.request.send(connection, &host)?;
        if page.status() != 200 {
            let (status, path) = (page.status(), &self.config.path);
            return Err(format!("{path} returned status {status}, expected 200").into());
        }
        let metric = &self.config.metric;
        match (self.read(&mut page)?, self.config.missing) {
            (Some(number), _) => {
                let value = signal_value(number * self.config.scale)
                    .ok_or_else(|| format!("{metric} is {number}, which cannot be a signal"))?;
                Ok(Verdict::healthy(format!("{metric} is {number}")).signal(index, value))
            }
            (None, Missing::Unhealthy) => Err(format!("the page has no {metric}").into()),
            (None, Missing::Ignore) => Ok(Verdict::healthy(format!("the page has no {metric}"))),
        }
    }
}

impl Metrics {
    fn signal_index(&self, target: &Target) -> Result<usize, Unhealthy> {
        match &self.config.signal {
            Signal::Index(index) => Ok(*index),
            Signal::Name(name) => target.signal_index(name).ok_or_else(|| {
                format!(
                    "config.signal is {name:?}; the service's signals are {:?}",
                    target.signals()
                )
                .into()
            }),
        }
    }

    /// Returns the combined value of the matching samples; `None` if there are none.
    fn read(&self, page: &mut impl BufRead) -> Result<Option<f64>, Unhealthy> {
        let mut line = Vec::new();
        let mut total: Option<f64> = None;
        while read_line(page, LINE_BYTES_MAX, &mut line)? {
            let Some(value) = self.selector.value(&line) else {
                continue;
            };
            let number =
                value.ok_or_else(|| format!("not a number in the line {}", quote(&line)))?;
            total = Some(match (total, self.config.several) {
                (None, _) => number,
                (Some(total), Several::Sum) => total + number,
                // Not `f64::max`, which ignores NaN.
                (Some(total), Several::Max) if total >= number || total.is_nan() => total,
                (Some(_), Several::Max) => number,
            });
        }
        Ok(total)
    }
}

/// Returns the nearest value of a signal; `None` for NaN.
#[expect(
    clippy::cast_possible_truncation,
    reason = "`as` takes what is out of bounds to the nearer bound"
)]
fn signal_value(number: f64) -> Option<u32> {
    (!number.is_nan()).then(|| number.round() as u32)
}

export_health_check!(Metrics);

#[cfg(test)]
mod tests;

//! What is set from outside without a reload: signals, free numbers of a backend that policies read;
//! and whether a backend takes new sessions.
//!
//! Invariant: setting one changes that number and nothing else; no worker is told, and none waits.
//! A signal stays until it is set again, or its backend leaves the config.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use waxwing_dataplane::Gauges;
use waxwing_dataplane::counters::SIGNALS;

use crate::config::Service;
use crate::health::Admin;
use crate::publish::keys::service_in;
use crate::publish::view::View;

/// `POST /v1/signals`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetSignals {
    /// The service's name.
    pub service: String,
    /// The backend's name, or its address and port: `10.2.0.11:8080`, `[2001:db8::11]:8080`.
    pub backend: String,
    /// New values, by the names that the service's `signals` gives, or by number: `0` to `3`.
    pub values: BTreeMap<String, u32>,
}

/// `POST /v1/backends`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetBackend {
    /// The service's name.
    pub service: String,
    /// The backend's name, or its address and port.
    pub backend: String,
    /// What is to become of it: in effect until it is set again, or the backend leaves the config.
    pub state: Admin,
}

/// Sets a backend's signals: all that are asked for or, where one of them is wrong, none.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn set(view: &View, gauges: &Gauges, request: &SetSignals) -> Result<(), String> {
    let (service, at) = view
        .config
        .find_backend(&request.service, &request.backend)?;
    // The snapshot was made from this config, in the same order.
    let id = service_in(&view.snapshot, service).and_then(|it| it.backends.get(at).copied());
    let Some(backend) = id else {
        return Err("that service is not served yet; try again".into());
    };
    let values = request
        .values
        .iter()
        .map(|(name, value)| Ok((place(service, name)?, *value)))
        .collect::<Result<Vec<_>, String>>()?;
    for (place, value) in values {
        gauges.set_signal(backend, place, value);
    }
    Ok(())
}

/// Which of the signals a name means.
fn place(service: &Service, name: &str) -> Result<usize, String> {
    let by_name = service.signals.iter().position(|signal| &**signal == name);
    let by_number = || name.parse().ok().filter(|number| *number < SIGNALS);
    by_name.or_else(by_number).ok_or_else(|| {
        let names: Vec<&str> = service.signals.iter().map(|name| &**name).collect();
        let known = if names.is_empty() {
            "give them names with `signals = [\"queue\"]` in the [[service]]".to_owned()
        } else {
            format!("their names are: {}", names.join(", "))
        };
        format!(
            "service \"{}\" has no signal \"{name}\"; write a number from 0 to {}; {known}",
            service.name.value,
            SIGNALS - 1
        )
    })
}

/// A backend's signals with their names; those without a name are left out while they are 0.
pub(crate) fn named(names: &[Arc<str>], values: [u32; SIGNALS]) -> BTreeMap<String, u32> {
    let name = |(at, value): (usize, u32)| match names.get(at) {
        Some(name) => Some((name.to_string(), value)),
        None if value == 0 => None,
        None => Some((at.to_string(), value)),
    };
    values.into_iter().enumerate().filter_map(name).collect()
}

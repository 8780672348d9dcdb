//! Requests that set a backend's signals at run time.
//!
//! Signals are free numbers per backend that policies read. Setting one changes that number and nothing
//! else; no worker is notified, none waits. A signal stays until it is set again or its backend leaves
//! the config.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use waxwing_dataplane::Gauges;
use waxwing_dataplane::counters::SIGNALS;

use crate::config::names::remedy;
use crate::config::{Service, UnknownBackend};
use crate::publish::keys::service_in;
use crate::publish::view::View;

/// `POST /v1/signals`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetSignals {
    /// The service's name.
    pub service: String,
    /// The backend's name, or its address and port: `10.2.0.11:8080`, `[2001:db8::11]:8080`.
    pub backend: String,
    /// New values, by the names in the service's `signals`, or by number: `0` to `3`.
    pub values: BTreeMap<String, u32>,
}

/// Why signals were not set.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignalError {
    #[error(transparent)]
    Backend(#[from] UnknownBackend),
    #[error("service \"{0}\" is not served yet; try again")]
    NotServed(Arc<str>),
    #[error(
        "service \"{service}\" has no signal \"{name}\"; {}",
        signal_remedy(name, known)
    )]
    Unknown {
        service: Arc<str>,
        name: String,
        known: Vec<Arc<str>>,
    },
}

fn signal_remedy(name: &str, known: &[Arc<str>]) -> String {
    let numbers = format!("write a number from 0 to {}", SIGNALS - 1);
    if known.is_empty() {
        format!("{numbers}, or name signals with `signals = [\"queue\"]` in the [[service]]")
    } else {
        remedy(name, known, &format!("{numbers}, or one of"))
    }
}

/// Sets a backend's signals: all values of the request or, on an error, none.
pub(crate) fn set(view: &View, gauges: &Gauges, request: &SetSignals) -> Result<(), SignalError> {
    let (service, at) = view
        .config
        .find_backend(&request.service, &request.backend)?;
    // The snapshot was made from this config and has the same order.
    let id = service_in(&view.snapshot, service).and_then(|it| it.backends.get(at).copied());
    let backend = id.ok_or_else(|| SignalError::NotServed(Arc::clone(&service.name.value)))?;
    let values = request
        .values
        .iter()
        .map(|(name, value)| Ok((signal_index(service, name)?, *value)))
        .collect::<Result<Vec<_>, SignalError>>()?;
    for (index, value) in values {
        gauges.set_signal(backend, index, value);
    }
    Ok(())
}

/// Returns the index of a signal given by name or number.
fn signal_index(service: &Service, name: &str) -> Result<usize, SignalError> {
    let by_name = service.signals.iter().position(|signal| &**signal == name);
    let by_number = || name.parse().ok().filter(|number| *number < SIGNALS);
    by_name
        .or_else(by_number)
        .ok_or_else(|| SignalError::Unknown {
            service: Arc::clone(&service.name.value),
            name: name.to_owned(),
            known: service.signals.to_vec(),
        })
}

/// Returns a backend's signals by name; those without a name by number, unless they are 0.
pub(crate) fn named(names: &[Arc<str>], values: [u32; SIGNALS]) -> BTreeMap<String, u32> {
    let name = |(at, value): (usize, u32)| match names.get(at) {
        Some(name) => Some((name.to_string(), value)),
        None if value == 0 => None,
        None => Some((at.to_string(), value)),
    };
    values.into_iter().enumerate().filter_map(name).collect()
}

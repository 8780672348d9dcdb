//! Health checks: modules that connect to one backend and return whether it is healthy.
//!
//! A [`CheckHost`] finds, vets and compiles them as [`Host`](crate::Host) does policies. It runs each
//! check as a future on the control side's executor, in an instance that is made for this run and freed
//! after it. A run is limited in processor time (`cpu_budget`), in memory, connections and bytes
//! (`run_state`), in real time (the target's timeout), and to one address (`imports`). All runs of one
//! build together are limited in processor time (`cpu_quota`); while it is quarantined without a
//! replacement, in how often they run (`backoff`).
//!
//! Invariant: a run always ends in a [`CheckOutcome`], whatever the module or the backend does; a run
//! that is dropped before its end frees all that it held.

pub(crate) mod backoff;
mod connection;
mod cpu_budget;
pub(crate) mod cpu_quota;
mod guest;
mod host;
mod imports;
mod limits;
mod options;
mod run_state;
mod target;
mod tls;
mod verdict;

pub use host::{Check, CheckHost};
pub use limits::RunLimits;
pub use options::CheckOptions;
pub use target::{CheckConfig, CheckOutcome, CheckTarget, CheckVerdict};
pub use tls::{CheckRoots, CheckTls, TlsConfigError};

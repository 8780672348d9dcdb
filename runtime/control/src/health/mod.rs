//! Health: whether a backend may take new sessions, and what happens to its existing ones.
//!
//! Four sources decide: the health checks, which are modules
//! ([`waxwing_plugin::checks::CheckHost`]); failures of client connections (ejection); the
//! backend's next hop; and the operator. From the bottom up: `check_state` is one check of a
//! backend, `backend` one backend, `service_health` all backends, `effects` the result for the
//! snapshot, and `schedule` when each check is due. None of these has a clock or does I/O. `plan`
//! turns a config into checks to run, `runner` is the thread that runs them, and `monitor` is
//! shared with the controller and the admin socket.
//!
//! Invariant: health changes only in `service_health`, and reaches the workers as any other change
//! does, in an epoch that the controller publishes.

mod admin_state;
mod backend;
mod check_state;
mod effects;
mod ejection;
mod kept;
mod monitor;
mod plan;
mod removed;
mod rules;
mod runner;
mod schedule;
mod service_health;
pub mod status;

#[cfg(test)]
mod tests;

pub use admin_state::AdminState;
pub use backend::HealthState;
pub(crate) use backend::{BackendHealth, Reach};
pub(crate) use check_state::{CheckState, Debounced};
pub use effects::{Effect, Effects};
pub(crate) use kept::KeptHealth;
pub(crate) use monitor::HealthMonitor;
pub(crate) use plan::{BoundChecks, CheckJob, add_problems, bind, check_span, jobs};
pub(crate) use removed::RemovedBackend;
pub(crate) use runner::{CheckFault, Runner};

//! Health: whether a backend may take new sessions, and what becomes of those it has.
//!
//! Three things decide: the health checks, which are modules ([`waxwing_plugin::checks::CheckHost`]); what
//! clients' own connections meet at a backend; and the operator's word. `backend` is what is known
//! of one backend, `roster` of all of them and what it means, and `schedule` when each check is
//! due, all three without a clock or I/O; `runner` is the thread that runs the checks.
//!
//! Invariant: what is known changes in the roster alone, and reaches the workers as every other
//! change does: as an epoch that the controller publishes.

mod backend;
mod plan;
mod roster;
mod runner;
mod schedule;
mod shared;
pub mod status;

#[cfg(test)]
mod tests;

pub use backend::{Admin, State};
pub(crate) use plan::{BoundChecks, Job, bind, jobs, problems};
pub use roster::{Effect, Effects};
pub(crate) use runner::{Fault, Runner};
pub(crate) use shared::Health;

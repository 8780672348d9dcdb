//! Tools for authors of modules. For a policy: is it valid, what does it cost, how does it spread flows? For
//! a health check: is it valid, what does it say about a server?
//!
//! A module runs here as in the balancer: the same checks, the same instances, the same limits
//! ([`waxwing_plugin::trial`]). Only a policy's flows and backends are synthetic.
//!
//! Invariant: nothing here needs packets or privileges. A module that loops, traps or returns invalid
//! answers ends in an error that says so, as it would for an operator.

mod bench;
mod check;
mod cost;
mod error;
mod flows;
mod probe;
mod service;
mod simulate;
mod summary;
mod workbench;

pub use bench::{BATCHES, Bench, BenchReport, BenchRow, TimeSpread};
pub use check::{CheckReport, CheckSize, SizeVerdict};
pub use cost::PickCost;
pub use error::WorkbenchError;
pub use probe::HealthWorkbench;
pub use service::BackendSpec;
pub use simulate::{BackendShare, Removal, Simulation, SimulationPlan};
pub use summary::ModuleSummary;
pub use waxwing_sdk::abi::BACKENDS_MAX;
pub use workbench::Workbench;

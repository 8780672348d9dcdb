//! Policies: from a [`CompiledModule`](crate::CompiledModule) to an instance on each worker.
//!
//! Invariant: everything except [`instance`], [`records`], [`worker_share`], [`call_times`],
//! [`shared_cells`], [`saving`] and [`handover`] runs on the control thread.

pub(crate) mod bind;
pub(crate) mod bind_request;
pub(crate) mod builds_in_use;
pub(crate) mod call_times;
pub(crate) mod guest;
pub(crate) mod handover;
pub(crate) mod host;
pub(crate) mod hosted;
pub(crate) mod instance;
pub(crate) mod module_counters;
pub(crate) mod module_log;
pub(crate) mod outcomes;
pub(crate) mod recent_flows;
pub(crate) mod records;
pub(crate) mod regions;
pub(crate) mod saved_states;
pub(crate) mod saving;
pub(crate) mod shared_cells;
pub(crate) mod vetting;
pub(crate) mod worker_share;

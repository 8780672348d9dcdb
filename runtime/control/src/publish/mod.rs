//! From a checked config to what the workers run.
//!
//! [`preflight`] checks a config against this machine; [`catalog`] makes snapshots with stable ids;
//! [`modules`] binds policies; [`controller`] sends the result to the workers.

pub mod catalog;
pub(crate) mod changes;
pub mod controller;
pub(crate) mod counter_totals;
pub(crate) mod keys;
pub(crate) mod module_error;
pub mod modules;
pub mod preflight;
pub mod reloads;
pub(crate) mod view;

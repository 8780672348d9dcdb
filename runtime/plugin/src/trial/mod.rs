//! Runs one module without a balancer: for the authors' tools and for tests.
//!
//! A module here passes the same checks and runs in the same instances, with the same limits, as in the
//! balancer.

mod check;
mod file;
mod policy;

pub use check::LoadedCheck;
pub use file::LoadError;
pub use policy::{LoadedPolicy, PolicyInstance, TestedFlows};

//! The module `least_connections`; [`least_load`] has the policy.

pub use least_load::LeastConnections;

waxwing_sdk::export_policy!(LeastConnections);

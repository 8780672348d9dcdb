//! The module `never_queue`; [`least_load`] has the policy.

pub use least_load::NeverQueue;

waxwing_sdk::export_policy!(NeverQueue);

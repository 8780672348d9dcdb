//! The module `shortest_expected_delay`; [`least_load`] has the policy.

pub use least_load::ShortestExpectedDelay;

waxwing_sdk::export_policy!(ShortestExpectedDelay);

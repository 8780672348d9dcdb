//! The core in memory: no socket, no clock, no Wasm.
//!
//! What a user relies on, told frame by frame under a clock that the test turns.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests' own locks are not on the packet's way"
)]

mod citizenship;
mod cutting;
mod ends;
mod errors;
mod errors_hostile;
mod fragment_bounds;
mod fragment_ends;
mod fragments;
mod frames;
mod gauges;
mod health;
mod hosts;
mod jumbo;
mod new_flows;
mod no_allocation;
mod policies;
mod ranges;
mod refusals;
mod return_path;
mod sessions;
mod source_nat;
mod source_pools;
mod told;
mod transparent;
mod vlans;
mod world;

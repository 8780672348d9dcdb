//! The core in memory: no socket, no clock, no Wasm.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the tests' numbers are small"
)]

mod no_allocation;
mod scenarios;
mod world;

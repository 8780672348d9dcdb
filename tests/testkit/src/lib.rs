//! Test doubles for tests, benches and the simulator. No production crate depends on this one.

#![forbid(unsafe_code)]

pub mod build;
pub mod conversation;
pub mod fragmenter;
pub mod memory;
mod neighbour;
pub mod random;

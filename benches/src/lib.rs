//! Policies for the benches: as modules, and as native code at a worker.
//!
//! The criterion benches are in `benches/`; run them by `cargo xtask bench [FILTER]`.

pub mod modules;
pub mod native;

//! What the benches share that need policies: modules, and native policies at a worker.
//!
//! The benches of criterion are in `benches/`; run them by `cargo xtask bench [FILTER]`.

pub mod modules;
pub mod native;

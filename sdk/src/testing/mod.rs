//! Runs policies and health checks natively, through the records and the code that serve a module.
//!
//! [`Driver`] lets a policy pick for flows (see the [crate's example](crate)). [`Simulator`] runs
//! it under traffic in virtual time. [`overload`], [`fairness`] and [`disruption`] measure the
//! outcome. [`check()`] runs a health check against a server of the test, such as a [`TestServer`].
//!
//! Invariant: all randomness follows from a seed that the test passes, so a failure repeats.

#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
mod check;
mod driver;
mod errors;
mod flows;
mod measure;
#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
mod server;
mod simulator;

#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
pub use check::{TestTarget, check};
pub use driver::{Driver, share};
pub use errors::assert_config_errors;
pub use flows::{TestFlow, backend, backends, flows};
pub use measure::{counts, disruption, fairness, overload};
#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
pub use server::{TestServer, corrupted, serve_datagrams};
pub use simulator::{BackendStats, Durations, Simulator};

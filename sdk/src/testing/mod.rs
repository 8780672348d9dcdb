//! Runs a policy or a health check natively, through the records and the code that it runs through as a
//! module.
//!
//! [`Driver`] asks it about flows (see the [crate's example](crate)), [`Simulator`] gives it a day's
//! traffic in virtual time, and a test measures the outcome: [`overload`], [`fairness`],
//! [`disruption`]. [`check()`] lets a health check ask a server of the test,
//! such as a [`TestServer`].
//!
//! Invariant: nothing here is random but by a seed that the test passes, so a failure repeats.

#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
mod check;
mod driver;
mod flows;
mod measure;
#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
mod server;
mod simulator;

#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
pub use check::{TestTarget, check};
pub use driver::Driver;
pub use flows::{TestFlow, backend, backends, flows};
pub use measure::{counts, disruption, fairness, overload};
#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
pub use server::{TestServer, damaged, serve_datagrams};
pub use simulator::{Durations, Simulator, Tally};

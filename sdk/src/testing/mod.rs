//! Runs a policy natively, through the records and the code that it runs through as a module.
//!
//! [`Driver`] asks it about flows (see the [crate's example](crate)), [`Simulator`] gives it a day's
//! traffic in virtual time, and a test measures the outcome: [`overload`], [`fairness`],
//! [`disruption`].
//!
//! Invariant: nothing here is random but by a seed that the test passes, so a failure repeats.

mod driver;
mod flows;
mod measure;
mod simulator;

pub use driver::Driver;
pub use flows::{TestFlow, backend, backends, flows};
pub use measure::{counts, disruption, fairness, overload};
pub use simulator::{Durations, Simulator, Tally};

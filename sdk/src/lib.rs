//! Write a balancing policy or a health check in Rust, test it natively, run it in Waxwing as a Wasm
//! module.
//!
//! A policy says which backend a new session goes to. It is a type with [`Policy`], a line
//! `export_policy!`, in a crate of `crate-type = ["cdylib", "rlib"]` (`waxwing module new` makes one):
//!
//! ```
//! use waxwing_sdk::{Backends, Flow, NoConfig, Pick, Policy, export_policy};
//!
//! /// The backend with the fewest sessions.
//! struct Fewest;
//!
//! impl Policy for Fewest {
//!     type Config = NoConfig;
//!
//!     fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
//!         backends.available().min_by_key(|backend| backend.active()).into()
//!     }
//! }
//!
//! export_policy!(Fewest);
//!
//! // The same type runs natively, through the same records, in a test:
//! use waxwing_sdk::testing::{self, Driver};
//! let mut driver = Driver::<Fewest>::start("{}", &testing::backends(&[1, 1, 1]), 7)?;
//! let picks = driver.pick_all(testing::flows(7).take(300));
//! assert_eq!(testing::counts(&picks, 3), [100, 100, 100]);
//! # Ok::<(), String>(())
//! ```
//!
//! What policies are often made of is here, ready to use: random numbers ([`random`]), choices by
//! weight and by load ([`choice`]), turns ([`turns`]), consistent hashing ([`maglev`],
//! [`Backends::by_hash`]), also among the backends of a tag ([`group`]). The shipped policies are
//! little more than these.
//!
//! A health check says whether a backend is well: see [`health`].
//!
//! Invariant: a policy sees checked views and never an address; a health check reaches its target alone.
//! The few lines of `unsafe` that the exports and imports need are in [`export`] and in `health::guest`,
//! and only for Wasm.
//!
//! `ABI.md` beside this crate specifies what the host and a module say to one another, for
//! modules in any language.

#![no_std]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod abi;
mod aligned;
pub mod choice;
mod config;
pub mod export;
pub mod group;
pub mod hash;
#[cfg(feature = "std")]
pub mod health;
#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
mod host_bench;
pub mod maglev;
mod policy;
pub mod random;
mod section;
mod service;
pub mod testing;
pub mod turns;
mod view;

#[cfg(feature = "std")]
pub use health::{Conn, Datagrams, HealthCheck, Target, Unhealthy, Verdict};
#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
pub use host_bench::HostBench;
pub use policy::{NoConfig, Pick, Policy};
pub use view::{Backend, Backends, Closed, End, Flow, Protocol};

//! Write a balancing policy or a health check in Rust, test it natively, run it in Waxwing as a
//! Wasm module.
//!
//! A policy chooses the backend of each new session. It is a type that implements [`Policy`], and
//! one line `export_policy!`, in a crate with `crate-type = ["cdylib", "rlib"]`. `waxwing module
//! new` creates such a crate.
//!
//! ```
//! use waxwing_sdk::{Backends, ConfigError, Flow, NoConfig, Pick, Policy, export_policy};
//!
//! /// The backend with the fewest sessions.
//! struct Fewest;
//!
//! impl Policy for Fewest {
//!     type Config = NoConfig;
//!
//!     fn new(_: NoConfig, _: &Backends<'_>) -> Result<Self, ConfigError> {
//!         Ok(Self)
//!     }
//!
//!     fn pick(&mut self, _: &Flow<'_>, backends: &Backends<'_>) -> Pick {
//!         backends.available().min_by_key(|backend| backend.load()).into()
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
//! # Ok::<(), waxwing_sdk::ConfigError>(())
//! ```
//!
//! Ready-made parts of policies: random numbers ([`random`]), choices by weight and by load
//! ([`choice`]), weighted round robin ([`round_robin`]), clients by network ([`client`]), state by backend
//! ([`PerBackend`]), counts over all workers ([`Shared`], [`limit`]),
//! consistent hashing ([`maglev`], [`Backends::by_hash`]), and all of these among the backends of a
//! tag ([`group`]). The shipped policies are little more than these parts.
//!
//! A health check says whether a backend is healthy: see [`health`]. [`testing`] runs both
//! natively.
//!
//! Invariant: a policy sees checked views and no pointers; a health check reaches only its
//! target. The `unsafe` code for exports and imports is in [`export`] and `health::guest`, and is
//! compiled only for Wasm.
//!
//! `ABI.md` beside this crate specifies the interface between the host and a module, for all
//! languages.

#![no_std]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod abi;
mod aligned;
pub mod choice;
pub mod client;
mod config;
mod context;
pub mod export;
pub mod group;
pub mod hash;
#[cfg(feature = "std")]
pub mod health;
#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
mod host_bench;
pub mod limit;
mod log;
pub mod maglev;
mod per_backend;
mod policy;
pub mod random;
pub mod round_robin;
mod saved;
mod section;
mod service;
mod shared;
pub mod testing;
mod view;

pub use config::ConfigError;
#[cfg(feature = "std")]
pub use health::{Conn, Datagrams, HealthCheck, Target, Unhealthy, Verdict};
#[cfg(all(feature = "std", not(target_arch = "wasm32")))]
pub use host_bench::{HostBench, HostBenchError};
pub use per_backend::PerBackend;
pub use policy::{NoConfig, Pick, Policy};
pub use saved::Saved;
pub use shared::Shared;
pub use view::{Backend, Backends, ClosedSession, Flow, Protocol, SessionEnd};

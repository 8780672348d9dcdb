//! Write a health check in Rust, test it natively against a server, run it in Waxwing as a Wasm
//! module.
//!
//! A check asks one backend whether it is well. It is a type with [`HealthCheck`] and a line
//! `export_health_check!` in a crate of `crate-type = ["cdylib", "rlib"]`
//! (`waxwing module new NAME --kind health` makes one):
//!
//! ```
//! use std::io::{BufRead, BufReader, Read, Write};
//! use waxwing_sdk::{HealthCheck, NoConfig, Target, Unhealthy, Verdict, export_health_check};
//!
//! /// A server that answers `PING` with `PONG`.
//! struct Ping;
//!
//! impl HealthCheck for Ping {
//!     type Config = NoConfig;
//!
//!     fn new(_: NoConfig) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//!
//!     fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy> {
//!         let mut conn = target.connect()?;
//!         conn.write_all(b"PING\n")?;
//!         let mut line = String::new();
//!         BufReader::new(conn.take(100)).read_line(&mut line)?;
//!         match line.trim_end() {
//!             "PONG" => Ok(Verdict::healthy("PONG")),
//!             other => Err(format!("it says {other:?}, expected \"PONG\"").into()),
//!         }
//!     }
//! }
//!
//! export_health_check!(Ping);
//!
//! // The same type runs natively, against a server in the test:
//! use waxwing_sdk::testing;
//! let server = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let address = server.local_addr()?;
//! std::thread::spawn(move || server.accept().map(|(mut client, _)| client.write_all(b"PONG\n")));
//! assert_eq!(testing::check::<Ping>("{}", address), Ok(Verdict::healthy("PONG")));
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! Lines and HTTP from a server that may send anything are in [`lines`] and [`http`].
//!
//! Invariant: a check reaches the target that it was given and nothing else: the types here take no
//! address. What it does natively it does through `std::net`, as a module through the host, by the
//! same code above that.

mod conn;
#[cfg(target_arch = "wasm32")]
mod guest;
pub mod http;
pub mod lines;
#[cfg(not(target_arch = "wasm32"))]
mod native;
pub(crate) mod run;
mod target;
mod verdict;
mod words;

#[cfg(target_arch = "wasm32")]
use guest as system;
#[cfg(not(target_arch = "wasm32"))]
use native as system;

use alloc::string::String;

use serde::de::DeserializeOwned;

pub use conn::{Conn, Datagrams};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use target::Fields;
pub use target::Target;
pub use verdict::{Unhealthy, Verdict};

/// Says whether one backend is well. Every run has a value of its own, in an instance of the module
/// of its own, so nothing is left over from an earlier run.
pub trait HealthCheck: Sized + 'static {
    /// The check's `config`, read from JSON. Derive `serde::Deserialize`, with
    /// `#[serde(default, deny_unknown_fields)]` so that a misspelt key is an error that names it.
    /// [`crate::NoConfig`] takes no keys.
    type Config: DeserializeOwned + 'static;

    /// Makes the check. Also called when the operator's config is read, without a run after it:
    /// find here all that is wrong with the config.
    ///
    /// # Errors
    /// A text for the operator: which value is wrong and what is expected. The host shows it and
    /// keeps what ran before.
    fn new(config: Self::Config) -> Result<Self, String>;

    /// Asks the target. It has [`Target::timeout`] for everything, after which the host ends the run
    /// wherever it is and the backend counts as unhealthy: there is no need to look at the clock. (By
    /// default 50 milliseconds of that may be the check's own computing.)
    ///
    /// # Errors
    /// That the backend is not well, with a reason for the operator: what was found and what was
    /// expected. Errors of a [`Conn`] turn into such with `?`.
    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy>;
}

//! Write a health check in Rust, test it natively against a server, run it in Waxwing as a Wasm
//! module.
//!
//! A check asks one backend whether it is healthy. It is a type that implements [`HealthCheck`],
//! and one line `export_health_check!`, in a crate with `crate-type = ["cdylib", "rlib"]`. `waxwing
//! module new NAME --kind health` creates such a crate.
//!
//! ```
//! use std::io::{BufRead, BufReader, Read, Write};
//! use waxwing_sdk::{ConfigError, HealthCheck, NoConfig, Target, Unhealthy, Verdict, export_health_check};
//!
//! /// A server that answers `PING` with `PONG`.
//! struct Ping;
//!
//! impl HealthCheck for Ping {
//!     type Config = NoConfig;
//!
//!     fn new(_: NoConfig) -> Result<Self, ConfigError> {
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
//!             other => Err(format!("the server answered {other:?}, expected \"PONG\"").into()),
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
//! [`lines`] and [`http`] read lines and HTTP responses from a server that may send anything.
//!
//! Invariant: a check reaches only its target: the types here take no address. Natively they use
//! `std::net`, in a module the host's imports; all code above that is the same.

mod conn;
#[cfg(target_arch = "wasm32")]
mod guest;
pub mod http;
pub mod lines;
mod messages;
#[cfg(not(target_arch = "wasm32"))]
mod native;
pub(crate) mod run;
mod target;
mod verdict;

#[cfg(target_arch = "wasm32")]
use guest as system;
#[cfg(not(target_arch = "wasm32"))]
use native as system;

use serde::de::DeserializeOwned;

use crate::ConfigError;

pub use conn::{Conn, Datagrams};
#[cfg(not(target_arch = "wasm32"))]
pub(crate) use target::Fields;
pub use target::Target;
pub use verdict::{Unhealthy, Verdict};

/// Checks whether one backend is healthy. Each run has its own value, in its own instance of the
/// module, so no state survives a run.
pub trait HealthCheck: Sized + 'static {
    /// The check's `config`, deserialized from JSON. Derive `serde::Deserialize` with
    /// `#[serde(default, deny_unknown_fields)]`, so that a misspelled key is an error that names
    /// the key. [`crate::NoConfig`] takes no keys.
    type Config: DeserializeOwned + 'static;

    /// Makes the check. The host also calls it, without a run, when it reads the operator's config,
    /// so report every mistake in the config here.
    ///
    /// # Errors
    /// Says which value is wrong and what is expected. The host shows the text to the operator and
    /// keeps what ran before.
    fn new(config: Self::Config) -> Result<Self, ConfigError>;

    /// Asks the target.
    ///
    /// The whole run has [`Target::timeout`]. Then the host ends it wherever it is and the backend
    /// counts as unhealthy, so a check does not look at the clock. By default a run may use 50
    /// milliseconds of processor time.
    ///
    /// # Errors
    /// The backend is unhealthy. The reason is for the operator: what was found and what was
    /// expected. Errors of a [`Conn`] convert with `?`.
    fn check(&mut self, target: &Target) -> Result<Verdict, Unhealthy>;
}

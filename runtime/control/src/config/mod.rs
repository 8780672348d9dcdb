//! The config: TOML text in, a validated [`Config`] or the list of all its errors out.
//!
//! Invariant: a [`Config`] returned by [`ParsedConfig::finish`] has passed every check that needs
//! only the text. No input text makes the parser panic.
//!
//! The reader walks the spanned parse tree of the `toml` crate by hand. Serde's derive would be
//! shorter, but it stops at the first error and drops the spans. Here one run reports all errors,
//! and a later check (does the interface exist?) can still point at its line:
//!
//! ```text
//! error: [[service]] has no key `prot`; did you mean `port`?
//!   --> lb.toml:12:1
//!    |
//! 12 | prot = 80
//!    | ^^^^
//! ```
//!
//! The stages, in order: `load` reads the file; `sections` turns each table into a value of
//! `model`, by the key list in `schema`, with the typed getters of `reader` and `values`; `check`
//! compares values across tables; `problem` holds and prints what is wrong.

pub(crate) mod added;
mod check;
mod json_schema;
mod load;
mod model;
mod named_key;
pub(crate) mod names;
mod problem;
mod reader;
mod schema;
mod sections;
mod values;

#[cfg(test)]
mod tests;

pub use json_schema::json_schema;
pub use load::ParsedConfig;
pub use model::health::{
    AllDown, CheckOverride, CheckTiming, Ejection, HealthCheck, HealthConfig, OnDown, OnRefused,
    TlsConfig,
};
pub use model::service::{Backend, Service, SourceNat};
pub use model::{
    AdminConfig, AdminListen, ClusterKey, Config, Mode, Poll, Port, ReturnPath, Rings,
    UnknownBackend, Unserved, Workers, ZeroCopy,
};
pub use problem::{
    ConfigErrors, Located, Position, Problem, Severity, SourceText, Span, into_warnings,
};

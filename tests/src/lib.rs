//! The test bed: a small network of namespaces with real servers and clients, and the balancer between them.
//! The end-to-end tests and the demo use it.
//!
//! Invariant: everything that a run creates has the run's process id in its name. Dropping an owner removes
//! what it created, a signal removes everything of this run, and the next run removes the leftovers of a
//! killed run.

pub mod actors;
pub mod browser;
pub mod capture;
pub mod certificate;
pub mod check_wat;
pub mod config;
pub mod container;
pub mod detour;
pub mod echo;
pub mod faults;
pub mod hostile;
pub mod http_server;
pub mod inject;
pub mod inline;
pub mod load;
pub mod log_pipe;
pub mod modules;
pub mod moody_server;
pub mod netns;
pub mod pids_limit;
pub mod process;
pub mod query;
pub mod scratch;
mod server_kind;
pub mod servers;
pub mod status;
pub mod tools;
pub mod topology;
pub mod vlan;
pub mod vm;
pub mod wat;
pub mod waxwing;

pub use capture::Capture;
pub use config::{Backend, Config, HealthCheck, Service};
pub use detour::Detour;
pub use faults::Fault;
pub use inline::Inline;
pub use load::{Load, Tally};
pub use netns::Namespace;
pub use process::Process;
pub use scratch::Scratch;
pub use server_kind::Kind;
pub use servers::Server;
pub use status::Status;
pub use topology::{Layout, Topology};
pub use waxwing::Waxwing;

//! Policies and health checks as sandboxed Wasm modules: loaded, vetted, run, watched and swapped.
//!
//! For policies the control side holds a [`Host`]. It turns a module's name and the services that use it into
//! one instance per worker ([`Host::bind`]), each of which the core drives as a
//! [`Policy`](waxwing_dataplane::Policy). What a module may do is bounded five times over:
//!
//! - `validate` reads its bytes before anything is compiled: imports, the ABI's exports, sizes;
//! - `compile` has them compiled by a child process with limits of its own;
//! - `engine` gives it a memory limit, a small stack and a time budget for each call;
//! - `bind` and `regions` check every address it names, once;
//! - `instance` checks every answer it gives, always.
//!
//! A module that fails costs its batch the native fallback. It never costs a packet, and a bad new
//! build never replaces a good one (`library`, `shelf`, `vetting`), nor does it after a restart
//! (`store`).
//!
//! For health checks it holds a [`CheckHost`](checks::CheckHost): the same way from a file to an
//! instance, on an engine of its own, whose instances live for one run each (`checks`).
//!
//! What is deliberately absent: imports of a policy, of any kind, and unsafe code of our own, but for the
//! one call that takes the child's machine code (`compile`).

#![warn(missing_docs)]

mod bind;
pub mod checks;
mod compile;
mod engine;
mod error;
mod functions;
mod guest;
mod heir;
mod host;
mod instance;
mod library;
mod module;
mod payloads;
mod read;
mod records;
mod regions;
mod shelf;
mod status;
mod store;
#[cfg(test)]
mod trace;
mod validate;
mod vetting;
mod watch;
mod words;
pub mod workbench;

pub use bind::{BackendInfo, ServiceBinding};
pub use compile::{CompileLimits, Compiler, compile_child};
pub use engine::prepare_thread;
pub use error::{HostError, ModuleError, Refusal};
pub use host::{Bound, Event, Host, InUse, Options};
pub use instance::FaultReport;
pub use library::Recovery;
pub use module::{CompiledModule, Hash, ModuleCounters, Source};
pub use read::is_module_name;
pub use shelf::FaultLimit;
pub use status::{CanaryStatus, ModuleStatus, RefusedStatus, Serving, StepStatus};
pub use store::Quarantined;
pub use validate::{Limits, validate};
pub use waxwing_sdk::abi::{Kind, ModuleInfo};

//! Runs policies and health checks as sandboxed Wasm modules: loads, validates, vets, calls, watches and
//! swaps them.
//!
//! A policy goes through a [`Host`], which turns a module's name and the services that use it into
//! one instance per worker ([`Host::bind`]). The data plane calls each instance as a
//! [`Policy`](waxwing_dataplane::Policy). Five layers bound what a module can do:
//!
//! - `build::validate` reads its bytes before anything is compiled: imports, exports, sizes;
//! - `build::compile_service` compiles it in a confined process with resource limits;
//! - `build::engine` gives it a memory limit, a small stack and a time budget for each call;
//! - `policy::bind` and `policy::regions` check every address that it gives, once;
//! - `policy::instance` checks every answer that it gives, always.
//!
//! A module that fails sends its batch to the native fallback and costs no packet. A bad new build
//! never replaces a good one, not even across a restart (`registry`).
//!
//! A health check goes through a [`CheckHost`](checks::CheckHost): the same path from a file to an
//! instance, on an engine of its own, with a new instance for each run (`checks`).
//!
//! [`trial`] runs one module without a balancer, for the authors' tools.
//!
//! Deliberately absent: imports for policies, of any kind; unsafe code, except the call in `build::compile`
//! that loads machine code, and the fork in `build::compile_service`.

#![warn(missing_docs)]

mod build;
pub mod checks;
mod error;
mod lock;
mod policy;
mod registry;
pub mod sample_payloads;
mod text;
pub mod trial;

pub use build::cache::CodeCache;
pub use build::compile::Compiler;
pub use build::compile_service::{CompileError, CompileLimits, CompileService, serve_compiler};
pub use build::engine::prepare_thread;
pub use build::module::{BuildCounters, CompiledModule, ModuleHash, ModuleSource};
pub use build::private_folder::PrivateFolder;
pub use build::read::is_module_name;
pub use build::validate::{ModuleLimits, validate};
pub use error::{HostError, ModuleError, Refusal};
pub use policy::bind::service_seed;
pub use policy::builds_in_use::{BoundModule, BuildsInUse};
pub use policy::call_times::CALL_TIME_UNIT_NS;
pub use policy::host::{Host, HostEvent};
pub use policy::hosted::{BackendInfo, ServiceBinding};
pub use policy::instance::FaultReport;
pub use policy::module_counters::ModuleValues;
pub use policy::module_log::LogLine;
pub use policy::saved_states::SavedState;
pub use registry::canary::CanaryRules;
pub use registry::options::{FaultLimit, HostOptions};
pub use registry::recovery::Recovery;
pub use registry::status::{BuildStatus, CanaryStatus, ModuleStatus, RefusedStatus, StepStatus};
pub use registry::store::QuarantinedBuild;
pub use waxwing_sdk::abi::{Kind, ModuleInfo};

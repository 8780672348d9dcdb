//! Compiles a module's bytes to machine code, in a confined process with resource limits.
//!
//! A small valid file can make the compiler use much time and memory; its authors do not treat that
//! as a bug. So a file from the folder is compiled in another process, which the kernel stops at
//! its limits.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Instant;

use crate::build::compile_service::{CompileLimits, CompileService, Compiled};
use crate::build::engine::Engine;
use crate::error::Refusal;

/// What compiles the modules of the folder. (Shipped modules are compiled in this process.)
#[derive(Clone, Debug, Default)]
pub enum Compiler {
    /// This process: for tools that run the user's own module, and for tests.
    #[default]
    Here,
    /// A child of the compile service for each module, within limits.
    Service(Arc<CompileService>, CompileLimits),
}

impl Compiler {
    /// Returns the same with less wall-clock time, if there is less until then.
    pub(crate) fn until(&self, until: Option<Instant>) -> Self {
        match (self, until) {
            (Self::Service(service, limits), Some(until)) => {
                let left = until.saturating_duration_since(Instant::now());
                let wall = limits.wall.min(left);
                Self::Service(Arc::clone(service), CompileLimits { wall, ..*limits })
            }
            _ => self.clone(),
        }
    }

    /// Returns why no module can be compiled, with the remedy.
    pub(crate) fn problem(&self) -> Option<String> {
        let Self::Service(service, _) = self else {
            return None;
        };
        (!service.is_running()).then(|| {
            let id = service.id();
            format!(
                "no new module can be compiled: the process that compiles them ({id}) has ended; the modules \
                 in use serve on, restart the balancer when it suits"
            )
        })
    }

    /// Compiles a validated module.
    pub(crate) fn compile(
        &self,
        engine: &Engine,
        bytes: &[u8],
    ) -> Result<wasmtime::Module, Refusal> {
        let Self::Service(service, limits) = self else {
            return here(engine, bytes);
        };
        let failed = |error: io::Error| Refusal::Compiler(error.to_string());
        let compiled = service.run(engine.kind(), bytes, *limits).map_err(failed)?;
        load(engine, &check_exit(compiled, *limits)?)
    }
}

/// Compiles in this process.
pub(crate) fn here(engine: &Engine, bytes: &[u8]) -> Result<wasmtime::Module, Refusal> {
    wasmtime::Module::from_binary(engine.wasmtime(), bytes)
        .map_err(|error| Refusal::Compile(format!("{error:#}")))
}

/// Loads machine code that this program has compiled.
#[expect(unsafe_code, reason = "wasmtime trusts machine code that it is given")]
pub(super) fn load(engine: &Engine, code: &[u8]) -> Result<wasmtime::Module, Refusal> {
    // SAFETY: the bytes are the output of `Engine::precompile_module` in a child of the compile service: the
    // child is this program, exited with success, and wrote them to a file in memory that no other process
    // holds. Or they are of `CodeCache::read`: this program wrote them, to a file that only its user can
    // write to.
    // wasmtime refuses code from another version or with other engine settings.
    let module = unsafe { wasmtime::Module::deserialize(engine.wasmtime(), code) };
    module.map_err(|error| Refusal::Compile(format!("{error:#}")))
}

/// Returns the machine code, or why there is none.
fn check_exit(compiled: Compiled, limits: CompileLimits) -> Result<Vec<u8>, Refusal> {
    let Compiled { status, code, text } = compiled;
    let Some(status) = status.map(ExitStatus::from_raw) else {
        return Err(Refusal::Compile(format!(
            "compiling took longer than {} s; make the module's functions smaller",
            limits.wall.as_secs_f32()
        )));
    };
    if status.success() {
        return Ok(code);
    }
    let text = String::from_utf8_lossy(&text);
    let text = text.lines().next().unwrap_or_default();
    Err(match status.signal() {
        None => Refusal::Compile(text.to_owned()),
        // SIGXCPU means the limit of processor time, SIGABRT a failed allocation.
        Some(signal) => Refusal::Compile(format!(
            "the compiler was stopped (signal {signal}{}); its limits are {limits}; make the \
             module's functions smaller",
            if text.is_empty() {
                String::new()
            } else {
                format!(", {text}")
            }
        )),
    })
}

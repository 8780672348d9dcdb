//! Compiles a module's bytes to machine code, in a confined child process with resource limits.
//!
//! A small valid file can make the compiler use much time and memory; its authors do not treat that
//! as a bug. So a file from the folder is compiled in another process, which the kernel stops at
//! its limits.
//!
//! Invariant: whatever the bytes are, this process uses no more memory for them than the sizes of
//! the file and of the machine code, waits no longer than [`CompileLimits::wall`], and needs no thread
//! of its own: the child's standard streams are files in memory.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use waxwing_sdk::abi::Kind;

use crate::build::confine::confine;
use crate::build::engine::Engine;
use crate::error::Refusal;

/// The largest machine code accepted from the child, in bytes.
pub(super) const CODE_MAX: u64 = 256 << 20;

/// How often a running child is looked at.
const POLL: Duration = Duration::from_millis(1);

/// The longest error text read from the child, in bytes.
const TEXT_MAX: u64 = 4096;

/// What compiles the modules of the folder. (Shipped modules are compiled in this process.)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Compiler {
    /// This process: for tools that run the user's own module, and for tests.
    #[default]
    Here,
    /// A new child process for each module.
    Child {
        /// The program, which has to call [`compile_child`].
        program: PathBuf,
        /// Its arguments, before the two limits and the kind.
        arguments: Vec<String>,
        /// The child's limits.
        limits: CompileLimits,
    },
}

/// Limits for compiling one module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompileLimits {
    /// Processor time, in seconds.
    pub cpu_s: u64,
    /// Address space, in bytes.
    pub memory_bytes: u64,
    /// Wall-clock time.
    pub wall: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self {
            cpu_s: 10,
            memory_bytes: 1 << 30,
            wall: Duration::from_secs(20),
        }
    }
}

impl fmt::Display for CompileLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.memory_bytes >> 20;
        write!(
            f,
            "{} s of processor time and {mebibytes} MiB of memory",
            self.cpu_s
        )
    }
}

impl Compiler {
    /// Compiles a validated module.
    pub(crate) fn compile(
        &self,
        engine: &Engine,
        bytes: &[u8],
    ) -> Result<wasmtime::Module, Refusal> {
        let Self::Child {
            program,
            arguments,
            limits,
        } = self
        else {
            return here(engine, bytes);
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args([limits.cpu_s.to_string(), limits.memory_bytes.to_string()])
            .arg(engine.kind().as_str())
            .env_clear();
        let code = run(command, bytes, *limits)?;
        load(engine, &code)
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
    // SAFETY: the bytes are the output of `Engine::precompile_module` in `compile_child`: the child
    // is this program, exited with success, and wrote them to a file in memory that no other process
    // holds. Or they are of `CodeCache::read`: this program wrote them, to a file that only its user can
    // write to.
    // wasmtime refuses code from another version or with other engine settings.
    let module = unsafe { wasmtime::Module::deserialize(engine.wasmtime(), code) };
    module.map_err(|error| Refusal::Compile(format!("{error:#}")))
}

/// Runs the child on the module and returns the machine code.
fn run(command: Command, bytes: &[u8], limits: CompileLimits) -> Result<Vec<u8>, Refusal> {
    let failed = |error: io::Error| Refusal::Compiler(error.to_string());
    let (status, code, text) = run_child(command, bytes, limits.wall).map_err(failed)?;
    match status {
        Some(status) => check_exit(status, code, &text, limits),
        None => Err(Refusal::Compile(format!(
            "compiling took longer than {} s; make the module's functions smaller",
            limits.wall.as_secs_f32()
        ))),
    }
}

/// Runs the child. Returns its exit status, its output and its error text; no status if it was killed
/// because it was late.
fn run_child(
    mut command: Command,
    bytes: &[u8],
    wall: Duration,
) -> io::Result<(Option<ExitStatus>, Vec<u8>, Vec<u8>)> {
    let (mut module, code, text) = (memory_file()?, memory_file()?, memory_file()?);
    module.write_all(bytes)?;
    module.rewind()?;
    let mut child = command
        .stdin(module)
        .stdout(code.try_clone()?)
        .stderr(text.try_clone()?)
        .spawn()?;
    let status = wait(&mut child, wall);
    if !matches!(status, Ok(Some(_))) {
        child.kill()?;
        child.wait()?;
    }
    Ok((
        status?,
        read_capped(code, CODE_MAX)?,
        read_capped(text, TEXT_MAX)?,
    ))
}

/// Returns an empty file that only its holders can open.
fn memory_file() -> io::Result<File> {
    let file = rustix::fs::memfd_create("waxwing-compile", MemfdFlags::CLOEXEC)?;
    Ok(File::from(file))
}

/// Waits for the child's end; `None` if it is late.
fn wait(child: &mut Child, wall: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        let status = child.try_wait()?;
        if status.is_some() || started.elapsed() >= wall {
            return Ok(status);
        }
        thread::sleep(POLL);
    }
}

fn read_capped(mut file: File, max: u64) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn check_exit(
    status: ExitStatus,
    code: Vec<u8>,
    text: &[u8],
    limits: CompileLimits,
) -> Result<Vec<u8>, Refusal> {
    if status.success() {
        return Ok(code);
    }
    let text = String::from_utf8_lossy(text);
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

/// Why the compiling child failed. Its text goes to standard error, from which the parent reads it.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The kind is neither `policy` nor `health`.
    #[error("{0}: no such kind of module; expected `policy` or `health`")]
    Kind(String),
    /// The kernel refused to confine the process.
    #[error("cannot give up what compiling does not need: {0}")]
    Limits(io::Error),
    /// Standard input or output failed.
    #[error("cannot transfer the module: {0}")]
    Transfer(io::Error),
    /// The module cannot be compiled, or the compiler cannot work on this machine.
    #[error("{0}")]
    Compile(String),
}

/// The child's side of [`Compiler::Child`]: compiles the module on standard input, of the given kind
/// (`policy` or `health`), and writes the machine code to standard output. Call this first in a process
/// that does nothing else: it gives up the process's rights.
///
/// # Errors
/// The caller writes the error to standard error and exits without success.
pub fn compile_child(cpu_s: u64, memory_bytes: u64, kind: &str) -> Result<(), CompileError> {
    let kind = [Kind::Policy, Kind::Health]
        .into_iter()
        .find(|known| known.as_str() == kind)
        .ok_or_else(|| CompileError::Kind(kind.to_owned()))?;
    confine(cpu_s, memory_bytes).map_err(CompileError::Limits)?;
    let mut bytes = Vec::new();
    io::stdin()
        .read_to_end(&mut bytes)
        .map_err(CompileError::Transfer)?;
    let code = Engine::compile_only(kind)
        .and_then(|engine| engine.precompile_module(&bytes))
        .map_err(|error| CompileError::Compile(format!("{error:#}")))?;
    let mut output = io::stdout().lock();
    output
        .write_all(&code)
        .and_then(|()| output.flush())
        .map_err(CompileError::Transfer)
}

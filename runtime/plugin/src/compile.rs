//! From a module's bytes to machine code, in a child process of bounded means.
//!
//! The compiler takes time and memory that an author can drive up at will, with a file that is
//! small and valid; its makers do not count that as a fault of theirs. So a file from the folder
//! is compiled by another process, which the kernel stops where it takes too much.
//!
//! Invariant: whatever the bytes are, this process spends no more on them than the file's size and
//! the machine code's, and waits no longer than [`CompileLimits::wall`].

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal};
use waxwing_sdk::abi::Kind;

use crate::engine::Engine;
use crate::error::Refusal;

/// The largest machine code taken from the compiler, in bytes.
const CODE_MAX: u64 = 256 << 20;

/// How far the child stands back behind all others.
const NICE: i32 = 5;

/// The longest text of a failure that is read, in bytes.
const TEXT_MAX: u64 = 4096;

/// Who compiles what comes from the folder. (What ships with the program is compiled in place.)
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Compiler {
    /// This process: for tools that run a module of the user's own, and for tests.
    #[default]
    Here,
    /// A child process, for each module a new one.
    Child {
        /// The program, which ends up in [`compile_child`].
        program: PathBuf,
        /// What it is called with, before the two limits and the kind's word.
        arguments: Vec<String>,
        /// What it may take.
        limits: CompileLimits,
    },
}

/// What compiling one module may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompileLimits {
    /// Processor time, in seconds.
    pub cpu_s: u64,
    /// Address space, in bytes.
    pub memory_bytes: u64,
    /// Time in all.
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
    /// Compiles a module that was validated.
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
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let code = run(command, bytes, *limits)?;
        load(engine, &code)
    }
}

/// Compiles in this process.
pub(crate) fn here(engine: &Engine, bytes: &[u8]) -> Result<wasmtime::Module, Refusal> {
    wasmtime::Module::from_binary(engine.wasmtime(), bytes)
        .map_err(|error| Refusal::Compile(format!("{error:#}")))
}

#[expect(unsafe_code, reason = "wasmtime trusts machine code that it is given")]
fn load(engine: &Engine, code: &[u8]) -> Result<wasmtime::Module, Refusal> {
    // SAFETY: the bytes are what `Engine::precompile_module` gave in `compile_child`: the child is
    // this program too, ended with success, and wrote them to a pipe that nobody else holds. An
    // engine of another version or with other settings is refused by wasmtime itself.
    let module = unsafe { wasmtime::Module::deserialize(engine.wasmtime(), code) };
    module.map_err(|error| Refusal::Compile(format!("{error:#}")))
}

/// Runs the child: the module in, the machine code out.
fn run(mut command: Command, bytes: &[u8], limits: CompileLimits) -> Result<Vec<u8>, Refusal> {
    let failed = |error: io::Error| Refusal::Compiler(error.to_string());
    let mut child = command.spawn().map_err(failed)?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (finished, wait) = channel();
    let outcome = thread::scope(|scope| {
        scope.spawn(move || {
            // A child that gave up early has closed its end.
            let _ = stdin.map(|mut stdin| stdin.write_all(bytes));
        });
        let text = scope.spawn(move || read(stderr, TEXT_MAX));
        let code = scope.spawn(move || {
            let code = read(stdout, CODE_MAX);
            let _ = finished.send(());
            code
        });
        let in_time = wait.recv_timeout(limits.wall).is_ok();
        let status = end(&mut child, in_time);
        (in_time, status, code.join(), text.join())
    });
    match outcome {
        (true, Ok(status), Ok(code), Ok(text)) => judge(status, code, &text, limits),
        (false, ..) => Err(Refusal::Compile(format!(
            "it took longer than {} s; make its functions smaller",
            limits.wall.as_secs_f32()
        ))),
        (_, Err(error), ..) => Err(failed(error)),
        (.., Err(_), _) | (.., Err(_)) => Err(Refusal::Compiler("its output is lost".into())),
    }
}

/// Waits for a child that has closed its output, or ends it.
fn end(child: &mut Child, in_time: bool) -> io::Result<ExitStatus> {
    if !in_time {
        child.kill()?;
    }
    child.wait()
}

fn read(source: Option<impl Read>, max: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read before an error is judged by the exit status.
    let _ = source.map(|source| source.take(max).read_to_end(&mut bytes));
    bytes
}

fn judge(
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
        // SIGXCPU is the soft limit's, SIGABRT the end of an allocation that found no memory.
        Some(signal) => Refusal::Compile(format!(
            "the compiler was stopped (signal {signal}{}): {limits} are the limit; make its \
             functions smaller",
            if text.is_empty() {
                String::new()
            } else {
                format!(", {text}")
            }
        )),
    })
}

/// The child's side: compiles the module on standard input, of the kind with this word (`policy` or
/// `health`), and writes the machine code to standard output. To be called first thing in a process of its own, which may do nothing else.
///
/// # Errors
/// A text for standard error; the process is to end without success.
pub fn compile_child(cpu_s: u64, memory_bytes: u64, kind: &str) -> Result<(), String> {
    let kind = [Kind::Policy, Kind::Health]
        .into_iter()
        .find(|known| known.as_str() == kind)
        .ok_or_else(|| format!("{kind}: no such kind of module; expected `policy` or `health`"))?;
    confine(cpu_s, memory_bytes).map_err(|error| format!("cannot set limits: {error}"))?;
    let mut bytes = Vec::new();
    io::stdin()
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    let code = Engine::compile_only(kind)
        .map_err(|error| error.to_string())?
        .precompile_module(&bytes)
        .map_err(|error| format!("{error:#}"))?;
    let mut output = io::stdout().lock();
    output
        .write_all(&code)
        .and_then(|()| output.flush())
        .map_err(|error| error.to_string())
}

/// Takes from this process what compiling does not need.
fn confine(cpu_s: u64, memory_bytes: u64) -> io::Result<()> {
    let limit = |resource, value| {
        let limit = Rlimit {
            current: Some(value),
            maximum: Some(value),
        };
        rustix::process::setrlimit(resource, limit)
    };
    limit(Resource::Cpu, cpu_s)?;
    limit(Resource::As, memory_bytes)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Nofile, 16)?;
    // It ends with its parent, and works only on processor time that nobody else wants.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::setpriority_process(None, NICE)?;
    Ok(())
}

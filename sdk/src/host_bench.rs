//! Times a policy as a module in the installed balancer's host, from a bench of the policy's crate.
//!
//! The program `waxwing` builds the crate and runs the module; this is the other end of its pipe. So a
//! bench needs no Wasm engine, and measures the host that will serve the module.
//!
//! Invariant: the child process ends when its [`HostBench`] is dropped.

use alloc::string::{String, ToString};
use core::fmt;
use core::time::Duration;
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Environment variable with the path of the program `waxwing`, for when it is not in `PATH`.
const PROGRAM_VARIABLE: &str = "WAXWING";

/// The first line that `waxwing module bench --serve` prints.
const GREETING: &str = "waxwing module bench 1";

/// A module in the balancer's host, to be timed.
///
/// For criterion's `iter_custom`:
///
/// ```no_run
/// # use waxwing_sdk::HostBench;
/// let mut host = HostBench::start(env!("CARGO_MANIFEST_DIR"), "{}")?;
/// // bencher.iter_custom(|calls| host.run(32, calls));
/// let per_call = host.run(32, 1000) / 1000;
/// # Ok::<(), waxwing_sdk::HostBenchError>(())
/// ```
#[derive(Debug)]
pub struct HostBench {
    child: Child,
    /// Dropped first; the end of its input ends the child.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl HostBench {
    /// Builds the crate in `directory` to a module (`waxwing module build`) and runs it in the balancer's
    /// host with this config (a JSON object). The program is `$WAXWING`, or `waxwing` in `PATH`.
    ///
    /// # Errors
    /// Fails if the program is not found, the crate does not build, or the module is refused. The text
    /// says what to do.
    pub fn start(directory: impl AsRef<Path>, config: &str) -> Result<Self, HostBenchError> {
        let program =
            std::env::var_os(PROGRAM_VARIABLE).unwrap_or_else(|| OsString::from("waxwing"));
        let module = build(&program, directory.as_ref(), config)?;
        let mut child = Command::new(&program)
            .args(["module", "bench", "--serve", "--config", config])
            .arg(&module)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|source| HostBenchError::program(&program, source))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(HostBenchError::Ended);
        };
        let mut host = Self {
            child,
            requests: Some(requests),
            answers: BufReader::new(answers),
        };
        match host.answer()? {
            greeting if greeting == GREETING => Ok(host),
            greeting => Err(HostBenchError::Version {
                program: program.into(),
                greeting,
            }),
        }
    }

    /// Returns how long `calls` calls take in the host, each for a batch of `batch` flows (1 to 64).
    ///
    /// # Panics
    /// Panics if the module fails; standard error has the module's text.
    pub fn run(&mut self, batch: usize, calls: u64) -> Duration {
        self.try_run(batch, calls)
            .unwrap_or_else(|error| panic!("the module cannot be timed: {error}"))
    }

    fn try_run(&mut self, batch: usize, calls: u64) -> Result<Duration, HostBenchError> {
        let requests = self.requests.as_mut().ok_or(HostBenchError::Ended)?;
        writeln!(requests, "{batch} {calls}").map_err(|_| HostBenchError::Ended)?;
        requests.flush().map_err(|_| HostBenchError::Ended)?;
        let answer = self.answer()?;
        let nanoseconds = answer.parse().map(Duration::from_nanos);
        nanoseconds.map_err(|_| HostBenchError::Module(answer))
    }

    fn answer(&mut self) -> Result<String, HostBenchError> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) | Err(_) => Err(HostBenchError::Ended),
            Ok(_) => Ok(line.trim_end().to_string()),
        }
    }
}

impl Drop for HostBench {
    fn drop(&mut self) {
        self.requests = None;
        // The child ends when its input does; a bench has no remedy for an error here.
        let _ = self.child.wait();
    }
}

/// Builds the crate and returns the module's path.
fn build(program: &OsStr, directory: &Path, config: &str) -> Result<PathBuf, HostBenchError> {
    let output = Command::new(program)
        .args(["module", "build", "--json", "--config", config])
        .arg(directory)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| HostBenchError::program(program, source))?;
    if !output.status.success() {
        return Err(HostBenchError::Build);
    }
    let built: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|_| HostBenchError::BuildOutput)?;
    let path = built.get("path").and_then(|path| path.as_str());
    path.map(PathBuf::from).ok_or(HostBenchError::BuildOutput)
}

/// Why a module cannot be timed in the balancer's host.
#[derive(Debug)]
#[non_exhaustive]
pub enum HostBenchError {
    /// The program cannot be run.
    Program {
        /// The program's name or path.
        program: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// `waxwing module build` failed; standard error says why.
    Build,
    /// `waxwing module build --json` did not print the module's path.
    BuildOutput,
    /// The program is of another version than the SDK.
    Version {
        /// The program's name or path.
        program: PathBuf,
        /// Its first line.
        greeting: String,
    },
    /// The program ended; standard error says why.
    Ended,
    /// The module failed, with this text.
    Module(String),
}

impl HostBenchError {
    fn program(program: &OsStr, source: io::Error) -> Self {
        let program = program.into();
        Self::Program { program, source }
    }
}

impl fmt::Display for HostBenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { program, source } => write!(
                f,
                "cannot run {}: {source}; install the balancer (`cargo build --release --package \
                 waxwing`) and put it into PATH, or set {PROGRAM_VARIABLE}=/path/to/waxwing",
                program.display()
            ),
            Self::Build => f.write_str("`waxwing module build` failed; see its errors above"),
            Self::BuildOutput => {
                f.write_str("`waxwing module build --json` printed no path of a module")
            }
            Self::Version { program, greeting } => write!(
                f,
                "{} prints {greeting:?}, expected {GREETING:?}; use the SDK and the program of one \
                 version",
                program.display()
            ),
            Self::Ended => f.write_str("the host ended; see its errors above"),
            Self::Module(text) => f.write_str(text),
        }
    }
}

impl core::error::Error for HostBenchError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Program { source, .. } => Some(source),
            _ => None,
        }
    }
}

//! Times a policy as a module on the installed balancer, from a bench of the policy's own crate.
//!
//! The program `waxwing` builds the crate and runs the module; this is only the other end of its
//! pipe. So a bench needs no Wasm engine of its own, and measures the host that will serve.
//!
//! Invariant: the child ends with its value.

use alloc::format;
use alloc::string::{String, ToString};
use core::time::Duration;
use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Names the program `waxwing`, where it is not in `PATH`.
const PROGRAM_VARIABLE: &str = "WAXWING";

/// What `waxwing module bench --serve` says first.
const GREETING: &str = "waxwing module bench 1";

/// A module at work on the balancer's host, to be timed.
///
/// For criterion's `iter_custom`:
///
/// ```no_run
/// # use waxwing_sdk::HostBench;
/// let mut host = HostBench::start(env!("CARGO_MANIFEST_DIR"), "{}")?;
/// // bencher.iter_custom(|calls| host.run(32, calls));
/// let a_call = host.run(32, 1000) / 1000;
/// # Ok::<(), String>(())
/// ```
#[derive(Debug)]
pub struct HostBench {
    child: Child,
    /// Dropped first, which ends the child.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl HostBench {
    /// Builds the crate in `directory` to a module (`waxwing module build`) and has the balancer's
    /// host run it with this config (JSON, an object). The program is the environment variable
    /// `WAXWING`, else `waxwing` in `PATH`.
    ///
    /// # Errors
    /// No such program, a crate that does not build, or a module that does not pass; the text says
    /// what to do.
    pub fn start(directory: impl AsRef<Path>, config: &str) -> Result<Self, String> {
        let program =
            std::env::var_os(PROGRAM_VARIABLE).unwrap_or_else(|| OsString::from("waxwing"));
        let module = build(&program, directory.as_ref(), config)?;
        let mut child = Command::new(&program)
            .args(["module", "bench", "--serve", "--config", config])
            .arg(&module)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| no_program(&program, &error))?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a child process without its pipes".to_string());
        };
        let mut host = Self {
            child,
            requests: Some(requests),
            answers: BufReader::new(answers),
        };
        match host.answer()?.as_str() {
            GREETING => Ok(host),
            other => Err(format!(
                "{} says {other:?}, not {GREETING:?}; take the SDK and the program from one version",
                Path::new(&program).display()
            )),
        }
    }

    /// How long `calls` calls take on the host, each for a batch of so many flows (1 to 64).
    ///
    /// # Panics
    /// If the module fails; its words are on standard error.
    pub fn run(&mut self, batch: usize, calls: u64) -> Duration {
        let asked = self
            .requests
            .as_mut()
            .map(|requests| writeln!(requests, "{batch} {calls}").and_then(|()| requests.flush()));
        let answer = match asked {
            Some(Ok(())) => self.answer(),
            _ => Err("the host has ended".to_string()),
        };
        let time = answer.and_then(|answer| {
            let nanoseconds = answer.parse().map(Duration::from_nanos);
            nanoseconds.map_err(|_| answer)
        });
        time.unwrap_or_else(|why| panic!("the module cannot be timed: {why}"))
    }

    fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err("the host has ended; why is on standard error".to_string()),
            Ok(_) => Ok(line.trim_end().to_string()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for HostBench {
    fn drop(&mut self) {
        self.requests = None;
        // It ends by itself, and if not there is nothing that a bench could do.
        let _ = self.child.wait();
    }
}

/// The module's path.
fn build(program: &OsString, directory: &Path, config: &str) -> Result<PathBuf, String> {
    let output = Command::new(program)
        .args(["module", "build", "--json", "--config", config])
        .arg(directory)
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| no_program(program, &error))?;
    if !output.status.success() {
        return Err("`waxwing module build` failed; why is above".to_string());
    }
    let built: serde_json::Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("`waxwing module build --json` gave no JSON: {error}"))?;
    let path = built.get("path").and_then(|path| path.as_str());
    path.map(PathBuf::from)
        .ok_or_else(|| "`waxwing module build --json` names no path".to_string())
}

fn no_program(program: &OsString, error: &std::io::Error) -> String {
    format!(
        "cannot run {}: {error}; install the balancer (`cargo build --release --package waxwing`) \
         and put it into PATH, or name it by {PROGRAM_VARIABLE}=/path/to/waxwing",
        Path::new(program).display()
    )
}

//! Child processes with bounded waits.
//!
//! Invariant: a child never outlives its [`Process`]: dropping one kills and reaps it. If this process dies
//! first, the kernel kills the child (`PR_SET_PDEATHSIG`, by `setpriv`). The kernel ties that to the thread
//! that spawned the child, so spawn from a thread that lives longer.

use std::io::{Read, Write as _};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// The longest interval at which a wait polls. The first is [`POLL_MIN`], because most children are set-up
/// commands that end at once.
const POLL_MAX: Duration = Duration::from_millis(5);
const POLL_MIN: Duration = Duration::from_micros(200);

/// The longest that a command of [`run`] may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(20);

/// A child's output, filled by a thread while the child lives.
type Pipe = Arc<Mutex<Vec<u8>>>;

/// A running child and its output so far.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: Pipe,
    stderr: Pipe,
    readers: Vec<JoinHandle<()>>,
    lines_taken: usize,
}

/// How a child ended, and what it wrote (invalid UTF-8 replaced).
#[derive(Debug, Clone)]
pub struct Finished {
    pub status: ExitStatus,
    /// All of the standard output.
    pub stdout: String,
    /// All of the standard error.
    pub stderr: String,
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// It could not be started, failed, or took longer than 20 s; the text has its standard error.
pub fn run(command: &Command) -> Result<String> {
    let line = command_line(command);
    let finished = Process::spawn(&line, command)?.finish(RUN_TIMEOUT)?;
    if !finished.status.success() {
        bail!(
            "`{line}` failed ({}): {}",
            finished.status,
            finished.stderr.trim()
        );
    }
    Ok(finished.stdout)
}

/// Runs a command to its end with `input` on its standard input.
pub fn run_with_input(command: &Command, input: &str) -> Result<String> {
    let line = command_line(command);
    let mut process = Process::spawn_with_stdin(&line, command, Stdio::piped())?;
    let mut stdin = process
        .child
        .stdin
        .take()
        .context("standard input is piped")?;
    // A child that fails early closes its end; report its own error first.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let finished = process.finish(RUN_TIMEOUT)?;
    if !finished.status.success() {
        bail!(
            "`{line}` failed ({}) on:\n{input}{}",
            finished.status,
            finished.stderr.trim()
        );
    }
    written.with_context(|| format!("`{line}` did not read its input"))?;
    Ok(finished.stdout)
}

impl Process {
    /// Starts a command in a new process group, so that Ctrl-C reaches only this process. The child dies with
    /// this thread. `name` is for errors.
    pub fn spawn(name: &str, command: &Command) -> Result<Self> {
        Self::spawn_with_stdin(name, command, Stdio::null())
    }

    /// Like [`Process::spawn`], but leaves standard input open for [`Process::ask`].
    pub fn spawn_asked(name: &str, command: &Command) -> Result<Self> {
        Self::spawn_with_stdin(name, command, Stdio::piped())
    }

    fn spawn_with_stdin(name: &str, command: &Command, stdin: Stdio) -> Result<Self> {
        let mut child = bind_to_thread(command)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{name}` ({})", command_line(command)))?;
        let (stdout, stderr) = (Pipe::default(), Pipe::default());
        let mut readers = Vec::new();
        readers.extend(
            child
                .stdout
                .take()
                .map(|pipe| collect(pipe, Arc::clone(&stdout))),
        );
        readers.extend(
            child
                .stderr
                .take()
                .map(|pipe| collect(pipe, Arc::clone(&stderr))),
        );
        Ok(Self {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
            readers,
            lines_taken: 0,
        })
    }

    /// Writes a line to its standard input, which [`Process::spawn_asked`] leaves open.
    pub fn ask(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut();
        let stdin =
            stdin.with_context(|| format!("the standard input of `{}` is not open", self.name))?;
        stdin
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("`{}` does not read its standard input", self.name))
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends the process a signal.
    ///
    /// # Errors
    /// The process has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.try_wait()? {
            bail!(
                "`{}` has ended ({status}) and cannot be sent {signal}",
                self.name
            );
        }
        let pid = Pid::from_raw(i32::try_from(self.id()).context("a process id is positive")?);
        signal::kill(pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Returns the exit status if the process has ended.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot wait for `{}`", self.name))
    }

    /// Waits for the process's end and returns its status and output. Kills it after `timeout`.
    ///
    /// # Errors
    /// The process exceeded `timeout`; the text has its output.
    pub fn finish(mut self, timeout: Duration) -> Result<Finished> {
        let deadline = Instant::now() + timeout;
        let mut poll = POLL_MIN;
        let status = loop {
            if let Some(status) = self.try_wait()? {
                break status;
            }
            if Instant::now() >= deadline {
                let threads = self.threads();
                self.kill();
                bail!(
                    "`{}` did not end within {timeout:?} (threads: {threads}); it wrote:\n{}{}",
                    self.name,
                    self.stdout(),
                    self.stderr()
                );
            }
            thread::sleep(poll);
            poll = (poll * 2).min(POLL_MAX);
        };
        for reader in self.readers.drain(..) {
            // A grandchild may hold the pipe open, so do not join without a limit.
            let patience = Instant::now() + Duration::from_secs(1);
            while !reader.is_finished() && Instant::now() < patience {
                thread::sleep(POLL_MIN);
            }
        }
        Ok(Finished {
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        })
    }

    /// Returns what each thread does, for a report of a process that hangs: its name, its state (proc(5)) and
    /// the kernel's function that it waits in.
    #[must_use]
    pub fn threads(&self) -> String {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.id()));
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let thread = |task: PathBuf| {
            let stat = read(task.join("stat"));
            let state = stat.rsplit(") ").next().and_then(|it| it.chars().next());
            let (name, waits) = (read(task.join("comm")), read(task.join("wchan")));
            format!("{} {} {waits}", name.trim(), state.unwrap_or('?'))
        };
        let tasks = tasks.into_iter().flatten().flatten();
        let threads: Vec<String> = tasks.map(|task| thread(task.path())).collect();
        threads.join(", ")
    }

    /// Kills the process (`SIGKILL`) and reaps it.
    pub fn kill(&mut self) {
        // Both fail only if it has been reaped.
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Returns the standard output so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// Returns the standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Returns the next complete line of the standard output, if there is one.
    pub fn take_line(&mut self) -> Option<String> {
        let bytes = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = &bytes[self.lines_taken..];
        let end = fresh.iter().position(|byte| *byte == b'\n')?;
        self.lines_taken += end + 1;
        Some(String::from_utf8_lossy(&fresh[..end]).into_owned())
    }

    /// Returns the complete lines of the standard output since the last call.
    pub fn take_lines(&mut self) -> Vec<String> {
        let bytes = self.stdout.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = &bytes[self.lines_taken..];
        let Some(end) = fresh.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        self.lines_taken += end + 1;
        String::from_utf8_lossy(&fresh[..end])
            .lines()
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Wraps a command so that its process dies with the spawning thread. `setpriv` executes the program in its
/// own process, so the child's id is the program's.
fn bind_to_thread(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    bound
        .args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(key, value),
            None => bound.env_remove(key),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        bound.current_dir(directory);
    }
    bound.process_group(0);
    bound
}

fn collect(mut pipe: impl Read + Send + 'static, into: Pipe) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut chunk = [0; 8192];
        while let Ok(len @ 1..) = pipe.read(&mut chunk) {
            into.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(&chunk[..len]);
        }
    })
}

fn text(pipe: &Pipe) -> String {
    String::from_utf8_lossy(&pipe.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
}

fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// Time between two attempts of [`retry`].
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// Repeats an attempt until it succeeds, and returns its result. It is made at least once.
pub fn retry<T>(time: Duration, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + time;
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => thread::sleep(RETRY_EVERY),
            result => return result,
        }
    }
}

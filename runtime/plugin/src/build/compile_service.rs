//! The compile service: a process that is started first, gives up its rights and forks a child for each
//! module. So the balancer runs no program later, and may do without the right to.
//!
//! Invariant: whatever the bytes are, the balancer uses no more memory for them than the sizes of the file
//! and of the machine code, waits hardly longer than [`CompileLimits::wall`], and needs no thread of its own:
//! a child's standard streams are files in memory. A child holds no file of another child.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, PipeReader, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::process::{Pid, Signal, WaitOptions};
use waxwing_sdk::abi::Kind;

use crate::build::confine::{confine_child, confine_service};
use crate::build::engine::Engine;

/// The largest machine code accepted from a child, in bytes.
pub(super) const CODE_MAX: u64 = 256 << 20;

/// The longest error text read from a child, in bytes.
const TEXT_MAX: u64 = 4096;

/// How often running children are looked at.
const POLL: Duration = Duration::from_millis(1);

/// How long the service may take to answer, beyond a child's time.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A request: two limits, the wall-clock time in milliseconds and the kind. Four files come along: the
/// module, the machine code, the error text, and the pipe for the answer.
type Request = [u64; 4];

/// The size of a request, in bytes.
const REQUEST_LEN: usize = size_of::<Request>();

/// The kinds by their numbers in a request.
const KINDS: [Kind; 2] = [Kind::Policy, Kind::Health];

/// An answer: what happened, and the child's wait status or the error.
type Answer = [i32; 2];
const ENDED: i32 = 0;
const LATE: i32 = 1;
const NOT_STARTED: i32 = 2;

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

/// The running service. It ends when this is dropped, and with this process.
#[derive(Debug)]
pub struct CompileService {
    socket: OwnedFd,
    process: Child,
}

/// What is left of a child.
pub(super) struct Compiled {
    /// Its wait status; `None` if it was killed because it was late.
    pub(super) status: Option<i32>,
    pub(super) code: Vec<u8>,
    pub(super) text: Vec<u8>,
}

impl CompileService {
    /// Starts a program that calls [`serve_compiler`], with this process's rights.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut program: Command) -> io::Result<Self> {
        let (socket, its) = rustix::net::socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // In a group of its own: a terminal's signals are for the balancer.
        program
            .env_clear()
            .process_group(0)
            .stdin(its)
            .stdout(Stdio::null());
        Ok(Self {
            socket,
            process: program.spawn()?,
        })
    }

    /// Returns its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Returns whether the process runs. It sends nothing by the socket, so that can be read at its end only.
    pub(super) fn is_running(&self) -> bool {
        matches!(is_readable(&self.socket, Some(Duration::ZERO)), Ok(false))
    }

    /// Compiles a module in a child.
    pub(super) fn run(
        &self,
        kind: Kind,
        bytes: &[u8],
        limits: CompileLimits,
    ) -> io::Result<Compiled> {
        let (mut module, code, text) = (memory_file()?, memory_file()?, memory_file()?);
        module.write_all(bytes)?;
        module.rewind()?;
        let (mut answer, its) = io::pipe()?;
        let wall = u64::try_from(limits.wall.as_millis()).unwrap_or(u64::MAX);
        let request = [limits.cpu_s, limits.memory_bytes, wall, kind as u64];
        let files = [module.as_fd(), code.as_fd(), text.as_fd(), its.as_fd()];
        let sent = send(&self.socket, request, &files);
        drop(its);
        let [what, value] = sent
            .and_then(|()| receive(&mut answer, limits.wall + ANSWER_MAX))
            .map_err(|error| {
                let remedy = "restart the balancer to compile modules again";
                io::Error::other(format!("it does not answer ({error}); {remedy}"))
            })?;
        if what == NOT_STARTED {
            return Err(io::Error::from_raw_os_error(value));
        }
        Ok(Compiled {
            status: (what == ENDED).then_some(value),
            code: read_capped(code, CODE_MAX)?,
            text: read_capped(text, TEXT_MAX)?,
        })
    }
}

impl Drop for CompileService {
    fn drop(&mut self) {
        // Without a writer its socket ends it, also where this process may not signal it.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Returns an empty file that only its holders can open.
fn memory_file() -> io::Result<File> {
    let file = rustix::fs::memfd_create("waxwing-compile", MemfdFlags::CLOEXEC)?;
    Ok(File::from(file))
}

fn read_capped(mut file: File, max: u64) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn send(socket: &OwnedFd, request: Request, files: &[BorrowedFd<'_>; 4]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(files));
    let bytes = request.map(u64::to_ne_bytes);
    let bytes = [IoSlice::new(bytes.as_flattened())];
    rustix::net::sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for the answer.
fn receive(answer: &mut PipeReader, timeout: Duration) -> io::Result<Answer> {
    if !is_readable(answer, Some(timeout))? {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut bytes = [0; size_of::<Answer>()];
    answer.read_exact(&mut bytes)?;
    let [what, value] = [0, 4].map(|at| std::array::from_fn(|n| bytes[at + n]));
    Ok([what, value].map(i32::from_ne_bytes))
}

/// Waits until a file can be read; `None`: without end.
fn is_readable(file: &impl AsFd, timeout: Option<Duration>) -> io::Result<bool> {
    let timeout = timeout
        .map(Timespec::try_from)
        .transpose()
        .map_err(io::Error::other)?;
    let mut files = [PollFd::new(file, PollFlags::IN)];
    match rustix::event::poll(&mut files, timeout.as_ref()) {
        Err(Errno::INTR) => Ok(false),
        ready => Ok(ready? > 0),
    }
}

/// A child at work.
struct Running {
    id: Pid,
    until: Instant,
    answer: File,
}

/// The service's side: compiles what arrives by the socket on standard input, until that is closed. Call it
/// in a process that does nothing else and has one thread: it gives up the process's rights.
///
/// # Errors
/// The kernel refuses something. The caller writes the error to standard error and exits without success.
pub fn serve_compiler() -> Result<(), CompileError> {
    confine_service().map_err(CompileError::Limits)?;
    let mut running: Vec<Running> = Vec::new();
    loop {
        let timeout = (!running.is_empty()).then_some(POLL);
        if is_readable(&io::stdin(), timeout).map_err(CompileError::Transfer)? {
            match next().map_err(CompileError::Transfer)? {
                None => break,
                Some((request, files)) => {
                    let child = start(request, files, &mut running)?;
                    running.extend(child);
                }
            }
        }
        running.retain_mut(|child| !has_ended(child));
    }
    for child in running {
        let _ = rustix::process::kill_process(child.id, Signal::KILL);
    }
    Ok(())
}

/// Receives a request; `None` if the balancer is gone.
fn next() -> io::Result<Option<(Request, [File; 4])>> {
    let mut bytes = [0; REQUEST_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(
        io::stdin(),
        &mut into,
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let files = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(files) => Some(files),
        _ => None,
    });
    let files: Vec<File> = files.flatten().map(File::from).collect();
    let files = files
        .try_into()
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|n| bytes[at * 8 + n]));
    Ok(Some((std::array::from_fn(word), files)))
}

/// Starts a child; `None` if the kernel gives none, which is answered.
fn start(
    [cpu_s, memory_bytes, wall, kind]: Request,
    [module, code, text, answer]: [File; 4],
    running: &mut Vec<Running>,
) -> Result<Option<Running>, CompileError> {
    match fork() {
        Ok(Some(id)) => Ok(Some(Running {
            id,
            until: Instant::now() + Duration::from_millis(wall),
            answer,
        })),
        Ok(None) => {
            // The answers are the service's to give.
            running.clear();
            drop(answer);
            let streams = rustix::stdio::dup2_stdin(module)
                .and_then(|()| rustix::stdio::dup2_stdout(code))
                .and_then(|()| rustix::stdio::dup2_stderr(text));
            streams.map_err(|error| CompileError::Transfer(error.into()))?;
            confine_child(cpu_s, memory_bytes, CODE_MAX).map_err(CompileError::Limits)?;
            let kind = usize::try_from(kind).ok().and_then(|at| KINDS.get(at));
            compile(*kind.unwrap_or(&Kind::Policy))?;
            std::process::exit(0)
        }
        Err(error) => {
            put(&answer, [NOT_STARTED, error.raw_os_error().unwrap_or(0)]);
            Ok(None)
        }
    }
}

/// Splits the process. Returns the child's id, and `None` in the child.
#[expect(unsafe_code, reason = "no safe function forks")]
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: this process has one thread, so the child finds no lock taken and no data half changed.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        id => Ok(Pid::from_raw(id)),
    }
}

/// Answers if the child has ended or is late.
fn has_ended(child: &mut Running) -> bool {
    let waited = rustix::process::waitpid(Some(child.id), WaitOptions::NOHANG);
    if let Ok(Some((_, status))) = waited {
        put(&child.answer, [ENDED, status.as_raw()]);
        return true;
    }
    let is_late = Instant::now() >= child.until;
    if is_late {
        let _ = rustix::process::kill_process(child.id, Signal::KILL);
        let _ = rustix::process::waitpid(Some(child.id), WaitOptions::empty());
        put(&child.answer, [LATE, 0]);
    }
    is_late
}

/// Sends the answer. A balancer that has ended needs none.
fn put(mut answer: &File, what: Answer) {
    let _ = answer.write_all(what.map(i32::to_ne_bytes).as_flattened());
}

/// Why the compile service or a child of it failed. Its text goes to standard error.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    /// The kernel refused to confine the process.
    #[error("cannot give up what compiling does not need: {0}")]
    Limits(io::Error),
    /// The service's socket, or a child's input or output, failed.
    #[error("cannot transfer the module: {0}")]
    Transfer(io::Error),
    /// The module cannot be compiled, or the compiler cannot work on this machine.
    #[error("{0}")]
    Compile(String),
}

/// Compiles the module on standard input and writes the machine code to standard output.
fn compile(kind: Kind) -> Result<(), CompileError> {
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

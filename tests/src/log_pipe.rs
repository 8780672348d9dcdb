//! A balancer's log as a pipe whose reader may stop, go away and come back.
//!
//! Invariant: while it is read, the balancer never waits for it.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// The pipe's size in bytes, the smallest that there is.
const PIPE_BYTES: i32 = 4096;

/// The bytes of the log that are kept.
const TAIL_BYTES: usize = 16 << 10;

/// How often the reader looks.
const LOOK: Duration = Duration::from_millis(10);

/// What the reader does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// It reads.
    Reads,
    /// It does not read.
    Sleeps,
    /// There is none.
    Gone,
}

#[derive(Debug)]
struct Shared {
    reader: Reader,
    pipe: Option<File>,
    tail: Vec<u8>,
    ends: bool,
}

/// The pipe and the thread that reads it.
#[derive(Debug)]
pub struct LogPipe {
    path: PathBuf,
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

impl LogPipe {
    /// Makes a pipe in a directory, and reads it.
    ///
    /// # Errors
    /// The pipe cannot be made.
    pub fn new(directory: &Path) -> Result<Self> {
        let path = directory.join("log");
        mkfifo(&path, Mode::from_bits_truncate(0o600))?;
        let shared = Arc::new(Mutex::new(Shared {
            reader: Reader::Reads,
            pipe: Some(open(&path)?),
            tail: Vec::new(),
            ends: false,
        }));
        let other = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            loop {
                let mut shared = other.lock().unwrap_or_else(PoisonError::into_inner);
                if shared.ends {
                    return;
                }
                shared.read();
                drop(shared);
                thread::sleep(LOOK);
            }
        });
        Ok(Self {
            path,
            shared,
            thread: Some(thread),
        })
    }

    /// Returns a shell command that sends the shell's standard error to the pipe.
    #[must_use]
    pub fn script(&self) -> String {
        format!("exec 2>{}", self.path.display())
    }

    /// Changes what the reader does.
    ///
    /// # Errors
    /// The pipe is gone.
    pub fn set(&self, reader: Reader) -> Result<()> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        match reader {
            Reader::Gone => shared.pipe = None,
            Reader::Reads | Reader::Sleeps if shared.pipe.is_none() => {
                shared.pipe = Some(open(&self.path)?);
            }
            Reader::Reads | Reader::Sleeps => {}
        }
        shared.reader = reader;
        Ok(())
    }

    /// Returns the end of what was read.
    #[must_use]
    pub fn tail(&self) -> String {
        let shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shared.tail).into_owned()
    }
}

impl Shared {
    /// Reads what is in the pipe.
    fn read(&mut self) {
        let Some(pipe) = self.pipe.as_mut().filter(|_| self.reader == Reader::Reads) else {
            return;
        };
        // It ends with an error once the pipe is empty.
        let _ = pipe.read_to_end(&mut self.tail);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..surplus);
    }
}

impl Drop for LogPipe {
    fn drop(&mut self) {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.ends = true;
        drop(shared);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Opens a pipe's reading end, which does not wait for a writer.
fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let pipe = options.open(path)?;
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)).context("cannot set the pipe's size")?;
    Ok(pipe)
}

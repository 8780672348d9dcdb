//! The log of `waxwing run`: a bounded queue, and a thread that writes it to standard error.
//!
//! Invariant: no other thread writes to standard error, so one that fails or blocks ends and delays nothing.
//! A line that it does not take, or that the queue has no room for, is dropped and counted; the count is
//! logged before the next line that is written, and is in the status.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal as _, Write};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};
use waxwing_control::admin::log::LogState;

use crate::event_layer::EventLayer;
use crate::priority::lower_priority;

/// The log filter unless `RUST_LOG` is set. The netlink library warns of each record of a newer kernel that
/// is longer than it knows, so only its errors are logged.
const FILTER: &str = "info,netlink_packet_route=error";

/// The most bytes in the queue: some 20,000 lines.
const QUEUED_BYTES_MAX: usize = 4 << 20;

/// How long the program waits at its end for the queue to be written.
const FLUSH_MAX: Duration = Duration::from_secs(1);

/// The pause before standard error is tried again when it is non-blocking and full.
const RETRY: Duration = Duration::from_millis(10);

/// A writer to the log's queue; it never fails. Each `write` is one line.
#[derive(Clone)]
pub(crate) struct Log {
    queue: Sender<Entry>,
    queued_bytes: Arc<AtomicUsize>,
    state: Arc<LogState>,
}

enum Entry {
    Text(String),
    /// Answered when all lines before it have been written or dropped.
    Flush(Sender<()>),
}

impl Log {
    /// Starts the thread, and logs events and panics.
    pub(crate) fn init() -> io::Result<Self> {
        let sink = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        let log = Self::start(sink)?;
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(FILTER));
        let writer = log.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_ansi(io::stderr().is_terminal())
            .with_filter(filter);
        let events = EventLayer(log.state()).with_filter(EnvFilter::new(FILTER));
        tracing_subscriber::registry()
            .with(lines)
            .with(events)
            .init();
        // The standard hook would wait for standard error.
        std::panic::set_hook(Box::new(|panic| {
            let (thread, backtrace) = (thread::current(), Backtrace::capture());
            let name = thread.name().unwrap_or("unnamed");
            match backtrace.status() {
                BacktraceStatus::Captured => tracing::error!("thread {name} {panic}\n{backtrace}"),
                _ => tracing::error!("thread {name} {panic}"),
            }
        }));
        Ok(log)
    }

    fn start(sink: File) -> io::Result<Self> {
        let (queue, entries) = channel();
        let log = Self {
            queue,
            queued_bytes: Arc::default(),
            state: Arc::default(),
        };
        let (queued_bytes, state) = (Arc::clone(&log.queued_bytes), Arc::clone(&log.state));
        thread::Builder::new().name("log".into()).spawn(move || {
            lower_priority();
            write_all(&entries, Sink::new(sink), &queued_bytes, &state);
        })?;
        Ok(log)
    }

    /// Returns the counters for the status.
    pub(crate) fn state(&self) -> Arc<LogState> {
        Arc::clone(&self.state)
    }

    /// Adds a text to the queue. One that it has no room for is dropped.
    pub(crate) fn put(&self, text: &str) {
        let room = |queued: usize| {
            let after = queued + text.len();
            (after <= QUEUED_BYTES_MAX).then_some(after)
        };
        let order = Ordering::Relaxed;
        match self.queued_bytes.fetch_update(order, order, room) {
            Ok(_) => drop(self.queue.send(Entry::Text(text.to_owned()))),
            Err(_) => self
                .state
                .dropped("standard error blocks: its reader does not read"),
        }
    }

    /// Waits until the queue is written, for at most a second.
    pub(crate) fn finish(&self) {
        let (done, written) = channel();
        // The thread ends only with the process.
        let _ = self.queue.send(Entry::Flush(done));
        let _ = written.recv_timeout(FLUSH_MAX);
    }
}

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(&String::from_utf8_lossy(line));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all entries of the queue, for ever.
fn write_all(
    entries: &Receiver<Entry>,
    mut sink: Sink,
    queued_bytes: &AtomicUsize,
    state: &LogState,
) {
    while let Ok(entry) = entries.recv() {
        match entry {
            Entry::Text(line) => {
                match sink.write_line(line.as_bytes(), state) {
                    Ok(()) => state.written(),
                    Err(error) => state.dropped(error.to_string()),
                }
                queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            // The program may have stopped waiting.
            Entry::Flush(done) => drop(done.send(())),
        }
    }
}

/// Where the lines go.
struct Sink {
    file: File,
    /// Whether its last line is incomplete.
    is_torn: bool,
    /// How many dropped lines it has been told of.
    told: u64,
}

impl Sink {
    fn new(file: File) -> Self {
        Self {
            file,
            is_torn: false,
            told: 0,
        }
    }

    /// Writes a line, after a line that says how many were dropped, if any were.
    fn write_line(&mut self, line: &[u8], state: &LogState) -> io::Result<()> {
        let dropped = state.lines_dropped();
        if dropped > self.told {
            let count = dropped - self.told;
            let mut notice = String::from(if self.is_torn { "\n" } else { "" });
            // Writing to a string cannot fail.
            let _ = SystemTime.format_time(&mut Writer::new(&mut notice));
            let why = state.reason();
            notice += &format!("  WARN waxwing::log: {count} log lines were dropped: {why}\n");
            self.write(notice.as_bytes())?;
            self.told = dropped;
        }
        self.write(line)
    }

    /// Writes all bytes. Waits for a sink that is full; only this thread waits.
    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    self.is_torn = !bytes.is_empty();
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => thread::sleep(RETRY),
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Instant;

    use super::*;

    /// Longer than any step takes on a busy machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn wait(what: &str, is: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is() {
            assert!(begun.elapsed() < PATIENCE, "waited for {what}");
            thread::sleep(RETRY);
        }
    }

    fn socket() -> (File, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("sockets");
        (File::from(OwnedFd::from(ours)), theirs)
    }

    #[test]
    fn lines_that_the_sink_does_not_take_are_counted() {
        let (gone, _) = socket();
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("it exists");
        for (sink, why) in [(full, "No space left"), (gone, "Broken pipe")] {
            let log = Log::start(sink).expect("a thread");
            (0..3).for_each(|_| log.put("a line\n"));
            log.finish();
            let status = log.state().status();
            assert_eq!(status.lines_dropped, 3);
            assert!(status.problem.expect("a problem").contains(why));
        }
    }

    /// Fills the queue of a sink that nobody reads, then reads.
    fn lines_of_a_blocked_sink(is_nonblocking: bool) {
        let (sink, reader) = socket();
        // Of the open socket, so also of its other descriptor.
        reader.set_nonblocking(false).expect("it is valid");
        let other = UnixStream::from(OwnedFd::from(sink.try_clone().expect("a descriptor")));
        other.set_nonblocking(is_nonblocking).expect("it is valid");
        let log = Log::start(sink).expect("a thread");
        let line = format!("{}\n", "x".repeat(1023));
        let begun = Instant::now();
        let count = 4 * QUEUED_BYTES_MAX / line.len();
        (0..count / 2).for_each(|_| log.put(&line));
        assert!(begun.elapsed() < PATIENCE, "it waited for the reader");
        // The thread has written what the socket holds, and waits.
        log.finish();
        (0..count / 2).for_each(|_| log.put(&line));
        let dropped = log.state().lines_dropped();
        let problem = log.state().status().problem.expect("a problem");
        assert!(
            dropped > 0 && problem.contains("does not read"),
            "{dropped}: {problem}"
        );

        let (mut taken, mut told) = (0, 0);
        let mut lines = BufReader::new(reader).lines();
        while taken + told < count {
            let text = lines.next().expect("a line").expect("it is read");
            if text.len() == 1023 {
                taken += 1;
                continue;
            }
            let (_, notice) = text.split_once("WARN waxwing::log: ").expect("a notice");
            assert!(notice.contains("does not read"), "{notice}");
            let number = notice.split(' ').next().expect("a number");
            told += number.parse::<usize>().expect("a number");
        }
        assert_eq!(u64::try_from(told).expect("it fits"), dropped);
        wait("the problem to end", || {
            log.state().status().problem.is_none()
        });
        assert_eq!(log.state().lines_dropped(), dropped);
    }

    #[test]
    fn a_blocked_sink_delays_no_writer_and_gets_the_rest() {
        lines_of_a_blocked_sink(false);
        lines_of_a_blocked_sink(true);
    }
}

//! Legitimate clients: new connections and datagrams at a steady rate, and transfers that are established
//! before the floods begin.
//!
//! Invariant: a new connection or datagram succeeds if its answer arrives within [`PATIENCE`]; clients repeat
//! what is lost, as the kernel does for TCP and a resolver for DNS.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::RunningLoad;
use waxwing_tests::echo::Pinger;
use waxwing_tests::{Load, Namespace};

use super::rows::{ECHO, WEB};
use crate::network::VIP;

const PATIENCE: Duration = Duration::from_secs(5);
/// How long a client waits for a datagram's answer before it asks again.
const REPEAT: Duration = Duration::from_secs(1);
/// New connections a second, and as many datagrams.
const RATE: u32 = 10;
/// Established transfers, and what each reads at a time, 20 times a second.
pub(super) const TRANSFERS: usize = 10;
const PART: usize = 16 << 10;
const PAUSE: Duration = Duration::from_millis(50);

/// New connections and datagrams.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(super) struct Exchanges {
    pub(super) attempts: u64,
    pub(super) succeeded: u64,
}

impl Exchanges {
    /// Opens new ones for so many seconds, and waits for their end.
    pub(super) fn run(client: &Namespace, seconds: u32) -> Result<Self> {
        let load = Load {
            target: (VIP, WEB).into(),
            clients: RATE * 6,
            keep_alive: false,
            rate: RATE,
            duration: Duration::from_secs(seconds.into()),
            interval: Duration::from_secs(1),
            timeout: PATIENCE,
        };
        let load = RunningLoad::start(client, load)?;
        let datagrams = u64::from(RATE * seconds);
        let answered = client.enter(|| exchange_datagrams(datagrams))?;
        let tally = load.finish()?;
        Ok(Self {
            attempts: datagrams + tally.answers() + tally.failed(),
            succeeded: answered + tally.answers(),
        })
    }
}

/// Sends datagrams, each in a flow of its own; returns how many were answered.
fn exchange_datagrams(count: u64) -> u64 {
    let answered = AtomicU64::new(0);
    thread::scope(|scope| {
        for number in 0..count {
            let answered = &answered;
            scope.spawn(move || {
                answered.fetch_add(u64::from(is_answered(number)), Ordering::Relaxed)
            });
            thread::sleep(Duration::from_secs(1) / RATE);
        }
    });
    answered.into_inner()
}

fn is_answered(number: u64) -> bool {
    let Ok(pinger) = Pinger::new(SocketAddr::from((VIP, ECHO)), REPEAT) else {
        return false;
    };
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if pinger.send(number).is_ok() && pinger.wait(number).is_ok() {
            return true;
        }
    }
    false
}

/// Established transfers.
pub(super) struct Transfers {
    read: AtomicU64,
    broken: AtomicU64,
    is_over: AtomicBool,
}

impl Transfers {
    pub(super) const fn new() -> Self {
        Self {
            read: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// Opens the transfers, and reads from them while `measure` runs.
    pub(super) fn during<T>(
        &self,
        client: &Namespace,
        measure: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let open = || (0..TRANSFERS).map(|_| open()).collect::<Result<Vec<_>>>();
        let streams = client.enter(open)??;
        thread::scope(|scope| {
            for stream in streams {
                scope.spawn(|| self.read(stream));
            }
            let measured = measure();
            self.is_over.store(true, Ordering::Relaxed);
            measured
        })
    }

    /// Bytes so far, and transfers that broke.
    pub(super) fn so_far(&self) -> (u64, u64) {
        (
            self.read.load(Ordering::Relaxed),
            self.broken.load(Ordering::Relaxed),
        )
    }

    /// Reads a transfer until all is over, or until it breaks.
    fn read(&self, mut stream: TcpStream) {
        let mut part = vec![0; PART];
        while !self.is_over.load(Ordering::Relaxed) {
            match stream.read(&mut part) {
                Ok(1..) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    continue;
                }
                Ok(0) | Err(_) => {
                    self.broken.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            self.read.fetch_add(PART as u64, Ordering::Relaxed);
            thread::sleep(PAUSE);
        }
    }
}

fn open() -> Result<TcpStream> {
    let mut stream = TcpStream::connect((VIP, WEB))?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    stream.write_all(b"GET /data HTTP/1.0\r\n\r\n")?;
    let mut start = [0; 12];
    stream
        .read_exact(&mut start)
        .context("the transfer does not begin")?;
    ensure!(start == *b"HTTP/1.1 200", "the transfer is refused");
    Ok(stream)
}

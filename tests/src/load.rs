//! A load generator: concurrent HTTP clients that record for each request the server and the latency, or
//! the failure.
//!
//! Invariant: every request is counted exactly once, as an answer or a failure, within its timeout.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

/// The longest recorded latency, in microseconds; a longer one counts as this.
const LATENCY_US_MAX: u64 = 60_000_000;
/// The duration of a load that is stopped after what it runs beside, however slow the machine is.
pub const UNTIL_STOPPED: Duration = Duration::from_secs(3600);
/// The maximum size of an answer, in bytes: a status line, a few headers and a name.
const ANSWER_BYTES_MAX: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// The address under load.
    pub target: SocketAddr,
    /// Concurrent clients.
    pub clients: u32,
    /// Whether each client keeps its connection, instead of one per request.
    pub keep_alive: bool,
    /// Requests per second of all clients together; 0 for as many as possible.
    pub rate: u32,
    /// How long the load lasts; [`UNTIL_STOPPED`] if what it runs beside has no fixed time.
    pub duration: Duration,
    /// Time between samples.
    pub interval: Duration,
    /// The longest time for connecting, and for a request.
    pub timeout: Duration,
}

/// How a request failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The connection was refused.
    Refused,
    /// No way to the server: this host has none, or a router said so.
    Unreachable,
    /// Connecting failed for another reason (no free port).
    Connect,
    /// Connecting took too long.
    ConnectTimeout,
    /// The connection was reset.
    Reset,
    /// The connection was closed before an answer.
    Closed,
    /// An answer took too long.
    Timeout,
    /// The answer is not from one of our servers.
    BadAnswer,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Connect => "no connection",
            Self::ConnectTimeout => "connect timeout",
            Self::Reset => "reset",
            Self::Closed => "closed early",
            Self::Timeout => "timeout",
            Self::BadAnswer => "bad answer",
        })
    }
}

/// The counts since the previous sample, as one line of JSON.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Milliseconds since the start.
    pub at_ms: u64,
    /// Answers by server.
    pub servers: BTreeMap<String, u64>,
    /// Failures by kind.
    pub failures: BTreeMap<Failure, u64>,
    /// Latency of the answers, including connecting: pairs of microseconds (three digits) and count.
    pub latency_us: Vec<(u64, u64)>,
}

/// The sum of samples.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Answers by server.
    pub servers: BTreeMap<String, u64>,
    /// Failures by kind.
    pub failures: BTreeMap<Failure, u64>,
    latency_us: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            servers: BTreeMap::new(),
            failures: BTreeMap::new(),
            latency_us: Histogram::new_with_max(LATENCY_US_MAX, 3)
                .expect("the histogram's bounds are valid"),
        }
    }
}

impl Tally {
    /// Adds a sample.
    pub fn add(&mut self, sample: &Sample) {
        for (server, count) in &sample.servers {
            *self.servers.entry(server.clone()).or_default() += count;
        }
        for (failure, count) in &sample.failures {
            *self.failures.entry(*failure).or_default() += count;
        }
        for (us, count) in &sample.latency_us {
            self.latency_us.saturating_record_n(*us, *count);
        }
    }

    /// Returns the number of answers.
    pub fn answers(&self) -> u64 {
        self.servers.values().sum()
    }

    /// Returns the number of failures.
    pub fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    /// Returns a server's share of the answers, 0 to 1.
    pub fn share(&self, server: &str) -> f64 {
        let count = self.servers.get(server).copied().unwrap_or(0);
        count as f64 / self.answers().max(1) as f64
    }

    /// Returns the latency that `quantile` (0 to 1) of the answers did not exceed.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latency_us.value_at_quantile(quantile))
    }

    fn answer(&mut self, server: String, latency: Duration) {
        *self.servers.entry(server).or_default() += 1;
        let us = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_US_MAX);
        self.latency_us.saturating_record(us);
    }

    /// Returns the counts since the last call.
    fn take(&mut self, at: Duration) -> Sample {
        let latency_us = self
            .latency_us
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_since_last_iteration()))
            .collect();
        self.latency_us.reset();
        Sample {
            at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            servers: std::mem::take(&mut self.servers),
            failures: std::mem::take(&mut self.failures),
            latency_us,
        }
    }
}

/// Runs a load and passes each sample to `report`. After its duration, or when `stop` completes, clients
/// finish their current request; the last sample follows.
pub async fn generate(
    load: Load,
    stop: impl Future<Output = ()>,
    mut report: impl FnMut(Sample) -> Result<()>,
) -> Result<()> {
    let start = Instant::now();
    let is_stopped = Arc::new(AtomicBool::new(false));
    let mut stop = pin!(stop);
    let tally = Arc::new(Mutex::new(Tally::default()));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..load.clients {
        clients.spawn(client(
            load,
            number,
            start,
            Arc::clone(&is_stopped),
            Arc::clone(&tally),
        ));
    }
    let take = || {
        tally
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(start.elapsed())
    };
    let mut ticks = interval_at(start + load.interval, load.interval);
    loop {
        tokio::select! {
            _ = ticks.tick() => report(take())?,
            () = &mut stop, if !is_stopped.load(Ordering::Relaxed) => {
                is_stopped.store(true, Ordering::Relaxed);
            }
            ended = clients.join_next() => match ended {
                Some(ended) => ended.context("a client panicked")?,
                None => break report(take()),
            },
        }
    }
}

/// Runs one client until the load's duration is over.
async fn client(
    load: Load,
    number: u32,
    start: Instant,
    is_stopped: Arc<AtomicBool>,
    tally: Arc<Mutex<Tally>>,
) {
    let end = start + load.duration;
    let mut pace = pace(load, number, start);
    let mut kept = None;
    loop {
        match &mut pace {
            Some(pace) => _ = pace.tick().await,
            None => tokio::task::yield_now().await,
        }
        if Instant::now() >= end || is_stopped.load(Ordering::Relaxed) {
            break;
        }
        let begun = Instant::now();
        let outcome = request(load, &mut kept).await;
        let latency = begun.elapsed();
        let failed = outcome.is_err();
        {
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(server) => tally.answer(server, latency),
                Err(failure) => *tally.failures.entry(failure).or_default() += 1,
            }
        }
        if failed {
            // A failure may be instant, so do not retry in a tight loop.
            sleep_until(begun + Duration::from_millis(10)).await;
        }
    }
}

/// Returns the times of one client's requests; the requests of all clients are spread evenly.
fn pace(load: Load, number: u32, start: Instant) -> Option<tokio::time::Interval> {
    let period = Duration::from_secs(1).checked_div(load.rate)?;
    let mut pace = interval_at(start + period * number, period * load.clients);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Some(pace)
}

/// Makes one request, on the connection in `kept` if there is one. Returns the server's name.
async fn request(load: Load, kept: &mut Option<TcpStream>) -> Result<String, Failure> {
    let mut connection = match kept.take() {
        Some(connection) => connection,
        None => connect(load).await?,
    };
    let exchange = async {
        let connection_header = if load.keep_alive {
            "keep-alive"
        } else {
            "close"
        };
        let head =
            format!("GET / HTTP/1.1\r\nHost: waxwing\r\nConnection: {connection_header}\r\n\r\n");
        connection
            .write_all(head.as_bytes())
            .await
            .map_err(|error| failure(&error))?;
        read_answer(&mut connection).await
    };
    let server = timeout(load.timeout, exchange)
        .await
        .unwrap_or(Err(Failure::Timeout))?;
    if load.keep_alive {
        *kept = Some(connection);
    }
    Ok(server)
}

async fn connect(load: Load) -> Result<TcpStream, Failure> {
    let connection = timeout(load.timeout, TcpStream::connect(load.target))
        .await
        .map_err(|_elapsed| Failure::ConnectTimeout)?
        .map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => Failure::Refused,
            ErrorKind::ConnectionReset => Failure::Reset,
            ErrorKind::TimedOut => Failure::ConnectTimeout,
            ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Failure::Unreachable,
            _ => Failure::Connect,
        })?;
    // Without TCP_NODELAY requests are only slightly later.
    drop(connection.set_nodelay(true));
    Ok(connection)
}

/// Reads one answer and returns the server's name in it.
async fn read_answer(connection: &mut TcpStream) -> Result<String, Failure> {
    let mut bytes = [0; ANSWER_BYTES_MAX];
    let mut len = 0;
    loop {
        let read = connection
            .read(&mut bytes[len..])
            .await
            .map_err(|error| failure(&error))?;
        if read == 0 {
            return Err(if len == bytes.len() {
                Failure::BadAnswer
            } else {
                Failure::Closed
            });
        }
        len += read;
        if let Some(name) = parse_answer(&bytes[..len])? {
            return Ok(name);
        }
    }
}

/// Returns the server's name in an answer, or `None` while the answer is incomplete.
fn parse_answer(bytes: &[u8]) -> Result<Option<String>, Failure> {
    let text = std::str::from_utf8(bytes).map_err(|_invalid| Failure::BadAnswer)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Ok(None);
    };
    let len = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .ok_or(Failure::BadAnswer)?;
    if body.len() < len {
        return Ok(None);
    }
    let name = body
        .strip_prefix("server=")
        .filter(|_| head.starts_with("HTTP/1.1 200"));
    name.map(|name| Some(name.trim().to_owned()))
        .ok_or(Failure::BadAnswer)
}

fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Failure::Reset,
        _ => Failure::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_only_when_whole() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nserver=1\n";
        for cut in 0..answer.len() {
            assert_eq!(parse_answer(&answer[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(parse_answer(answer), Ok(Some("1".to_owned())));
    }

    #[test]
    fn what_is_not_an_answer_is_a_failure() {
        for (what, bytes) in [
            (
                "an error status",
                &b"HTTP/1.1 500 No\r\nContent-Length: 9\r\n\r\nserver=1\n"[..],
            ),
            (
                "another body",
                b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
            ),
            ("no length", b"HTTP/1.1 200 OK\r\n\r\nserver=1\n"),
            ("not text", b"\xff\xfe"),
        ] {
            assert_eq!(parse_answer(bytes), Err(Failure::BadAnswer), "{what}");
        }
    }

    #[test]
    fn samples_add_up_to_what_was_counted() {
        let mut counted = Tally::default();
        let mut added = Tally::default();
        for ms in 1..=100 {
            counted.answer(format!("{}", ms % 2), Duration::from_millis(ms));
            if ms % 10 == 0 {
                added.add(&counted.take(Duration::from_millis(ms)));
            }
        }
        assert_eq!(added.answers(), 100);
        assert!((added.share("0") - 0.5).abs() < f64::EPSILON);
        let median = added.latency(0.5).as_millis();
        assert!((50..=51).contains(&median), "median {median} ms");
    }

    /// Our servers and clients on loopback, with and without keep-alive.
    #[tokio::test]
    async fn a_load_is_answered() {
        let address = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("loopback has a free port");
        let serve = async move {
            let capacity = crate::http_server::Capacity::default();
            crate::http_server::serve(&[address], "me", capacity).await
        };
        let server = tokio::spawn(serve);
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for keep_alive in [false, true] {
            let load = Load {
                target: address,
                clients: 4,
                keep_alive,
                rate: 200,
                duration: Duration::from_millis(300),
                interval: Duration::from_millis(50),
                timeout: Duration::from_secs(5),
            };
            let mut tally = Tally::default();
            generate(load, std::future::pending(), |sample| {
                tally.add(&sample);
                Ok(())
            })
            .await
            .expect("the load ended early");
            assert_eq!(tally.failed(), 0, "{:?}", tally.failures);
            assert_eq!(tally.servers.len(), 1);
            assert!(
                (30..=64).contains(&tally.servers["me"]),
                "{:?}",
                tally.servers
            );
        }
        server.abort();
    }
}

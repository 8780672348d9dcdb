//! One datagram at a time: where a wake-up is missing, nothing else comes to make up for it.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use waxwing_tests::topology::VIP4;
use waxwing_tests::vm::guest::{Report, Scenario};
use waxwing_tests::{Namespace, Service, Topology, Waxwing};

use crate::{assert_zero_copy, config_of_turns, scenario, topology};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(each_datagram_waits_for_the_one_before),
    scenario!(each_datagram_waits_for_the_one_before_by_busy_polling),
];

const PORT: u16 = 7777;

/// Datagrams, each of which waits for the one before.
const COUNT: usize = 300;

/// The longest that an answer may take, on an emulated processor that others use as well.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the fastest tenth of the answers must keep within: the worker looks again after 20 ms in any
/// case, so were it not woken, or the card not told to send, no answer would come sooner.
const FAST_MAX: Duration = Duration::from_millis(15);

fn each_datagram_waits_for_the_one_before(report: &Report) -> Result<()> {
    one_at_a_time("adaptive", report)
}

fn each_datagram_waits_for_the_one_before_by_busy_polling(report: &Report) -> Result<()> {
    one_at_a_time("busy", report)
}

fn one_at_a_time(poll: &'static str, report: &Report) -> Result<()> {
    let topology = topology()?;
    let _echoes = [
        Echo::start(&topology.servers[0])?,
        Echo::start(&topology.servers[1])?,
    ];
    let mut config = config_of_turns(&topology)?.with(Service::v4("echo", "udp", (7, PORT), 2));
    config.poll = poll;
    let waxwing = Waxwing::start(&topology, &config)?;
    let mut took = pings(&topology)?;
    took.sort();
    let at = |per_cent: usize| took[(COUNT - 1) * per_cent / 100];
    let [fast, median, most, worst] = [10, 50, 99, 100].map(at);
    report.say(format!(
        "{COUNT} answers, in {fast:?} (p10), {median:?} (p50), {most:?} (p99), {worst:?} at most"
    ));
    ensure!(fast <= FAST_MAX, "all but a tenth took more than {fast:?}");
    assert_zero_copy(&topology, &waxwing, report)?;
    waxwing.stop().map(drop)
}

/// Sends one datagram after the other's answer, and says how long each took.
fn pings(topology: &Topology) -> Result<Vec<Duration>> {
    let answers = topology.client.enter(move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect(SocketAddr::new(VIP4, 7))?;
        // The first makes a session, and neighbours ask for one another's addresses.
        ping(&socket, usize::MAX)?;
        (0..COUNT)
            .map(|number| ping(&socket, number))
            .collect::<io::Result<Vec<_>>>()
    })?;
    answers.map_err(|error| anyhow::anyhow!("a datagram was lost: {error}"))
}

fn ping(socket: &UdpSocket, number: usize) -> io::Result<Duration> {
    let begun = Instant::now();
    socket.send(&number.to_le_bytes())?;
    let mut answer = [0; 8];
    socket
        .recv(&mut answer)
        .map_err(|error| io::Error::other(format!("no answer to {number}: {error}")))?;
    if answer != number.to_le_bytes() {
        return Err(io::Error::other(format!(
            "{number} came back as {answer:?}"
        )));
    }
    Ok(begun.elapsed())
}

/// Sends back each datagram that comes, until it is dropped.
struct Echo {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    fn start(server: &Namespace) -> Result<Self> {
        let socket = server.enter(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let ends = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&ends);
        let thread = thread::spawn(move || {
            let mut bytes = [0; 2048];
            while !is_over.load(Ordering::Relaxed) {
                if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                    // A datagram that is lost shows at the client.
                    drop(socket.send_to(&bytes[..len], from));
                }
            }
        });
        Ok(Self {
            ends,
            thread: Some(thread),
        })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

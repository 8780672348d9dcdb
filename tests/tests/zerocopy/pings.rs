//! One datagram at a time: no later packet hides a missing wake-up.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use waxwing_tests::echo::{Echo, Pinger};
use waxwing_tests::topology::VIP4;
use waxwing_tests::vm::guest::{Report, Scenario};
use waxwing_tests::{Service, Topology, Waxwing};

use crate::{assert_zero_copy, config_of_turns, scenario, topology};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(each_datagram_waits_for_the_one_before),
    scenario!(each_datagram_waits_for_the_one_before_by_busy_polling),
];

const PORT: u16 = 7777;

/// Datagrams, each of which waits for the one before.
const COUNT: u64 = 300;

/// The longest that an answer may take, on a shared emulated processor.
const PATIENCE: Duration = Duration::from_secs(5);

/// What half of the answers must keep within; they take about 1 ms. A worker that sleeps looks again after
/// 20 ms in any case: were it not woken, by the request or by its answer, that one would take longer than
/// this. (While its own frames are on their way out, it looks again after 1 ms. What is lost then costs no
/// more than an emulated processor's own delays, and no bound can tell it from them.)
const MEDIAN_MAX: Duration = Duration::from_millis(15);

fn each_datagram_waits_for_the_one_before(report: &Report) -> Result<()> {
    one_at_a_time("adaptive", report)
}

fn each_datagram_waits_for_the_one_before_by_busy_polling(report: &Report) -> Result<()> {
    one_at_a_time("busy", report)
}

fn one_at_a_time(poll: &'static str, report: &Report) -> Result<()> {
    let topology = topology()?;
    let _echoes = [
        Echo::start(&topology.servers[0], PORT)?,
        Echo::start(&topology.servers[1], PORT)?,
    ];
    let mut config = config_of_turns(&topology)?.with(Service::v4("echo", "udp", (7, PORT), 2));
    config.poll = poll;
    let waxwing = Waxwing::start(&topology, &config)?;
    let mut took = pings(&topology)?;
    took.sort();
    let at = |per_cent: usize| took[(took.len() - 1) * per_cent / 100];
    let [fast, median, most, worst] = [10, 50, 99, 100].map(at);
    report.say(format!(
        "{COUNT} answers, in {fast:?} (p10), {median:?} (p50), {most:?} (p99), {worst:?} at most"
    ));
    ensure!(
        median <= MEDIAN_MAX,
        "half of the answers took {median:?} or longer, and more than {MEDIAN_MAX:?} means that wake-ups \
         are lost: look at what wakes the worker, and at what has the card send"
    );
    assert_zero_copy(&topology, &waxwing, report)?;
    waxwing.stop().map(drop)
}

/// Sends each datagram after the previous one's answer, and returns the round-trip times.
fn pings(topology: &Topology) -> Result<Vec<Duration>> {
    let answers = topology.client.enter(move || {
        let pinger = Pinger::new(SocketAddr::new(VIP4, 7), PATIENCE)?;
        let ping = |number| {
            let begun = Instant::now();
            pinger.send(number)?;
            pinger.wait(number).map(|()| begun.elapsed())
        };
        // The first datagram creates the session and resolves neighbours.
        ping(0)?;
        (1..=COUNT).map(ping).collect::<io::Result<Vec<_>>>()
    })?;
    answers.map_err(|error| anyhow::anyhow!("a datagram was lost: {error}"))
}

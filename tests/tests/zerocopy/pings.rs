//! Sends one datagram at a time, so that no later packet hides a missing wake-up.

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

/// Datagrams to send, each after the previous one's answer.
const COUNT: u64 = 300;

/// The longest time for an answer, on a shared emulated processor.
const PATIENCE: Duration = Duration::from_secs(5);

/// The limit for the median answer, which takes about 1 ms. A sleeping worker polls after 20 ms at the
/// latest, so a round trip takes longer than this limit if the request or its answer fails to wake the
/// worker. (While the worker has frames to transmit, it polls after 1 ms. A wake-up lost then costs no more
/// than the delays of an emulated processor, and no limit can detect it.)
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
        "the median answer took {median:?}; more than {MEDIAN_MAX:?} means lost wake-ups: check what wakes \
         the worker, and what makes the card transmit"
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

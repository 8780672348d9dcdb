//! Policies that balance load, on servers of unequal speed.

use std::time::Duration;

use anyhow::{Result, ensure};
use waxwing_tests::actors::{self, connections};
use waxwing_tests::http_server::Capacity;
use waxwing_tests::topology::VIP4;
use waxwing_tests::{Layout, Load, Status, Topology, Waxwing};

use crate::traffic::web;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[scenario!(the_fast_server_gets_what_it_can_serve)];

/// The sums over the backends of the first service: active, half-open, closing, total.
fn counts(status: &Status) -> [u64; 4] {
    let backends = status.0["services"][0]["backends"].as_array();
    ["active", "half_open", "closing", "sessions"].map(|key| {
        let counts = backends.into_iter().flatten();
        counts.filter_map(|backend| backend[key].as_u64()).sum()
    })
}

/// One server holds each connection for two seconds, the other for ten milliseconds. `least_connections`
/// gives the slow one a connection when it has none: one in two seconds, of twelve a second. Connections that
/// are over count nowhere, although their sessions keep their ports for minutes.
fn the_fast_server_gets_what_it_can_serve() -> Result<()> {
    let topology = Topology::new(Layout {
        servers: 2,
        ..Layout::default()
    })?;
    let server = |(name, service_ms, number): (&str, u32, usize)| {
        let capacity = Capacity {
            service_ms,
            ..Capacity::default()
        };
        actors::slow_http_server(&topology.servers[number], 8080, name, capacity)
    };
    let _servers = [("slow", 2000, 0), ("fast", 10, 1)]
        .into_iter()
        .map(server)
        .collect::<Result<Vec<_>>>()?;
    let mut config = web(&topology);
    config.service_mut("web")?.policy = "least_connections".to_owned();
    let waxwing = Waxwing::start(&topology, &config)?;
    let load = Load {
        rate: 12,
        clients: 64,
        ..connections(VIP4, 80, Duration::from_secs(20))
    };
    let tally = actors::load(&topology.client, load)?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    ensure!(tally.share("fast") > 0.9, "{:?}", tally.servers);

    let status = waxwing.wait_status("the last connection's end", |status| {
        let [active, half_open, ..] = counts(status);
        active + half_open == 0
    })?;
    let [_, _, closing, total] = counts(&status);
    // A client's kernel may choose a port again: its SYN ends the port's closed session.
    let reused = status.counted("sessions_expired");
    ensure!(
        (closing + reused, total) == (tally.answers(), tally.answers()),
        "of {} connections: {status}",
        tally.answers()
    );
    let worker = &status.0["workers"][0];
    ensure!(
        worker["sessions_closing"] == closing && worker["sessions_active"] == 0,
        "{status}"
    );
    let sessions = waxwing
        .ask(&["session", "list", "--service", "web"])?
        .stdout;
    let shown = sessions
        .lines()
        .filter(|line| line.contains(" closing "))
        .count();
    ensure!(shown as u64 == closing, "{shown} of {closing} are shown");
    waxwing.stop().map(drop)
}

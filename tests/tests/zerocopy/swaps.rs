//! Swaps policies while the driver holds frames.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::load::UNTIL_STOPPED;
use waxwing_tests::topology::VIP4;
use waxwing_tests::vm::guest::{Report, Scenario};
use waxwing_tests::wat::{PICK_HASH, Wat};
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Load, Status, Topology, Waxwing, query};

use crate::traffic::nginx;
use crate::{assert_zero_copy, config_of_turns, scenario, topology};

pub(crate) const SCENARIOS: &[Scenario] = &[scenario!(
    a_module_swap_loses_no_request_and_moves_no_session
)];

/// Connections that stay open during all swaps.
const STAYING: usize = 24;

/// The policies that take turns: the first spreads flows by hash, the second always picks the first server.
/// They are small, so that an emulated processor compiles them quickly.
const PICKS: [&str; 2] = [
    PICK_HASH,
    "(memory.fill (i32.const 0x4000) (i32.const 0) (i32.shl (local.get 1) (i32.const 2)))
     (local.get 1)",
];
const SWAPS: usize = 4;

fn a_module_swap_loses_no_request_and_moves_no_session(report: &Report) -> Result<()> {
    let topology = topology()?;
    let _servers = nginx(&topology)?;
    let mut config = config_of_turns(&topology)?;
    config.canary.time = "0s";
    let waxwing = Waxwing::start(&topology, &config)?;
    let (mut staying, served_by) = connect(&topology)?;
    let load = |keep_alive| Load {
        keep_alive,
        clients: 2,
        rate: 20,
        ..connections(VIP4, 80, UNTIL_STOPPED)
    };
    let mut loads = [
        RunningLoad::start(&topology.client, load(true))?,
        RunningLoad::start(&topology.client, load(false))?,
    ];
    let hash = |status: &Status| status.module_hash("round_robin").map(str::to_owned);
    let mut serving = hash(&waxwing.status()?);
    for pick in PICKS.into_iter().cycle().take(SWAPS) {
        let module = Wat::picking(pick).bytes();
        waxwing.drop_in("round_robin.wasm", &module, Copy::Atomic)?;
        let is_next = |status: &Status| hash(status) != serving;
        serving = hash(&waxwing.wait_status("the next module", is_next)?);
        ensure!(ask(&mut staying)? == served_by, "a session moved");
    }
    let (_fresh, picked) = connect(&topology)?;
    let first = &picked[0];
    ensure!(
        picked.iter().all(|server| server == first) && served_by.iter().any(|one| one != first),
        "expected both servers at first and one after the last swap: {served_by:?}, {picked:?}"
    );
    for load in &mut loads {
        ensure!(!load.has_ended()?, "the load ended before the last swap");
        load.stop()?;
    }
    for load in loads {
        let tally = load.finish()?;
        ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
        ensure!(tally.answers() > 0, "the load got no answer");
        report.say(format!("{} requests answered", tally.answers()));
    }
    assert_zero_copy(&topology, &waxwing, report)?;
    waxwing.stop().map(drop)
}

/// Opens the staying connections from the client. Returns them with the name of each one's server.
pub(crate) fn connect(topology: &Topology) -> Result<(Vec<TcpStream>, Vec<String>)> {
    let vip = SocketAddr::new(VIP4, 80);
    let open = move || (0..STAYING).map(|_| TcpStream::connect(vip)).collect();
    let connections: std::io::Result<Vec<TcpStream>> = topology.client.enter(open)?;
    let mut connections = connections?;
    for connection in &connections {
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    }
    let served_by = ask(&mut connections)?;
    Ok((connections, served_by))
}

/// Sends a request on each connection and returns the servers' names.
pub(crate) fn ask(connections: &mut [TcpStream]) -> Result<Vec<String>> {
    let names = connections.iter_mut().map(|one| query::get(one, "/"));
    names
        .collect::<std::io::Result<_>>()
        .context("a connection broke")
}

//! Policies swapped while frames are shared with the driver.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{RunningLoad, connections};
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

/// Connections that are open through all swaps.
const STAYING: usize = 24;

/// Policies swapped in after the other, so small that they are compiled soon on an emulated
/// processor: one spreads, one picks the first server always.
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
    config.canary = Some("0s");
    let waxwing = Waxwing::start(&topology, &config)?;
    let (mut staying, served_by) = connect(&topology)?;
    // Long enough for the slowest machine: it is stopped with the last swap.
    let load = |keep_alive| Load {
        keep_alive,
        clients: 2,
        rate: 20,
        ..connections(VIP4, 80, Duration::from_secs(80))
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
        "the last policy picks one server, the first one both: {picked:?}, {served_by:?}"
    );
    for load in &mut loads {
        ensure!(!load.has_ended()?, "the load ended before the last swap");
        load.stop()?;
    }
    for load in loads {
        let tally = load.finish()?;
        ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
        ensure!(tally.answers() > 0, "there was no load");
        report.say(format!("{} requests answered", tally.answers()));
    }
    assert_zero_copy(&topology, &waxwing, report)?;
    waxwing.stop().map(drop)
}

/// Opens connections from the client that stay, and says which server each got.
fn connect(topology: &Topology) -> Result<(Vec<TcpStream>, Vec<String>)> {
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

/// Asks on each connection who serves it.
fn ask(connections: &mut [TcpStream]) -> Result<Vec<String>> {
    let names = connections.iter_mut().map(|one| query::get(one, "/"));
    names
        .collect::<std::io::Result<_>>()
        .context("a connection broke")
}

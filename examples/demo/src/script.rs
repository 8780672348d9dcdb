//! The phases of the demo.
//!
//! Invariant: a phase is measured only after its change took effect and the requests from before were
//! answered.

use std::time::Duration;

use anyhow::{Result, ensure};
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Config, Layout, Service, Topology, Waxwing, actors, modules};

use crate::harness::{Harness, QUEUES};
use crate::report::{Phase, Report, Shares};
use crate::view::View;

/// The number of phases.
const PHASES: u32 = 4;
/// The time from a change to the measurement: longer than a request takes.
const SETTLE: Duration = Duration::from_millis(750);

const EQUAL: Shares = &[("1", 1.0 / 3.0), ("2", 1.0 / 3.0), ("3", 1.0 / 3.0)];
const SERVER_1: Shares = &[("1", 0.6), ("2", 0.2), ("3", 0.2)];
const SERVER_1_OF_TWO: Shares = &[("1", 0.6), ("2", 0.4), ("3", 0.0)];

/// Builds the network, runs the phases within about `seconds`, and reports. Errors during the phases are part
/// of the report.
pub(crate) fn run(seconds: u32, mut view: View) -> Result<Report> {
    view.announce("Compiling the policy examples/favourite to Wasm");
    let favourite = modules::compile("favourite")?;
    view.announce("Building the network: a client, the balancer, three servers");
    let topology = Topology::new(Layout::with_queues(QUEUES))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = Config::new(&topology).with(Service::v4("web", "tcp", (80, 8080), 3));
    view.announce("Starting Waxwing");
    let waxwing = Waxwing::start(&topology, &config)?;
    let mut harness = Harness::new(&topology, waxwing, view)?;

    let measured = Duration::from_secs(seconds.into()) / PHASES - SETTLE;
    let mut phases = Vec::new();
    let outcome = run_phases(&mut harness, &mut config, &favourite, measured, &mut phases);
    let (total, stopped) = harness.close();
    let error = outcome.and(stopped).err().map(|error| format!("{error:#}"));
    Ok(Report::new(phases, PHASES as usize, &total, error))
}

fn run_phases(
    harness: &mut Harness<'_>,
    config: &mut Config,
    favourite: &[u8],
    measured: Duration,
    phases: &mut Vec<Phase>,
) -> Result<()> {
    harness.announce(
        "1. Round robin, the shipped policy: each server gets a third of the connections",
    );
    harness.wait(SETTLE)?;
    phases.push(harness.measure("round robin", "equal shares", EQUAL, measured)?);

    harness.announce("2. A new module in the modules directory: server 1 gets 60 %");
    let shipped = harness.module()?;
    harness
        .waxwing
        .drop_in("round_robin.wasm", favourite, Copy::Slow)?;
    harness.wait_until("the swap to the new module", |status| {
        status
            .module_hash("round_robin")
            .is_some_and(|hash| hash != shipped)
    })?;
    harness.wait(SETTLE)?;
    phases.push(harness.measure("new module", "prefers server 1", SERVER_1, measured)?);

    harness.announce(
        "3. A broken module in the modules directory: rejected, the previous one keeps serving",
    );
    let serving = harness.module()?;
    harness.waxwing.drop_in(
        "round_robin.wasm",
        &favourite[..favourite.len() / 2],
        Copy::Atomic,
    )?;
    harness.wait_until("the rejection of the broken module", |status| {
        status.module_refused("round_robin").is_some()
    })?;
    harness.wait(SETTLE)?;
    phases.push(harness.measure(
        "broken module rejected",
        "prefers server 1",
        SERVER_1,
        measured,
    )?);
    ensure!(
        harness.module()? == serving,
        "the broken module was accepted"
    );

    harness.announce("4. Server 3 drained by weight 0 and a reload: it gets no new connections");
    config.service_mut("web")?.backends[2].weight = 0;
    harness.waxwing.reload(config)?;
    harness.wait(SETTLE)?;
    phases.push(harness.measure(
        "server 3 drained",
        "prefers server 1 of two",
        SERVER_1_OF_TWO,
        measured,
    )?);
    Ok(())
}

//! The story, from top to bottom.
//!
//! Invariant: a phase is measured only once the change that begins it is in effect and the
//! requests from before it have been answered.

use std::time::Duration;

use anyhow::{Result, ensure};
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Config, Layout, Service, Topology, Waxwing, actors, modules};

use crate::report::{Phase, Report, Shares};
use crate::stage::{QUEUES, Stage};
use crate::view::View;

/// How many phases there are.
const PHASES: u32 = 4;
/// From a change to the measuring: longer than a request may reasonably take.
const SETTLE: Duration = Duration::from_millis(750);

const IN_TURNS: Shares = &[("1", 1.0 / 3.0), ("2", 1.0 / 3.0), ("3", 1.0 / 3.0)];
const FAVOURITE: Shares = &[("1", 0.6), ("2", 0.2), ("3", 0.2)];
const FAVOURITE_OF_TWO: Shares = &[("1", 0.6), ("2", 0.4), ("3", 0.0)];

/// Sets the scene, plays the phases within about `seconds`, and reports. What goes wrong after
/// the scene is set is part of the report.
///
/// # Errors
/// The scene cannot be set.
pub(crate) fn tell(seconds: u32, mut view: View) -> Result<Report> {
    view.say("compiling a policy from examples/favourite to Wasm");
    let favourite = modules::compile("favourite")?;
    view.say("building a network: a client, a balancer, three servers");
    let topology = Topology::new(Layout {
        queues: QUEUES,
        ..Layout::default()
    })?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = Config::new(&topology).with(Service::v4("web", "tcp", (80, 8080), 3));
    view.say("starting Waxwing");
    let waxwing = Waxwing::start(&topology, &config)?;
    let mut stage = Stage::new(&topology, waxwing, view)?;

    let measured = Duration::from_secs(seconds.into()) / PHASES - SETTLE;
    let mut phases = Vec::new();
    let told = play(&mut stage, &mut config, &favourite, measured, &mut phases);
    let (total, ended) = stage.close();
    let error = told.and(ended).err().map(|error| format!("{error:#}"));
    Ok(Report::new(phases, PHASES as usize, &total, error))
}

fn play(
    stage: &mut Stage<'_>,
    config: &mut Config,
    favourite: &[u8],
    measured: Duration,
    phases: &mut Vec<Phase>,
) -> Result<()> {
    stage.say("1. Round robin, the shipped policy: every server gets a third of the connections");
    stage.play(SETTLE)?;
    phases.push(stage.measure("round robin", "in turns", IN_TURNS, measured)?);

    stage.say("2. Another module dropped into the folder: server 1 is its favourite");
    let shipped = stage.module()?;
    stage
        .waxwing
        .drop_in("round_robin.wasm", favourite, Copy::Slow)?;
    stage.play_until("the new module", |status| {
        status
            .module_hash("round_robin")
            .is_some_and(|hash| hash != shipped)
    })?;
    stage.play(SETTLE)?;
    phases.push(stage.measure("a module dropped in", "a favourite", FAVOURITE, measured)?);

    stage.say("3. A broken module dropped in: refused, the last good one keeps serving");
    let serving = stage.module()?;
    stage.waxwing.drop_in(
        "round_robin.wasm",
        &favourite[..favourite.len() / 2],
        Copy::Atomic,
    )?;
    stage.play_until("the refusal", |status| {
        status.module_refused("round_robin").is_some()
    })?;
    stage.play(SETTLE)?;
    phases.push(stage.measure("a broken one refused", "a favourite", FAVOURITE, measured)?);
    ensure!(stage.module()? == serving, "the broken module was taken");

    stage.say("4. Server 3 drained by weight 0 and a reload: it gets no new connection");
    config.service_mut("web")?.backends[2].weight = 0;
    stage.waxwing.reload(config)?;
    stage.play(SETTLE)?;
    phases.push(stage.measure(
        "server 3 drained",
        "a favourite of two",
        FAVOURITE_OF_TWO,
        measured,
    )?);
    Ok(())
}

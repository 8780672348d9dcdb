//! Another process takes over while the driver holds frames.

use std::time::Duration;

use anyhow::{Result, ensure};
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::load::UNTIL_STOPPED;
use waxwing_tests::topology::VIP4;
use waxwing_tests::vm::guest::{Report, Scenario};
use waxwing_tests::{Load, Waxwing};

use crate::swaps::{ask, connect};
use crate::traffic::{download, nginx};
use crate::{assert_zero_copy, config_of_turns, scenario, topology};

pub(crate) const SCENARIOS: &[Scenario] =
    &[scenario!(upgrades_lose_no_connection_and_stay_in_zero_copy)];

const UPGRADES: usize = 2;

fn upgrades_lose_no_connection_and_stay_in_zero_copy(report: &Report) -> Result<()> {
    let topology = topology()?;
    let _servers = nginx(&topology)?;
    let mut waxwing = Waxwing::start(&topology, &config_of_turns(&topology)?)?;
    let (mut staying, served_by) = connect(&topology)?;
    let load = Load {
        keep_alive: true,
        clients: 2,
        rate: 20,
        timeout: Duration::from_secs(10),
        ..connections(VIP4, 80, UNTIL_STOPPED)
    };
    let mut load = RunningLoad::start(&topology.client, load)?;
    for _ in 0..UPGRADES {
        let [_, log] = waxwing.upgrade()?;
        let said = log.lines().find(|line| line.contains("took over within"));
        report.say(said.unwrap_or("it did not take over").to_owned());
        ensure!(ask(&mut staying)? == served_by, "a session moved");
        let opened = waxwing.status()?.counted("sessions_opened");
        ensure!(opened == 0, "{opened} connections were opened again");
        assert_zero_copy(&topology, &waxwing, report)?;
    }
    ensure!(!load.has_ended()?, "the load ended before the last upgrade");
    load.stop()?;
    let tally = load.finish()?;
    ensure!(
        tally.failed() == 0 && tally.answers() > 0,
        "{} answers, requests failed: {:?}",
        tally.answers(),
        tally.failures
    );
    download(&topology, VIP4)?;
    waxwing.stop().map(drop)
}

//! `waxwing health` and the exit code of `waxwing status`: what a routing daemon learns when ports or servers
//! are gone.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::process::{Finished, retry};
use waxwing_tests::{Layout, Topology, Waxwing, actors, query};

use crate::consequences::{WEB, assert_served_by};
use crate::health::{three, wait_web};
use crate::traffic::web;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_server_that_answers_no_arp_gets_no_new_sessions),
    scenario!(ports_that_are_down_are_told),
];

/// The longest time until a change of the network is told.
const TOLD: Duration = Duration::from_secs(20);

/// Waits until `waxwing health` exits with this code and says these words.
fn wait_health(
    waxwing: &Waxwing<'_>,
    args: &[&str],
    code: i32,
    words: &[&str],
) -> Result<Finished> {
    let args = [&["health"], args].concat();
    retry(TOLD, || {
        let finished = waxwing.ask(&args)?;
        let says = words.iter().all(|word| finished.stdout.contains(word));
        ensure!(
            finished.status.code() == Some(code) && says,
            "{args:?} exits with {:?}, not {code} and {words:?}: {}{}",
            finished.status.code(),
            finished.stdout,
            finished.stderr
        );
        Ok(finished)
    })
}

/// The kernel notices within about two seconds that a server no longer answers.
fn notice_soon(topology: &Topology) -> Result<()> {
    topology.balancer.sysctl(&[
        "net.ipv4.neigh.back.base_reachable_time_ms=1000",
        "net.ipv4.neigh.back.delay_first_probe_time=1",
        "net.ipv4.neigh.back.retrans_time_ms=200",
    ])
}

fn a_server_that_answers_no_arp_gets_no_new_sessions() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    notice_soon(&topology)?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let await_states = |states: [&str; 3]| {
        let what = format!("`web` to be {states:?}");
        waxwing.wait_status(&what, |status| status.states("web") == states)
    };
    await_states(["unchecked"; 3])?;
    let only = ["--service", "web"];
    wait_health(&waxwing, &only, 3, &["degraded", "UNCHECKED"])?;
    let link = |server, state| {
        topology
            .switch
            .ip(&format!("link set server{server} {state}\n"))
    };

    link(1, "down")?;
    await_states(["unreachable", "unchecked", "unchecked"])?;
    let why = "1 of 3 backends unreachable (10.2.0.11:8080: 10.2.0.11 does not answer on back";
    wait_health(&waxwing, &only, 3, &[why])?;
    assert_served_by(&topology, &["2", "3"])?;

    link(2, "down")?;
    link(3, "down")?;
    await_states(["unreachable"; 3])?;
    wait_health(
        &waxwing,
        &only,
        1,
        &["down", "no backend takes new sessions"],
    )?;
    let error = topology.client.enter(|| query::connect(WEB))?.err();
    let error = error.context("connected with all servers unreachable")?;
    ensure!(
        error.kind() == ErrorKind::ConnectionRefused,
        "not refused: {error}"
    );

    (1..=3).try_for_each(|server| link(server, "up"))?;
    await_states(["unchecked"; 3])?;
    wait_health(&waxwing, &only, 3, &["UNCHECKED"])?;
    assert_served_by(&topology, &["1", "2", "3"])?;
    waxwing.stop().map(drop)
}

fn ports_that_are_down_are_told() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, config) = three(&topology)?;
    let waxwing = Waxwing::start(&topology, &config)?;
    wait_web(&waxwing, ["up"; 3])?;
    let status = |code| -> Result<()> {
        let found = waxwing.ask(&["status", "--service", "w*"])?.status.code();
        ensure!(
            found == Some(code),
            "`status` exits with {found:?}, not {code}"
        );
        Ok(())
    };
    let port = |name, state| topology.balancer.ip(&format!("link set {name} {state}\n"));
    wait_health(&waxwing, &[], 0, &["ok"])?;
    status(0)?;

    port("front", "down")?;
    wait_health(&waxwing, &[], 3, &["degraded", "front is down"])?;
    status(3)?;
    port("back", "down")?;
    let json = wait_health(&waxwing, &["--json"], 1, &["\"down\"", "no port is up"])?;
    let json: serde_json::Value = serde_json::from_str(&json.stdout)?;
    ensure!(json["services"][0]["service"] == "web", "{json:#}");

    port("front", "up")?;
    port("back", "up")?;
    wait_health(&waxwing, &["--service", "web"], 0, &["ok"])?;
    status(0)?;
    let unknown = waxwing.ask(&["health", "--service", "wbe"])?;
    ensure!(
        unknown.status.code() == Some(1) && unknown.stderr.contains("did you mean \"web\"?"),
        "{}{}",
        unknown.stdout,
        unknown.stderr
    );
    waxwing.stop().map(drop)
}

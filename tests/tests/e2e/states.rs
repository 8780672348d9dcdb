//! What policies remember goes on over new builds, changed configs, restarts and upgrades.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{self, RunningLoad, connections};
use waxwing_tests::load::UNTIL_STOPPED;
use waxwing_tests::topology::VIP4;
use waxwing_tests::wat::Wat;
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Config, Layout, Load, Tally, Topology, Waxwing};

use crate::restart::stop_and_start;
use crate::traffic::web;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_policy_remembers_over_swaps_under_load),
    scenario!(a_policy_remembers_over_a_restart_and_an_upgrade),
];

/// On each worker server 1 gets so many sessions, and server 2 all later ones.
const FIRST: u32 = 20;

/// How long a load lasts that gives server 1 its sessions, or shows that it gets no more.
const BRIEFLY: Duration = Duration::from_secs(2);

/// A build of a policy whose state is how many sessions it has given.
fn build(version: u32) -> Vec<u8> {
    let pick = format!(
        "(local $i i32)
         (loop $next
           (i32.store (i32.add (i32.const 0x4000) (i32.shl (local.get $i) (i32.const 2)))
             (i32.ge_u (i32.load (i32.const 0x6000)) (i32.const {FIRST})))
           (i32.store (i32.const 0x6000) (i32.add (i32.load (i32.const 0x6000)) (i32.const 1)))
           (local.set $i (i32.add (local.get $i) (i32.const 1)))
           (br_if $next (i32.lt_u (local.get $i) (local.get 1))))
         (local.get 1)"
    );
    let section = format!(
        "kind=policy\\0aabi=1.1\\0aname=counts\\0aversion={version}\\0akeep=1\\0asaves=1\\0a"
    );
    let wat = Wat {
        section: section.leak(),
        pick: pick.leak(),
        more: "(func (export \"waxwing_save\") (param i32) (result i64) (i64.const 0x600000000004))
               (func (export \"waxwing_restore\") (param i32 i32) (result i32)
                 (i32.store (i32.const 0x6000) (i32.load (i32.const 0x5000)))
                 (i32.const 1))",
        ..Wat::GOOD
    };
    wat.bytes()
}

fn config(topology: &Topology) -> Result<Config> {
    let mut config = web(topology);
    config.canary.time = "1s";
    config.service_mut("web")?.policy = "counts".to_owned();
    fs::create_dir_all(&config.modules)?;
    fs::write(config.modules.join("counts.wasm"), build(0))?;
    Ok(config)
}

fn load(duration: Duration) -> Load {
    Load {
        rate: 200,
        ..connections(VIP4, 80, duration)
    }
}

/// Sends sessions until server 1 has had its own from both workers.
fn begin(topology: &Topology) -> Result<()> {
    let tally = actors::load(&topology.client, load(BRIEFLY))?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    let first = sessions_of_first(&tally);
    ensure!(first == 2 * u64::from(FIRST), "server 1 has got {first}");
    Ok(())
}

/// Returns how many requests server 1 has answered.
fn sessions_of_first(tally: &Tally) -> u64 {
    tally.servers.get("1").copied().unwrap_or(0)
}

fn a_policy_remembers_over_swaps_under_load() -> Result<()> {
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = config(&topology)?;
    let waxwing = Waxwing::start(&topology, &config)?;
    begin(&topology)?;
    let mut running = RunningLoad::start(&topology.client, load(UNTIL_STOPPED))?;
    for version in 1..=5 {
        let before = waxwing.status()?;
        let before = before
            .module_hash("counts")
            .context("no module")?
            .to_owned();
        waxwing.drop_in("counts.wasm", &build(version), Copy::Atomic)?;
        waxwing.wait_status("the next build to serve everywhere", |status| {
            status
                .module_hash("counts")
                .is_some_and(|hash| hash != before)
        })?;
    }
    running.stop()?;
    let tally = running.finish()?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    let first = sessions_of_first(&tally);
    eprintln!(
        "five swaps: {first} of {} sessions to server 1",
        tally.answers()
    );
    ensure!(first == 0, "{first} sessions came back to server 1");
    waxwing.stop().map(drop)
}

fn a_policy_remembers_over_a_restart_and_an_upgrade() -> Result<()> {
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut waxwing = Waxwing::start(&topology, &config(&topology)?)?;
    begin(&topology)?;
    stop_and_start(&mut waxwing, Duration::from_millis(100))?;
    let after_restart = actors::load(&topology.client, load(BRIEFLY))?;
    let mut running = RunningLoad::start(&topology.client, load(UNTIL_STOPPED))?;
    waxwing.upgrade()?;
    let after_upgrade = actors::load(&topology.client, load(BRIEFLY))?;
    running.stop()?;
    for tally in [after_restart, running.finish()?, after_upgrade] {
        ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
        let first = sessions_of_first(&tally);
        ensure!(first == 0, "{first} sessions came back to server 1");
    }
    waxwing.stop().map(drop)
}

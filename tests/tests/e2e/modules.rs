//! Modules dropped into the watched folder of a balancer under load.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{self, RunningLoad, connections};
use waxwing_tests::topology::VIP4;
use waxwing_tests::waxwing::Copy;
use waxwing_tests::{Layout, Load, Topology, Waxwing, modules};

use crate::traffic::{start_wrk, web, wrk_result};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_module_swap_loses_no_request, "nginx", "wrk"),
    scenario!(a_module_swap_changes_the_distribution),
    scenario!(a_broken_module_is_refused_and_the_last_good_one_serves),
];

/// The hash of the module in use for round robin.
fn hash(waxwing: &Waxwing<'_>) -> Result<String> {
    let status = waxwing.status()?;
    let hash = status.module_hash("round_robin").map(str::to_owned);
    hash.with_context(|| format!("no module round_robin in {status}"))
}

fn wait_swap(waxwing: &Waxwing<'_>, from: &str) -> Result<String> {
    waxwing.wait_status("another module", |status| {
        status
            .module_hash("round_robin")
            .is_some_and(|hash| hash != from)
    })?;
    hash(waxwing)
}

fn a_module_swap_loses_no_request() -> Result<()> {
    const SECONDS: u32 = 12;
    let [one, other] = [
        modules::compile("favourite")?,
        modules::compile("waxwing-policy-maglev")?,
    ];
    let topology = Topology::new(Layout {
        queues: 2,
        ..Layout::default()
    })?;
    let _servers = (1..=3)
        .map(|number| actors::nginx(&topology, number, 8080, 0))
        .collect::<Result<Vec<_>>>()?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let mut wrks = [
        start_wrk(&topology.client, VIP4, SECONDS, &[])?,
        start_wrk(&topology.client, VIP4, SECONDS, &["Connection: close"])?,
    ];
    let mut serving = hash(&waxwing)?;
    for (turn, module) in [&one, &other].into_iter().cycle().take(6).enumerate() {
        let copy = if turn % 3 == 2 {
            Copy::Slow
        } else {
            Copy::Atomic
        };
        waxwing.drop_in("round_robin.wasm", module, copy)?;
        serving = wait_swap(&waxwing, &serving)?;
    }
    for wrk in &mut wrks {
        ensure!(wrk.try_wait()?.is_none(), "wrk ended before the last swap");
    }
    for wrk in wrks {
        wrk_result(wrk, SECONDS)?;
    }
    waxwing.stop().map(drop)
}

fn a_module_swap_changes_the_distribution() -> Result<()> {
    let favourite = modules::compile("favourite")?;
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let load = Load {
        rate: 600,
        ..connections(VIP4, 80, Duration::from_secs(2))
    };
    // What is counted by turns is exact, but for a few at either end.
    let assert_shares = |expected: [f64; 3]| {
        let tally = actors::load(&topology.client, load)?;
        ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
        let shares = ["1", "2", "3"].map(|server| tally.share(server));
        let close = shares
            .iter()
            .zip(expected)
            .all(|(share, e)| (share - e).abs() < 0.02);
        ensure!(close, "shares are {shares:?}, not {expected:?}");
        Ok(())
    };
    assert_shares([1.0 / 3.0; 3])?;
    let before = hash(&waxwing)?;
    waxwing.drop_in("round_robin.wasm", &favourite, Copy::Atomic)?;
    wait_swap(&waxwing, &before)?;
    assert_shares([0.6, 0.2, 0.2])?;
    waxwing.stop().map(drop)
}

fn a_broken_module_is_refused_and_the_last_good_one_serves() -> Result<()> {
    let good = modules::compile("favourite")?;
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let shipped = hash(&waxwing)?;
    waxwing.drop_in("round_robin.wasm", &good, Copy::Slow)?;
    let serving = wait_swap(&waxwing, &shipped)?;

    let load = Load {
        rate: 500,
        ..connections(VIP4, 80, Duration::from_secs(8))
    };
    let running = RunningLoad::start(&topology.client, load)?;
    let mut refused = None;
    for broken in modules::broken(&good) {
        waxwing.drop_in("round_robin.wasm", &broken.bytes, Copy::Atomic)?;
        let what = format!("`{}` to be refused", broken.what);
        let status = waxwing.wait_status(&what, |status| {
            let now = status.module_refused("round_robin");
            now.is_some() && now != refused
        })?;
        refused = status.module_refused("round_robin");
        ensure!(
            status.module_hash("round_robin") == Some(&serving),
            "{} was taken",
            broken.what
        );
    }
    let tally = running.finish()?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    let share = tally.share("1");
    ensure!(
        (share - 0.6).abs() < 0.02,
        "the favourite has {share} of the sessions, not 0.6"
    );
    waxwing.stop().map(drop)
}

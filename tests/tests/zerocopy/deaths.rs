//! The balancer dies or stops while the driver has its frames, and comes back to the same queues.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use waxwing_tests::topology::{FRONT4, VIP4, server4, server6};
use waxwing_tests::vm::guest::{Report, Scenario};
use waxwing_tests::{Topology, Waxwing, actors};

use crate::traffic::{curl, nginx};
use crate::{assert_zero_copy, config, scenario, topology};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(killed_it_leaves_the_kernel_its_traffic_and_comes_back),
    scenario!(stopped_it_leaves_the_cards_as_they_were),
];

/// How soon the kernel must have its traffic again: programs start slowly in the machine.
const BACK_MAX: Duration = Duration::from_secs(5);

fn killed_it_leaves_the_kernel_its_traffic_and_comes_back(report: &Report) -> Result<()> {
    let topology = topology()?;
    let _servers = nginx(&topology)?;
    let _own = actors::http_server(&topology.balancer, 22, "balancer")?;
    let mut waxwing = Waxwing::start(&topology, &config(&topology))?;
    for _ in 0..2 {
        curl(&topology, &format!("http://{VIP4}/data"))?;
        waxwing.kill();
        let took = assert_kernel_serves(&topology)?;
        report.say(format!("the kernel's traffic came back in {took:?}"));
        for port in topology.ports() {
            ensure!(
                !topology.balancer.has_xdp(port)?,
                "{port} still has an XDP program"
            );
        }
        let took = waxwing.restart()?;
        report.say(format!("the balancer served again after {took:?}"));
        assert_zero_copy(&topology, &waxwing, report)?;
        // What is the kernel's goes to it also while frames are shared.
        assert_kernel_serves(&topology)?;
    }
    curl(&topology, &format!("http://{VIP4}/data"))?;
    waxwing.stop().map(drop)
}

fn stopped_it_leaves_the_cards_as_they_were(report: &Report) -> Result<()> {
    let topology = topology()?;
    let _servers = nginx(&topology)?;
    let _own = actors::http_server(&topology.balancer, 22, "balancer")?;
    let state = || topology.balancer.run("ip", &["-brief", "address"]);
    let before = state()?;
    for _ in 0..3 {
        let waxwing = Waxwing::start(&topology, &config(&topology))?;
        assert_zero_copy(&topology, &waxwing, report)?;
        curl(&topology, &format!("http://{VIP4}/"))?;
        // It asserts that every frame was accounted for, those with the driver as well.
        waxwing.stop()?;
        let after = state()?;
        ensure!(
            before == after,
            "interfaces changed from\n{before}to\n{after}"
        );
    }
    assert_kernel_serves(&topology).map(drop)
}

/// Asserts that new connections of the kernel's are answered: to the balancer itself, and routed.
/// Returns how long that took.
fn assert_kernel_serves(topology: &Topology) -> Result<Duration> {
    let begun = Instant::now();
    curl(topology, &format!("http://{}:8080/", server4(1)))?;
    curl(topology, &format!("http://[{}]:8080/", server6(2)))?;
    curl(topology, &format!("http://{FRONT4}:22/"))?;
    let took = begun.elapsed();
    ensure!(took < BACK_MAX, "the kernel's traffic took {took:?}");
    Ok(took)
}

//! The balancer is killed or stopped while the driver holds its frames, and restarts on the same queues.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use waxwing_tests::topology::{FRONT4, VIP4, server4, server6};
use waxwing_tests::vm::guest::{Report, Scenario};
use waxwing_tests::{Topology, Waxwing, actors};

use crate::traffic::{curl, download, nginx};
use crate::{assert_zero_copy, config_of_turns, scenario, topology};

pub(crate) const SCENARIOS: &[Scenario] = &[scenario!(
    after_a_kill_or_stop_the_kernel_serves_its_traffic
)];

/// The longest time until the kernel serves its traffic; programs start slowly in the machine.
const BACK_MAX: Duration = Duration::from_secs(5);

fn after_a_kill_or_stop_the_kernel_serves_its_traffic(report: &Report) -> Result<()> {
    let topology = topology()?;
    let _servers = nginx(&topology)?;
    let _own = actors::http_server(&topology.balancer, 22, "balancer")?;
    let addresses = || topology.balancer.run("ip", &["-brief", "address"]);
    let before = addresses()?;
    let mut waxwing = Waxwing::start(&topology, &config_of_turns(&topology)?)?;
    download(&topology, VIP4)?;
    waxwing.kill();
    let took = assert_kernel_serves(&topology)?;
    report.say(format!(
        "after the kill: the kernel served its traffic in {took:?}"
    ));
    for port in topology.ports() {
        ensure!(
            !topology.balancer.has_xdp(port)?,
            "{port} still has an XDP program"
        );
    }
    let took = waxwing.restart()?;
    report.say(format!(
        "after the restart: the balancer served in {took:?}"
    ));
    assert_zero_copy(&topology, &waxwing, report)?;
    // In zero-copy mode too, the kernel receives its own traffic.
    assert_kernel_serves(&topology)?;
    download(&topology, VIP4)?;
    // `stop` asserts that every frame is accounted for, including those that the driver held.
    waxwing.stop()?;
    let after = addresses()?;
    ensure!(
        before == after,
        "the balancer's addresses changed from\n{before}to\n{after}"
    );
    assert_kernel_serves(&topology).map(drop)
}

/// Asserts that the kernel answers new connections to the balancer's own address and routes others. Returns
/// the duration.
fn assert_kernel_serves(topology: &Topology) -> Result<Duration> {
    let begun = Instant::now();
    curl(topology, &format!("http://{}:8080/", server4(1)))?;
    curl(topology, &format!("http://[{}]:8080/", server6(2)))?;
    curl(topology, &format!("http://{FRONT4}:22/"))?;
    let took = begun.elapsed();
    ensure!(took < BACK_MAX, "the kernel's traffic took {took:?}");
    Ok(took)
}

//! A balancer that is killed, stopped, or sent malformed frames does not disturb other traffic.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{RunningLoad, built_program, connections};
use waxwing_tests::topology::{FRONT4, VIP4, server4, server6};
use waxwing_tests::{Layout, Load, Topology, Waxwing, actors};

use crate::traffic::{assert_both_served, assert_served, curl, host, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(after_a_kill_the_kernel_serves_its_traffic, "curl").alone(),
    scenario!(a_stop_restores_the_interfaces),
    scenario!(broken_frames_are_counted_and_fail_no_request),
];

fn after_a_kill_the_kernel_serves_its_traffic() -> Result<()> {
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let _own = actors::http_server(&topology.balancer, 22, "balancer")?;
    let mut waxwing = Waxwing::start(&topology, &web(&topology))?;
    for _ in 0..3 {
        assert_served(&topology, VIP4)?;
        waxwing.kill();
        // New connections to the balancer's own address, and routed through it, work at once.
        let killed = Instant::now();
        curl(&topology.client, &format!("http://{}:22/", host(FRONT4)))?;
        curl(
            &topology.client,
            &format!("http://{}:8080/", host(server4(1))),
        )?;
        curl(
            &topology.client,
            &format!("http://{}:8080/", host(server6(2))),
        )?;
        let took = killed.elapsed();
        ensure!(
            took < Duration::from_secs(1),
            "the kernel forwarded again only after {took:?}"
        );
        for port in topology.ports() {
            ensure!(
                !topology.balancer.has_xdp(port)?,
                "{port} still has an XDP program"
            );
        }
        let took = waxwing.restart()?;
        ensure!(took < Duration::from_secs(2), "the restart took {took:?}");
        assert_both_served(&topology)?;
    }
    waxwing.stop().map(drop)
}

fn a_stop_restores_the_interfaces() -> Result<()> {
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    // Interfaces, their flags and addresses, without counters and lifetimes.
    let state = || topology.balancer.run("ip", &["-brief", "address"]);
    let before = state()?;
    for _ in 0..3 {
        let waxwing = Waxwing::start(&topology, &web(&topology))?;
        assert_served(&topology, VIP4)?;
        let socket = web(&topology).socket().to_owned();
        waxwing.stop()?;
        ensure!(!socket.exists(), "the admin socket is still there");
        let after = state()?;
        ensure!(
            before == after,
            "interfaces changed from\n{before}to\n{after}"
        );
    }
    Ok(())
}

fn broken_frames_are_counted_and_fail_no_request() -> Result<()> {
    const FRAMES: u32 = 20_000;
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.unserved = Some("drop");
    let waxwing = Waxwing::start(&topology, &config)?;
    let load = Load {
        rate: 500,
        ..connections(VIP4, 80, Duration::from_secs(6))
    };
    let running = RunningLoad::start(&topology.client, load)?;
    for seed in 1..=2_u8 {
        inject(&topology, seed, FRAMES)?;
    }
    let tally = running.finish()?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    let status = waxwing.status()?;
    for reason in ["malformed", "no_service", "fragment_duplicate"] {
        ensure!(
            status.dropped(reason) > 0,
            "no drop counted as {reason}: {:?}",
            status.drops()
        );
    }
    assert_both_served(&topology)?;
    waxwing.stop().map(drop)
}

/// Sends malformed frames from the client's interface to the balancer.
fn inject(topology: &Topology, seed: u8, count: u32) -> Result<()> {
    let program = built_program("waxwing-testbed")?;
    let program = program.to_str().context("the path is not UTF-8")?;
    let mac = topology
        .balancer
        .mac("front")?
        .map(|octet| format!("{octet:02x}"))
        .join(":");
    let (count, seed) = (count.to_string(), seed.to_string());
    let args = [
        "inject",
        "--interface",
        "eth0",
        "--port",
        "80",
        "--destination",
        &mac,
    ];
    let args = [&args[..], &["--count", &count, "--seed", &seed]].concat();
    topology.client.run(program, &args).map(drop)
}

//! A VIP beside its services, as real tools see it: wrong ports are refused at once, traces end, and pings of
//! any size and with options are answered.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use waxwing_tests::topology::{VIP4, VIP6};
use waxwing_tests::{Config, Inline, Layout, Topology, Waxwing, actors};

use crate::figure;
use crate::traffic::{host, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        a_vip_answers_beside_its_services,
        "curl",
        "ping",
        "traceroute",
        "tracepath"
    ),
    scenario!(
        a_vip_answers_beside_its_services_across_a_bridge,
        "curl",
        "ping",
        "traceroute",
        "tracepath"
    ),
    scenario!(unserved_ports_can_be_silent),
];

fn a_vip_answers_beside_its_services() -> Result<()> {
    let topology = Topology::new(Layout {
        servers: 1,
        ..Layout::default()
    })?;
    assert_answers(&topology, &web(&topology))
}

fn a_vip_answers_beside_its_services_across_a_bridge() -> Result<()> {
    let topology = figure::network(1, 1)?;
    let _inline = Inline::new(&topology)?;
    assert_answers(&topology, &figure::transparent(&topology))
}

fn assert_answers(topology: &Topology, config: &Config) -> Result<()> {
    let _servers = actors::http_servers(topology, 8080)?;
    let waxwing = Waxwing::start(topology, config)?;
    for vip in [VIP4, VIP6] {
        assert_refused(topology, vip)?;
        assert_traces_end(topology, vip)?;
        assert_pings(topology, vip)?;
    }
    let rejected = waxwing.status()?.counted("unserved_rejected");
    ensure!(rejected > 10, "only {rejected} packets were rejected");
    waxwing.stop().map(drop)
}

/// curl exits with 7 when a connection is refused, with 28 when it timed out.
fn assert_refused(topology: &Topology, vip: IpAddr) -> Result<()> {
    let url = format!("http://{}:81/", host(vip));
    let args = ["-sS", "--globoff", "--max-time", "10", &url];
    let finished = topology
        .client
        .spawn("curl", &args)?
        .finish(Duration::from_secs(15))?;
    ensure!(
        finished.status.code() == Some(7),
        "curl {url}: {:?}, {}",
        finished.status,
        finished.stderr
    );
    Ok(())
}

/// Each kind of trace ends at the VIP, and no hop is silent.
fn assert_traces_end(topology: &Topology, vip: IpAddr) -> Result<()> {
    let address = vip.to_string();
    let traceroute = ["-n", "-q", "1", "-m", "8", "-w", "3"];
    for (program, args) in [
        ("traceroute", &[&traceroute[..], &[&address]].concat()[..]),
        ("traceroute", &[&traceroute[..], &["-I", &address]].concat()),
        (
            "traceroute",
            &[&traceroute[..], &["-T", "-p", "80", &address]].concat(),
        ),
        (
            "traceroute",
            &[&traceroute[..], &["-T", "-p", "81", &address]].concat(),
        ),
        ("tracepath", &["-n", "-m", "8", &address]),
    ] {
        let report = topology.client.run(program, args)?;
        let hops: Vec<&str> = (report.lines())
            .filter(|line| line.contains(" ms") || line.contains("ms ") || line.contains('*'))
            .collect();
        let is_end = hops.last().is_some_and(|last| last.contains(&address));
        let is_silent = report.contains('*') || report.contains("no reply");
        ensure!(
            is_end && !is_silent && hops.len() <= 6,
            "{program} {args:?}:\n{report}"
        );
        eprintln!("{program} {args:?}: {} hops", hops.len());
    }
    Ok(())
}

fn assert_pings(topology: &Topology, vip: IpAddr) -> Result<()> {
    let address = vip.to_string();
    let mut kinds: Vec<&[&str]> = vec![&["-s", "1473"], &["-s", "9000"], &["-s", "60000"]];
    if vip.is_ipv4() {
        // Record route, timestamps, timestamps with addresses.
        kinds.extend([
            &["-R"][..],
            &["-T", "tsonly"],
            &["-T", "tsandaddr"],
            &["-R", "-s", "9000"],
        ]);
    }
    for kind in kinds {
        let common = ["-n", "-c", "3", "-i", "0.2", "-W", "5"];
        let args = [&common, kind, &[&address]].concat();
        let report = topology.client.run("ping", &args)?;
        ensure!(report.contains("3 received"), "ping {args:?}:\n{report}");
    }
    Ok(())
}

fn unserved_ports_can_be_silent() -> Result<()> {
    let topology = Topology::new(Layout {
        servers: 1,
        ..Layout::default()
    })?;
    let mut config = web(&topology);
    config.unserved = Some("drop");
    let waxwing = Waxwing::start(&topology, &config)?;
    let connect = || topology.client.enter(|| failure((VIP4, 81).into()))?;
    let kind = connect()?;
    ensure!(kind == ErrorKind::TimedOut, "{kind}, not silent");
    ensure!(waxwing.status()?.dropped("no_service") > 0);
    // It changes while traffic flows.
    config.unserved = Some("reject");
    waxwing.reload(&config)?;
    let kind = connect()?;
    ensure!(kind == ErrorKind::ConnectionRefused, "{kind}, not refused");
    waxwing.stop().map(drop)
}

fn failure(to: SocketAddr) -> Result<ErrorKind> {
    match TcpStream::connect_timeout(&to, Duration::from_millis(500)) {
        Ok(_) => bail!("{to} accepted a connection"),
        Err(error) => Ok(error.kind()),
    }
}

//! Real clients and servers through a VIP.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use waxwing_tests::process::retry;
use waxwing_tests::topology::{Arms, VIP4, VIP6, VipRoute};
use waxwing_tests::{Config, Layout, Load, Namespace, Process, Service, Topology, Waxwing, actors};

use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(curl_reaches_nginx_on_both_families, "nginx", "curl"),
    scenario!(wrk_loses_no_request, "nginx", "wrk").heavy(),
    scenario!(iperf3_streams_tcp_and_udp, "iperf3").alone(),
    scenario!(two_queues_have_two_workers),
    scenario!(busy_polling_serves).heavy(),
    scenario!(one_arm_serves_both_sides),
    scenario!(a_gateway_route_leads_to_the_vip),
    scenario!(status_and_sessions_commands_report_traffic),
    scenario!(a_million_sessions_start_at_once).alone(),
];

/// Returns a config with the web service on both families, from port 80 to the servers' port 8080.
pub(crate) fn web(topology: &Topology) -> Config {
    let servers = topology.layout().servers;
    Config::new(topology)
        .with(Service::v4("web", "tcp", (80, 8080), servers))
        .with(Service::v6("web6", "tcp", (80, 8080), servers))
}

/// Returns the host part of a URL: IPv6 addresses in brackets.
pub(crate) fn host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// Fetches a URL within 10 s.
pub(crate) fn curl(from: &Namespace, url: &str) -> Result<String> {
    from.run(
        "curl",
        &["-sS", "--fail", "--globoff", "--max-time", "10", url],
    )
}

/// Runs wrk and asserts that every request succeeded. Returns the number of requests.
pub(crate) fn wrk(
    from: &Namespace,
    address: IpAddr,
    seconds: u32,
    headers: &[&str],
) -> Result<u64> {
    wrk_result(start_wrk(from, address, seconds, headers)?, seconds)
}

/// Starts wrk: 32 connections from one thread.
pub(crate) fn start_wrk(
    from: &Namespace,
    address: IpAddr,
    seconds: u32,
    headers: &[&str],
) -> Result<Process> {
    let (url, duration) = (format!("http://{}/", host(address)), format!("{seconds}s"));
    let mut args = vec!["-t1", "-c32", "-d", &duration, "--timeout", "5s", &url];
    args.extend(headers.iter().flat_map(|header| ["-H", header]));
    from.spawn("wrk", &args)
}

/// Waits until wrk ends and asserts that every request succeeded. Returns the number of requests.
pub(crate) fn wrk_result(wrk: Process, seconds: u32) -> Result<u64> {
    let finished = wrk.finish(Duration::from_secs(u64::from(seconds) + 15))?;
    actors::wrk_requests(&finished)
}

/// Opens 300 connections to an address and asserts that all were answered, by all servers.
pub(crate) fn assert_served(topology: &Topology, address: IpAddr) -> Result<()> {
    let load = Load {
        rate: 600,
        ..actors::connections(address, 80, Duration::from_millis(500))
    };
    let tally = actors::load(&topology.client, load)?;
    ensure!(
        tally.failed() == 0,
        "{address}: requests failed: {:?}",
        tally.failures
    );
    ensure!(
        tally.servers.len() == topology.servers.len(),
        "{address}: not all servers answered: {:?}",
        tally.servers
    );
    Ok(())
}

/// As [`assert_served`], through both VIPs.
pub(crate) fn assert_both_served(topology: &Topology) -> Result<()> {
    [VIP4, VIP6]
        .into_iter()
        .try_for_each(|vip| assert_served(topology, vip))
}

/// Waits until both VIPs are served by all servers without a failure.
pub(crate) fn await_both_served(topology: &Topology) -> Result<()> {
    retry(Duration::from_secs(20), || assert_both_served(topology))
}

/// Sends some requests to a VIP, and returns the answering servers, sorted and without duplicates.
pub(crate) fn who_answers(from: &Namespace, vip: IpAddr, requests: u32) -> Result<Vec<String>> {
    let url = format!("http://{}/", host(vip));
    let mut answers = (0..requests)
        .map(|_| curl(from, &url))
        .collect::<Result<Vec<_>>>()?;
    answers.sort();
    answers.dedup();
    Ok(answers)
}

/// Downloads nginx's data from an address and port, and asserts that it arrives unchanged.
pub(crate) fn assert_download(
    topology: &Topology,
    from: &Namespace,
    (address, port): (IpAddr, u16),
) -> Result<()> {
    let copy = topology.scratch.path().join("copy");
    let to = copy.to_str().context("the path is not UTF-8")?;
    let url = format!("http://{}:{port}/data", host(address));
    let args = [
        "-sS",
        "--fail",
        "--globoff",
        "--max-time",
        "60",
        "-o",
        to,
        &url,
    ];
    from.run("curl", &args)?;
    let data = topology.scratch.path().join("nginx1/www/data");
    ensure!(
        fs::read(data)? == fs::read(&copy)?,
        "{address}: the data was altered"
    );
    Ok(())
}

/// Services through which iperf3 reaches its server, by TCP and UDP on both families.
pub(crate) fn iperf3_services(topology: &Topology) -> Config {
    Config::new(topology)
        .with(Service::v4("tcp4", "tcp", (5201, 5201), 1))
        .with(Service::v6("tcp6", "tcp", (5201, 5201), 1))
        .with(Service::v4("udp4", "udp", (5201, 5201), 1))
        .with(Service::v6("udp6", "udp", (5201, 5201), 1))
}

fn curl_reaches_nginx_on_both_families() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::nginx_servers(&topology, 8080, 8 << 20)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    for vip in [VIP4, VIP6] {
        let answers = who_answers(&topology.client, vip, 9)?;
        ensure!(
            answers == ["server=1\n", "server=2\n", "server=3\n"],
            "{vip}: {answers:?}"
        );
        // Eight megabytes in segments of full size.
        assert_download(&topology, &topology.client, (vip, 80))?;
    }
    waxwing.stop().map(drop)
}

fn wrk_loses_no_request() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::nginx_servers(&topology, 8080, 0)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    for vip in [VIP4, VIP6] {
        wrk(&topology.client, vip, 2, &[])?;
        wrk(&topology.client, vip, 2, &["Connection: close"])?;
    }
    waxwing.stop().map(drop)
}

fn iperf3_streams_tcp_and_udp() -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    let _server = actors::iperf3_server(&topology.servers[0], 5201)?;
    let waxwing = Waxwing::start(&topology, &iperf3_services(&topology))?;
    for vip in [VIP4, VIP6] {
        // Upload, then download.
        for direction in [&[][..], &["--reverse"]] {
            let tcp = iperf3(&topology, vip, direction)?;
            let received = tcp["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
            ensure!(
                received > 1 << 20,
                "{vip} {direction:?}: TCP moved only {received} bytes"
            );

            // 1200 bytes per datagram, so that neither family fragments.
            let udp = ["--udp", "--bitrate", "20M", "--length", "1200"];
            let udp = iperf3(&topology, vip, &[&udp, direction].concat())?;
            let sum = &udp["end"]["sum"];
            let (sent, lost) = (
                sum["packets"].as_u64().unwrap_or(0),
                sum["lost_packets"].as_u64(),
            );
            // The first datagram creates the session; it must not be lost.
            ensure!(
                sent > 1000 && lost == Some(0),
                "{vip} {direction:?}: UDP {sent} {lost:?}: {sum}"
            );
        }
    }
    waxwing.stop().map(drop)
}

/// Runs iperf3 from the client to port 5201, for two seconds unless `more` has another time, and returns its
/// report.
pub(crate) fn iperf3(topology: &Topology, address: IpAddr, more: &[&str]) -> Result<Value> {
    let address = address.to_string();
    let mut args = vec!["-c", &address, "-p", "5201", "-t", "2", "-J"];
    args.extend(["--connect-timeout", "5000"]);
    args.extend(more);
    let finished = topology
        .client
        .spawn("iperf3", &args)?
        .finish(Duration::from_secs(20))?;
    let report: Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("iperf3 {more:?} wrote no JSON: {}", finished.stdout))?;
    ensure!(
        report.get("error").is_none(),
        "iperf3 {more:?} to {address}: {}",
        report["error"]
    );
    Ok(report)
}

/// Asserts that the web service is served on both families, with this layout and change of the config.
fn assert_serves(layout: Layout, change: impl FnOnce(&mut Config)) -> Result<()> {
    let topology = Topology::new(layout)?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    change(&mut config);
    let waxwing = Waxwing::start(&topology, &config)?;
    assert_both_served(&topology)?;
    waxwing.stop().map(drop)
}

fn two_queues_have_two_workers() -> Result<()> {
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    assert_both_served(&topology)?;
    let received = waxwing.status()?.received_by_worker();
    ensure!(
        received.len() == 2 && received.iter().all(|packets| *packets > 0),
        "not every worker received frames: {received:?}"
    );
    waxwing.stop().map(drop)
}

fn one_arm_serves_both_sides() -> Result<()> {
    let layout = Layout {
        arms: Arms::One,
        ..Layout::default()
    };
    assert_serves(layout, |_| ())
}

fn a_gateway_route_leads_to_the_vip() -> Result<()> {
    let layout = Layout {
        vips: VipRoute::Gateway,
        ..Layout::default()
    };
    assert_serves(layout, |_| ())
}

fn status_and_sessions_commands_report_traffic() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    // Eight keep-alive connections.
    let load = Load {
        clients: 8,
        keep_alive: true,
        rate: 80,
        ..actors::connections(VIP4, 80, Duration::from_secs(3))
    };
    let running = actors::RunningLoad::start(&topology.client, load)?;
    let status = waxwing.wait_status("eight sessions", |status| status.sessions() == 8)?;
    let by_backend: Vec<u64> = (1..=3)
        .map(|number| status.backend_sessions("web", waxwing_tests::topology::server4(number)))
        .collect::<Result<_>>()?;
    ensure!(
        by_backend.iter().sum::<u64>() == 8,
        "sessions by backend: {by_backend:?}"
    );
    ensure!(
        by_backend.iter().all(|n| (2..=3).contains(n)),
        "sessions are not spread in turns: {by_backend:?}"
    );

    let sessions = waxwing.ask(&["session", "list", "--json", "--service", "web"])?;
    ensure!(
        sessions.status.success(),
        "`waxwing session list` failed: {}",
        sessions.stderr
    );
    let lines: Vec<Value> = sessions
        .stdout
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    ensure!(
        lines.len() == 8,
        "`waxwing session list --json`: {}",
        sessions.stdout
    );
    let other = waxwing.ask(&["session", "list", "--json", "--service", "web6"])?;
    ensure!(
        other.stdout.trim().is_empty(),
        "web6 has no session, but `waxwing session list` prints: {}",
        other.stdout
    );
    // Without `--json` the output is text.
    let of_one = "session list --client 10.1.0.0/24 --backend 10.2.0.11:8080";
    for (command, word) in [
        ("status", "web"),
        (of_one, "web"),
        ("service list", "203.0.113.10"),
        ("backend list --service web --state unchecked", "10.2.0.13"),
        ("event list --area module", "serves on all workers"),
        ("config show", "[[service]]"),
    ] {
        let text = waxwing.ask(&command.split(' ').collect::<Vec<_>>())?;
        ensure!(
            text.status.success() && text.stdout.contains(word),
            "`{command}`: {}",
            text.stdout
        );
    }
    let tally = running.finish()?;
    ensure!(tally.failed() == 0, "requests failed: {:?}", tally.failures);
    waxwing.stop().map(drop)
}

fn a_million_sessions_start_at_once() -> Result<()> {
    let topology = Topology::new(Layout::with_queues(2))?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut config = web(&topology);
    config.sessions_max = 1_000_000;
    let begun = Instant::now();
    let waxwing = Waxwing::start(&topology, &config)?;
    let took = begun.elapsed();
    ensure!(took < Duration::from_secs(2), "the start took {took:?}");
    let bytes = waxwing.status()?.bytes_per_session();
    ensure!(bytes <= 160.0, "a session takes {bytes} bytes");
    assert_served(&topology, VIP4)?;
    waxwing.stop().map(drop)
}

fn busy_polling_serves() -> Result<()> {
    assert_serves(Layout::default(), |config| config.poll = "busy")
}

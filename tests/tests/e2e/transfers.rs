//! Real tools transfer while the balancer is upgraded ten times, and stopped and started ten times: no
//! connection of theirs breaks, and no byte is wrong.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use waxwing_tests::topology::VIP4;
use waxwing_tests::{Layout, Service, Topology, Waxwing, actors};

use crate::restart::stop_and_start;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        ten_upgrades_break_no_transfer,
        "nginx",
        "curl",
        "wrk",
        "iperf3",
        "openssl",
        "sha256sum"
    )
    .alone(),
    scenario!(
        ten_stops_and_starts_break_no_transfer,
        "nginx",
        "curl",
        "wrk",
        "iperf3",
        "openssl",
        "sha256sum"
    )
    .alone(),
];

/// How often.
const TIMES: u32 = 10;

/// The packets between two times: all transfers go on.
const PACKETS: u64 = 2000;

/// Longer than any run of a tool on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

fn ten_upgrades_break_no_transfer() -> Result<()> {
    through_transfers(|waxwing| waxwing.upgrade().map(drop))
}

fn ten_stops_and_starts_break_no_transfer() -> Result<()> {
    through_transfers(|waxwing| stop_and_start(waxwing, Duration::from_millis(500)))
}

/// Does something ten times under transfers, each of which is begun again when it has ended.
fn through_transfers(mut happens: impl FnMut(&mut Waxwing<'_>) -> Result<()>) -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    let _nginx = actors::nginx_servers(&topology, 8080, 0)?;
    let _iperf3 = [5201, 5202, 5203]
        .map(|port| actors::iperf3_server(&topology.servers[0], port))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    let config = waxwing_tests::Config::new(&topology)
        .with(Service::v4("web", "tcp", (80, 8080), 1))
        .with(Service::v4("up", "tcp", (5201, 5201), 1))
        .with(Service::v4("down", "tcp", (5202, 5202), 1))
        .with(Service::v4("control", "tcp", (5203, 5203), 1))
        .with(Service::v4("datagrams", "udp", (5203, 5203), 1));
    let expected = make_gibibyte(&topology)?;
    let mut waxwing = Waxwing::start(&topology, &config)?;

    let ends = AtomicBool::new(false);
    let (topology, ends) = (&topology, &ends);
    thread::scope(|scope| {
        let again = |run: &(dyn Fn() -> Result<()> + Sync)| {
            let mut runs = 0;
            while runs == 0 || !ends.load(Ordering::Relaxed) {
                run()?;
                runs += 1;
            }
            anyhow::Ok(runs)
        };
        let transfers = [
            ("wrk", scope.spawn(move || again(&|| requests(topology)))),
            (
                "a download",
                scope.spawn({
                    let expected = &expected;
                    move || again(&|| download(topology, expected))
                }),
            ),
            (
                "iperf3",
                scope.spawn(move || again(&|| stream(topology, "5201", &["--bitrate", "50M"]))),
            ),
            (
                "iperf3 --reverse",
                scope.spawn(move || {
                    again(&|| stream(topology, "5202", &["--reverse", "--bitrate", "50M"]))
                }),
            ),
            (
                "iperf3 --udp",
                scope.spawn(move || {
                    let udp = ["--udp", "--bitrate", "16M", "--length", "100"];
                    again(&|| stream(topology, "5203", &udp))
                }),
            ),
        ];
        let happened = (0..TIMES).try_for_each(|number| {
            waxwing.wait_status("packets", |status| {
                status.received_by_worker().iter().sum::<u64>() > PACKETS
            })?;
            happens(&mut waxwing).with_context(|| format!("time {number}"))
        });
        ends.store(true, Ordering::Relaxed);
        for (name, transfer) in transfers {
            let runs = transfer.join().ok().context("a thread has panicked")?;
            println!("    {name}: {} runs", runs.context(name)?);
        }
        happened
    })?;
    waxwing.stop().map(drop)
}

/// Makes a file that nginx serves, and returns its SHA-256.
fn make_gibibyte(topology: &Topology) -> Result<String> {
    let file = topology.scratch.path().join("nginx1/www/large");
    // Its bytes depend on their position.
    let script = format!(
        "head -c 1073741824 /dev/zero | openssl enc -aes-128-ctr -nosalt -K 00 -iv 00 2>/dev/null \
         > {file} && sha256sum < {file}",
        file = file.display()
    );
    let made = topology.client.spawn("sh", &["-c", &script])?;
    let made = made.finish(PATIENCE)?;
    ensure!(made.status.success(), "no file: {}", made.stderr);
    Ok(made.stdout)
}

fn download(topology: &Topology, expected: &str) -> Result<()> {
    let script = format!(
        "curl -sS --fail --limit-rate 40M --max-time {} http://{VIP4}/large | sha256sum",
        PATIENCE.as_secs()
    );
    let finished = topology
        .client
        .spawn("sh", &["-c", &script])?
        .finish(PATIENCE)?;
    let (sum, said) = (finished.stdout, finished.stderr);
    ensure!(
        sum == expected,
        "it has {sum} and not {expected}, and says {said}"
    );
    Ok(())
}

/// Kept connections that ask all the time.
fn requests(topology: &Topology) -> Result<()> {
    let url = format!("http://{VIP4}/");
    let arguments = ["-t1", "-c8", "-d", "10s", "--timeout", "60s", &url];
    let finished = topology.client.spawn("wrk", &arguments)?.finish(PATIENCE)?;
    actors::wrk_requests(&finished).map(drop)
}

fn stream(topology: &Topology, port: &str, more: &[&str]) -> Result<()> {
    let address = VIP4.to_string();
    let arguments = ["-c", &address, "-p", port, "-t", "10", "-J"];
    let arguments = [&arguments[..], more].concat();
    let finished = topology
        .client
        .spawn("iperf3", &arguments)?
        .finish(PATIENCE)?;
    let report: Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("no JSON: {}{}", finished.stdout, finished.stderr))?;
    let error = &report["error"];
    ensure!(error.is_null(), "{error}");
    let bytes = report["end"]["sum_received"]["bytes"].as_u64();
    let packets = report["end"]["sum"]["packets"].as_u64();
    ensure!(
        bytes.or(packets).is_some_and(|moved| moved > 0),
        "nothing moved: {report}"
    );
    Ok(())
}

//! HTTP through both cards, over new and over persistent connections.

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::topology::{VIP4, VIP6};
use waxwing_tests::vm::guest::{Report, Scenario};
use waxwing_tests::{Process, Topology, Waxwing, actors};

use crate::{assert_zero_copy, config, scenario, topology};

pub(crate) const SCENARIOS: &[Scenario] = &[scenario!(curl_and_wrk_reach_nginx_on_both_families)];

/// Enough for several rings of frames, so that all frames are reaped and reused.
const DATA_BYTES: usize = 4 << 20;

fn curl_and_wrk_reach_nginx_on_both_families(report: &Report) -> Result<()> {
    let topology = topology()?;
    let _servers = nginx(&topology)?;
    let waxwing = Waxwing::start(&topology, &config(&topology))?;
    assert_zero_copy(&topology, &waxwing, report)?;
    for vip in [VIP4, VIP6] {
        let root = root(vip);
        let mut answers = (0..6)
            .map(|_| curl(&topology, &format!("{root}/")))
            .collect::<Result<Vec<_>>>()?;
        ensure!(
            answers.iter().zip(&answers[1..]).all(|(a, b)| a != b),
            "{root}: the servers did not alternate: {answers:?}"
        );
        answers.sort();
        answers.dedup();
        ensure!(
            answers == ["server=1\n", "server=2\n"],
            "{root}: {answers:?}"
        );
        download(&topology, vip)?;
        for headers in [&[][..], &["-H", "Connection: close"]] {
            let requests = wrk(&topology, &format!("{root}/"), headers)?;
            report.say(format!("{root} {headers:?}: {requests} requests"));
        }
    }
    assert_zero_copy(&topology, &waxwing, report)?;
    waxwing.stop().map(drop)
}

/// Starts nginx on both servers.
pub(crate) fn nginx(topology: &Topology) -> Result<Vec<Process>> {
    (1..=2)
        .map(|number| actors::nginx(topology, number, 8080, DATA_BYTES))
        .collect()
}

/// Fetches a URL from the client within 20 s and returns the body.
pub(crate) fn curl(topology: &Topology, url: &str) -> Result<String> {
    let limits = ["-sS", "--fail", "--globoff", "--max-time", "20"];
    topology.client.run("curl", &[&limits[..], &[url]].concat())
}

/// Returns the URL of a VIP, without a path.
fn root(vip: IpAddr) -> String {
    match vip {
        IpAddr::V4(vip) => format!("http://{vip}"),
        IpAddr::V6(vip) => format!("http://[{vip}]"),
    }
}

/// Asserts that the client downloads nginx's file through a VIP unchanged.
pub(crate) fn download(topology: &Topology, vip: IpAddr) -> Result<()> {
    let copy = topology.scratch.path().join("copy");
    let to = copy.to_str().context("the path is not UTF-8")?;
    let url = format!("{}/data", root(vip));
    let limits = ["-sS", "--fail", "--globoff", "--max-time", "20"];
    let download = [&limits[..], &["-o", to, &url]].concat();
    topology.client.run("curl", &download)?;
    let data = topology.scratch.path().join("nginx1/www/data");
    ensure!(
        fs::read(copy)? == fs::read(data)?,
        "{url}: the download differs from the file"
    );
    Ok(())
}

/// Runs wrk against a URL for a second, asserts that all requests succeeded, and returns their number.
fn wrk(topology: &Topology, url: &str, headers: &[&str]) -> Result<u64> {
    let load = ["-t1", "-c16", "-d1s", "--timeout", "5s", url];
    let process = topology.client.spawn("wrk", &[&load, headers].concat())?;
    let finished = process.finish(Duration::from_secs(20))?;
    actors::wrk_requests(&finished)
}

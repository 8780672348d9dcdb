//! Another process takes over while traffic flows: no connection and no packet is lost. If something goes
//! wrong on the way, one of the two serves.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::process::retry;
use waxwing_tests::topology::{CLIENT4, CLIENT6, VIP4};
use waxwing_tests::{Layout, Load, Process, Topology, Waxwing, actors};

use crate::recovery::{Downloads, start_nginx};
use crate::traffic::{assert_served, iperf3_services, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(ten_upgrades_lose_no_connection, "nginx", "curl").heavy(),
    scenario!(ten_upgrades_lose_no_datagram, "iperf3").alone(),
    scenario!(whichever_process_is_killed_one_serves).heavy(),
    scenario!(what_cannot_be_taken_over_is_refused),
];

/// Connections that are kept, whose clients ask now and then.
fn kept_alive(topology: &Topology, duration: Duration) -> Result<RunningLoad> {
    let load = Load {
        clients: 20,
        keep_alive: true,
        rate: 200,
        timeout: Duration::from_secs(10),
        ..connections(VIP4, 80, duration)
    };
    RunningLoad::start(&topology.client, load)
}

/// Prints for how long no packet was served, as the new process says, and what it did meanwhile.
fn print_silence(log: &str) -> Result<()> {
    let mut lines = log.lines();
    let said = lines.find_map(|line| line.split_once("took over within "));
    let (_, said) = said.context("it did not take over")?;
    println!("    silent for {said}");
    Ok(())
}

fn ten_upgrades_lose_no_connection() -> Result<()> {
    let topology = Topology::new(Layout::with_queues(2))?;
    let servers = start_nginx(&topology)?;
    let mut config = web(&topology);
    config.service_mut("web")?.policy = "round_robin".into();
    let mut waxwing = Waxwing::start(&topology, &config)?;
    let mut downloads = Downloads::start(&topology, servers, [CLIENT4, CLIENT6])?;
    waxwing.wait_status("the downloads", |status| status.sessions() == 8)?;
    for _ in 0..3 {
        waxwing.upgrade()?;
    }
    ensure!(waxwing.status()?.sessions() == 8, "sessions were lost");
    downloads.are_under_way()?;
    downloads.finish()?;
    drop(waxwing.stop()?);

    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut waxwing = Waxwing::start(&topology, &config_of(&topology)?)?;
    let asked = waxwing.ask(&["backend", "drain", "web", "10.2.0.11:8080"])?;
    ensure!(asked.status.success(), "{}", asked.stderr);
    let load = kept_alive(&topology, Duration::from_secs(40))?;
    waxwing.wait_status("the connections", |status| status.sessions() == 20)?;
    for _ in 0..10 {
        let [_, log] = waxwing.upgrade()?;
        print_silence(&log)?;
        let status = waxwing.status()?;
        let opened = status.counted("sessions_opened");
        ensure!(opened == 0, "{opened} connections were opened again");
        ensure!(status.states("web")[0] == "draining", "{status}");
    }
    let tally = load.finish()?;
    println!("    {} answers", tally.answers());
    ensure!(
        tally.failed() == 0,
        "connections broke: {:?}",
        tally.failures
    );
    waxwing.stop().map(drop)
}

fn config_of(topology: &Topology) -> Result<waxwing_tests::Config> {
    let mut config = web(topology);
    config.service_mut("web")?.policy = "round_robin".into();
    Ok(config)
}

/// 20,000 datagrams a second.
fn ten_upgrades_lose_no_datagram() -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    let _server = actors::iperf3_server(&topology.servers[0], 5201)?;
    let mut waxwing = Waxwing::start(&topology, &iperf3_services(&topology))?;
    let address = VIP4.to_string();
    let args = [
        "-c",
        &address,
        "-p",
        "5201",
        "-t",
        "40",
        "-J",
        "--udp",
        "--bitrate",
        "16M",
        "--length",
        "100",
    ];
    let iperf3 = topology.client.spawn("iperf3", &args)?;
    waxwing.wait_status("the flow", |status| status.sessions() >= 2)?;
    for _ in 0..10 {
        let [_, log] = waxwing.upgrade()?;
        print_silence(&log)?;
    }
    let report = iperf3.finish(Duration::from_secs(60))?;
    let report: serde_json::Value = serde_json::from_str(&report.stdout)?;
    let sent = report["end"]["sum"]["packets"].as_u64().unwrap_or(0);
    let arrived = actors::datagrams_arrived(&topology.servers[0])?;
    println!("    {sent} datagrams, {arrived} arrived");
    ensure!(sent > 100_000, "too few: {report}");
    ensure!(
        arrived >= sent,
        "{} of {sent} datagrams were lost",
        sent - arrived
    );
    waxwing.stop().map(drop)
}

/// Kills one of the two at twenty moments of an upgrade.
fn whichever_process_is_killed_one_serves() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let mut waxwing = Waxwing::start(&topology, &web(&topology))?;
    let mut new = waxwing.start_upgrade()?;
    let begun = std::time::Instant::now();
    retry(Duration::from_secs(60), || {
        ensure!(new.stderr().contains("took over"), "not yet");
        Ok(())
    })?;
    let took = begun.elapsed();
    waxwing
        .replace(new)
        .context("no old one")?
        .finish(Duration::from_secs(60))?;
    for moment in 0..20_u32 {
        thread::sleep(Duration::from_millis(100));
        new = waxwing.start_upgrade()?;
        // The second half of an upgrade is where the processes talk.
        thread::sleep(took / 2 + took * moment / 40);
        if moment % 2 == 0 {
            new.kill();
            if waxwing.has_ended()? {
                // The new one served alone already.
                let said = new.stderr();
                ensure!(said.contains("took over"), "moment {moment}: {said}");
                waxwing.restart()?;
            }
        } else {
            waxwing.replace(new).context("no old one")?.kill();
            if ended_soon(&mut waxwing)? {
                // It had not found the old one yet.
                waxwing.kill();
                waxwing.restart()?;
            }
        }
        let state = |vip: IpAddr| assert_served(&topology, vip);
        retry(Duration::from_secs(30), || state(VIP4))
            .with_context(|| format!("moment {moment} of 20"))?;
    }
    // Of one that started anew, its first workers ended too.
    waxwing.stop_without_log()
}

/// Whether the process ends within the time that it needs to find out that the other one is gone.
fn ended_soon(waxwing: &mut Waxwing<'_>) -> Result<bool> {
    for _ in 0..200 {
        if waxwing.has_ended()? || waxwing.log().contains("serving after") {
            return waxwing.has_ended();
        }
        thread::sleep(Duration::from_millis(50));
    }
    waxwing.has_ended()
}

fn what_cannot_be_taken_over_is_refused() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology);
    let waxwing = Waxwing::start(&topology, &config)?;
    let refused = |text: &str, why: &str| -> Result<()> {
        waxwing.write_config(text)?;
        let finished: Process = waxwing.start_upgrade()?;
        let finished = finished.finish(Duration::from_secs(60))?;
        ensure!(!finished.status.success(), "it was accepted");
        ensure!(finished.stderr.contains(why), "{why}: {}", finished.stderr);
        assert_served(&topology, VIP4)
    };
    let text = config.to_toml()?;
    refused(
        &format!("{text}\n[rings]\nsize = 1024\n"),
        "its rings.size: 2048; the new one's: 1024",
    )?;
    refused("colour = 1", "colour")?;
    let other = text.replace("waxwing.sock", "other.sock");
    refused(&other, "no waxwing can be upgraded at")?;
    waxwing.write_config(&text)?;
    waxwing.stop().map(drop)
}

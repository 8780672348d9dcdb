//! Upgrades under traffic: for how long no packet is served, and what is lost.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_report::Spread;
use waxwing_tests::actors::{RunningLoad, connections};
use waxwing_tests::topology::VIP4;
use waxwing_tests::{Config, Layout, Load, Service, Topology, Waxwing, actors};

use crate::Effort;
use crate::sections::Report;

const UPGRADES: usize = 10;
/// How long traffic flows: each upgrade takes about a second.
const SECONDS: &str = "30";
const TRAFFIC: Duration = Duration::from_secs(30);
const CONNECTIONS: u32 = 20;

pub(crate) fn upgrades(_: Effort, report: &mut Report) -> Result<()> {
    datagrams(report)?;
    kept_alive(report)
}

/// 20,000 datagrams a second.
fn datagrams(report: &mut Report) -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    let _server = actors::iperf3_server(&topology.servers[0], 5201)?;
    let config = ["tcp", "udp"]
        .iter()
        .fold(Config::new(&topology), |config, protocol| {
            config.with(Service::v4(protocol, protocol, (5201, 5201), 1))
        });
    let mut waxwing = Waxwing::start(&topology, &config)?;
    let address = VIP4.to_string();
    let args = ["-c", &address, "-p", "5201", "-t", SECONDS, "-J", "--udp"];
    let args = [&args[..], &["--bitrate", "16M", "--length", "100"]].concat();
    let iperf3 = topology.client.spawn("iperf3", &args)?;
    waxwing.wait_status("the flow", |status| status.sessions() >= 2)?;
    let silence = upgrade(&mut waxwing)?;
    let said = iperf3.finish(2 * TRAFFIC)?;
    let said: serde_json::Value = serde_json::from_str(&said.stdout)?;
    let sum = &said["end"]["sum"];
    let number = |name: &str| sum[name].as_u64().context("a number that iperf3 lacks");
    let sent = number("packets")?;
    let arrived = actors::datagrams_arrived(&topology.servers[0])?;
    report.say(&format!(
        "{UPGRADES} upgrades under 20,000 datagrams a second: silent for {silence} ms each; of {sent} \
         datagrams {} did not arrive at the server. Its socket had no room for {} of those that did.",
        sent.saturating_sub(arrived),
        number("lost_packets")?
    ));
    waxwing.stop().map(drop)
}

fn kept_alive(report: &mut Report) -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = Config::new(&topology).with(Service::v4("web", "tcp", (80, 8080), 3));
    let mut waxwing = Waxwing::start(&topology, &config)?;
    let load = Load {
        clients: CONNECTIONS,
        keep_alive: true,
        rate: 10 * CONNECTIONS,
        timeout: TRAFFIC,
        ..connections(VIP4, 80, TRAFFIC)
    };
    let load = RunningLoad::start(&topology.client, load)?;
    let all = u64::from(CONNECTIONS);
    waxwing.wait_status("the connections", |status| status.sessions() == all)?;
    let silence = upgrade(&mut waxwing)?;
    let opened = waxwing.status()?.counted("sessions_opened");
    let tally = load.finish()?;
    report.say(&format!(
        "{UPGRADES} upgrades under {} requests a second of {CONNECTIONS} kept-alive connections: silent for \
         {silence} ms each; {} requests answered, {} failed, {opened} connections opened again.",
        10 * CONNECTIONS,
        tally.answers(),
        tally.failed()
    ));
    waxwing.stop().map(drop)
}

/// Upgrades again and again. Returns how long no packet was served each time, as the new process says, in
/// milliseconds.
fn upgrade(waxwing: &mut Waxwing<'_>) -> Result<Spread> {
    let mut silent = Vec::with_capacity(UPGRADES);
    for _ in 0..UPGRADES {
        let [_, log] = waxwing.upgrade()?;
        let said = log.split("took over within ").nth(1);
        let us = said.and_then(|rest| rest.split(' ').next()?.parse::<f64>().ok());
        silent.push(us.with_context(|| format!("it did not take over: {log}"))? / 1e3);
    }
    ensure!(!silent.is_empty(), "nothing was measured");
    Ok(Spread::of(&silent))
}

//! Packets as they came and as they left: a file that Wireshark reads, and lines for people.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use waxwing_tests::actors::built_program;
use waxwing_tests::process::{retry, run};
use waxwing_tests::topology::{CLIENT4, VIP4};
use waxwing_tests::{Config, Layout, Process, Topology, Waxwing, query};

use crate::consequences::{WEB, stay};
use crate::health::three;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(wireshark_reads_what_came_and_what_left, "tshark"),
    scenario!(a_trace_tells_each_packets_end, "curl"),
];

const PATIENCE: Duration = Duration::from_secs(30);

/// Starts a capture or a trace, and waits until the workers capture.
fn start(
    (waxwing, config): (&Waxwing<'_>, &Config),
    topology: &Topology,
    args: &[&str],
) -> Result<Process> {
    let socket = config.socket().to_string_lossy();
    let args = [args, &["--socket", &socket]].concat();
    let process = topology.balancer.spawn(built_program("waxwing")?, &args)?;
    waxwing.wait_log("captures packets")?;
    Ok(process)
}

/// Returns these fields of the packets of a file that a display filter takes, tab by tab.
fn shown(file: &Path, filter: &str, fields: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("tshark");
    command
        .arg("-r")
        .arg(file)
        .args(["-Y", filter, "-T", "fields"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let text = run(&command)?;
    Ok(text.lines().map(str::to_owned).collect())
}

fn wireshark_reads_what_came_and_what_left() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    config.service_mut("web")?.health.clear();
    let waxwing = Waxwing::start(&topology, &config)?;
    let file = topology.scratch.path().join("web.pcapng");
    let path = file.to_string_lossy();
    let capture = start(
        (&waxwing, &config),
        &topology,
        &["capture", "--service", "web", "--write", &path],
    )?;
    let (mut connection, server) = stay(&topology)?;
    query::get(&mut connection, "/")?;
    drop(connection);
    // An unserved port of the VIP is of no service.
    let _ = topology
        .client
        .enter(|| query::connect_from(0, (VIP4, 81).into()))?;
    let fin = format!("tcp.flags.fin == 1 && ip.src == {CLIENT4}");
    retry(PATIENCE, || {
        ensure!(
            shown(&file, &fin, &["frame.number"])?.len() == 2,
            "the client's FIN, twice"
        );
        Ok(())
    })?;

    // The SYN: as it came to the VIP, and as it left to the server.
    let fields = [
        "frame.interface_name",
        "frame.packet_flags_direction",
        "ip.dst",
        "frame.comment",
    ];
    let syns = shown(&file, "tcp.flags.syn == 1 && tcp.flags.ack == 0", &fields)?;
    let [came, left] = &*syns else {
        anyhow::bail!("not two SYNs: {syns:?}");
    };
    let backend = format!("backend server-{}", server + 1);
    for part in [
        "front",
        &VIP4.to_string(),
        "forwarded, service web",
        &backend,
        "opens its session",
    ] {
        ensure!(came.contains(part), "no {part:?}: {came}");
    }
    let server = waxwing_tests::topology::server4(u8::try_from(server + 1)?);
    for part in ["back", &server.to_string()] {
        ensure!(left.contains(part), "no {part:?}: {left}");
    }
    let malformed = shown(
        &file,
        "_ws.malformed || tcp.checksum.status == 0",
        &["frame.number"],
    )?;
    ensure!(malformed.is_empty(), "{malformed:?}");
    ensure!(
        shown(&file, "tcp.port == 81", &["frame.number"])?.is_empty(),
        "another service's"
    );

    drop(capture);
    waxwing.wait_log("captures no longer")?;
    waxwing.stop().map(drop)
}

fn a_trace_tells_each_packets_end() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let (_servers, mut config) = three(&topology)?;
    let web = config.service_mut("web")?;
    web.health.clear();
    web.all_down = Some("drop");
    let waxwing = Waxwing::start(&topology, &config)?;
    let client = CLIENT4.to_string();
    let args = [
        "trace",
        "--client",
        &client,
        "--json",
        "--packets",
        "1",
        "--drops",
    ];
    let trace = start((&waxwing, &config), &topology, &args)?;
    // One at a time; a file of an earlier one stays.
    let kept = topology.scratch.write("kept.pcapng", "kept")?;
    let second = waxwing.ask(&["capture", "-w", &kept.to_string_lossy()])?;
    ensure!(
        second.stderr.contains("another capture runs"),
        "{}",
        second.stderr
    );
    ensure!(fs::read_to_string(&kept)? == "kept", "the file was emptied");
    let (connection, _) = stay(&topology)?;
    drop(connection);
    for name in ["server-1", "server-2", "server-3"] {
        ensure!(
            waxwing
                .ask(&["backend", "drain", "web", name])?
                .status
                .success()
        );
    }
    let url = format!("http://{WEB}/");
    let asked = topology
        .client
        .run("curl", &["-sS", "--max-time", "1", &url]);
    ensure!(asked.is_err(), "no backend takes new sessions");
    let finished = trace.finish(PATIENCE)?;
    let packet: Value = serde_json::from_str(finished.stdout.trim()).context("one packet")?;
    ensure!(packet["dropped"] == "no_backend", "{packet:#}");
    ensure!(
        packet["service"] == "web" && packet["arrived"]["port"] == "front",
        "{packet:#}"
    );
    let text = packet["arrived"]["text"].as_str().context("a text")?;
    ensure!(text.starts_with("tcp ") && text.ends_with(" SYN"), "{text}");
    waxwing.wait_log("captures no longer")?;
    waxwing.stop().map(drop)
}

//! Floods from forged sources, each kind in small: new connections succeed and an established transfer goes
//! on, although the session table, or a pool of source ports, is full. The status names the flood while it
//! lasts.
//!
//! Invariant: forged sources see no answer, because nobody has their addresses.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use waxwing_packet::{Link, Mac, Protocol, TcpFlags};
use waxwing_testkit::build::Tcp;
use waxwing_tests::config::SourceNat;
use waxwing_tests::echo::{Echo, Pinger};
use waxwing_tests::inject::Wire;
use waxwing_tests::topology::VIP4;
use waxwing_tests::{Config, Layout, Service, Topology, Waxwing, actors};

use crate::forged::{READ_LEN, Transfer, small_buffers};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(datagrams_to_a_service_that_answers, "nginx"),
    scenario!(datagrams_to_a_service_that_answers_from_few_ports, "nginx"),
    scenario!(a_syn_and_then_any_acknowledgment, "nginx"),
    scenario!(a_syn_and_then_any_acknowledgment_from_few_ports, "nginx"),
    scenario!(bare_segments_to_a_refusing_port, "nginx"),
    scenario!(syns, "nginx"),
];

const WEB: u16 = 80;
const ECHO: u16 = 53;
const REFUSING: u16 = 81;
/// Small enough for a flood to fill it within a second.
const SESSIONS_MAX: u64 = 2000;
/// The source ports of a pool.
const FEW: &str = "20000-20999";
/// Packets at a time, and the pause between: at most 4,000 a second, and 1,000 at a pool. So a client repeats
/// its SYN before a flood has gone through the pool.
const BURST: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);
const PAUSE_FEW: Duration = Duration::from_millis(20);
/// Packets until a source's second one.
const LATER: u32 = 120;
/// New connections during the flood, of TCP and of UDP each.
const CONNECTIONS: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(5);
/// A client sends a datagram so many times, as a resolver does, and waits this long for each answer.
const TRIES: usize = 3;
const ANSWER: Duration = Duration::from_secs(2);
/// Parts of the transfer.
const PARTS: usize = 8;

/// A flood's packet: its source's number, its flags (`None`: UDP) and its port.
type Packet = (u32, Option<u8>, u16);

fn datagrams_to_a_service_that_answers() -> Result<()> {
    flood(|n| (n, None, ECHO), None)
}

fn datagrams_to_a_service_that_answers_from_few_ports() -> Result<()> {
    flood(|n| (n, None, ECHO), Some(FEW))
}

fn a_syn_and_then_any_acknowledgment() -> Result<()> {
    flood(syn_then_ack, None)
}

fn a_syn_and_then_any_acknowledgment_from_few_ports() -> Result<()> {
    flood(syn_then_ack, Some(FEW))
}

fn syn_then_ack(n: u32) -> Packet {
    match n % 2 {
        0 => (n, Some(TcpFlags::SYN), WEB),
        _ => ((n - 1).wrapping_sub(LATER), Some(TcpFlags::ACK), WEB),
    }
}

fn bare_segments_to_a_refusing_port() -> Result<()> {
    let flags = [TcpFlags::ACK, TcpFlags::FIN | TcpFlags::ACK, TcpFlags::SYN];
    flood(move |n| (n, Some(flags[n as usize % 3]), REFUSING), None)
}

fn syns() -> Result<()> {
    flood(|n| (n, Some(TcpFlags::SYN), WEB), None)
}

/// Floods a balancer, whose sessions may use these source ports only.
fn flood(packet: impl Fn(u32) -> Packet + Sync, few: Option<&'static str>) -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    small_buffers(&topology)?;
    let _nginx = actors::nginx(&topology, 1, 8080, PARTS * READ_LEN)?;
    let _echo = Echo::start(&topology.servers[0], 5353)?;
    let file = fs::read(topology.scratch.path().join("nginx1/www/data"))?;
    let waxwing = Waxwing::start(&topology, &config(&topology, few))?;
    let mut transfer = topology.client.enter(|| Transfer::open(VIP4))??;
    transfer.read(&file)?;

    let pause = few.map_or(PAUSE, |_| PAUSE_FEW);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flooding = scope.spawn(|| send(&topology, &packet, pause, &is_over));
        let outcome = waxwing
            .wait_status("the flood to be named", is_flooded)
            .and_then(|_| topology.client.enter(connections)?)
            .and_then(|()| transfer.read(&file));
        let named = waxwing.status();
        is_over.store(true, Ordering::Relaxed);
        let sent = flooding.join().map_err(|_| anyhow!("the flood panicked"))?;
        outcome?;
        sent?;
        let problems = named?.0["problems"].to_string();
        ensure!(
            problems.contains("unassured sessions/s from "),
            "the flood is not named while it lasts: {problems}"
        );
        Ok(())
    })?;
    waxwing.wait_status("the flood to be over", |status| !is_flooded(status))?;
    (2..PARTS).try_for_each(|_| transfer.read(&file))?;
    transfer.finish()?;
    waxwing.stop().map(drop)
}

fn is_flooded(status: &waxwing_tests::Status) -> bool {
    status.0["problems"]
        .to_string()
        .contains("unassured sessions/s")
}

fn config(topology: &Topology, few: Option<&'static str>) -> Config {
    let mut config = Config::new(topology)
        .with(Service::v4("web", "tcp", (WEB, 8080), 1))
        .with(Service::v4("refusing", "tcp", (REFUSING, 9), 1))
        .with(Service::v4("echo", "udp", (ECHO, 5353), 1));
    if let Some(ports) = few {
        for service in &mut config.services {
            service.source_nat = Some("always");
        }
        return config.with_sources(vec![SourceNat {
            clients: Vec::new(),
            addresses: vec!["10.2.0.9"],
            ports,
        }]);
    }
    config.sessions_max = SESSIONS_MAX;
    config
}

/// Sends the flood's packets until it is over.
fn send(
    topology: &Topology,
    packet: impl Fn(u32) -> Packet,
    pause: Duration,
    is_over: &AtomicBool,
) -> Result<()> {
    let wire = topology.client.enter(|| Wire::open("eth0"))??;
    let link = Link {
        source: Mac(topology.client.mac("eth0")?),
        destination: Mac(topology.balancer.mac("front")?),
    };
    let mut numbers = 0..;
    while !is_over.load(Ordering::Relaxed) {
        for n in numbers.by_ref().take(BURST as usize) {
            let (source, flags, port) = packet(n);
            let segment = Tcp {
                link,
                source: (stranger(source).into(), 5000),
                destination: (VIP4.into(), port),
                flags: TcpFlags(flags.unwrap_or(0)),
                acknowledgment: n.wrapping_mul(0x9e37_79b9),
                ..Tcp::default()
            };
            let protocol = flags.map_or(Protocol::Udp, |_| Protocol::Tcp);
            wire.send(&segment.frame_of(protocol))?;
        }
        thread::sleep(pause);
    }
    Ok(())
}

/// An address of RFC 2544's range.
pub(crate) fn stranger(number: u32) -> IpAddr {
    Ipv4Addr::from(0xc612_0000 | number & 0x1_ffff).into()
}

/// Makes new connections, of which none may fail.
fn connections() -> Result<()> {
    (0..CONNECTIONS).try_for_each(|n| {
        fetch().with_context(|| format!("connection {n}"))?;
        let pinger = Pinger::new(SocketAddr::new(VIP4, ECHO), ANSWER)?;
        let mut tries = (0..TRIES).map(|_| pinger.send(n).and_then(|()| pinger.wait(n)));
        let is_answered = tries.any(|answer| answer.is_ok());
        ensure!(is_answered, "datagram {n} is not answered");
        Ok(())
    })
}

fn fetch() -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(VIP4, WEB), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "the answer is {answer:?}"
    );
    Ok(())
}

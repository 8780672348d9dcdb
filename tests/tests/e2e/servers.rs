//! The test bed's own servers, without a balancer: each answers, each fault takes effect and can be undone.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use waxwing_tests::process::{self, retry};
use waxwing_tests::query::{self, ask};
use waxwing_tests::servers::{TLS_NAME, TLS_PORT};
use waxwing_tests::topology::server6;
use waxwing_tests::{Fault, Kind, Layout, Server, Topology, certificate};

use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        every_fault_takes_effect_and_is_undone,
        "nginx",
        "openssl",
        "redis-server",
        "dnsmasq",
        "pg_ctlcluster",
        "mariadbd",
        "nft"
    ),
    scenario!(nginx_presents_its_certificate, "nginx", "openssl", "curl"),
    scenario!(one_server_has_many_ports),
];

/// Returns the expected error of a query during a fault: the possible kinds, and a part of the text.
fn shows(fault: Fault, kind: Kind) -> (&'static [ErrorKind], &'static str) {
    const SILENT: &[ErrorKind] = &[ErrorKind::WouldBlock, ErrorKind::TimedOut];
    match (fault, kind.protocol()) {
        (Fault::Stopped | Fault::Killed | Fault::Rejected, _) => {
            (&[ErrorKind::ConnectionRefused], "refused")
        }
        (Fault::Failing, _) => (&[ErrorKind::Other], "500"),
        _ => (SILENT, ""),
    }
}

fn every_fault_takes_effect_and_is_undone() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    for (number, kind) in (1..=3).cycle().zip(Kind::ALL) {
        let begun = Instant::now();
        let mut server = Server::start(&topology, number, kind)?;
        let took = begun.elapsed();
        let address = server.address();
        let query = || topology.balancer.enter(|| ask(kind, address));
        let address6 = SocketAddr::new(server6(number), kind.port());
        topology.balancer.enter(|| ask(kind, address6))??;
        eprintln!("{server:?} answers after {took:?}: {:?}", query()??.trim());
        for fault in Fault::ALL
            .into_iter()
            .filter(|fault| fault.applies_to(kind))
        {
            let begun = Instant::now();
            server.suffer(fault)?;
            let suffered = begun.elapsed();
            let (errors, words) = shows(fault, kind);
            match query()? {
                Ok(said) => bail!("{kind:?} is {fault:?}, but answers {said}"),
                Err(error) => ensure!(
                    errors.contains(&error.kind()) && error.to_string().contains(words),
                    "{kind:?} is {fault:?}: {error:?}"
                ),
            }
            let begun = Instant::now();
            server.recover(fault)?;
            answers_again(fault, query)?;
            let recovered = begun.elapsed();
            eprintln!("  {fault:?} after {suffered:?}, undone after {recovered:?}");
        }
    }
    topology.servers.iter().try_for_each(|server| {
        let mut command = Command::new("ip");
        let list = command.args(["netns", "pids", server.name()]);
        // Killed processes need some time to disappear.
        retry(Duration::from_secs(1), || {
            let left = process::run(list)?;
            ensure!(left.is_empty(), "{} still has processes", server.name());
            Ok(())
        })
    })
}

/// Repeats a query until the server answers. Packets that were in flight during the fault may fail the first
/// try.
fn answers_again(fault: Fault, query: impl Fn() -> Result<io::Result<String>>) -> Result<()> {
    retry(Duration::from_secs(2), || {
        let answer = query()?.map(drop);
        answer.with_context(|| format!("{fault:?} is undone, but the query fails"))
    })
}

fn nginx_presents_its_certificate() -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    let server = Server::start(&topology, 1, Kind::Nginx)?;
    let strange = certificate::make(topology.scratch.path(), TLS_NAME)?;
    let url = format!("https://{TLS_NAME}:{TLS_PORT}/healthz");
    let address = format!("{TLS_NAME}:{TLS_PORT}:{}", server.address().ip());
    for (roots, is_trusted) in [(server.certificate(), true), (strange, false)] {
        let mut curl = topology.balancer.command("curl");
        curl.args(["-sS", "--max-time", "5", "--resolve", &address, &url]);
        let fetched = process::run(curl.arg("--cacert").arg(&roots));
        ensure!(fetched.is_ok() == is_trusted, "{roots:?}: {fetched:?}");
    }
    Ok(())
}

fn one_server_has_many_ports() -> Result<()> {
    const PORTS: RangeInclusive<u16> = 10_000..=10_999;
    let topology = Topology::new(Layout::with_servers(1))?;
    let begun = Instant::now();
    let server = Server::moody(&topology, 1, PORTS)?;
    eprintln!("{} ports after {:?}", PORTS.len(), begun.elapsed());
    for port in [*PORTS.start(), 10_001, *PORTS.end()] {
        let mut address = server.address();
        address.set_port(port);
        let answer = topology.balancer.enter(|| ask(Kind::Moody, address))??;
        ensure!(answer == "server=1", "port {port}: {answer}");
        let datagram = topology.balancer.enter(|| {
            let socket = query::connect_udp(address)?;
            socket.send(b"?")?;
            let mut answer = [0; 64];
            let len = socket.recv(&mut answer)?;
            io::Result::Ok(String::from_utf8_lossy(&answer[..len]).into_owned())
        })??;
        ensure!(datagram == "server=1\n", "UDP port {port}: {datagram}");
    }
    Ok(())
}

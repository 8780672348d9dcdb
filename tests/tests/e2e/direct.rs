//! Real clients that use one source port towards a VIP and directly towards its server, in every order: each
//! connection gets its own answers, at once.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use waxwing_tests::query::{close, connect_from, get};
use waxwing_tests::topology::{VIP4, VIP6, server4, server6};
use waxwing_tests::{Config, Inline, Layout, Service, Topology, Waxwing, actors};

use crate::figure;
use crate::traffic::web;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        one_port_towards_a_vip_and_its_server_in_every_order,
        "nginx"
    ),
    scenario!(
        one_port_towards_a_vip_and_its_server_across_a_bridge,
        "nginx"
    ),
    scenario!(ports_of_closed_sessions_connect_directly_in_bulk, "nginx").alone(),
];

/// One port towards both: the VIP's endpoint and the server's.
#[derive(Clone, Copy)]
struct Ends {
    vip: SocketAddr,
    server: SocketAddr,
    port: u16,
}

type Order = fn(Ends) -> Result<()>;

const ORDERS: [(&str, Order); 6] = [
    ("direct open, then VIP", |ends| {
        both_open(ends.server, ends.vip, ends.port)
    }),
    ("VIP open, then direct", |ends| {
        both_open(ends.vip, ends.server, ends.port)
    }),
    ("direct closed, then VIP", |ends| {
        one_closed(ends.server, ends.vip, ends.port, false)
    }),
    ("VIP closed by the client, then direct", |ends| {
        one_closed(ends.vip, ends.server, ends.port, false)
    }),
    ("direct closed by the server, then VIP", |ends| {
        one_closed(ends.server, ends.vip, ends.port, true)
    }),
    ("VIP closed by the server, then direct", |ends| {
        one_closed(ends.vip, ends.server, ends.port, true)
    }),
];
/// Each order is tried from as many ports.
const TRIES: u16 = 6;
const UDP_PORT: u16 = 5300;

fn both_open(first: SocketAddr, second: SocketAddr, port: u16) -> Result<()> {
    let mut first = connect_from(port, first).context("the first does not connect")?;
    get(&mut first, "/").context("the first")?;
    let mut second = connect_from(port, second).context("the second does not connect")?;
    for turn in 0..3 {
        get(&mut second, "/").with_context(|| format!("the second, turn {turn}"))?;
        get(&mut first, "/").with_context(|| format!("the first, turn {turn}"))?;
    }
    close(first).context("the first does not close")?;
    get(&mut second, "/").context("the second, after the first")?;
    close(second).context("the second does not close")
}

fn one_closed(first: SocketAddr, second: SocketAddr, port: u16, by_server: bool) -> Result<()> {
    let first = connect_from(port, first).context("the first does not connect")?;
    ask_once(first, by_server).context("the first")?;
    let second = connect_from(port, second).context("the second does not connect")?;
    ask_once(second, by_server).context("the second")
}

/// One request on a connection that one of the ends then closes first.
fn ask_once(mut connection: TcpStream, by_server: bool) -> Result<()> {
    if !by_server {
        get(&mut connection, "/")?;
        return Ok(close(connection)?);
    }
    connection.write_all(b"GET / HTTP/1.1\r\nHost: waxwing\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "it answered {answer:?}");
    Ok(())
}

fn one_port_towards_a_vip_and_its_server_in_every_order() -> Result<()> {
    let topology = Topology::new(Layout {
        servers: 1,
        ..Layout::default()
    })?;
    assert_apart(&topology, web(&topology))
}

fn one_port_towards_a_vip_and_its_server_across_a_bridge() -> Result<()> {
    let topology = figure::network(1, 1)?;
    let _inline = Inline::new(&topology)?;
    assert_apart(&topology, figure::transparent(&topology))
}

fn assert_apart(topology: &Topology, config: Config) -> Result<()> {
    let _nginx = actors::nginx(topology, 1, 8080, 0)?;
    let config = config
        .with(Service::v4("udp", "udp", (UDP_PORT, UDP_PORT), 1))
        .with(Service::v6("udp6", "udp", (UDP_PORT, UDP_PORT), 1));
    let waxwing = Waxwing::start(topology, &config)?;
    let mut failed = BTreeMap::new();
    let mut port = 20_000;
    for (vip, server) in [(VIP4, server4(1)), (VIP6, server6(1))] {
        for (name, order) in ORDERS {
            let mut problems = Vec::new();
            let mut delayed = 0;
            for _ in 0..TRIES {
                port += 1;
                let ends = Ends {
                    vip: (vip, 80).into(),
                    server: (server, 8080).into(),
                    port,
                };
                let before = retransmitted(topology)?;
                if let Err(why) = topology.client.enter(|| order(ends))? {
                    problems.push(format!("{why:#}"));
                } else if retransmitted(topology)? > before {
                    delayed += 1;
                }
            }
            // A busy machine repeats a segment now and then.
            if delayed > TRIES / 3 {
                problems.push(format!("{delayed} of {TRIES} had to repeat segments"));
            }
            if !problems.is_empty() {
                failed.insert((server.is_ipv6(), name), problems);
            }
        }
        for is_vip_first in [true, false] {
            port += 1;
            let outcome = assert_datagrams_apart(topology, (vip, server), port, is_vip_first);
            if let Err(why) = outcome {
                let name = if is_vip_first {
                    "UDP, VIP first"
                } else {
                    "UDP, direct first"
                };
                failed.insert((server.is_ipv6(), name), vec![format!("{why:#}")]);
            }
        }
    }
    for ((is_v6, name), why) in &failed {
        eprintln!("IPv6 {is_v6}, {name}: {why:?}");
    }
    ensure!(failed.is_empty(), "{} orders failed", failed.len());
    waxwing.stop().map(drop)
}

/// The segments that the client's kernel has sent again.
fn retransmitted(topology: &Topology) -> Result<u64> {
    let snmp = topology
        .client
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next(), lines.next());
    let (names, values) = names.zip(values).context("no TCP counters")?;
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs
        .find(|(name, _)| *name == "RetransSegs")
        .context("no RetransSegs")?;
    Ok(value.parse()?)
}

/// An NTP client has one socket for all servers: each answer comes from where its request went.
fn assert_datagrams_apart(
    topology: &Topology,
    (vip, server): (IpAddr, IpAddr),
    port: u16,
    is_vip_first: bool,
) -> Result<()> {
    let any: IpAddr = match vip {
        IpAddr::V4(_) => [0; 4].into(),
        IpAddr::V6(_) => [0; 16].into(),
    };
    let echo = topology.servers[0].enter(|| UdpSocket::bind((server, UDP_PORT)))??;
    let client = topology.client.enter(|| UdpSocket::bind((any, port)))??;
    for socket in [&echo, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    let mut destinations = [server, vip];
    if is_vip_first {
        destinations.reverse();
    }
    for turn in 0..3 {
        for to in destinations {
            client.send_to(b"what time is it?", (to, UDP_PORT))?;
            let mut bytes = [0; 64];
            let (len, seen) = echo.recv_from(&mut bytes).context("no request arrived")?;
            echo.send_to(&bytes[..len], seen)?;
            let (_, from) = client.recv_from(&mut bytes).context("no answer arrived")?;
            ensure!(from.ip() == to, "turn {turn}: {from} answered for {to}");
        }
    }
    Ok(())
}

/// Connections on ports that served a session just before are as fast as others.
fn ports_of_closed_sessions_connect_directly_in_bulk() -> Result<()> {
    const COUNT: u16 = 400;
    let topology = Topology::new(Layout {
        servers: 1,
        ..Layout::default()
    })?;
    let _nginx = actors::nginx(&topology, 1, 8080, 0)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let (vip, server) = ((VIP4, 80).into(), (server4(1), 8080).into());
    let ask_all = |to: SocketAddr, first: u16| -> Result<Duration> {
        let begun = Instant::now();
        topology.client.enter(|| {
            (first..first + COUNT).try_for_each(|port| ask_once(connect_from(port, to)?, true))
        })??;
        Ok(begun.elapsed())
    };
    let alone = ask_all(server, 10_000)?;
    ask_all(vip, 20_000)?;
    let before = retransmitted(&topology)?;
    let reused = ask_all(server, 20_000)?;
    let repeated = retransmitted(&topology)? - before;
    let rate = |took: Duration| f64::from(COUNT) / took.as_secs_f64();
    eprintln!(
        "direct: {:.0} requests/s, from ports of closed sessions: {:.0}, {repeated} segments repeated",
        rate(alone),
        rate(reused)
    );
    // Each one that meets its port's session waits for a second.
    ensure!(
        repeated <= u64::from(COUNT) / 50,
        "{repeated} segments were repeated"
    );
    waxwing.stop().map(drop)
}

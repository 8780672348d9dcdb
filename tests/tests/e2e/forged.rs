//! What strangers forge harms no connection: resets, SYNs and ICMP errors in its name, from both sides, under
//! a flood of SYNs that fills the session table.
//!
//! Invariant: the forgers know all of a connection but its sequence numbers.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_packet::build::{Error, Tcp};
use waxwing_packet::refusal::IcmpError;
use waxwing_packet::{Link, Mac, TcpFlags, VlanTags, ethernet};
use waxwing_tests::inject::Wire;
use waxwing_tests::topology::{VIP4, VIP6, server4, server6};
use waxwing_tests::{Layout, Namespace, Topology, Waxwing, actors};

use crate::traffic::web;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(forgeries_harm_no_transfer, "nginx"),
    scenario!(a_forged_reset_and_syn_move_no_connection),
];

const WAVES: usize = 32;
/// Bytes that a client reads between two waves: the file is under way all the time.
const READ_LEN: usize = 1 << 19;
/// Few enough for a flood to fill the table within a second.
const SESSIONS_MAX: u64 = 1000;
const SYNS_PER_WAVE: u32 = 200;

/// A connection to be harmed: to port 80 of the VIP, and to port 8080 of one of three servers.
struct Connection {
    stream: TcpStream,
    client: (IpAddr, u16),
    vip: (IpAddr, u16),
    server: fn(u8) -> IpAddr,
    received: Vec<u8>,
}

impl Connection {
    fn open(topology: &Topology, vip: IpAddr, server: fn(u8) -> IpAddr) -> Result<Self> {
        let vip = (vip, 80);
        let stream = topology.client.enter(|| TcpStream::connect(vip))??;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        (&stream).write_all(b"GET /data HTTP/1.0\r\n\r\n")?;
        let client = stream.local_addr()?;
        Ok(Self {
            stream,
            client: (client.ip(), client.port()),
            vip,
            server,
            received: Vec::new(),
        })
    }

    /// Reads on, for this many bytes or to the end.
    fn read(&mut self, len: usize) -> Result<()> {
        let begun = self.received.len();
        let mut part = (&self.stream).take(len as u64);
        part.read_to_end(&mut self.received)
            .map(drop)
            .with_context(|| format!("{:?} broke after {begun} bytes", self.vip))
    }
}

fn forgeries_harm_no_transfer() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let file_len = WAVES * READ_LEN;
    let _servers = (1..=3)
        .map(|number| actors::nginx(&topology, number, 8080, file_len))
        .collect::<Result<Vec<_>>>()?;
    let mut config = web(&topology);
    config.sessions_max = SESSIONS_MAX;
    let waxwing = Waxwing::start(&topology, &config)?;
    let mut attack = Attack::new(&topology)?;
    let mut connections = [
        Connection::open(&topology, VIP4, server4)?,
        Connection::open(&topology, VIP6, server6)?,
    ];
    for _ in 0..WAVES {
        for connection in &mut connections {
            attack.wave(connection)?;
            connection.read(READ_LEN)?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    let file = fs::read(topology.scratch.path().join("nginx1/www/data"))?;
    for connection in &mut connections {
        connection.read(file_len)?;
        ensure!(
            connection.received.ends_with(&file),
            "{:?}: the file changed",
            connection.vip
        );
    }
    // Else it proves little: they were taken for the connections', and the table was full.
    let status = waxwing.status()?;
    for name in ["errors_passed", "evicted"] {
        let count = status.counted(name);
        eprintln!("{name}: {count}");
        ensure!(count > 0, "nothing was counted under {name}: {status}");
    }
    waxwing.stop().map(drop)
}

/// A SYN may take the place of a connection that is over; but one that a forged RST seems to end is not.
/// Where the SYN went to another server, the client's next segment would be answered with RST.
fn a_forged_reset_and_syn_move_no_connection() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let mut attack = Attack::new(&topology)?;
    for vip in [VIP4, VIP6] {
        let stream = topology.client.enter(|| TcpStream::connect((vip, 80)))??;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let before = ask(&stream).with_context(|| format!("{vip} before"))?;
        // What the answer left to acknowledge is done.
        thread::sleep(Duration::from_millis(200));
        let client = stream.local_addr()?;
        attack.waves += 1;
        let (wire, link) = &attack.clients;
        for flags in [TcpFlags::RST, TcpFlags::SYN] {
            let segment = attack.segment(*link, (client.ip(), client.port()), (vip, 80), flags);
            wire.send(&segment.frame())?;
            // In a batch of its own.
            thread::sleep(Duration::from_millis(100));
        }
        let after = ask(&stream).with_context(|| format!("{vip} after the forgeries"))?;
        ensure!(before == after, "{vip}: {before}, then {after}");
    }
    waxwing.stop().map(drop)
}

/// Asks who serves a connection: the last line of the answer.
fn ask(mut stream: &TcpStream) -> Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: vip\r\n\r\n")?;
    let mut answer = String::new();
    let mut part = [0; 1024];
    loop {
        let len = stream.read(&mut part)?;
        ensure!(len > 0, "it was closed after: {answer}");
        answer.push_str(std::str::from_utf8(&part[..len])?);
        let server = answer.trim_end().rsplit('\n').next().unwrap_or_default();
        if answer.ends_with('\n') && server.starts_with("server=") {
            return Ok(server.to_owned());
        }
    }
}

/// Strangers on both sides. They come by the routers that the connections come by, which here are the
/// client and a server.
struct Attack {
    clients: (Wire, Link),
    servers: (Wire, Link),
    waves: u32,
}

impl Attack {
    fn new(topology: &Topology) -> Result<Self> {
        let balancer = &topology.balancer;
        let wire = |from: &Namespace, port: &str| -> Result<_> {
            let link = Link {
                source: Mac(from.mac("eth0")?),
                destination: Mac(balancer.mac(port)?),
            };
            Ok((from.enter(|| Wire::open("eth0"))??, link))
        };
        Ok(Self {
            clients: wire(&topology.client, "front")?,
            servers: wire(&topology.servers[0], "back")?,
            waves: 0,
        })
    }

    fn wave(&mut self, connection: &Connection) -> Result<()> {
        self.waves += 1;
        self.strike(&self.clients, connection.client, connection.vip)?;
        for number in 1..=3 {
            let server = ((connection.server)(number), 8080);
            self.strike(&self.servers, server, connection.client)?;
        }
        self.flood(connection.vip)
    }

    /// Forges all that could end a connection or move it, from one end to the other.
    fn strike(
        &self,
        (wire, link): &(Wire, Link),
        source: (IpAddr, u16),
        destination: (IpAddr, u16),
    ) -> Result<()> {
        for flags in [TcpFlags::RST, TcpFlags::RST | TcpFlags::ACK, TcpFlags::SYN] {
            wire.send(&self.segment(*link, source, destination, flags).frame())?;
        }
        let quoted = self.segment(*link, destination, source, TcpFlags::ACK);
        for (kind, code, parameter) in errors(source.0) {
            let error = Error {
                link: *link,
                source: router(source.0).into(),
                destination: destination.0.into(),
                error: IcmpError {
                    kind: *kind,
                    code: *code,
                    parameter: *parameter,
                },
                quote: &quoted.frame()[ethernet::HEADER_LEN..],
                tags: VlanTags::NONE,
                hop_limit: 64,
            };
            wire.send(&error.frame())?;
        }
        Ok(())
    }

    fn segment(
        &self,
        link: Link,
        source: (IpAddr, u16),
        destination: (IpAddr, u16),
        flags: u8,
    ) -> Tcp<'static> {
        Tcp {
            link,
            source: (source.0.into(), source.1),
            destination: (destination.0.into(), destination.1),
            flags: TcpFlags(flags),
            // Far apart, so that all but a few of all numbers lie outside of any window.
            sequence: self.waves.wrapping_mul(0x9e37_79b9),
            ..Tcp::default()
        }
    }

    /// Begins connections that nobody goes on with.
    fn flood(&self, vip: (IpAddr, u16)) -> Result<()> {
        let (wire, link) = &self.clients;
        for number in 0..SYNS_PER_WAVE {
            let source = stranger(vip.0, self.waves * SYNS_PER_WAVE + number);
            let syn = self.segment(*link, (source, 1024), vip, TcpFlags::SYN);
            wire.send(&syn.frame())?;
        }
        Ok(())
    }
}

/// Type, code and parameter of errors that end something where they are believed: unreachable in
/// several ways, time exceeded, and MTUs that no link has.
fn errors(family: IpAddr) -> &'static [(u8, u8, u32)] {
    match family {
        IpAddr::V4(_) => &[
            (3, 0, 0),
            (3, 1, 0),
            (3, 2, 0),
            (3, 3, 0),
            (3, 13, 0),
            (11, 0, 0),
            (3, 4, 0),
            (3, 4, 68),
        ],
        IpAddr::V6(_) => &[
            (1, 0, 0),
            (1, 1, 0),
            (1, 3, 0),
            (1, 4, 0),
            (3, 0, 0),
            (2, 0, 0),
            (2, 0, 68),
        ],
    }
}

/// A router that says what the forgers want it to.
fn router(family: IpAddr) -> IpAddr {
    stranger(family, u32::from(u16::MAX))
}

/// An address that nobody has, of a family (RFC 2544's and RFC 3849's ranges).
fn stranger(family: IpAddr, number: u32) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from(0xc612_0000 | (number & 0x1_ffff)).into(),
        IpAddr::V6(_) => {
            Ipv6Addr::from((0x2001_0db8_u128 << 96) | 1 << 80 | u128::from(number)).into()
        }
    }
}

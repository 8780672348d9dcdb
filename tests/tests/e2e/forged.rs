//! Connections survive attacks: forged resets, SYNs and ICMP errors from both sides, a SYN flood that fills
//! the session table, and malformed frames.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use waxwing_packet::{Mac, TcpFlags, VlanTags};
use waxwing_testkit::build;
use waxwing_tests::config::Service;
use waxwing_tests::topology::{CLIENT4, VIP4, VIP6, server4, server6};
use waxwing_tests::{Layout, Namespace, Topology, Waxwing, actors};

use crate::attack::{Attack, Endpoint};
use crate::traffic::web;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(
        a_thousand_transfers_survive_forgeries_floods_and_failovers,
        "nginx"
    )
    .alone(),
    scenario!(a_forged_reset_and_syn_move_no_connection),
    scenario!(no_side_is_believed_for_the_other),
];

const TRANSFERS: usize = 1000;
const SERVERS: [u8; 3] = [1, 2, 3];
const WAVES: u8 = 8;
/// Bytes that each client reads between two waves. Socket buffers hold no more than that, so that all
/// transfers stay in progress.
pub(crate) const READ_LEN: usize = 32 << 10;
/// Session limit, small enough for a flood to fill the table.
const SESSIONS_MAX: u64 = 2000;
const SYNS_PER_WAVE: u32 = 2000;
const GARBAGE_PER_WAVE: usize = 3000;

/// A download in progress from port 80 of a VIP, which is forwarded to port 8080 of one of the servers.
pub(crate) struct Transfer {
    stream: TcpStream,
    client: Endpoint,
    vip: Endpoint,
    servers: [Endpoint; SERVERS.len()],
    received: usize,
}

impl Transfer {
    pub(crate) fn open(vip: IpAddr) -> Result<Self> {
        let server = if vip.is_ipv4() { server4 } else { server6 };
        let vip = (vip, 80);
        let mut stream = TcpStream::connect(vip)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        // A client that only waits for lost segments sends nothing, and its new MAC address would not be
        // learned.
        setsockopt(&stream, sockopt::KeepAlive, &true)?;
        setsockopt(&stream, sockopt::TcpKeepIdle, &1)?;
        setsockopt(&stream, sockopt::TcpKeepInterval, &1)?;
        stream.write_all(b"GET /data HTTP/1.0\r\n\r\n")?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        ensure!(head.starts_with(b"HTTP/1.1 200"), "the answer is not 200");
        let client = stream.local_addr()?;
        Ok(Self {
            client: (client.ip(), client.port()),
            vip,
            servers: SERVERS.map(|number| (server(number), 8080)),
            stream,
            received: 0,
        })
    }

    /// Reads the next part, and compares it with the file.
    pub(crate) fn read(&mut self, file: &[u8]) -> Result<()> {
        let mut part = vec![0; READ_LEN];
        let at = self.received;
        let broke = || format!("{:?} failed after {at} bytes", self.client);
        self.stream.read_exact(&mut part).with_context(broke)?;
        self.received += READ_LEN;
        ensure!(
            part == file[at..self.received],
            "{:?}: the data was altered",
            self.client
        );
        Ok(())
    }

    /// Asserts that the server closes the connection after the last part.
    pub(crate) fn finish(mut self) -> Result<()> {
        let left = self.stream.read(&mut [0]);
        ensure!(matches!(left, Ok(0)), "{:?}: {left:?}", self.client);
        Ok(())
    }
}

/// Makes socket buffers so small that a transfer is in progress until its last part is read.
pub(crate) fn small_buffers(topology: &Topology) -> Result<()> {
    let small = format!("4096 {} {}", READ_LEN / 2, READ_LEN / 2);
    topology
        .servers
        .iter()
        .chain([&topology.client])
        .try_for_each(|host| {
            host.sysctl(&[
                &format!("net.ipv4.tcp_rmem={small}"),
                &format!("net.ipv4.tcp_wmem={small}"),
            ])
        })
}

/// All at once: resets, SYNs and ICMP errors are forged for each connection, from both sides; half-open
/// sessions fill the table; malformed frames of every kind arrive; and the gateways on both sides fail over.
fn a_thousand_transfers_survive_forgeries_floods_and_failovers() -> Result<()> {
    allow_files(4 * TRANSFERS as u64)?;
    let topology = Topology::new(Layout::default())?;
    let file_len = usize::from(WAVES) * READ_LEN;
    let _servers = SERVERS
        .into_iter()
        .map(|number| actors::nginx(&topology, number, 8080, file_len))
        .collect::<Result<Vec<_>>>()?;
    small_buffers(&topology)?;
    for host in topology.servers.iter().chain([&topology.client]) {
        host.sysctl(&[
            "net.ipv4.conf.eth0.arp_notify=1",
            "net.ipv6.conf.eth0.ndisc_notify=1",
        ])?;
    }
    let mut config = web(&topology);
    config.sessions_max = SESSIONS_MAX;
    let waxwing = Waxwing::start(&topology, &config)?;
    let mut attack = Attack::new(&topology)?;
    let file = fs::read(topology.scratch.path().join("nginx1/www/data"))?;
    let mut transfers = topology.client.enter(|| {
        let vips = [VIP4, VIP6].into_iter().cycle().take(TRANSFERS);
        vips.map(Transfer::open).collect::<Result<Vec<_>>>()
    })??;

    for wave in 0..WAVES {
        for transfer in &transfers {
            attack.strike(transfer.client, transfer.vip, &transfer.servers)?;
        }
        for vip in [VIP4, VIP6] {
            attack.flood((vip, 80), SYNS_PER_WAVE / 2)?;
        }
        attack.clients.garbage(GARBAGE_PER_WAVE)?;
        attack.servers.garbage(GARBAGE_PER_WAVE)?;
        attack.clients.fail_over(fail_over(&topology.client, wave)?);
        attack
            .servers
            .fail_over(fail_over(&topology.servers[0], wave)?);
        let read = transfers.iter_mut().try_for_each(|it| it.read(&file));
        read.with_context(|| format!("wave {wave}: {:?}", waxwing.status()))?;
    }
    for transfer in transfers {
        transfer.finish()?;
    }

    // Asserts that the attack took effect: the balancer matched forged errors to sessions, and the table was
    // full.
    let status = waxwing.status()?;
    for name in ["icmp_errors_forwarded", "sessions_evicted"] {
        let count = status.counted(name);
        eprintln!("{name}: {count}");
        ensure!(count > 0, "`{name}` is 0: {status}");
    }
    ensure!(
        status.dropped("malformed") > 0,
        "no malformed frame arrived: {status}"
    );
    waxwing.stop().map(drop)
}

/// Fails a gateway over: its addresses get a new MAC address, which it announces.
fn fail_over(gateway: &Namespace, wave: u8) -> Result<Mac> {
    let mac = Mac([2, 0, 0, 0, 0xfa, wave]);
    gateway.ip(&format!("link set eth0 address {mac}\n"))?;
    Ok(mac)
}

/// Raises the limit of open files for this process and its children.
fn allow_files(count: u64) -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < count {
        setrlimit(Resource::RLIMIT_NOFILE, count, hard.max(count))
            .context("cannot raise the limit of open files")?;
    }
    Ok(())
}

/// A SYN may replace a closed session, but a forged RST does not close a session. If the SYN moved the
/// session to another server, that server would answer the client's next segment with RST.
fn a_forged_reset_and_syn_move_no_connection() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let attack = Attack::new(&topology)?;
    for vip in [VIP4, VIP6] {
        let stream = topology.client.enter(|| TcpStream::connect((vip, 80)))??;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let before = ask(&stream).with_context(|| format!("{vip} before"))?;
        // Waits until the client has acknowledged the answer.
        thread::sleep(Duration::from_millis(200));
        let client = stream.local_addr()?;
        let ends = ((client.ip(), client.port()), (vip, 80));
        for flags in [TcpFlags::RST, TcpFlags::SYN] {
            attack.segment(&attack.clients, ends, flags)?;
            // Waits, so that the next segment is in another batch.
            thread::sleep(Duration::from_millis(100));
        }
        let after = ask(&stream).with_context(|| format!("{vip} after the forgeries"))?;
        ensure!(before == after, "{vip}: {before}, then {after}");
    }
    waxwing.stop().map(drop)
}

/// A host in the clients' network answers for a server, one in the servers' network speaks for a client, and
/// one pings the VIP in its own name: each is dropped under its reason, and the honest packets pass.
/// Packets of each kind that an attacker sends.
const FORGED: u64 = 20;

fn no_side_is_believed_for_the_other() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = actors::http_servers(&topology, 8080)?;
    let config = web(&topology).with(Service::v4("dns", "udp", (53, 5353), 1));
    let waxwing = Waxwing::start(&topology, &config)?;
    let attack = Attack::new(&topology)?;

    let server = topology.servers[0].enter(|| UdpSocket::bind((server4(1), 5353)))??;
    let client = topology.client.enter(|| UdpSocket::bind((CLIENT4, 0)))??;
    for socket in [&server, &client] {
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    }
    client.send_to(b"who?", (VIP4, 53))?;
    let mut answer = [0; 16];
    let (_, from) = server.recv_from(&mut answer).context("no request")?;
    for _ in 0..FORGED {
        attack.clients.send(|link| {
            let udp = build::Udp {
                link,
                source: (server4(1).into(), 5353),
                destination: (from.ip().into(), from.port()),
                payload: b"forged",
                ..Default::default()
            };
            udp.frame()
        })?;
    }
    thread::sleep(Duration::from_millis(200));
    server.send_to(b"honest", from)?;
    let (len, _) = client.recv_from(&mut answer).context("no answer")?;
    ensure!(answer[..len] == *b"honest", "a forged answer arrived");

    let stream = topology.client.enter(|| TcpStream::connect((VIP4, 80)))??;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let before = ask(&stream)?;
    let address = stream.local_addr()?;
    let ends = ((address.ip(), address.port()), (VIP4, 80));
    for _ in 0..FORGED {
        attack.segment(&attack.servers, ends, TcpFlags::ACK)?;
    }
    thread::sleep(Duration::from_millis(200));
    let after = ask(&stream).context("after the forged acknowledgments")?;
    ensure!(before == after, "{before}, then {after}");

    announce_each_other(&attack)?;
    client.send_to(b"who now?", (VIP4, 53))?;
    let (_, from) = server
        .recv_from(&mut answer)
        .context("the request is not the server's")?;
    server.send_to(b"still honest", from)?;
    let (len, _) = client
        .recv_from(&mut answer)
        .context("the answer is not the client's")?;
    ensure!(answer[..len] == *b"still honest", "a forged answer arrived");

    attack.clients.send(|link| {
        let ping = build::Echo {
            link,
            source: VIP4.into(),
            destination: VIP4.into(),
            ..Default::default()
        };
        ping.frame()
    })?;
    thread::sleep(Duration::from_millis(200));
    let status = waxwing.status()?;
    for (reason, count) in [
        ("spoofed_reply", FORGED),
        ("spoofed_request", FORGED),
        ("martian", 1),
    ] {
        let dropped = status.dropped(reason);
        ensure!(dropped == count, "{dropped} dropped as {reason}: {status}");
    }
    waxwing.stop().map(drop)
}

/// Each side's attacker announces an address of the other side as its own.
fn announce_each_other(attack: &Attack) -> Result<()> {
    for (side, address) in [(&attack.clients, server4(1)), (&attack.servers, CLIENT4)] {
        for _ in 0..FORGED {
            side.send(|link| build::announcement(link.source, VlanTags::NONE, address.into()))?;
        }
    }
    thread::sleep(Duration::from_millis(200));
    Ok(())
}

/// Sends a request, and returns the answering server: the last line of the answer.
fn ask(mut stream: &TcpStream) -> Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: vip\r\n\r\n")?;
    let mut answer = String::new();
    let mut part = [0; 1024];
    loop {
        let len = stream.read(&mut part)?;
        ensure!(len > 0, "the connection was closed after: {answer}");
        answer.push_str(std::str::from_utf8(&part[..len])?);
        let server = answer.trim_end().rsplit('\n').next().unwrap_or_default();
        if answer.ends_with('\n') && server.starts_with("server=") {
            return Ok(server.to_owned());
        }
    }
}

//! ICMP errors reach the sender of the packet: too big, time exceeded and unreachable, both errors that the
//! balancer forwards and errors that it sends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::sockopt::{Ipv4RecvErr, Ipv6RecvErr, Ipv6Ttl};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use waxwing_tests::topology::{self, CLIENT4, CLIENT6, VIP4, VIP6, VipRoute};
use waxwing_tests::{Config, Detour, Layout, Namespace, Service, Topology, Waxwing, actors};

use crate::traffic::iperf3;
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(a_narrow_link_on_the_servers_side_is_found, "iperf3").heavy(),
    scenario!(a_narrow_link_on_the_clients_side_is_found, "iperf3").heavy(),
    scenario!(a_narrow_port_is_found, "iperf3").heavy(),
    scenario!(a_trace_sees_the_vip_at_every_hop),
    scenario!(a_closed_port_of_a_server_is_refused_to_the_client),
    scenario!(a_datagram_that_may_be_fragmented_arrives_whole),
    scenario!(a_datagram_that_may_not_be_fragmented_is_refused),
];

/// The minimum MTU of IPv6, and so of a link that both families use.
const NARROW: u32 = 1280;
/// Bytes in a datagram that fits a standard Ethernet link, but not a narrow link.
const LARGE: usize = 1400;
const PORT: u16 = 5201;

/// Returns a topology with one server, in which the client reaches the VIPs through a gateway.
fn network() -> Result<Topology> {
    Topology::new(Layout {
        servers: 1,
        vips: VipRoute::Gateway,
        ..Layout::default()
    })
}

pub(crate) fn services(topology: &Topology, protocol: &'static str) -> Config {
    Config::new(topology)
        .with(Service::v4("four", protocol, (PORT, PORT), 1))
        .with(Service::v6("six", protocol, (PORT, PORT), 1))
}

fn a_narrow_link_on_the_servers_side_is_found() -> Result<()> {
    assert_narrow_link_found("back")
}

fn a_narrow_link_on_the_clients_side_is_found() -> Result<()> {
    assert_narrow_link_found("front")
}

/// Streams in both directions through a narrow link between two routers. Both ends learn its MTU only from
/// the routers' ICMP errors: without them no segment of full size arrives.
fn assert_narrow_link_found(port: &str) -> Result<()> {
    let topology = network()?;
    let _detour = Detour::new(&topology, port, NARROW)?;
    let _server = actors::iperf3_server(&topology.servers[0], PORT)?;
    let waxwing = Waxwing::start(&topology, &services(&topology, "tcp"))?;
    for vip in [VIP4, VIP6] {
        for direction in [&[][..], &["--reverse"]] {
            assert_streams(&topology, vip, direction)?;
        }
    }
    // In one direction the router that sends the error is the sender's neighbour; in the other direction the
    // balancer forwards the error.
    let passed = waxwing.status()?.counted("icmp_errors_forwarded");
    ensure!(passed >= 2, "only {passed} errors were forwarded");
    waxwing.stop().map(drop)
}

/// The balancer itself is the router before the narrow link, and sends the errors. Only the direction out of
/// the narrow port is tested: for the other direction the router at the link's other end would send them, and
/// this network has none.
fn a_narrow_port_is_found() -> Result<()> {
    for (port, direction) in [("back", &[][..]), ("front", &["--reverse"])] {
        let topology = network()?;
        topology
            .balancer
            .ip(&format!("link set {port} mtu {NARROW}\n"))?;
        let _server = actors::iperf3_server(&topology.servers[0], PORT)?;
        let waxwing = Waxwing::start(&topology, &services(&topology, "tcp"))?;
        for vip in [VIP4, VIP6] {
            assert_streams(&topology, vip, direction)?;
        }
        let sent = waxwing.status()?.counted("too_big_sent");
        ensure!(
            sent >= 2,
            "{port}: the balancer sent only {sent} ICMP errors"
        );
        waxwing.stop()?;
    }
    Ok(())
}

fn assert_streams(topology: &Topology, vip: IpAddr, direction: &[&str]) -> Result<()> {
    let report = iperf3(topology, vip, &[&["--time", "1"], direction].concat())?;
    let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
    eprintln!("{vip} {direction:?}: {received} bytes");
    ensure!(
        received > 1 << 20,
        "{vip} {direction:?}: only {received} bytes arrived"
    );
    for (from, to) in [(&topology.client, vip), (&topology.servers[0], ends(vip).0)] {
        report_path(from, to)?;
        // A host that knows the path MTU announces it to its peer, which would then have nothing to discover.
        from.run("ip", &["route", "flush", "cache"])?;
        from.run("ip", &["-6", "route", "flush", "cache"])?;
    }
    Ok(())
}

/// Prints the path MTU that a host has learned.
fn report_path(from: &Namespace, to: IpAddr) -> Result<()> {
    let route = from.run("ip", &["route", "get", &to.to_string()])?;
    let mtu = route.split_once(" mtu ").map(|(_, rest)| rest);
    let mtu = mtu.and_then(|rest| rest.split_whitespace().next());
    eprintln!("{} to {to}: MTU {mtu:?}", from.name());
    Ok(())
}

/// Of the three hops the last two are routers on the servers' side. All errors come from the VIP, so that
/// clients do not see these routers.
fn a_trace_sees_the_vip_at_every_hop() -> Result<()> {
    let topology = network()?;
    let _detour = Detour::new(&topology, "back", 1500)?;
    let waxwing = Waxwing::start(&topology, &services(&topology, "udp"))?;
    for (vip, time_exceeded) in [(VIP4, (11, 0)), (VIP6, (3, 0))] {
        let server = server(&topology, vip)?;
        let client = client(&topology, vip)?;
        match vip {
            IpAddr::V4(_) => setsockopt(&client, Ipv4RecvErr, &true)?,
            IpAddr::V6(_) => setsockopt(&client, Ipv6RecvErr, &true)?,
        }
        for hops in 1..=3 {
            set_hop_limit(&client, vip, hops)?;
            client.send(b"trace")?;
            let error = failure(&client, vip)?;
            ensure!(
                error == Errno::EHOSTUNREACH,
                "{vip} at hop {hops}: {error}, not time exceeded"
            );
            let error = received_error(&client)?;
            ensure!(
                error == (time_exceeded, vip),
                "{vip} at hop {hops}: the ICMP error was {error:?}"
            );
        }
        set_hop_limit(&client, vip, 4)?;
        client.send(b"arrives")?;
        let datagram = receive(&server)?.0;
        ensure!(datagram == b"arrives", "{vip}: {datagram:?} arrived");
    }
    let sent = waxwing.status()?.counted("time_exceeded_sent");
    ensure!(
        sent == 2,
        "the balancer itself sent {sent} ICMP errors, not 2"
    );
    waxwing.stop().map(drop)
}

fn set_hop_limit(socket: &UdpSocket, vip: IpAddr, hops: u8) -> Result<()> {
    match vip {
        IpAddr::V4(_) => socket.set_ttl(hops.into())?,
        IpAddr::V6(_) => setsockopt(socket, Ipv6Ttl, &hops.into())?,
    }
    Ok(())
}

/// Returns the last ICMP error that a socket received: its type and code, and its sender.
fn received_error(socket: &UdpSocket) -> Result<((u8, u8), IpAddr)> {
    let mut space = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut [],
        Some(&mut space),
        MsgFlags::MSG_ERRQUEUE,
    )?;
    for control in message.cmsgs()? {
        let (error, from) = match control {
            ControlMessageOwned::Ipv4RecvErr(error, Some(from)) => {
                let from = Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr));
                (error, IpAddr::V4(from))
            }
            ControlMessageOwned::Ipv6RecvErr(error, Some(from)) => {
                (error, IpAddr::V6(Ipv6Addr::from(from.sin6_addr.s6_addr)))
            }
            _ => continue,
        };
        return Ok(((error.ee_type, error.ee_code), from));
    }
    bail!("the socket has no ICMP error queued")
}

fn a_closed_port_of_a_server_is_refused_to_the_client() -> Result<()> {
    let topology = network()?;
    let waxwing = Waxwing::start(&topology, &services(&topology, "udp"))?;
    for vip in [VIP4, VIP6] {
        let client = client(&topology, vip)?;
        client.send(b"anybody?")?;
        let error = failure(&client, vip)?;
        ensure!(error == Errno::ECONNREFUSED, "{vip}: {error}, not refused");
    }
    waxwing.stop().map(drop)
}

/// Requests and replies, each sent out of a port with a smaller MTU.
fn a_datagram_that_may_be_fragmented_arrives_whole() -> Result<()> {
    for port in ["back", "front"] {
        let topology = network()?;
        topology
            .balancer
            .ip(&format!("link set {port} mtu {NARROW}\n"))?;
        // Without path MTU discovery, sockets allow routers to fragment their datagrams.
        for host in [&topology.client, &topology.servers[0]] {
            host.sysctl(&["net.ipv4.ip_no_pmtu_disc=1"])?;
        }
        let waxwing = Waxwing::start(&topology, &services(&topology, "udp"))?;
        let (server, client) = (server(&topology, VIP4)?, client(&topology, VIP4)?);
        let (mut question, mut answer) = (large(LARGE), b"small".to_vec());
        if port == "front" {
            std::mem::swap(&mut question, &mut answer);
        }
        for _ in 0..3 {
            client.send(&question)?;
            let (datagram, from) = receive(&server).context("at the server")?;
            ensure!(datagram == question, "{port}: the question was altered");
            server.send_to(&answer, from)?;
            let (datagram, _) = receive(&client).context("at the client")?;
            ensure!(datagram == answer, "{port}: the answer was altered");
        }
        let cut = waxwing.status()?.counted("packets_fragmented");
        ensure!(cut == 3, "{port}: {cut} datagrams were fragmented, not 3");
        waxwing.stop()?;
    }
    Ok(())
}

/// IPv6 routers do not fragment. The sender learns the path MTU from the error about its first datagram, and
/// fragments later datagrams itself.
fn a_datagram_that_may_not_be_fragmented_is_refused() -> Result<()> {
    let topology = network()?;
    topology
        .balancer
        .ip(&format!("link set back mtu {NARROW}\n"))?;
    let waxwing = Waxwing::start(&topology, &services(&topology, "udp"))?;
    let (server, client) = (server(&topology, VIP6)?, client(&topology, VIP6)?);
    client.send(&large(LARGE))?;
    let error = failure(&client, VIP6)?;
    ensure!(error == Errno::EMSGSIZE, "{error}, not EMSGSIZE");
    client.send(b"small")?;
    let datagram = receive(&server)?.0;
    ensure!(datagram == b"small", "{datagram:?} arrived");
    waxwing.stop().map(drop)
}

/// Returns a payload of this length in which no two fragments are equal.
pub(crate) fn large(len: usize) -> Vec<u8> {
    (0_u8..251).cycle().take(len).collect()
}

/// Returns the client's address and the server's address of a VIP's family.
fn ends(vip: IpAddr) -> (IpAddr, IpAddr) {
    match vip {
        IpAddr::V4(_) => (CLIENT4, topology::server4(1)),
        IpAddr::V6(_) => (CLIENT6, topology::server6(1)),
    }
}

/// Returns a UDP socket of the client, connected to a VIP.
pub(crate) fn client(topology: &Topology, vip: IpAddr) -> Result<UdpSocket> {
    let socket = socket(&topology.client, (ends(vip).0, 0).into())?;
    socket.connect((vip, PORT))?;
    Ok(socket)
}

/// Returns the UDP socket of the server behind a VIP.
pub(crate) fn server(topology: &Topology, vip: IpAddr) -> Result<UdpSocket> {
    socket(&topology.servers[0], (ends(vip).1, PORT).into())
}

pub(crate) fn socket(at: &Namespace, address: SocketAddr) -> Result<UdpSocket> {
    let socket = at.enter(|| UdpSocket::bind(address))??;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    Ok(socket)
}

pub(crate) fn receive(socket: &UdpSocket) -> Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; 10_000];
    let (len, from) = socket.recv_from(&mut buffer).context("nothing arrived")?;
    buffer.truncate(len);
    Ok((buffer, from))
}

/// Returns the error that a socket gets when it receives, instead of an answer.
pub(crate) fn failure(socket: &UdpSocket, vip: IpAddr) -> Result<Errno> {
    let error: io::Error = match socket.recv(&mut [0; 2 * LARGE]) {
        Ok(len) => bail!("{vip}: {len} bytes arrived, and no error"),
        Err(error) => error,
    };
    let number = error.raw_os_error().context("not an error of the kernel")?;
    Ok(Errno::from_raw(number))
}

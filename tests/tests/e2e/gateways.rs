//! Next hops to clients and servers: gateways that fail over to another MAC address, replies that follow the
//! kernel's routes instead of the request's last hop, and VLANs.
//!
//! Invariant: in scenarios about gateways, clients are in a network behind the client's host, which is the
//! balancer's gateway to them.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use waxwing_packet::{Link, Mac, Packet, TcpFlags, VlanTag, VlanTags, ethernet, parse};
use waxwing_testkit::build::{ArpRequest, Tcp};
use waxwing_tests::inject::Wire;
use waxwing_tests::netns::{VethOptions, veth};
use waxwing_tests::process::retry;
use waxwing_tests::topology::{VIP4, VIP6, server4, server6};
use waxwing_tests::{Capture, Config, Layout, Service, Topology, Waxwing};

use crate::figure::QUIET;
use crate::recovery::{Downloads, start_nginx};
use crate::traffic::{assert_both_served, curl, host, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(connections_follow_a_gateway_to_its_new_mac, "nginx", "curl"),
    scenario!(replies_follow_the_kernels_routes, "curl"),
    scenario!(nexthop_objects_are_followed, "curl"),
    scenario!(a_change_of_routes_moves_live_downloads, "nginx", "curl"),
    scenario!(a_client_in_a_vlan_is_answered_in_it, "tcpdump"),
    scenario!(
        backends_behind_a_vlan_device_are_reached,
        "curl",
        crate::VLAN_DEVICES
    ),
];

/// Addresses of a client in the network behind the client's host.
const BEHIND4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));
const BEHIND6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 7));

/// Returns a topology in which the client's host is the gateway to the clients.
fn topology() -> Result<Topology> {
    let topology = Topology::new(Layout::default())?;
    topology.client.ip(&format!(
        "addr add {BEHIND4}/32 dev lo\naddr add {BEHIND6}/128 dev lo nodad\n"
    ))?;
    topology
        .balancer
        .ip("route add 198.51.100.0/24 via 10.1.0.2\nroute add 2001:db8:51::/48 via fd00:1::2\n")?;
    // The client's host announces a new MAC address, like a gateway that takes over.
    topology.client.sysctl(&[
        "net.ipv4.conf.eth0.arp_notify=1",
        "net.ipv6.conf.eth0.ndisc_notify=1",
    ])?;
    Ok(topology)
}

/// Both ends of a connection through a VIP.
struct Pair {
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    /// Connects from an address of the client to port 90 of the VIP, which is forwarded to port 9090 of
    /// server 1.
    fn open(topology: &Topology, from: IpAddr, vip: IpAddr, server: IpAddr) -> Result<Self> {
        let listener = topology.servers[0].enter(|| TcpListener::bind((server, 9090)))??;
        let client = topology.client.enter(|| connect(from, vip))??;
        let (server, _) = listener.accept().context("cannot accept the connection")?;
        let pair = Self { client, server };
        for stream in [&pair.client, &pair.server] {
            stream.set_read_timeout(Some(Duration::from_secs(4)))?;
        }
        (&pair.client).write_all(b"ask")?;
        let mut question = [0; 3];
        (&pair.server).read_exact(&mut question)?;
        Ok(pair)
    }

    /// Sends data from the server, and asserts that the client receives it within the read timeout.
    fn answer(&self) -> Result<()> {
        (&self.server).write_all(b"answer")?;
        let mut answer = [0; 6];
        (&self.client)
            .read_exact(&mut answer)
            .context("no answer reached the client")
    }
}

/// Connects to port 90 of the VIP from this address.
fn connect(from: IpAddr, vip: IpAddr) -> Result<TcpStream> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket,
    };
    use std::net::SocketAddr;
    use std::os::fd::AsRawFd as _;
    let family = match from {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let address = |ip, port| SockaddrStorage::from(SocketAddr::new(ip, port));
    bind(socket.as_raw_fd(), &address(from, 0))?;
    connect(socket.as_raw_fd(), &address(vip, 90))?;
    Ok(socket.into())
}

fn pairs_config(topology: &Topology) -> Config {
    web(topology)
        .with(Service::v4("pairs", "tcp", (90, 9090), 1))
        .with(Service::v6("pairs6", "tcp", (90, 9090), 1))
}

fn connections_follow_a_gateway_to_its_new_mac() -> Result<()> {
    let topology = topology()?;
    let servers = start_nginx(&topology)?;
    let waxwing = Waxwing::start(&topology, &pairs_config(&topology))?;
    let pairs = [
        Pair::open(&topology, BEHIND4, VIP4, server4(1))?,
        Pair::open(&topology, BEHIND6, VIP6, server6(1))?,
    ];
    let downloads = Downloads::start(&topology, servers, [BEHIND4, BEHIND6])?;
    waxwing.wait_status("the gateways' MAC addresses", |status| {
        status
            .gateways()
            .values()
            .filter(|mac| mac.is_some())
            .count()
            == 2
    })?;
    for turn in 1..=3 {
        let mac = format!("02:00:00:00:66:{turn:02x}");
        // The kernel accepts no new MAC address for an entry that is younger than a second (`locktime`).
        thread::sleep(Duration::from_millis(1100));
        topology
            .client
            .ip(&format!("link set eth0 address {mac}\n"))?;
        waxwing.wait_status("the gateways' new MAC address", |status| {
            let gateways = status.gateways();
            gateways.len() == 2 && gateways.values().all(|known| *known == Some(&mac))
        })?;
        // The client sends nothing, so that the balancer cannot learn the new MAC address from its packets.
        for pair in &pairs {
            pair.answer()?;
        }
    }
    downloads.finish()?;
    ensure!(
        waxwing.status()?.drops().is_empty(),
        "frames were dropped: {:?}",
        waxwing.status()?.drops()
    );
    waxwing.stop().map(drop)
}

/// Adds a second link between the client's host and the balancer, which only carries replies.
fn second_link(topology: &Topology) -> Result<()> {
    veth(
        (&topology.client, "eth1"),
        (&topology.balancer, "aside"),
        VethOptions::default(),
    )?;
    topology
        .client
        .ip("addr add 10.3.0.2/24 dev eth1\naddr add fd00:3::2/64 dev eth1 nodad\n")?;
    topology
        .balancer
        .ip("addr add 10.3.0.1/24 dev aside\naddr add fd00:3::1/64 dev aside nodad\n")?;
    // Replies arrive on another interface than requests leave by; the reverse-path filter would drop them.
    topology.client.sysctl(&[
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.eth1.rp_filter=0",
    ])
}

const BY_SECOND: &str = "route replace 198.51.100.0/24 via 10.3.0.2\n\
                         route replace 2001:db8:51::/48 via fd00:3::2\n";
const BY_FIRST: &str = "route replace 198.51.100.0/24 via 10.1.0.2\n\
                        route replace 2001:db8:51::/48 via fd00:1::2\n";

fn by_route(topology: &Topology) -> Config {
    let mut config = web(topology);
    config.return_path = Some("route");
    config.ports.push(waxwing_tests::config::Port {
        interface: "aside".into(),
        faces: None,
    });
    config
}

/// Returns how many frames an interface of the client's host has received.
fn received(topology: &Topology, interface: &str) -> Result<u64> {
    let path = format!("/sys/class/net/{interface}/statistics/rx_packets");
    let text = topology.client.run("cat", &[&path])?;
    text.trim().parse().context("not a number")
}

/// Fewest replies that the client receives during a fetch: SYN-ACK, the answer, and an ACK. A slow server may
/// merge its other frames with these.
const FETCH_FRAMES_MIN: usize = 3;

fn fetch(topology: &Topology, from: IpAddr, vip: IpAddr) -> Result<()> {
    let url = format!("http://{}/", host(vip));
    let from = from.to_string();
    let arguments = [
        "-sS",
        "--fail",
        "--globoff",
        "--max-time",
        "5",
        "--interface",
        &from,
        &url,
    ];
    topology.client.run("curl", &arguments).map(drop)
}

/// Fetches a page, and asserts that its replies arrive on the interface `by` of the client's host, none on
/// the other.
fn assert_fetched(topology: &Topology, from: IpAddr, vip: IpAddr, by: &str) -> Result<()> {
    let other = if by == "eth0" { "eth1" } else { "eth0" };
    let captures = [by, other].map(|interface| Capture::of_wire(&topology.client, interface));
    fetch(topology, from, vip)?;
    let ends = (vip.into(), from.into());
    let mut replies = Vec::new();
    for capture in captures {
        let frames = capture?.take(QUIET)?;
        let packets = frames.iter().filter_map(|frame| match parse(frame) {
            Ok(Packet::Ip(packet)) => Some((packet.source, packet.destination)),
            _ => None,
        });
        replies.push(packets.filter(|packet| *packet == ends).count());
    }
    ensure!(
        replies[0] >= FETCH_FRAMES_MIN && replies[1] == 0,
        "{vip}: {} replies arrived on {by}, {} on {other}",
        replies[0],
        replies[1]
    );
    Ok(())
}

/// The kernel reports the objects' ids only, and changes of an object not as changes of its routes.
fn nexthop_objects_are_followed() -> Result<()> {
    let topology = topology()?;
    second_link(&topology)?;
    topology
        .balancer
        .sysctl(&["net.ipv4.nexthop_compat_mode=0"])?;
    topology
        .balancer
        .ip("nexthop add id 7 via 10.1.0.2 dev front\n\
         nexthop add id 8 via fd00:1::2 dev front\n\
         nexthop add id 17 group 7\n\
         route replace 198.51.100.0/24 nhid 17\n\
         route replace 2001:db8:51::/48 nhid 8\n")?;
    let _servers = waxwing_tests::actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &by_route(&topology))?;
    let resolved = |gateways: [&str; 2]| {
        waxwing.wait_status("the objects' gateways", |status| {
            let found = status.gateways();
            let is_resolved = |name: &str| found.get(name).is_some_and(Option::is_some);
            found.len() == 2 && gateways.iter().all(|name| is_resolved(name))
        })
    };
    resolved(["10.1.0.2", "fd00:1::2"])?;
    for (from, vip) in [(BEHIND4, VIP4), (BEHIND6, VIP6)] {
        assert_fetched(&topology, from, vip, "eth0")?;
    }
    topology
        .balancer
        .ip("nexthop replace id 7 via 10.3.0.2 dev aside\n\
             nexthop replace id 8 via fd00:3::2 dev aside\n")?;
    resolved(["10.3.0.2", "fd00:3::2"])?;
    for (from, vip) in [(BEHIND4, VIP4), (BEHIND6, VIP6)] {
        assert_fetched(&topology, from, vip, "eth1")?;
    }
    waxwing.stop().map(drop)
}

fn replies_follow_the_kernels_routes() -> Result<()> {
    let topology = topology()?;
    second_link(&topology)?;
    let _servers = waxwing_tests::actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &by_route(&topology))?;
    // The client's own address is on the link: replies to it need no gateway.
    assert_both_served(&topology)?;
    for (from, vip) in [(BEHIND4, VIP4), (BEHIND6, VIP6)] {
        topology.balancer.ip(BY_SECOND)?;
        waxwing.wait_status("the second gateways", |status| {
            let gateways = status.gateways();
            gateways.contains_key("10.3.0.2") && gateways.values().all(Option::is_some)
        })?;
        assert_fetched(&topology, from, vip, "eth1")?;

        // An `unreachable` route is the operator's decision: replies are dropped.
        let refused = "route replace unreachable 198.51.100.0/24\n\
                       route replace unreachable 2001:db8:51::/48\n";
        topology.balancer.ip(refused)?;
        waxwing.wait_status("no gateway", |status| status.gateways().is_empty())?;
        let drops = waxwing.status()?.dropped("no_route");
        ensure!(
            fetch(&topology, from, vip).is_err(),
            "{vip}: the request was served"
        );
        let drops = waxwing.status()?.dropped("no_route") - drops;
        ensure!(drops > 0, "{vip}: no packet was dropped as `no_route`");

        // While a route's gateway does not resolve, replies go to the request's last hop.
        topology
            .balancer
            .ip("route replace 198.51.100.0/24 via 10.3.0.99\n\
             route replace 2001:db8:51::/48 via fd00:3::99\n")?;
        waxwing.wait_status("gateways that do not answer", |status| {
            status.gateways().len() == 2
        })?;
        fetch(&topology, from, vip)?;
        let last_hop_fallbacks = waxwing.status()?.counted("last_hop_fallbacks");
        ensure!(
            last_hop_fallbacks > 0,
            "{vip}: no reply went to the last hop"
        );
    }
    // A reload switches replies to the request's last hop.
    let mut config = by_route(&topology);
    config.return_path = Some("last-hop");
    waxwing.reload(&config)?;
    topology.balancer.ip(BY_SECOND)?;
    waxwing.wait_status("the last hop", |status| {
        status.0["return_path"]["mode"] == "last-hop"
    })?;
    assert_fetched(&topology, BEHIND4, VIP4, "eth0")?;
    waxwing.stop().map(drop)
}

fn a_change_of_routes_moves_live_downloads() -> Result<()> {
    let topology = topology()?;
    second_link(&topology)?;
    let servers = start_nginx(&topology)?;
    let waxwing = Waxwing::start(&topology, &by_route(&topology))?;
    let mut downloads = Downloads::start(&topology, servers, [BEHIND4, BEHIND6])?;
    for (interface, routes) in [("eth1", BY_SECOND), ("eth0", BY_FIRST), ("eth1", BY_SECOND)] {
        topology.balancer.ip(routes)?;
        thread::sleep(Duration::from_millis(500));
        let before = received(&topology, interface)?;
        thread::sleep(Duration::from_millis(500));
        let moved = received(&topology, interface)? - before;
        ensure!(moved > 100, "only {moved} frames arrived on {interface}");
    }
    downloads.are_under_way()?;
    downloads.finish()?;
    waxwing.stop().map(drop)
}

/// The servers are in VLAN 100; the balancer reaches them through a VLAN device on its port.
fn backends_behind_a_vlan_device_are_reached() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    waxwing_tests::vlan::move_servers(&topology)?;
    let _servers = waxwing_tests::actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    assert_both_served(&topology)?;
    let hop = waxwing.status()?.next_hop("web", server4(1)).clone();
    ensure!(hop["vlans"] == serde_json::json!([100]), "next hop: {hop}");
    let url = format!("http://{}:8080/", host(server4(1)));
    curl(&topology.client, &url).context("direct connection")?;
    waxwing.stop().map(drop)
}

/// A client's frames have one tag, or two (a VLAN in a provider's VLAN), on a port without VLAN devices. The
/// replies have the same tags.
fn a_client_in_a_vlan_is_answered_in_it() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let _servers = waxwing_tests::actors::http_servers(&topology, 8080)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    let listen = ["-l", "-e", "-n", "-Q", "in", "-i", "eth0"];
    let listener = topology.client.spawn("tcpdump", &listen)?;
    heard(|| listener.stderr().contains("listening on"))?;
    let wire = topology.client.enter(|| Wire::open("eth0"))??;
    let client = Mac(topology.client.mac("eth0")?);
    let balancer = Mac(topology.balancer.mac("front")?);
    let tag = |tpid, tci| VlanTag { tpid, tci };
    let inner = tag(ethernet::TPID_CUSTOMER, 100);
    let stacks = [
        (4001, VlanTags::one(inner), "vlan 100,"),
        (
            4002,
            VlanTags::two(tag(ethernet::TPID_SERVICE, 7), inner),
            "vlan 7,",
        ),
    ];
    // Unused addresses in the client's network: only the crafted tagged frames come from them.
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x77));
    let ends = [(IpAddr::from([10, 1, 0, 77]), VIP4), (v6, VIP6)];
    for (port, tags, outer) in stacks {
        for (from, vip) in ends {
            let syn = Tcp {
                link: Link {
                    source: client,
                    destination: balancer,
                },
                tags,
                source: (from.into(), port),
                destination: (vip.into(), 80),
                flags: TcpFlags(TcpFlags::SYN),
                ..Tcp::default()
            };
            wire.send(&syn.frame())?;
            let flow = format!("{vip}.80 > {from}.{port}: Flags [S.]");
            let is_answer = |line: &str| {
                line.contains(&flow) && line.contains(outer) && line.contains("vlan 100,")
            };
            heard(|| listener.stdout().lines().any(is_answer))
                .with_context(|| format!("{flow} in {outer}: {}", listener.stdout()))?;
        }
    }
    let question = ArpRequest {
        mac: client,
        tags: VlanTags::one(inner),
        sender: ends[0].0.into(),
        target: VIP4.into(),
    };
    wire.send(&question.frame())?;
    let answer = format!("Reply {VIP4} is-at {balancer}");
    let is_answer = |line: &str| line.contains(&answer) && line.contains("vlan 100,");
    heard(|| listener.stdout().lines().any(is_answer))
        .with_context(|| format!("{answer}: {}", listener.stdout()))?;
    ensure!(
        waxwing.status()?.sessions() == 4,
        "not every tagged flow has a session"
    );
    waxwing.stop().map(drop)
}

/// Waits at most five seconds until a condition about tcpdump's output holds.
fn heard(is_so: impl Fn() -> bool) -> Result<()> {
    retry(Duration::from_secs(5), || {
        ensure!(is_so(), "tcpdump did not print it");
        Ok(())
    })
}

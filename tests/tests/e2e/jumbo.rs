//! Jumbo frames: on both ports, on one port only, and after a port's MTU was raised.

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use waxwing_tests::status::Status;
use waxwing_tests::topology::{VIP4, VIP6, VipRoute};
use waxwing_tests::{Layout, Topology, Waxwing, actors};

use crate::icmp::{client, failure, large, receive, server, services};
use crate::traffic::{assert_download, iperf3, iperf3_services, web};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[
    scenario!(jumbo_frames_carry_a_download_unchanged, "nginx", "curl"),
    scenario!(jumbo_frames_carry_streams_and_datagrams, "iperf3").alone(),
    scenario!(a_standard_port_beside_a_jumbo_one_is_found, "iperf3").heavy(),
    scenario!(a_jumbo_datagram_that_may_be_fragmented_arrives_whole),
    scenario!(a_jumbo_datagram_that_may_not_be_fragmented_is_refused),
    scenario!(a_raised_mtu_is_reported, "nginx", "curl"),
];

const MTU: u32 = 9000;
/// Minimum mean length of transmitted frames, in bytes. The mean includes acknowledgements, so that only
/// jumbo frames can reach it.
const MEAN_LEN_MIN: u64 = 3000;

fn network(servers: u8) -> Result<Topology> {
    Topology::new(Layout {
        servers,
        vips: VipRoute::Gateway,
        mtu: MTU,
        ..Layout::default()
    })
}

/// Returns how many bytes and how many frames the workers have sent.
fn transmitted(status: &Status) -> (u64, u64) {
    let workers = status.0["workers"].as_array().into_iter().flatten();
    workers.fold((0, 0), |(bytes, packets), worker| {
        let count = |name: &str| worker["transmitted"][name].as_u64().unwrap_or(0);
        (bytes + count("bytes"), packets + count("packets"))
    })
}

/// Asserts that the workers have sent jumbo frames since the status `before`.
fn assert_jumbo(waxwing: &Waxwing<'_>, before: &Status, what: &str) -> Result<()> {
    let after = waxwing.status()?;
    let ((bytes, packets), earlier) = (transmitted(&after), transmitted(before));
    let mean = (bytes - earlier.0) / (packets - earlier.1).max(1);
    eprintln!("{what}: {mean} bytes per frame, drops {:?}", after.drops());
    ensure!(mean > MEAN_LEN_MIN, "{what}: only {mean} bytes per frame");
    ensure!(
        after.dropped("malformed") == 0,
        "{what}: malformed frames were dropped"
    );
    Ok(())
}

/// Fifty megabytes, on both families.
fn jumbo_frames_carry_a_download_unchanged() -> Result<()> {
    let topology = network(1)?;
    let _server = actors::nginx(&topology, 1, 8080, 50_000_000)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    for vip in [VIP4, VIP6] {
        let before = waxwing.status()?;
        assert_download(&topology, &topology.client, (vip, 80))?;
        assert_jumbo(&waxwing, &before, &vip.to_string())?;
    }
    waxwing.stop().map(drop)
}

fn jumbo_frames_carry_streams_and_datagrams() -> Result<()> {
    let topology = network(1)?;
    let _server = actors::iperf3_server(&topology.servers[0], 5201)?;
    let waxwing = Waxwing::start(&topology, &iperf3_services(&topology))?;
    for vip in [VIP4, VIP6] {
        for direction in [&[][..], &["--reverse"]] {
            let before = waxwing.status()?;
            let tcp = iperf3(&topology, vip, direction)?;
            let received = tcp["end"]["sum_received"]["bytes"].as_u64().unwrap_or(0);
            let what = format!("{vip} {direction:?}: {received} bytes by TCP");
            ensure!(received > 10 << 20, "{what}");
            assert_jumbo(&waxwing, &before, &what)?;

            let before = waxwing.status()?;
            let no_room = datagrams_without_room(&topology)?;
            let udp = ["--udp", "--bitrate", "20M", "--length", "8900"];
            let udp = iperf3(&topology, vip, &[&udp, direction].concat())?;
            let sum = &udp["end"]["sum"];
            let (sent, lost) = (sum["packets"].as_u64(), sum["lost_packets"].as_u64());
            // A socket's buffer holds about a dozen of these datagrams while its reader waits for a
            // processor.
            let no_room = datagrams_without_room(&topology)? - no_room;
            let what = format!(
                "{vip} {direction:?}: UDP, {lost:?} of {sent:?} lost, {no_room} to full socket buffers"
            );
            ensure!(sent > Some(400) && lost <= Some(no_room), "{what}");
            assert_jumbo(&waxwing, &before, &what)?;
        }
    }
    waxwing.stop().map(drop)
}

/// Returns how many datagrams the client and the server dropped because a socket's buffer was full.
fn datagrams_without_room(topology: &Topology) -> Result<u64> {
    let mut count = 0;
    for host in [&topology.client, &topology.servers[0]] {
        let v6 = host.run("cat", &["/proc/net/snmp6"])?;
        let of_v6 = v6
            .lines()
            .find_map(|line| line.strip_prefix("Udp6RcvbufErrors"));
        let v4 = host.run("cat", &["/proc/net/snmp"])?;
        let mut udp = v4.lines().filter_map(|line| line.strip_prefix("Udp:"));
        let (names, values) = (udp.next().unwrap_or(""), udp.next().unwrap_or(""));
        let mut fields = names.split_whitespace().zip(values.split_whitespace());
        let of_v4 = fields.find(|(name, _)| *name == "RcvbufErrors");
        for text in [of_v6, of_v4.map(|(_, value)| value)] {
            count += text
                .context("the kernel has no such counter")?
                .trim()
                .parse::<u64>()?;
        }
    }
    Ok(count)
}

/// Both ends announce an MSS for jumbo frames, but one port of the balancer has the standard MTU.
fn a_standard_port_beside_a_jumbo_one_is_found() -> Result<()> {
    for (port, direction) in [("back", &[][..]), ("front", &["--reverse"])] {
        let topology = network(1)?;
        topology
            .balancer
            .ip(&format!("link set {port} mtu 1500\n"))?;
        let _server = actors::iperf3_server(&topology.servers[0], 5201)?;
        let waxwing = Waxwing::start(&topology, &services(&topology, "tcp"))?;
        for vip in [VIP4, VIP6] {
            let report = iperf3(&topology, vip, direction)?;
            let received = report["end"]["sum_received"]["bytes"].as_u64();
            ensure!(
                received > Some(1 << 20),
                "{port}, {vip}: only {received:?} bytes arrived"
            );
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

/// The payload of a datagram that fills a jumbo frame.
const LARGE: usize = 8900;

fn a_jumbo_datagram_that_may_be_fragmented_arrives_whole() -> Result<()> {
    let topology = network(1)?;
    topology.balancer.ip("link set back mtu 1500\n")?;
    // Without path MTU discovery, its sockets allow routers to fragment their datagrams.
    topology.client.sysctl(&["net.ipv4.ip_no_pmtu_disc=1"])?;
    let waxwing = Waxwing::start(&topology, &services(&topology, "udp"))?;
    let (server, client) = (server(&topology, VIP4)?, client(&topology, VIP4)?);
    for _ in 0..3 {
        client.send(&large(LARGE))?;
        ensure!(
            receive(&server)?.0 == large(LARGE),
            "the datagram was altered"
        );
    }
    let cut = waxwing.status()?.counted("packets_fragmented");
    ensure!(cut == 3, "{cut} datagrams were fragmented, not 3");
    waxwing.stop().map(drop)
}

fn a_jumbo_datagram_that_may_not_be_fragmented_is_refused() -> Result<()> {
    let topology = network(1)?;
    topology.balancer.ip("link set back mtu 1500\n")?;
    let waxwing = Waxwing::start(&topology, &services(&topology, "udp"))?;
    let (server, client) = (server(&topology, VIP6)?, client(&topology, VIP6)?);
    client.send(&large(LARGE))?;
    let error = failure(&client, VIP6)?;
    ensure!(error == Errno::EMSGSIZE, "{error}, not EMSGSIZE");
    // The sender has learned the path MTU, and fragments the datagram itself.
    client.send(&large(LARGE))?;
    ensure!(
        receive(&server)?.0 == large(LARGE),
        "the datagram was altered"
    );
    waxwing.stop().map(drop)
}

/// Frame buffers are sized at the start. A larger MTU is reported as a problem; frames that fit are still
/// forwarded.
fn a_raised_mtu_is_reported() -> Result<()> {
    let topology = Topology::new(Layout::with_servers(1))?;
    let _server = actors::nginx(&topology, 1, 8080, 1 << 20)?;
    let waxwing = Waxwing::start(&topology, &web(&topology))?;
    topology.balancer.ip("link set front mtu 9000\n")?;
    let words = "front: MTU 9000 is more than the 3818";
    waxwing.wait_log(words)?;
    let is_reported = |status: &Status| status.0["problems"].to_string().contains(words);
    waxwing.wait_status("the MTU to be reported as a problem", is_reported)?;
    assert_download(&topology, &topology.client, (VIP4, 80))?;
    topology.balancer.ip("link set front mtu 1500\n")?;
    waxwing.wait_status("the problem to disappear", |status| !is_reported(status))?;
    waxwing.stop().map(drop)
}

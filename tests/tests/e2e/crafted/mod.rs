//! The requirements on a NAT balancer, frame by frame: each row sends a frame on one side, and compares the
//! frame that arrives on the other side byte by byte.
//!
//! Invariant: no host has the client's or the server's address, so that no kernel answers for them. A row
//! expects every frame from or to the client.

mod exchange;

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use waxwing_packet::{Family, TcpFlags, Transport, VlanTag, VlanTags, checksum, ethernet};
use waxwing_testkit::build::{Echo, Tcp};
use waxwing_testkit::fragmenter;
use waxwing_tests::topology::{VIP4, VIP6};
use waxwing_tests::{Backend, Config, Layout, Service, Topology, Waxwing};

use self::exchange::At::{Client, Server};
use self::exchange::{Side, Talk, back};
use crate::{Scenario, scenario};

pub(crate) const SCENARIOS: &[Scenario] = &[scenario!(every_requirement_holds_frame_by_frame)];

const SYN: u8 = TcpFlags::SYN;
const ACK: u8 = TcpFlags::ACK;
const FIN: u8 = TcpFlags::FIN;
const RST: u8 = TcpFlags::RST;

/// The frames that demonstrate a requirement.
type Frames = fn(&Talk<'_>) -> Result<()>;

/// Requirement, source, frames.
const ROWS: &[(&str, &str, Frames)] = &[
    ("a handshake and a close", "RFC 5382 REQ-2", handshake),
    ("a simultaneous open", "RFC 5382 REQ-2", simultaneous_open),
    ("a session survives an RST", "RFC 7857", reset_and_revived),
    (
        "a SYN after both FINs opens a new session",
        "RFC 9293 3.6.1",
        reuse,
    ),
    ("an ICMP error from a server", "RFC 5508 REQ-4", error_back),
    ("an ICMP error from a client", "RFC 5508 REQ-5", error_to),
    (
        "an ICMP error without a session",
        "RFC 5508 REQ-3",
        strange_error,
    ),
    ("fragments out of order", "RFC 4787 REQ-14", fragments),
    ("fragments that overlap", "RFC 5722", overlap),
    ("a zero UDP checksum stays zero", "RFC 768", no_checksum),
    ("an expired hop limit", "RFC 1812", last_hop),
    ("ping", "RFC 1122", ping),
    ("a segment without a session", "practice", mid_stream),
    ("a service without backends refuses", "practice", refused),
    ("a packet from the VIP itself", "RFC 1812", land),
    ("a tagged request gets a tagged answer", "802.1Q", tagged),
    ("an invalid TCP header length", "practice", malformed),
];

fn every_requirement_holds_frame_by_frame() -> Result<()> {
    let topology = Topology::new(Layout::default())?;
    let servers: [IpAddr; 2] = ["10.2.0.50".parse()?, "fd00:2::50".parse()?];
    let sides = [
        Side::new(&topology.client, &topology.balancer, "front")?,
        Side::new(&topology.servers[0], &topology.balancer, "back")?,
    ];
    for server in servers {
        let mac = sides[1].link.source;
        let entry = format!("neigh add {server} lladdr {mac} dev back nud permanent\n");
        topology.balancer.ip(&entry)?;
    }
    let waxwing = Waxwing::start(&topology, &config(&topology, servers))?;
    let mut port = 4000;
    for (family, (vip, server)) in [VIP4, VIP6].into_iter().zip(servers).enumerate() {
        for (requirement, source, show) in ROWS {
            port += 1;
            let client: [IpAddr; 2] = ["198.51.100.7".parse()?, "2001:db8:2::7".parse()?];
            let talk = Talk {
                sides: &sides,
                waxwing: &waxwing,
                vip: vip.into(),
                client: (client[family].into(), port),
                server: server.into(),
            };
            show(&talk).with_context(|| format!("{requirement} ({source}), through {vip}"))?;
            eprintln!("{vip}: {requirement} ({source})");
        }
    }
    waxwing.stop().map(drop)
}

fn config(topology: &Topology, servers: [IpAddr; 2]) -> Config {
    let mut config = Config::new(topology);
    for server in servers {
        let service = |name: &str, protocol, (port, backend_port)| {
            let name = format!("{name}{}", if server.is_ipv4() { "" } else { "6" });
            let of_family = if server.is_ipv4() {
                Service::v4
            } else {
                Service::v6
            };
            let mut service = of_family(&name, protocol, (port, backend_port), 0);
            service.backends = vec![Backend::new(server, backend_port)];
            service
        };
        let strict = Service {
            mid_stream: Some("drop"),
            ..service("strict", "tcp", (81, 8081))
        };
        let mut nobody = Service {
            all_down: Some("reject"),
            ..service("nobody", "tcp", (82, 8082))
        };
        nobody.backends[0].weight = 0;
        for service in [
            service("web", "tcp", (80, 8080)),
            service("dns", "udp", (53, 5353)),
            strict,
            nobody,
        ] {
            config = config.with(service);
        }
    }
    config
}

fn handshake(talk: &Talk<'_>) -> Result<()> {
    talk.open()?;
    talk.passes(Server, talk.answer(ACK))?;
    talk.passes(Client, talk.request(FIN | ACK))?;
    talk.passes(Server, talk.answer(FIN | ACK))?;
    talk.passes(Client, talk.request(ACK))
}

fn simultaneous_open(talk: &Talk<'_>) -> Result<()> {
    talk.passes(Client, talk.request(SYN))?;
    talk.passes(Server, talk.answer(SYN))?;
    talk.passes(Client, talk.request(SYN | ACK))?;
    talk.passes(Server, talk.answer(SYN | ACK))?;
    talk.passes(Client, talk.request(ACK))
}

fn reset_and_revived(talk: &Talk<'_>) -> Result<()> {
    talk.open()?;
    for _ in 0..2 {
        talk.passes(Client, talk.request(RST))?;
        talk.passes(Server, talk.answer(ACK))?;
        talk.passes(Server, talk.answer(RST))?;
        talk.passes(Client, talk.request(ACK))?;
    }
    Ok(())
}

fn reuse(talk: &Talk<'_>) -> Result<()> {
    let opened = |talk: &Talk<'_>| -> Result<u64> {
        let status = talk.waxwing.status()?;
        let backends = |service: &serde_json::Value| service["backends"][0]["sessions"].as_u64();
        let services = status.0["services"]
            .as_array()
            .context("no services in the status")?;
        Ok(services.iter().filter_map(backends).sum())
    };
    let before = opened(talk)?;
    handshake(talk)?;
    // A repeated SYN opens only one session.
    talk.passes(Client, talk.request(SYN))?;
    talk.passes(Client, talk.request(SYN))?;
    let after = opened(talk)?;
    ensure!(
        after == before + 2,
        "{before} sessions before, {after} after, not two more"
    );
    Ok(())
}

fn error_back(talk: &Talk<'_>) -> Result<()> {
    let (sent, forwarded) = talk.question(b"question");
    talk.passes(Client, (sent.clone(), forwarded.clone()))?;
    let (client, server) = (talk.client.0, talk.server);
    let error = talk.unreachable(talk.side(Server).link, (server, client), &forwarded);
    talk.send(Server, &error)?;
    let (frame, packet, _) = talk.next(Client)?;
    ensure!(
        packet.source == talk.vip,
        "the error came from {}, not from the VIP",
        packet.source
    );
    let quoted = &frame[usize::from(packet.transport_start) + 8..];
    // The quoted packet is the client's, except for the hop limit, which is one less.
    let mut expected = sent[ethernet::HEADER_LEN..].to_vec();
    hop(&mut expected);
    ensure!(quoted == expected, "{quoted:02x?} is not {expected:02x?}");
    // The session survives the error.
    talk.passes(Client, (sent, forwarded))
}

fn error_to(talk: &Talk<'_>) -> Result<()> {
    talk.open()?;
    let (said, heard) = talk.answer(ACK);
    talk.passes(Server, (said.clone(), heard.clone()))?;
    let (client, vip) = (talk.client.0, talk.vip);
    let sent = talk.unreachable(talk.side(Client).link, (client, vip), &heard);
    talk.send(Client, &sent)?;
    let (frame, packet, _) = talk.next(Server)?;
    let ends = (packet.source, packet.destination);
    ensure!(ends == (client, talk.server), "{packet:?}");
    let quoted = &frame[usize::from(packet.transport_start) + 8..];
    let mut expected = said[ethernet::HEADER_LEN..].to_vec();
    hop(&mut expected);
    ensure!(quoted == expected, "{quoted:02x?} is not {expected:02x?}");
    talk.passes(Server, talk.answer(ACK))
}

/// Decrements the hop limit of a packet and updates its IPv4 header checksum.
fn hop(packet: &mut [u8]) {
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return;
    }
    packet[8] -= 1;
    packet[10..12].fill(0);
    let sum = checksum::of(&packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn strange_error(talk: &Talk<'_>) -> Result<()> {
    let (_, heard) = talk.answer(ACK);
    let (link, ends) = (talk.side(Client).link, (talk.client.0, talk.vip));
    let sent = talk.unreachable(link, ends, &heard);
    talk.ends(Client, &sent, "icmp_no_session")
}

fn fragments(talk: &Talk<'_>) -> Result<()> {
    let (sent, received) = talk.question(&[7; 60]);
    for fragment in fragmenter::fragment(&sent, &[32], 7).iter().rev() {
        talk.send(Client, fragment)?;
    }
    let came = [talk.next(Server)?.0, talk.next(Server)?.0];
    let expected = fragmenter::fragment(&received, &[32], 7);
    ensure!(
        came.iter().all(|frame| expected.contains(frame)) && came[0] != came[1],
        "{came:02x?} is not {expected:02x?}"
    );
    Ok(())
}

fn overlap(talk: &Talk<'_>) -> Result<()> {
    let (sent, received) = talk.question(&[7; 60]);
    let first = |frame: &[u8]| fragmenter::fragment_at(frame, 7, 0, 32, true);
    talk.passes(Client, (first(&sent), first(&received)))?;
    let second = fragmenter::fragment_at(&sent, 7, 24, 44, false);
    talk.ends(Client, &second, "fragment_overlap")
}

/// A UDP checksum of zero means none, which is allowed over IPv4 only. A computed checksum of zero is sent as
/// 0xffff.
fn no_checksum(talk: &Talk<'_>) -> Result<()> {
    let (mut sent, mut received) = talk.question(b"no checksum");
    if talk.vip.family() == Family::V4 {
        for frame in [&mut sent, &mut received] {
            frame[40..42].fill(0);
        }
        talk.passes(Client, (sent, received))?;
    }
    let zero =
        |(_, received): &(Vec<u8>, Vec<u8>)| received[received.len() - 4..][..2] == [0xff; 2];
    let questions = (0..=u16::MAX).map(|word| talk.question(&word.to_be_bytes()));
    let question = { questions }.find(zero).context("no checksum is zero")?;
    talk.passes(Client, question)
}

fn last_hop(talk: &Talk<'_>) -> Result<()> {
    talk.open()?;
    let expired = Tcp {
        hop_limit: 1,
        ..talk.segment(80, ACK)
    }
    .frame();
    talk.send(Client, &expired)?;
    let (frame, packet, _) = talk.next(Client)?;
    let Transport::Icmp { kind, code } = packet.transport else {
        bail!("not an ICMP error: {packet:?}");
    };
    let error = (packet.source, packet.destination, kind, code);
    let kind = if talk.vip.family() == Family::V4 {
        11
    } else {
        3
    };
    ensure!(error == (talk.vip, talk.client.0, kind, 0), "{packet:?}");
    ensure!(
        frame.ends_with(&expired[ethernet::HEADER_LEN..]),
        "the error quotes another packet: {frame:02x?}"
    );
    Ok(())
}

fn ping(talk: &Talk<'_>) -> Result<()> {
    let request = Echo {
        link: talk.side(Client).link,
        source: talk.client.0,
        destination: talk.vip,
        identifier: 9,
        sequence: 3,
        payload: b"are you there?",
        ..Echo::default()
    };
    let reply = Echo {
        link: back(request.link),
        source: talk.vip,
        destination: talk.client.0,
        reply: true,
        ..request
    };
    talk.send(Client, &request.frame())?;
    talk.expect(Client, &reply.frame())
}

fn mid_stream(talk: &Talk<'_>) -> Result<()> {
    // By default a backend is picked as for a new session.
    talk.passes(Client, talk.request(ACK))?;
    talk.ends(Client, &talk.segment(81, ACK).frame(), "mid_stream")
}

fn refused(talk: &Talk<'_>) -> Result<()> {
    talk.send(Client, &talk.segment(82, SYN).frame())?;
    let (frame, packet, _) = talk.next(Client)?;
    let Transport::Tcp { flags, source, .. } = packet.transport else {
        bail!("not an RST: {packet:?}");
    };
    let acknowledged = &frame[usize::from(packet.transport_start) + 8..][..4];
    ensure!(
        (flags.0, source, acknowledged) == (RST | ACK, 82, &1001_u32.to_be_bytes()[..]),
        "{packet:?}"
    );
    Ok(())
}

fn land(talk: &Talk<'_>) -> Result<()> {
    let sent = Tcp {
        source: (talk.vip, 80),
        ..talk.segment(80, SYN)
    };
    talk.ends(Client, &sent.frame(), "martian")
}

fn tagged(talk: &Talk<'_>) -> Result<()> {
    let sent = Tcp {
        tags: VlanTags::one(VlanTag {
            tpid: 0x8100,
            tci: 100,
        }),
        payload: b"request",
        ..talk.segment(80, SYN)
    };
    let (_, received) = talk.request(SYN);
    talk.passes(Client, (sent.frame(), received))?;
    let (said, heard) = talk.answer(SYN | ACK);
    talk.send(Server, &said)?;
    let (frame, _, other_host) = talk.next(Client)?;
    // The receiving kernel removes the tag. It has no device for the VLAN, so that the packet is for another
    // host.
    ensure!(
        frame == heard && other_host,
        "the answer has no tag: {frame:02x?}"
    );
    Ok(())
}

fn malformed(talk: &Talk<'_>) -> Result<()> {
    let (mut sent, _) = talk.request(SYN);
    // TCP header lengths in words of four bytes: one exceeds the packet, one is below the minimum of five.
    let offset = sent.len() - b"request".len() - 20 + 12;
    for words in [15, 4] {
        sent[offset] = words << 4;
        talk.ends(Client, &sent, "malformed")?;
    }
    Ok(())
}

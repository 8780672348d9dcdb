//! A client and a server that exchange crafted frames through the balancer.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use nix::sys::socket::SockProtocol;
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{
    Address, Family, IpPacket, Link, Mac, Packet, TcpFlags, VlanTags, checksum, ethernet, parse,
};
use waxwing_testkit::build::{Error, Tcp, Udp};
use waxwing_tests::inject::Wire;
use waxwing_tests::{Capture, Namespace, Waxwing};

use super::{ACK, SYN};

/// Longest time until a frame arrives.
const WAIT: Duration = Duration::from_secs(5);

/// One side of the balancer.
pub(super) struct Side {
    name: &'static str,
    wire: Wire,
    captures: [Capture; 2],
    /// From the host's MAC address to the balancer's.
    pub(super) link: Link,
}

impl Side {
    pub(super) fn new(host: &Namespace, balancer: &Namespace, port: &'static str) -> Result<Self> {
        let open = |protocol| host.enter(|| Capture::open("eth0", protocol))?;
        Ok(Self {
            name: port,
            wire: host.enter(|| Wire::open("eth0"))??,
            captures: [open(SockProtocol::EthIp)?, open(SockProtocol::EthIpv6)?],
            link: Link {
                source: Mac(host.mac("eth0")?),
                destination: Mac(balancer.mac(port)?),
            },
        })
    }
}

/// Returns the link in the direction from the balancer.
pub(super) fn back(link: Link) -> Link {
    Link {
        source: link.destination,
        destination: link.source,
    }
}

/// A client and a server of one family that exchange frames through the balancer.
pub(super) struct Talk<'a> {
    pub(super) sides: &'a [Side; 2],
    pub(super) waxwing: &'a Waxwing<'a>,
    pub(super) vip: Address,
    pub(super) client: (Address, u16),
    pub(super) server: Address,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum At {
    Client,
    Server,
}
use At::{Client, Server};

impl Talk<'_> {
    pub(super) fn side(&self, at: At) -> &Side {
        &self.sides[at as usize]
    }

    pub(super) fn send(&self, from: At, frame: &[u8]) -> Result<()> {
        self.side(from).wire.send(frame)
    }

    /// Returns the next frame from or to the client, and whether the capturing host ignores it because of its
    /// tag.
    pub(super) fn next(&self, at: At) -> Result<(Vec<u8>, IpPacket, bool)> {
        let side = self.side(at);
        let capture = &side.captures[usize::from(self.vip.family() == Family::V6)];
        let end = Instant::now() + WAIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Some(captured) = capture.next(left)? else {
                bail!(
                    "no frame arrived at {}; drops: {:?}",
                    side.name,
                    self.waxwing.status()?.drops()
                );
            };
            if let Ok(Packet::Ip(packet)) = parse(&captured.frame)
                && [packet.source, packet.destination].contains(&self.client.0)
            {
                ensure!(
                    checksum::are_correct(&captured.frame, &packet),
                    "wrong checksum: {:02x?}",
                    captured.frame
                );
                return Ok((captured.frame, packet, captured.other_host));
            }
        }
    }

    pub(super) fn expect(&self, at: At, expected: &[u8]) -> Result<()> {
        let (frame, packet, _) = self.next(at)?;
        ensure!(
            frame == expected,
            "at {}: expected {expected:02x?}\n received {frame:02x?}\n {packet:?}",
            self.side(at).name
        );
        Ok(())
    }

    /// Sends a frame from one side, and asserts that the other side receives the expected frame.
    pub(super) fn passes(&self, from: At, (sent, expected): (Vec<u8>, Vec<u8>)) -> Result<()> {
        self.send(from, &sent)?;
        self.expect(if from == Client { Server } else { Client }, &expected)
    }

    /// Sends a frame, and asserts that the balancer counts a drop for this reason.
    pub(super) fn ends(&self, from: At, frame: &[u8], reason: &str) -> Result<()> {
        let before = self.waxwing.status()?.dropped(reason);
        self.send(from, frame)?;
        let counted = |status: &waxwing_tests::Status| status.dropped(reason) > before;
        self.waxwing
            .wait_status(&format!("a drop as {reason}"), counted)
            .map(drop)
    }

    /// Returns a segment of the client to a port of the VIP, for scenarios to change.
    pub(super) fn segment(&self, port: u16, flags: u8) -> Tcp<'static> {
        Tcp {
            link: self.side(Client).link,
            source: self.client,
            destination: (self.vip, port),
            flags: TcpFlags(flags),
            sequence: 1000,
            ..Tcp::default()
        }
    }

    /// Returns a segment of the client, as sent and as the server receives it.
    pub(super) fn request(&self, flags: u8) -> (Vec<u8>, Vec<u8>) {
        let sent = Tcp {
            payload: b"request",
            ..self.segment(80, flags)
        };
        let received = Tcp {
            link: back(self.side(Server).link),
            destination: (self.server, 8080),
            hop_limit: sent.hop_limit - 1,
            ..sent
        };
        (sent.frame(), received.frame())
    }

    /// Returns a segment of the server, as sent and as the client receives it.
    pub(super) fn answer(&self, flags: u8) -> (Vec<u8>, Vec<u8>) {
        let sent = Tcp {
            link: self.side(Server).link,
            source: (self.server, 8080),
            destination: self.client,
            flags: TcpFlags(flags),
            sequence: 2000,
            payload: b"answer",
            ..Tcp::default()
        };
        let received = Tcp {
            link: back(self.side(Client).link),
            source: (self.vip, 80),
            hop_limit: sent.hop_limit - 1,
            ..sent
        };
        (sent.frame(), received.frame())
    }

    /// Returns a datagram of the client, as sent and as the server receives it.
    pub(super) fn question(&self, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let sent = Udp {
            link: self.side(Client).link,
            source: self.client,
            destination: (self.vip, 53),
            payload,
            ..Udp::default()
        };
        let received = Udp {
            link: back(self.side(Server).link),
            destination: (self.server, 5353),
            hop_limit: sent.hop_limit - 1,
            ..sent
        };
        (sent.frame(), received.frame())
    }

    /// Opens a TCP session by a handshake.
    pub(super) fn open(&self) -> Result<()> {
        self.passes(Client, self.request(SYN))?;
        self.passes(Server, self.answer(SYN | ACK))?;
        self.passes(Client, self.request(ACK))
    }

    /// Returns a frame with an ICMP error "port unreachable" that quotes the frame `about`.
    pub(super) fn unreachable(
        &self,
        link: Link,
        ends: (Address, Address),
        about: &[u8],
    ) -> Vec<u8> {
        Error {
            link,
            tags: VlanTags::NONE,
            source: ends.0,
            destination: ends.1,
            hop_limit: 64,
            error: IcmpError::port_unreachable(self.vip.family()),
            quote: &about[ethernet::HEADER_LEN..],
        }
        .frame()
    }
}

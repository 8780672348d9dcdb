//! Attacks on connections: forged segments and ICMP errors, SYN floods, and malformed frames.
//!
//! Invariant: attackers know everything about a connection except its sequence numbers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use waxwing_packet::reject::IcmpError;
use waxwing_packet::{Link, Mac, TcpFlags, VlanTags, ethernet};
use waxwing_testkit::build::{Error, Tcp};
use waxwing_tests::inject::{Garbage, Wire};
use waxwing_tests::topology::{CLIENT4, CLIENT6, VIP4, VIP6};
use waxwing_tests::{Namespace, Topology};

/// An address and a port.
pub(crate) type Endpoint = (IpAddr, u16);

/// Attackers on both sides. Their frames come through the same routers as the connections, which here are the
/// client and a server.
pub(crate) struct Attack {
    pub(crate) clients: Side,
    pub(crate) servers: Side,
    /// Sequence number of forged segments. Successive numbers are far apart, so that almost all are outside
    /// every connection's window.
    sequence: u32,
    /// Number of flood sources so far.
    strangers: u32,
}

/// Attackers on one side.
pub(crate) struct Side {
    wire: Wire,
    link: Link,
    garbage: Garbage,
}

impl Side {
    fn new(from: &Namespace, (balancer, port): (&Namespace, &str)) -> Result<Self> {
        let link = Link {
            source: Mac(from.mac("eth0")?),
            destination: Mac(balancer.mac(port)?),
        };
        let (sources, vips) = ([CLIENT4, CLIENT6], [VIP4, VIP6]);
        Ok(Self {
            wire: from.enter(|| Wire::open("eth0"))??,
            link,
            garbage: Garbage::new(link.destination.0, sources, vips, 80, 1),
        })
    }

    /// Sends later frames through another router, like all traffic of this side.
    pub(crate) fn fail_over(&mut self, router: Mac) {
        self.link.source = router;
    }

    /// Sends a frame made for this side's link header.
    pub(crate) fn send(&self, frame: impl FnOnce(Link) -> Vec<u8>) -> Result<()> {
        self.wire.send(&frame(self.link))?;
        Ok(())
    }

    /// Sends malformed frames of every kind.
    pub(crate) fn garbage(&mut self, count: usize) -> Result<()> {
        let frames = self.garbage.by_ref().take(count);
        for frame in frames {
            self.wire.send(&frame)?;
        }
        Ok(())
    }
}

impl Attack {
    pub(crate) fn new(topology: &Topology) -> Result<Self> {
        let balancer = &topology.balancer;
        Ok(Self {
            clients: Side::new(&topology.client, (balancer, "front"))?,
            servers: Side::new(&topology.servers[0], (balancer, "back"))?,
            sequence: 0,
            strangers: 0,
        })
    }

    /// Forges all packets that could end or move a client's connection to a VIP, from the client and from
    /// each server that may serve it.
    pub(crate) fn strike(
        &mut self,
        client: Endpoint,
        vip: Endpoint,
        servers: &[Endpoint],
    ) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(0x9e37_79b9);
        self.forge(&self.clients, client, vip)?;
        servers
            .iter()
            .try_for_each(|server| self.forge(&self.servers, *server, client))
    }

    fn forge(&self, side: &Side, source: Endpoint, destination: Endpoint) -> Result<()> {
        for flags in [TcpFlags::RST, TcpFlags::RST | TcpFlags::ACK, TcpFlags::SYN] {
            self.segment(side, (source, destination), flags)?;
        }
        let quoted = self.tcp(side, (destination, source), TcpFlags::ACK).frame();
        for (kind, code, parameter) in errors(source.0) {
            let error = Error {
                link: side.link,
                source: router(source.0).into(),
                destination: destination.0.into(),
                error: IcmpError {
                    kind: *kind,
                    code: *code,
                    parameter: *parameter,
                },
                quote: &quoted[ethernet::HEADER_LEN..],
                tags: VlanTags::NONE,
                hop_limit: 64,
            };
            side.wire.send(&error.frame())?;
        }
        Ok(())
    }

    /// Sends one forged segment.
    pub(crate) fn segment(&self, side: &Side, ends: (Endpoint, Endpoint), flags: u8) -> Result<()> {
        side.wire.send(&self.tcp(side, ends, flags).frame())
    }

    fn tcp(&self, side: &Side, ends: (Endpoint, Endpoint), flags: u8) -> Tcp<'static> {
        let (source, destination) = ends;
        Tcp {
            link: side.link,
            source: (source.0.into(), source.1),
            destination: (destination.0.into(), destination.1),
            flags: TcpFlags(flags),
            sequence: self.sequence,
            ..Tcp::default()
        }
    }

    /// Sends SYNs from new addresses, and never completes the handshakes.
    pub(crate) fn flood(&mut self, vip: Endpoint, count: u32) -> Result<()> {
        for _ in 0..count {
            self.strangers += 1;
            let source = (stranger(vip.0, self.strangers), 1024);
            self.segment(&self.clients, (source, vip), TcpFlags::SYN)?;
        }
        Ok(())
    }
}

/// Returns type, code and parameter of errors that would break a connection if its host believed them:
/// several kinds of unreachable, time exceeded, and MTUs that are too small for any link.
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

/// Returns the source address of forged ICMP errors.
fn router(family: IpAddr) -> IpAddr {
    stranger(family, u32::from(u16::MAX))
}

/// Returns an unused address of a family (ranges of RFC 2544 and RFC 3849).
fn stranger(family: IpAddr, number: u32) -> IpAddr {
    match family {
        IpAddr::V4(_) => Ipv4Addr::from(0xc612_0000 | (number & 0x1_ffff)).into(),
        IpAddr::V6(_) => {
            Ipv6Addr::from((0x2001_0db8_u128 << 96) | 1 << 80 | u128::from(number)).into()
        }
    }
}

//! Hosts on any side, and their packets through the balancer.

use crate::frames::{SERVER_ISN, ip, one, ports};
use crate::world::{BACK, CLIENT_MAC, FRONT, PORT_MACS, Plan, World, backend_mac};
use waxwing_dataplane::PortId;
use waxwing_packet::{Address, Link, Mac, Protocol, TcpFlags, VlanTags};
use waxwing_testkit::build;

/// An address and port.
pub(crate) type Endpoint = (Address, u16);

/// A host on one side of the balancer.
#[derive(Clone, Copy)]
pub(crate) struct Host {
    pub(crate) port: PortId,
    pub(crate) mac: Mac,
    pub(crate) address: Address,
}

impl Host {
    /// The n-th server.
    pub(crate) fn server(plan: Plan, n: u32) -> Self {
        Self {
            port: BACK,
            mac: backend_mac(n),
            address: plan.backend(n),
        }
    }

    /// A client in the servers' network.
    pub(crate) fn neighbour(plan: Plan) -> Self {
        Self::server(plan, 50)
    }

    /// The client behind the front port.
    pub(crate) fn far(plan: Plan) -> Self {
        Self {
            port: FRONT,
            mac: CLIENT_MAC,
            address: plan.client,
        }
    }

    pub(crate) fn at(self, port: u16) -> Endpoint {
        (self.address, port)
    }

    /// The host's frame to the balancer.
    pub(crate) fn frame(self, from: u16, to: Endpoint, what: Kind<'_>) -> Vec<u8> {
        let link = Link {
            source: self.mac,
            destination: PORT_MACS[self.port.index()],
        };
        what.frame(link, self.at(from), to, 64)
    }

    /// Sends a packet that must be forwarded; returns the output.
    pub(crate) fn sends(
        self,
        world: &mut World,
        from: u16,
        to: Endpoint,
        what: Kind<'_>,
    ) -> Arrival {
        let sent = world.frame(self.port, &self.frame(from, to, what));
        let (port, packet) = one(&sent);
        let (source_port, destination_port) = ports(&packet);
        Arrival {
            port,
            mac: packet.ethernet.destination,
            source: (packet.source, source_port),
            destination: (packet.destination, destination_port),
        }
    }
}

/// What a frame is.
#[derive(Clone, Copy)]
pub(crate) struct Kind<'a> {
    pub(crate) protocol: Protocol,
    pub(crate) flags: u8,
    pub(crate) payload: &'a [u8],
}

impl Kind<'_> {
    /// With these flags, if it is TCP.
    pub(crate) const fn of(protocol: Protocol, flags: u8) -> Self {
        Self {
            protocol,
            flags,
            payload: b"some payload",
        }
    }

    pub(crate) const fn tcp(flags: u8) -> Self {
        Self::of(Protocol::Tcp, flags)
    }

    pub(crate) fn frame(
        self,
        link: Link,
        source: Endpoint,
        destination: Endpoint,
        hop_limit: u8,
    ) -> Vec<u8> {
        let (tags, payload) = (VlanTags::NONE, self.payload);
        build::Tcp {
            link,
            tags,
            source,
            destination,
            hop_limit,
            flags: TcpFlags(self.flags),
            sequence: SERVER_ISN,
            acknowledgment: SERVER_ISN + 1,
            payload,
        }
        .frame_of(self.protocol)
    }
}

/// A packet that came out of the balancer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Arrival {
    pub(crate) port: PortId,
    pub(crate) mac: Mac,
    pub(crate) source: Endpoint,
    pub(crate) destination: Endpoint,
}

impl Arrival {
    /// At a host, from one endpoint to another of its own.
    pub(crate) fn at(host: Host, source: Endpoint, port: u16) -> Self {
        Self {
            port: host.port,
            mac: host.mac,
            source,
            destination: host.at(port),
        }
    }
}

/// The IP packet in the one frame that was sent.
pub(crate) fn packet_of(sent: &[(PortId, Vec<u8>)]) -> Vec<u8> {
    let (_, packet) = one(sent);
    sent[0].1[usize::from(packet.network)..].to_vec()
}

/// The IP packet in a frame.
pub(crate) fn inside(frame: &[u8]) -> &[u8] {
    &frame[usize::from(ip(frame).network)..]
}

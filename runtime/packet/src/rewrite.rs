//! Network address translation as a value: computed when a backend or session is set up,
//! applied to each packet.
//!
//! Invariant: `apply` reads nothing but the packet and the `Rewrite`; the checksum deltas in a
//! [`Translation`] were computed once from the old and the new endpoint (RFC 1624 equation 3).

use std::ops::Range;

use crate::{
    Address, Delta, Family, IpPacket, Link, Mac, Transport, ethernet, icmp, ipv4, ipv6, tcp, udp,
    wire,
};

/// One side of a packet's addressing replaced: address and port, with the checksum difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The address written.
    pub address: Address,
    /// The port written (TCP and UDP).
    pub port: u16,
    /// What the address change adds to an IPv4 header checksum.
    pub network: Delta,
    /// What address and port together add to the transport checksum (pseudo-header included).
    pub transport: Delta,
}

/// Everything NAT and routing change in one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// Replaces the source endpoint (a reply: backend becomes VIP; or source NAT).
    pub source: Option<Translation>,
    /// Replaces the destination endpoint (a request: VIP becomes backend).
    pub destination: Option<Translation>,
    /// Source and destination MAC, or `None` to leave both (transparent mode).
    pub link: Option<Link>,
    /// Whether TTL or hop limit is decremented (RFC 1812 section 5.3.1). The caller has checked
    /// that it is above 1.
    pub decrement_hop_limit: bool,
}

impl Translation {
    /// From one endpoint to another of the same family.
    #[must_use]
    pub const fn new(from: (Address, u16), to: (Address, u16)) -> Self {
        let network = Delta::between_addresses(from.0, to.0);
        let transport = network.plus(Delta::between(&[from.1], &[to.1]));
        Self {
            address: to.0,
            port: to.1,
            network,
            transport,
        }
    }
}

/// The parts of a frame that a rewrite changes: link header, IP header, transport header.
type Parts<'a, const NETWORK: usize, const SEGMENT: usize> = (
    &'a mut [u8; ethernet::HEADER_LEN],
    &'a mut [u8; NETWORK],
    &'a mut [u8; SEGMENT],
);

/// Finds the parts, all of them before any is written to.
#[inline(always)]
fn parts<'a, const NETWORK: usize, const SEGMENT: usize>(
    frame: &'a mut [u8],
    packet: &IpPacket,
) -> Option<Parts<'a, NETWORK, SEGMENT>> {
    let (head, segment) = frame.split_at_mut_checked(packet.transport_start.into())?;
    let (link, network) = head.split_at_mut_checked(packet.network.into())?;
    Some((
        link.first_chunk_mut()?,
        network.first_chunk_mut()?,
        segment.first_chunk_mut()?,
    ))
}

impl Rewrite {
    /// Applies it to a frame and its parsed packet.
    ///
    /// In a fragment that is not its packet's first, only addresses change: the transport
    /// checksum, which covers them, is in the first. A packet that does not belong to the frame
    /// is a bug of the caller and leaves the frame as it is.
    pub fn apply(&self, frame: &mut [u8], packet: &IpPacket) {
        self.changes().apply(frame, packet);
    }

    /// The same, by reference.
    #[inline(always)]
    #[must_use]
    pub const fn changes(&self) -> Changes<'_> {
        Changes {
            source: self.source.as_ref(),
            destination: self.destination.as_ref(),
            link: match &self.link {
                Some(link) => Some((&link.source, &link.destination)),
                None => None,
            },
            decrement_hop_limit: self.decrement_hop_limit,
        }
    }
}

/// A [`Rewrite`] whose translations lie elsewhere, for the way on which nothing is copied.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes<'a> {
    /// See [`Rewrite::source`].
    pub source: Option<&'a Translation>,
    /// See [`Rewrite::destination`].
    pub destination: Option<&'a Translation>,
    /// Source and destination MAC; see [`Rewrite::link`].
    pub link: Option<(&'a Mac, &'a Mac)>,
    /// See [`Rewrite::decrement_hop_limit`].
    pub decrement_hop_limit: bool,
}

impl Changes<'_> {
    /// Applies them, as [`Rewrite::apply`] does.
    #[inline(always)]
    pub fn apply(&self, frame: &mut [u8], packet: &IpPacket) {
        use Family::{V4, V6};
        use Transport::{Tcp, Udp};

        let applied = match (packet.family, packet.transport) {
            (V4, Tcp { .. }) => match parts(frame, packet) {
                Some((link, network, segment)) => {
                    self.apply_link(link);
                    self.apply_v4(network);
                    self.apply_tcp(segment);
                    true
                }
                None => false,
            },
            (V4, Udp { .. }) => match parts(frame, packet) {
                Some((link, network, segment)) => {
                    self.apply_link(link);
                    self.apply_v4(network);
                    self.apply_udp(segment);
                    true
                }
                None => false,
            },
            (V6, Tcp { .. }) => match parts(frame, packet) {
                Some((link, network, segment)) => {
                    self.apply_link(link);
                    self.apply_v6(network);
                    self.apply_tcp(segment);
                    true
                }
                None => false,
            },
            (V6, Udp { .. }) => match parts(frame, packet) {
                Some((link, network, segment)) => {
                    self.apply_link(link);
                    self.apply_v6(network);
                    self.apply_udp(segment);
                    true
                }
                None => false,
            },
            _ => self.apply_rare(frame, packet).is_some(),
        };
        debug_assert!(applied, "{packet:?} was not parsed from this frame");
    }

    #[cold]
    #[inline(never)]
    fn apply_rare(&self, frame: &mut [u8], packet: &IpPacket) -> Option<()> {
        match (packet.family, packet.transport) {
            // ICMPv4 has no pseudo-header: nothing in it depends on the addresses.
            (Family::V4, _) => {
                let (link, network, []) = parts(frame, packet)?;
                self.apply_link(link);
                self.apply_v4(network);
            }
            (Family::V6, Transport::Icmp { .. }) => {
                let (link, network, message) = parts(frame, packet)?;
                self.apply_link(link);
                self.apply_v6(network);
                self.apply_icmp_v6(message);
            }
            (Family::V6, _) => {
                let (link, network, []) = parts(frame, packet)?;
                self.apply_link(link);
                self.apply_v6(network);
            }
        }
        Some(())
    }

    #[inline(always)]
    pub(crate) fn apply_v4(&self, header: &mut [u8; ipv4::HEADER_LEN]) {
        use ipv4::field::{CHECKSUM, DESTINATION, SOURCE, TTL};

        let mut delta = Delta::default();
        if let Some(to) = self.source {
            wire::set(header, SOURCE, to.address.v4_octets());
            delta += to.network;
        }
        if let Some(to) = self.destination {
            wire::set(header, DESTINATION, to.address.v4_octets());
            delta += to.network;
        }
        if self.decrement_hop_limit && header[TTL] > 0 {
            header[TTL] -= 1;
            delta += Delta::HOP_LIMIT_DECREMENT;
        }
        wire::update(header, CHECKSUM, |checksum| delta.apply(checksum));
    }

    #[inline(always)]
    pub(crate) fn apply_v6(&self, header: &mut [u8; ipv6::HEADER_LEN]) {
        use ipv6::field::{DESTINATION, HOP_LIMIT, SOURCE};

        if let Some(to) = self.source {
            wire::set(header, SOURCE, to.address.octets());
        }
        if let Some(to) = self.destination {
            wire::set(header, DESTINATION, to.address.octets());
        }
        if self.decrement_hop_limit {
            header[HOP_LIMIT] = header[HOP_LIMIT].saturating_sub(1);
        }
    }

    #[inline(always)]
    fn apply_tcp(&self, header: &mut [u8; tcp::HEADER_LEN]) {
        use tcp::field::{CHECKSUM, DESTINATION, SOURCE};

        let delta = self.apply_ports(header, SOURCE, DESTINATION);
        wire::update(header, CHECKSUM, |checksum| delta.apply(checksum));
    }

    #[inline(always)]
    fn apply_udp(&self, header: &mut [u8; udp::HEADER_LEN]) {
        use udp::field::{CHECKSUM, DESTINATION, SOURCE};

        let delta = self.apply_ports(header, SOURCE, DESTINATION);
        wire::update(header, CHECKSUM, |checksum| delta.apply_udp(checksum));
    }

    /// Writes the ports; gives what they and the addresses add to the checksum.
    #[inline(always)]
    pub(crate) fn apply_ports(
        &self,
        header: &mut [u8],
        source: Range<usize>,
        destination: Range<usize>,
    ) -> Delta {
        let mut delta = Delta::default();
        if let Some(to) = self.source {
            wire::set_word(header, source, to.port);
            delta += to.transport;
        }
        if let Some(to) = self.destination {
            wire::set_word(header, destination, to.port);
            delta += to.transport;
        }
        delta
    }

    /// An `ICMPv6` checksum covers the addresses.
    #[inline(always)]
    fn apply_icmp_v6(&self, header: &mut [u8; icmp::HEADER_LEN]) {
        let sides = [self.source, self.destination].into_iter().flatten();
        let delta = sides.fold(Delta::default(), |sum, to| sum + to.network);
        wire::update(header, icmp::field::CHECKSUM, |checksum| {
            delta.apply(checksum)
        });
    }

    #[inline(always)]
    fn apply_link(&self, header: &mut [u8; ethernet::HEADER_LEN]) {
        if let Some((source, destination)) = self.link {
            wire::set(header, ethernet::field::SOURCE, source.0);
            wire::set(header, ethernet::field::DESTINATION, destination.0);
        }
    }
}

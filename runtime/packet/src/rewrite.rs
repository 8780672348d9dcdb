//! NAT as a value: computed once per backend or session, applied to each packet.
//!
//! Invariant: `apply` depends on the packet and the `Rewrite` alone. The checksum deltas in a
//! [`Translation`] are computed once, from the old and the new endpoint (RFC 1624 equation 3).

use std::ops::Range;

use crate::{
    Address, Delta, Family, IpPacket, Link, Mac, Transport, ethernet, icmp, ipv4, ipv6, tcp, udp,
    wire,
};

/// A new source or destination endpoint, with the resulting checksum changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The new address.
    pub address: Address,
    /// The new port (TCP and UDP).
    pub port: u16,
    /// Change of the IPv4 header checksum.
    pub network: Delta,
    /// Change of the transport checksum, which covers addresses (in the pseudo-header) and ports.
    pub transport: Delta,
}

/// All changes that NAT and routing make to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// New source endpoint: the VIP in a reply, or a source NAT address in a request.
    pub source: Option<Translation>,
    /// New destination endpoint: the backend in a request, or the client in a reply after source NAT.
    pub destination: Option<Translation>,
    /// New MAC addresses; `None` keeps both (transparent mode).
    pub link: Option<Link>,
    /// Whether to decrement TTL or hop limit (RFC 1812 section 5.3.1). The caller must have checked
    /// that it is above 1.
    pub decrement_hop_limit: bool,
}

impl Translation {
    /// Creates the translation from one endpoint to another of the same family.
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

/// The headers that a rewrite changes: link, IP, transport.
type Headers<'a, const NETWORK: usize, const SEGMENT: usize> = (
    &'a mut [u8; ethernet::HEADER_LEN],
    &'a mut [u8; NETWORK],
    &'a mut [u8; SEGMENT],
);

/// Returns the headers, or `None` when one is not in the frame, so that a rewrite is all or nothing.
#[inline(always)]
fn headers<'a, const NETWORK: usize, const SEGMENT: usize>(
    frame: &'a mut [u8],
    packet: &IpPacket,
) -> Option<Headers<'a, NETWORK, SEGMENT>> {
    let (head, segment) = frame.split_at_mut_checked(packet.transport_start.into())?;
    let (link, network) = head.split_at_mut_checked(packet.network.into())?;
    Some((
        link.first_chunk_mut()?,
        network.first_chunk_mut()?,
        segment.first_chunk_mut()?,
    ))
}

impl Rewrite {
    /// Applies the changes to a frame and its parsed packet.
    ///
    /// In every fragment but the first, only addresses change: the transport checksum, which covers
    /// them, is in the first. A packet of another frame is a bug in the caller; the frame does not
    /// change.
    pub fn apply(&self, frame: &mut [u8], packet: &IpPacket) {
        self.changes().apply(frame, packet);
    }

    /// Returns the same changes by reference.
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

/// A [`Rewrite`] by reference: the hot path copies no translation.
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
    /// Applies the changes like [`Rewrite::apply`].
    #[inline(always)]
    pub fn apply(&self, frame: &mut [u8], packet: &IpPacket) {
        use Family::{V4, V6};
        use Transport::{Tcp, Udp};

        let applied = match (packet.family, packet.transport) {
            (V4, Tcp { .. }) => match headers(frame, packet) {
                Some((link, network, segment)) => {
                    self.apply_link(link);
                    self.apply_v4(network);
                    self.apply_tcp(segment);
                    true
                }
                None => false,
            },
            (V4, Udp { .. }) => match headers(frame, packet) {
                Some((link, network, segment)) => {
                    self.apply_link(link);
                    self.apply_v4(network);
                    self.apply_udp(segment);
                    true
                }
                None => false,
            },
            (V6, Tcp { .. }) => match headers(frame, packet) {
                Some((link, network, segment)) => {
                    self.apply_link(link);
                    self.apply_v6(network);
                    self.apply_tcp(segment);
                    true
                }
                None => false,
            },
            (V6, Udp { .. }) => match headers(frame, packet) {
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
                let (link, network, []) = headers(frame, packet)?;
                self.apply_link(link);
                self.apply_v4(network);
            }
            (Family::V6, Transport::Icmp { .. }) => {
                let (link, network, message) = headers(frame, packet)?;
                self.apply_link(link);
                self.apply_v6(network);
                self.apply_icmp_v6(message);
            }
            (Family::V6, _) => {
                let (link, network, []) = headers(frame, packet)?;
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

    /// Writes the ports; returns the checksum change of ports and addresses.
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

    /// Updates the checksum, which covers the addresses in `ICMPv6`.
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

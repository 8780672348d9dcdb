//! Neighbour discovery for IPv6 (RFC 4861): solicitations and advertisements, parsed and written.
//!
//! Invariant: a parsed message has passed every check of RFC 4861 section 7.1. A message is a value
//! that is parsed and written as a whole, so no field of a solicitation remains in its answer.

use crate::ip::Envelope;
use crate::{
    Address, Ethernet, Family, IpPacket, Link, Mac, ParseError, Transport, VlanTags, checksum,
    icmp, wire,
};

/// `ICMPv6` type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// `ICMPv6` type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// The hop limit of valid messages; another one means that a router forwarded the message.
pub const HOP_LIMIT: u8 = 255;
/// The multicast group of all nodes on a link, `ff02::1`.
pub const ALL_NODES: Address = Address::from_bits(0xff02 << 112 | 1);

/// Length of a message without options.
const FIXED_LEN: usize = 24;
/// Length of a link-layer address option.
const OPTION_LEN: usize = 8;
/// Option type: the sender's link-layer address.
const SOURCE_LINK: u8 = 1;
/// Option type: the target's link-layer address.
const TARGET_LINK: u8 = 2;
/// `ff02::1:ff00:0/104`, the prefix of solicited-node groups; an address's last 24 bits follow.
const SOLICITED_NODE: u128 = 0xff02 << 112 | 0x1_ff00_0000;
const SOLICITED_NODE_BITS: u128 = 0xff_ffff;

mod field {
    use std::ops::Range;

    pub(super) const FLAGS: usize = 4;
    pub(super) const TARGET: Range<usize> = 8..24;
    pub(super) const OPTION_TYPE: usize = 0;
    /// In units of eight bytes.
    pub(super) const OPTION_LEN: usize = 1;
    pub(super) const OPTION_MAC: Range<usize> = 2..8;
}

mod flag {
    /// The advertisement answers a solicitation.
    pub(super) const SOLICITED: u8 = 0x40;
    /// The advertisement overrides the receiver's cache entry.
    pub(super) const OVERRIDE: u8 = 0x20;
}

/// A neighbour solicitation: asks for the MAC address of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// The link header.
    pub ethernet: Ethernet,
    /// Source address; unspecified (`::`) in duplicate address detection (RFC 4862 section 5.4).
    pub source: Address,
    /// Destination address: the target's solicited-node group, or the target.
    pub destination: Address,
    /// The address to resolve.
    pub target: Address,
    /// The sender's MAC address, if the message contains it.
    pub source_mac: Option<Mac>,
}

/// A neighbour advertisement: states that a MAC address has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The link header.
    pub ethernet: Ethernet,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// The advertised address.
    pub target: Address,
    /// The target's MAC address, if the message contains it.
    pub target_mac: Option<Mac>,
    /// Whether this answers a solicitation.
    pub solicited: bool,
}

impl Solicitation {
    /// Returns whether a packet is a solicitation, valid or not.
    #[must_use]
    pub fn is_in(packet: &IpPacket) -> bool {
        packet.family == Family::V6
            && packet.transport
                == (Transport::Icmp {
                    kind: SOLICITATION,
                    code: 0,
                })
    }

    /// Parses a solicitation (RFC 4861 section 7.1.1).
    ///
    /// # Errors
    /// A [`ParseError`] for an invalid solicitation, which the receiver must drop silently.
    pub fn parse(frame: &[u8], packet: &IpPacket) -> Result<Self, ParseError> {
        let (target, options) = parse_message(frame, packet, SOLICITATION)?;
        let source_mac = link_option(options, SOURCE_LINK)?;
        let (source, destination) = (packet.source, packet.destination);
        let detects_duplicates = source.bits() == 0;
        if detects_duplicates && (source_mac.is_some() || !is_solicited_node(destination)) {
            return Err(ParseError::Forbidden);
        }
        Ok(Self {
            ethernet: packet.ethernet,
            source,
            destination,
            target,
            source_mac,
        })
    }

    /// Creates the solicitation of `target` by `source` at `mac`, sent to the target's solicited-node
    /// group. An unspecified `source` makes it duplicate address detection.
    #[must_use]
    pub fn new(mac: Mac, tags: VlanTags, source: Address, target: Address) -> Self {
        let destination = solicited_node(target);
        let link = Link {
            source: mac,
            destination: Mac::of_multicast(destination),
        };
        let source_mac = (source.bits() != 0).then_some(mac);
        let ethernet = Ethernet::new(link, tags, crate::ipv6::ETHERTYPE);
        Self {
            ethernet,
            source,
            destination,
            target,
            source_mac,
        }
    }

    /// Creates the advertisement that `mac` has the target address (RFC 4861 section 7.2.4): sent to
    /// the solicitation's source, or to all nodes when the source is unspecified.
    #[must_use]
    pub fn answer(&self, mac: Mac) -> Advertisement {
        if self.source.bits() == 0 {
            return Advertisement::announcement(mac, self.ethernet.tags, self.target);
        }
        Advertisement {
            ethernet: self
                .ethernet
                .answer(mac, self.source_mac.unwrap_or(self.ethernet.source)),
            source: self.target,
            destination: self.source,
            target: self.target,
            target_mac: Some(mac),
            solicited: true,
        }
    }

    /// Returns the length of the frame that [`Solicitation::write`] writes.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.message().frame_len()
    }

    /// Writes the frame. Returns `false` and writes nothing when `frame` is shorter than
    /// [`Solicitation::frame_len`].
    #[must_use]
    pub fn write(&self, frame: &mut [u8]) -> bool {
        self.message().write(frame).is_some()
    }

    fn message(&self) -> Message {
        Message {
            kind: SOLICITATION,
            flags: 0,
            envelope: envelope(self.ethernet, self.source, self.destination),
            target: self.target,
            link: self.source_mac.map(|mac| (SOURCE_LINK, mac)),
        }
    }
}

impl Advertisement {
    /// Parses an advertisement (RFC 4861 section 7.1.2).
    ///
    /// # Errors
    /// A [`ParseError`] for an invalid advertisement, which the receiver must drop silently.
    pub fn parse(frame: &[u8], packet: &IpPacket) -> Result<Self, ParseError> {
        let (target, options) = parse_message(frame, packet, ADVERTISEMENT)?;
        let (source, destination) = (packet.source, packet.destination);
        let solicited = flags_of(frame, packet) & flag::SOLICITED != 0;
        if solicited && !destination.is_unicast() {
            return Err(ParseError::Forbidden);
        }
        let target_mac = link_option(options, TARGET_LINK)?;
        Ok(Self {
            ethernet: packet.ethernet,
            source,
            destination,
            target,
            target_mac,
            solicited,
        })
    }

    /// Creates the unsolicited advertisement to all nodes that `mac` has `address` (RFC 4861 section
    /// 7.2.6).
    #[must_use]
    pub fn announcement(mac: Mac, tags: VlanTags, address: Address) -> Self {
        let link = Link {
            source: mac,
            destination: Mac::of_multicast(ALL_NODES),
        };
        Self {
            ethernet: Ethernet::new(link, tags, crate::ipv6::ETHERTYPE),
            source: address,
            destination: ALL_NODES,
            target: address,
            target_mac: Some(mac),
            solicited: false,
        }
    }

    /// Returns the length of the frame that [`Advertisement::write`] writes.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.message().frame_len()
    }

    /// Writes the frame. Returns `false` and writes nothing when `frame` is shorter than
    /// [`Advertisement::frame_len`].
    #[must_use]
    pub fn write(&self, frame: &mut [u8]) -> bool {
        self.message().write(frame).is_some()
    }

    fn message(&self) -> Message {
        let solicited = if self.solicited { flag::SOLICITED } else { 0 };
        Message {
            kind: ADVERTISEMENT,
            flags: solicited | flag::OVERRIDE,
            envelope: envelope(self.ethernet, self.source, self.destination),
            target: self.target,
            link: self.target_mac.map(|mac| (TARGET_LINK, mac)),
        }
    }
}

/// Returns the solicited-node multicast group of an address (RFC 4291 section 2.7.1).
#[must_use]
pub const fn solicited_node(address: Address) -> Address {
    Address::from_bits(SOLICITED_NODE | address.bits() & SOLICITED_NODE_BITS)
}

const fn is_solicited_node(address: Address) -> bool {
    address.bits() & !SOLICITED_NODE_BITS == SOLICITED_NODE
}

/// Makes the checks that both messages share; returns target and options.
fn parse_message<'a>(
    frame: &'a [u8],
    packet: &IpPacket,
    kind: u8,
) -> Result<(Address, &'a [u8]), ParseError> {
    let expected = Transport::Icmp { kind, code: 0 };
    // Neighbour discovery is never fragmented (RFC 6980).
    if packet.family != Family::V6
        || packet.transport != expected
        || packet.fragment.is_some()
        || packet.hop_limit != HOP_LIMIT
    {
        return Err(ParseError::Forbidden);
    }
    let message = message_of(frame, packet).ok_or(ParseError::Truncated)?;
    let (fixed, options) = message
        .split_first_chunk::<FIXED_LEN>()
        .ok_or(ParseError::Truncated)?;
    if checksum::transport(
        packet.source,
        packet.destination,
        icmp::PROTOCOL_V6,
        message,
    ) != 0
    {
        return Err(ParseError::BadChecksum);
    }
    let target = Address::v6(wire::bytes(fixed, field::TARGET));
    if target.family() != Family::V6 || !target.is_unicast() {
        return Err(ParseError::Forbidden);
    }
    Ok((target, options))
}

fn message_of<'a>(frame: &'a [u8], packet: &IpPacket) -> Option<&'a [u8]> {
    frame.get(packet.transport_start.into()..packet.end.into())
}

fn flags_of(frame: &[u8], packet: &IpPacket) -> u8 {
    message_of(frame, packet)
        .and_then(|message| message.get(field::FLAGS))
        .copied()
        .unwrap_or(0)
}

/// Returns the MAC address in the link-layer address option `kind`, after checking all options.
fn link_option(mut options: &[u8], kind: u8) -> Result<Option<Mac>, ParseError> {
    let mut found = None;
    while !options.is_empty() {
        let option = options
            .first_chunk::<OPTION_LEN>()
            .ok_or(ParseError::Truncated)?;
        let len = usize::from(option[field::OPTION_LEN]) * OPTION_LEN;
        if len == 0 {
            return Err(ParseError::BadLength);
        }
        if option[field::OPTION_TYPE] == kind && len == OPTION_LEN {
            let mac = Mac(wire::bytes(option, field::OPTION_MAC));
            if mac.is_group() {
                return Err(ParseError::Forbidden);
            }
            found = Some(mac);
        }
        options = options.get(len..).ok_or(ParseError::Truncated)?;
    }
    Ok(found)
}

fn envelope(ethernet: Ethernet, source: Address, destination: Address) -> Envelope {
    Envelope {
        ethernet,
        source,
        destination,
        class: 0,
        hop_limit: HOP_LIMIT,
        protocol: icmp::PROTOCOL_V6,
    }
}

/// A message to write.
struct Message {
    kind: u8,
    flags: u8,
    envelope: Envelope,
    target: Address,
    link: Option<(u8, Mac)>,
}

impl Message {
    fn len(&self) -> usize {
        FIXED_LEN + if self.link.is_some() { OPTION_LEN } else { 0 }
    }

    fn frame_len(&self) -> usize {
        self.envelope.frame_len(self.len())
    }

    fn write(&self, frame: &mut [u8]) -> Option<()> {
        let message = self.envelope.write(frame, self.len())?;
        message[icmp::field::TYPE] = self.kind;
        message[field::FLAGS] = self.flags;
        wire::set(message, field::TARGET, self.target.octets());
        if let Some((kind, mac)) = self.link {
            let option = &mut message[FIXED_LEN..];
            option[field::OPTION_TYPE] = kind;
            option[field::OPTION_LEN] = 1;
            wire::set(option, field::OPTION_MAC, mac.0);
        }
        let (source, destination) = (self.envelope.source, self.envelope.destination);
        let checksum = checksum::transport(source, destination, icmp::PROTOCOL_V6, message);
        wire::set_word(message, icmp::field::CHECKSUM, checksum);
        Some(())
    }
}

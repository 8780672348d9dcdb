//! Neighbour discovery for IPv6 (RFC 4861): solicitations read and answered, advertisements made.
//!
//! Invariant: a message is a value, parsed from one frame and written to another (or to the same);
//! what it does not hold cannot leak from a question into its answer. A parsed message has passed
//! every check of RFC 4861 section 7.1.

use crate::ip::Envelope;
use crate::{
    Address, Ethernet, Family, IpPacket, Link, Mac, ParseError, Transport, VlanTags, checksum,
    icmp, wire,
};

/// `ICMPv6` type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// `ICMPv6` type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// A message with any other hop limit came through a router and is void.
pub const HOP_LIMIT: u8 = 255;
/// All nodes of a link, `ff02::1`.
pub const ALL_NODES: Address = Address::from_bits(0xff02 << 112 | 1);

/// Length of a message before its options.
const FIXED_LEN: usize = 24;
/// Length of a link-layer address option.
const OPTION_LEN: usize = 8;
/// Option: the sender's link-layer address.
const SOURCE_LINK: u8 = 1;
/// Option: the target's link-layer address.
const TARGET_LINK: u8 = 2;
/// `ff02::1:ff00:0/104`, which the last 24 bits of an address complete.
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
    /// The answer to a solicitation.
    pub(super) const SOLICITED: u8 = 0x40;
    /// It replaces what the receiver has in its cache.
    pub(super) const OVERRIDE: u8 = 0x20;
}

/// The question who has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Solicitation {
    /// The link header.
    pub ethernet: Ethernet,
    /// Who asks; unspecified (`::`) in duplicate address detection (RFC 4862 section 5.4).
    pub source: Address,
    /// Whom it is sent to: the target's solicited-node group, or the target.
    pub destination: Address,
    /// The address asked for.
    pub target: Address,
    /// The asker's MAC address, where the message says it.
    pub source_mac: Option<Mac>,
}

/// The word that a MAC address has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// The link header.
    pub ethernet: Ethernet,
    /// Who says it.
    pub source: Address,
    /// Whom it is said to.
    pub destination: Address,
    /// The address.
    pub target: Address,
    /// Its MAC address, where the message says it.
    pub target_mac: Option<Mac>,
    /// Whether it answers a solicitation.
    pub solicited: bool,
}

impl Solicitation {
    /// Whether a packet is one, valid or not.
    #[must_use]
    pub fn is_in(packet: &IpPacket) -> bool {
        packet.family == Family::V6
            && packet.transport
                == (Transport::Icmp {
                    kind: SOLICITATION,
                    code: 0,
                })
    }

    /// Reads one (RFC 4861 section 7.1.1).
    ///
    /// # Errors
    /// A [`ParseError`] where it is not a valid solicitation: the receiver must drop it silently.
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

    /// The question of `source` at `mac` who has `target`, to the target's solicited-node group.
    /// From the unspecified address it detects duplicates.
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

    /// The answer that `mac` has the target address (RFC 4861 section 7.2.4): to the asker, or to
    /// all nodes where the asker has no address yet.
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

    /// Length of the frame that [`Solicitation::write`] writes.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.message().frame_len()
    }

    /// Writes the frame. `false`, and nothing written, where `frame` is shorter than
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
    /// Reads one (RFC 4861 section 7.1.2).
    ///
    /// # Errors
    /// A [`ParseError`] where it is not a valid advertisement: the receiver must drop it silently.
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

    /// The unsolicited announcement to all nodes that `mac` has `address` (RFC 4861 section
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

    /// Length of the frame that [`Advertisement::write`] writes.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.message().frame_len()
    }

    /// Writes the frame. `false`, and nothing written, where `frame` is shorter than
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

/// The solicited-node multicast group of an address (RFC 4291 section 2.7.1).
#[must_use]
pub const fn solicited_node(address: Address) -> Address {
    Address::from_bits(SOLICITED_NODE | address.bits() & SOLICITED_NODE_BITS)
}

const fn is_solicited_node(address: Address) -> bool {
    address.bits() & !SOLICITED_NODE_BITS == SOLICITED_NODE
}

/// What solicitation and advertisement are checked for alike; gives target and options.
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

/// Walks all options and gives the MAC address of the link-layer address option `kind`.
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

/// A message to be written.
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

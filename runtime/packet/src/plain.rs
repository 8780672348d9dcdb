//! Plain packets, read and rewritten in place: whole TCP or UDP packets in one buffer, without IP options and
//! extension headers, behind at most two VLAN tags. Most traffic is plain, and nothing of it needs to be
//! copied.
//!
//! Invariant: [`read`] accepts only what [`crate::parse()`] accepts, with the same fields, and
//! [`Headers`] writes what [`crate::Changes::apply`] writes.
//!
//! Addresses are compared and written in the order of the wire: as words of a packet's bytes in memory.

pub use crate::packed_tags::PackedTags;
use crate::wire::{self, bytes};
use crate::{
    Address, Delta, Family, IpPacket, Mac, Protocol, Translation, Transport, ethernet, ipv4, ipv6,
    tcp, udp,
};

/// Family and protocol of a plain packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// TCP over IPv4.
    #[default]
    V4Tcp,
    /// UDP over IPv4.
    V4Udp,
    /// TCP over IPv6.
    V6Tcp,
    /// UDP over IPv6.
    V6Udp,
}

impl Kind {
    /// The kind of this number.
    #[inline(always)]
    #[must_use]
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::V4Tcp),
            1 => Some(Self::V4Udp),
            2 => Some(Self::V6Tcp),
            3 => Some(Self::V6Udp),
            _ => None,
        }
    }
}

/// What a packet's lookup and rewrite need to know of its headers beforehand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Family and protocol.
    pub kind: Kind,
    /// Length of the IP packet; Ethernet padding may follow.
    pub len: u16,
    /// The VLAN tags before it.
    pub tags: PackedTags,
}

impl Plain {
    /// Of a parsed packet, whatever its flags. `None` unless it is a whole TCP or UDP packet without IP
    /// options and extension headers.
    #[must_use]
    pub fn of(packet: &IpPacket) -> Option<Self> {
        let (kinds, header) = match packet.family {
            Family::V4 => ([Kind::V4Tcp, Kind::V4Udp], ipv4::HEADER_LEN),
            Family::V6 => ([Kind::V6Tcp, Kind::V6Udp], ipv6::HEADER_LEN),
        };
        let kind = match packet.transport {
            Transport::Tcp { .. } => kinds[0],
            Transport::Udp { .. } => kinds[1],
            Transport::Icmp { .. } | Transport::Other(_) => return None,
        };
        let is_plain = packet.fragment.is_none()
            && usize::from(packet.transport_start - packet.network) == header;
        is_plain.then(|| Self {
            kind,
            len: packet.end - packet.network,
            tags: (&packet.ethernet.tags).into(),
        })
    }
}

/// Hashes a flow's words, as they are in the packet's memory.
pub trait FlowHasher {
    /// The hash.
    type Hash;

    /// `addresses`: source, then destination. `ports`: the same.
    fn v4(&self, addresses: u64, ports: u32, protocol: Protocol) -> Self::Hash;

    /// `addresses`: two words of the source, then two of the destination. `ports`: source, then destination.
    fn v6(&self, addresses: [u64; 4], ports: u32, protocol: Protocol) -> Self::Hash;
}

/// Offset of the IP header.
const NETWORK: usize = ethernet::HEADER_LEN;
/// Offset of the transport header, by family.
const SEGMENT_V4: usize = NETWORK + ipv4::HEADER_LEN;
const SEGMENT_V6: usize = NETWORK + ipv6::HEADER_LEN;

/// A field of the IP header as a range of the frame.
macro_rules! network {
    ($header:ident::$field:ident) => {
        NETWORK + $header::field::$field.start..NETWORK + $header::field::$field.end
    };
}

/// `EtherType` and first byte of a plain packet's IP header, and which of their bits count. (IPv6 has four
/// bits of traffic class in that byte.)
const TYPE: std::ops::Range<usize> = ethernet::field::ETHERTYPE.start..NETWORK + 2;
const TYPE_V4: u32 = u32::from_ne_bytes([0x08, 0x00, 0x45, 0]);
const TYPE_V6: u32 = u32::from_ne_bytes([0x86, 0xdd, 0x60, 0]);
const TYPE_BITS_V4: u32 = u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);
const TYPE_BITS_V6: u32 = u32::from_ne_bytes([0xff, 0xff, 0xf0, 0]);
/// The first VLAN tag.
const TAG: std::ops::Range<usize> =
    ethernet::field::ETHERTYPE.start..ethernet::field::ETHERTYPE.start + ethernet::TAG_LEN;
/// The length of two tags.
const TAGS_LEN_MAX: usize = 2 * ethernet::TAG_LEN;
/// The bits of a fragment, in the order of the wire.
const FRAGMENT: u16 = (ipv4::MORE_FRAGMENTS | ipv4::OFFSET_MASK).to_be();

/// Reads the headers of a plain packet that opens, closes or resets no connection and has no VLAN tags.
/// `None` for any other frame, well-formed or not.
#[inline(always)]
#[must_use]
pub fn read<H: FlowHasher>(frame: &[u8], hasher: &H) -> Option<(Plain, H::Hash)> {
    read_behind(PackedTags::default(), frame, hasher)
}

/// Reads the headers like [`read`], behind one or two VLAN tags.
#[inline(always)]
#[must_use]
pub fn read_tagged<H: FlowHasher>(frame: &[u8], hasher: &H) -> Option<(Plain, H::Hash)> {
    let mut tags = PackedTags::default();
    let mut rest = frame;
    while tags.len() < TAGS_LEN_MAX {
        let head = rest.first_chunk::<{ ethernet::HEADER_LEN + ethernet::TAG_LEN }>()?;
        let tag = u32::from_be_bytes(bytes(head, TAG));
        if !ethernet::is_tag((tag >> 16) as u16) {
            break;
        }
        tags = tags.push(tag);
        rest = &rest[ethernet::TAG_LEN..];
    }
    if tags.is_empty() {
        return None;
    }
    read_behind(tags, rest, hasher)
}

/// Reads the headers behind these tags: in a frame without any, or in the part of a tagged one that starts
/// twelve bytes before its `EtherType`.
#[inline(always)]
fn read_behind<H: FlowHasher>(
    tags: PackedTags,
    frame: &[u8],
    hasher: &H,
) -> Option<(Plain, H::Hash)> {
    let head = frame.first_chunk::<{ SEGMENT_V4 + udp::HEADER_LEN }>()?;
    let kind = u32::from_ne_bytes(bytes(head, TYPE));
    if kind & TYPE_BITS_V4 == TYPE_V4 {
        read_v4(frame, head, tags, hasher)
    } else if kind & TYPE_BITS_V6 == TYPE_V6 {
        read_v6(frame, tags, hasher)
    } else {
        None
    }
}

#[inline(always)]
fn read_v4<H: FlowHasher>(
    frame: &[u8],
    head: &[u8; SEGMENT_V4 + udp::HEADER_LEN],
    tags: PackedTags,
    hasher: &H,
) -> Option<(Plain, H::Hash)> {
    let len = wire::word(head, network!(ipv4::TOTAL_LEN));
    let fragment = u16::from_ne_bytes(bytes(head, network!(ipv4::FLAGS_OFFSET)));
    if NETWORK + usize::from(len) > frame.len() || fragment & FRAGMENT != 0 {
        return None;
    }
    let addresses = {
        let [source, destination] = [network!(ipv4::SOURCE), network!(ipv4::DESTINATION)]
            .map(|field| bytes::<4>(head, field));
        u64::from(u32::from_ne_bytes(source)) | u64::from(u32::from_ne_bytes(destination)) << 32
    };
    let ports = u32::from_ne_bytes(bytes(head, SEGMENT_V4..SEGMENT_V4 + 4));
    let plain = |kind| Plain { kind, len, tags };
    match head[NETWORK + ipv4::field::PROTOCOL] {
        tcp::PROTOCOL => {
            steady_tcp::<SEGMENT_V4>(frame, usize::from(len) + NETWORK)?;
            Some((
                plain(Kind::V4Tcp),
                hasher.v4(addresses, ports, Protocol::Tcp),
            ))
        }
        udp::PROTOCOL => {
            whole_udp::<SEGMENT_V4>(frame, usize::from(len) + NETWORK)?;
            Some((
                plain(Kind::V4Udp),
                hasher.v4(addresses, ports, Protocol::Udp),
            ))
        }
        _ => None,
    }
}

#[inline(always)]
fn read_v6<H: FlowHasher>(frame: &[u8], tags: PackedTags, hasher: &H) -> Option<(Plain, H::Hash)> {
    let head = frame.first_chunk::<{ SEGMENT_V6 + udp::HEADER_LEN }>()?;
    let end = usize::from(wire::word(head, network!(ipv6::PAYLOAD_LEN))) + SEGMENT_V6;
    if end > frame.len() {
        return None;
    }
    let len = u16::try_from(end - NETWORK).ok()?;
    let word = |at: usize| u64::from_ne_bytes(bytes(head, at..at + 8));
    let [source, destination] = [network!(ipv6::SOURCE), network!(ipv6::DESTINATION)];
    let addresses = [
        word(source.start),
        word(source.start + 8),
        word(destination.start),
        word(destination.start + 8),
    ];
    // IPv4-mapped addresses, which are forbidden, start like this; few others do.
    if addresses[0] == 0 || addresses[2] == 0 {
        return None;
    }
    let ports = u32::from_ne_bytes(bytes(head, SEGMENT_V6..SEGMENT_V6 + 4));
    let plain = |kind| Plain { kind, len, tags };
    match head[NETWORK + ipv6::field::NEXT_HEADER] {
        tcp::PROTOCOL => {
            steady_tcp::<SEGMENT_V6>(frame, end)?;
            Some((
                plain(Kind::V6Tcp),
                hasher.v6(addresses, ports, Protocol::Tcp),
            ))
        }
        udp::PROTOCOL => {
            whole_udp::<SEGMENT_V6>(frame, end)?;
            Some((
                plain(Kind::V6Udp),
                hasher.v6(addresses, ports, Protocol::Udp),
            ))
        }
        _ => None,
    }
}

/// `Some` if a TCP header is whole and has none of SYN, FIN and RST. `end` is the IP packet's in the frame.
#[inline(always)]
fn steady_tcp<const SEGMENT: usize>(frame: &[u8], end: usize) -> Option<()> {
    const EVENTS: u8 = tcp::TcpFlags::FIN | tcp::TcpFlags::SYN | tcp::TcpFlags::RST;
    let header = frame.get(SEGMENT..SEGMENT + tcp::HEADER_LEN)?;
    let header_len = usize::from(header[tcp::field::DATA_OFFSET] >> 4) * 4;
    let is_whole = header_len >= tcp::HEADER_LEN && SEGMENT + header_len <= end;
    (is_whole && header[tcp::field::FLAGS] & EVENTS == 0).then_some(())
}

/// `Some` if a UDP datagram is whole.
#[inline(always)]
fn whole_udp<const SEGMENT: usize>(frame: &[u8], end: usize) -> Option<()> {
    let header = frame.get(SEGMENT..SEGMENT + udp::HEADER_LEN)?;
    let len = usize::from(wire::word(header, udp::field::LEN));
    (len >= udp::HEADER_LEN && SEGMENT + len <= end).then_some(())
}

/// An address in the order of the wire, as two words of its octets; IPv4 in mapped form.
#[inline]
#[must_use]
pub const fn wire_words(address: Address) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
    [
        u64::from_ne_bytes([a, b, c, d, e, f, g, h]),
        u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
    ]
}

/// A [`Translation`] in the order of the wire, for a routed packet: the change of the IPv4 header's checksum
/// includes that of the decremented TTL.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainTranslation {
    address: [u64; 2],
    port: [u8; 2],
    network: Delta,
    transport: Delta,
}

impl From<&Translation> for PlainTranslation {
    fn from(to: &Translation) -> Self {
        Self {
            address: wire_words(to.address),
            port: to.port.to_be_bytes(),
            network: to.network + Delta::HOP_LIMIT_DECREMENT,
            transport: to.transport,
        }
    }
}

/// Destination and source MAC of a frame to send, in the order of the wire: their first eight bytes and the
/// last four.
#[derive(Clone, Copy, Debug)]
pub struct MacWords(u64, u32);

/// The source MAC of frames to send.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceMac {
    first: u16,
    last: u32,
}

impl From<Mac> for SourceMac {
    fn from(Mac([a, b, c, d, e, f]): Mac) -> Self {
        Self {
            first: u16::from_be_bytes([a, b]),
            last: u32::from_ne_bytes([c, d, e, f]),
        }
    }
}

impl SourceMac {
    /// Both MACs; `destination` is in the lower 48 bits.
    #[inline(always)]
    #[must_use]
    pub const fn to(self, destination: u64) -> MacWords {
        MacWords((destination << 16 | self.first as u64).to_be(), self.last)
    }
}

/// The source MAC of a frame, in the lower 48 bits.
#[inline(always)]
#[must_use]
pub fn source_mac(frame: &[u8]) -> Option<u64> {
    let head = frame.first_chunk::<{ ethernet::HEADER_LEN }>()?;
    let at = ethernet::field::SOURCE.start;
    Some(u64::from_be_bytes(bytes(head, at..at + 8)) >> 16)
}

/// Writes the MACs of a frame. One that is too short does not change.
#[inline(always)]
pub fn write_macs(frame: &mut [u8], macs: MacWords) {
    if let Some(head) = frame.first_chunk_mut::<{ ethernet::HEADER_LEN }>() {
        wire::set(head, 0..8, macs.0.to_ne_bytes());
        wire::set(head, 8..12, macs.1.to_ne_bytes());
    }
}

/// The headers of a plain packet that [`read`] accepted, as `V6` and `UDP` say.
pub struct Headers<'a, const V6: bool, const UDP: bool>(&'a mut [u8]);

impl<'a, const V6: bool, const UDP: bool> Headers<'a, V6, UDP> {
    const SEGMENT: usize = if V6 { SEGMENT_V6 } else { SEGMENT_V4 };
    /// Length of link header and headers, without VLAN tags.
    pub const LEN: usize = Self::SEGMENT
        + if UDP {
            udp::HEADER_LEN
        } else {
            tcp::HEADER_LEN
        };
    const HOP_LIMIT: usize = if V6 {
        NETWORK + ipv6::field::HOP_LIMIT
    } else {
        NETWORK + ipv4::field::TTL
    };

    /// Those of a frame behind `tags_len` bytes of VLAN tags. `None` if it is too short for them.
    #[inline(always)]
    #[must_use]
    pub fn of(frame: &'a mut [u8], tags_len: usize) -> Option<Self> {
        frame.get_mut(tags_len..)?.get_mut(..Self::LEN).map(Self)
    }

    /// Offset of the source address, or of the destination.
    const fn address_at(source: bool) -> usize {
        match (V6, source) {
            (false, true) => network!(ipv4::SOURCE).start,
            (false, false) => network!(ipv4::DESTINATION).start,
            (true, true) => network!(ipv6::SOURCE).start,
            (true, false) => network!(ipv6::DESTINATION).start,
        }
    }

    /// 0 if the source address (`SOURCE`) or the destination has these octets ([`wire_words`]); for IPv4 only
    /// the last four are compared.
    #[inline(always)]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "takes the last octets")]
    pub fn compare_address<const SOURCE: bool>(&self, [upper, lower]: [u64; 2]) -> u64 {
        let at = const { Self::address_at(SOURCE) };
        if V6 {
            let word = |at: usize| u64::from_ne_bytes(bytes(self.0, at..at + 8));
            (word(at) ^ upper) | (word(at + 8) ^ lower)
        } else {
            let last = if cfg!(target_endian = "little") {
                (lower >> 32) as u32
            } else {
                lower as u32
            };
            u64::from(u32::from_ne_bytes(bytes(self.0, at..at + 4)) ^ last)
        }
    }

    /// Source port (upper half) and destination port.
    #[inline(always)]
    #[must_use]
    pub fn ports(&self) -> u32 {
        wire::long(self.0, const { Self::SEGMENT..Self::SEGMENT + 4 })
    }

    /// TTL or hop limit.
    #[inline(always)]
    #[must_use]
    pub fn hop_limit(&self) -> u8 {
        self.0[Self::HOP_LIMIT]
    }

    /// Writes VLAN tags ([`PackedTags::words`]) before the `EtherType`. Where there are fewer than two, this
    /// overwrites MACs: write those afterwards, by [`write_macs`].
    #[inline(always)]
    pub fn write_tags(&mut self, words: [u8; 8]) {
        const END: usize = ethernet::field::ETHERTYPE.start;
        wire::set(self.0, END - TAGS_LEN_MAX..END, words);
    }

    /// Rewrites a routed packet: hop limit, and its source endpoint (`SOURCE`) or its destination. The hop
    /// limit must be above 0.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "takes the last octets")]
    pub fn rewrite<const SOURCE: bool>(self, to: &PlainTranslation) {
        let head = self.0;
        head[Self::HOP_LIMIT] = head[Self::HOP_LIMIT].wrapping_sub(1);
        let at = const { Self::address_at(SOURCE) };
        let [upper, lower] = to.address;
        if V6 {
            wire::set(head, at..at + 8, upper.to_ne_bytes());
            wire::set(head, at + 8..at + 16, lower.to_ne_bytes());
        } else {
            let last = if cfg!(target_endian = "little") {
                (lower >> 32) as u32
            } else {
                lower as u32
            };
            wire::set(head, at..at + 4, last.to_ne_bytes());
            wire::update(head, network!(ipv4::CHECKSUM), |checksum| {
                to.network.apply(checksum)
            });
        }
        let port = Self::SEGMENT + if SOURCE { 0 } else { 2 };
        wire::set(head, port..port + 2, to.port);
        if UDP {
            let field = udp::field::CHECKSUM;
            let field = Self::SEGMENT + field.start..Self::SEGMENT + field.end;
            wire::update(head, field, |checksum| to.transport.apply_udp(checksum));
        } else {
            let field = tcp::field::CHECKSUM;
            let field = Self::SEGMENT + field.start..Self::SEGMENT + field.end;
            wire::update(head, field, |checksum| to.transport.apply(checksum));
        }
    }
}

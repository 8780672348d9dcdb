//! Fragments an IPv4 packet that exceeds the egress MTU (RFC 791 section 2.3, RFC 4787 REQ-13 a).
//!
//! Invariant: the fragments' payloads concatenated are the packet's payload. Each payload but the
//! last is a multiple of eight bytes, and no fragment exceeds the MTU. The packet may itself be a
//! fragment.

use std::ops::Range;

use crate::{Delta, Family, IpPacket, ipv4, wire};

/// The unit of a fragment offset, in bytes.
const UNIT: usize = 8;

/// How a packet is split into fragments, numbered from 0.
#[derive(Clone, Copy, Debug)]
pub struct Fragmentation {
    packet: IpPacket,
    /// Payload of each fragment but the last, in bytes.
    payload_len: usize,
}

impl Fragmentation {
    /// Returns whether a router may fragment a packet: IPv4, without "don't fragment". A packet with
    /// options is excluded, because only some options are copied into every fragment.
    #[must_use]
    pub fn is_allowed(frame: &[u8], packet: &IpPacket) -> bool {
        let header = frame
            .get(packet.network.into()..)
            .and_then(ipv4::Header::from_prefix)
            .filter(|_| packet.family == Family::V4);
        header.is_some_and(|header| {
            let has_options = header.header_len() != Some(const { wire::offset(ipv4::HEADER_LEN) });
            !header.dont_fragment() && !has_options
        })
    }

    /// Plans the fragments of a packet for an MTU in bytes. Returns `None` when the packet must not
    /// be fragmented, when the MTU leaves no room for payload, and when the packet is a fragment
    /// that ends behind the longest possible packet.
    #[must_use]
    pub fn new(frame: &[u8], packet: &IpPacket, mtu: u16) -> Option<Self> {
        let payload_len = usize::from(mtu).checked_sub(ipv4::HEADER_LEN)? / UNIT * UNIT;
        let fragmentation = Self {
            packet: *packet,
            payload_len,
        };
        let offset = packet.fragment.map_or(0, |fragment| fragment.offset);
        let end = offset.checked_add(packet.end - packet.transport_start);
        let is_possible = payload_len > 0 && end.is_some() && Self::is_allowed(frame, packet);
        is_possible.then_some(fragmentation)
    }

    /// Returns the number of fragments.
    #[must_use]
    pub fn count(&self) -> usize {
        let len = usize::from(self.packet.end - self.packet.transport_start);
        len.div_ceil(self.payload_len).max(1)
    }

    /// Returns the length of a fragment's frame, in bytes.
    #[must_use]
    pub fn frame_len(&self, number: usize) -> usize {
        usize::from(self.packet.transport_start) + self.payload(number).len()
    }

    /// Writes a fragment of the packet in `frame` into a frame of its own. Returns `false` and writes
    /// nothing when `fragment` is not [`Fragmentation::frame_len`] bytes long, `number` is not below
    /// [`Fragmentation::count`], or `frame` is shorter than the packet.
    #[must_use]
    pub fn write(&self, number: usize, frame: &[u8], fragment: &mut [u8]) -> bool {
        let start = usize::from(self.packet.transport_start);
        let (Some(headers), Some(payload)) = (frame.get(..start), frame.get(self.payload(number)))
        else {
            return false;
        };
        if number >= self.count() || fragment.len() != start + payload.len() {
            return false;
        }
        let (head, body) = fragment.split_at_mut(start);
        head.copy_from_slice(headers);
        body.copy_from_slice(payload);
        let header = head
            .get_mut(self.packet.network.into()..)
            .and_then(<[u8]>::first_chunk_mut);
        if let Some(header) = header {
            self.write_header(number, payload.len(), header);
        }
        true
    }

    /// Returns where a fragment's payload lies in the packet's frame.
    fn payload(&self, number: usize) -> Range<usize> {
        let end = usize::from(self.packet.end);
        let start = usize::from(self.packet.transport_start) + number * self.payload_len;
        start.min(end)..(start + self.payload_len).min(end)
    }

    /// Turns a copy of the packet's header into a fragment's. The checksum is updated incrementally,
    /// so a wrong one stays wrong.
    fn write_header(&self, number: usize, len: usize, header: &mut [u8; ipv4::HEADER_LEN]) {
        use ipv4::field::{CHECKSUM, FLAGS_OFFSET, TOTAL_LEN};

        let old = [
            wire::word(header, TOTAL_LEN),
            wire::word(header, FLAGS_OFFSET),
        ];
        let more = if number + 1 < self.count() {
            ipv4::MORE_FRAGMENTS
        } else {
            0
        };
        let units = wire::offset(number * self.payload_len / UNIT);
        let new = [
            wire::offset(ipv4::HEADER_LEN + len),
            (old[1] + units) | more,
        ];
        wire::set_word(header, TOTAL_LEN, new[0]);
        wire::set_word(header, FLAGS_OFFSET, new[1]);
        wire::update(header, CHECKSUM, |sum| {
            Delta::between(&old, &new).apply(sum)
        });
    }
}

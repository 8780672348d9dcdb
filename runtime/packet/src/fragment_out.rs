//! Cutting an IPv4 packet to pieces that a link takes (RFC 791 section 2.3, RFC 4787 REQ-13 a).
//!
//! Invariant: the pieces' payloads, put together, are the packet's; each but the last is a multiple of
//! eight bytes long, and none is longer than the link takes. What is cut may be a piece itself.

use std::ops::Range;

use crate::{Delta, Family, IpPacket, ipv4, wire};

/// The unit of a piece's place in its packet.
const UNIT: usize = 8;

/// How a packet is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    packet: IpPacket,
    /// Bytes of payload in each piece but the last.
    room: usize,
}

impl Cut {
    /// Whether routers may cut a packet: one of IPv4 whose sender does not forbid it. One with options
    /// is not cut, since some belong to the first piece and others to all of them.
    #[must_use]
    pub fn may_be_made(frame: &[u8], packet: &IpPacket) -> bool {
        let header = frame
            .get(packet.network.into()..)
            .and_then(ipv4::Header::from_prefix)
            .filter(|_| packet.family == Family::V4);
        header.is_some_and(|header| {
            let has_options = header.header_len() != Some(const { wire::offset(ipv4::HEADER_LEN) });
            !header.dont_fragment() && !has_options
        })
    }

    /// Cuts a packet for a link with this MTU, in bytes. `None` where it may not be cut, where the link
    /// takes no payload at all, and where it is a piece that lies beyond the end of any packet.
    #[must_use]
    pub fn new(frame: &[u8], packet: &IpPacket, mtu: u16) -> Option<Self> {
        let room = usize::from(mtu).checked_sub(ipv4::HEADER_LEN)? / UNIT * UNIT;
        let cut = Self {
            packet: *packet,
            room,
        };
        let offset = packet.fragment.map_or(0, |fragment| fragment.offset);
        let fits = offset.checked_add(packet.end - packet.transport_start);
        (room > 0 && fits.is_some() && Self::may_be_made(frame, packet)).then_some(cut)
    }

    /// How many pieces there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let len = usize::from(self.packet.end - self.packet.transport_start);
        len.div_ceil(self.room).max(1)
    }

    /// Length of the frame around the piece of this number.
    #[must_use]
    pub fn frame_len(&self, number: usize) -> usize {
        usize::from(self.packet.transport_start) + self.payload(number).len()
    }

    /// Writes a piece into a frame of its own. `false`, and nothing written, where that is not of
    /// [`Cut::frame_len`], or `frame` is not the packet's.
    #[must_use]
    pub fn write(&self, number: usize, frame: &[u8], piece: &mut [u8]) -> bool {
        let start = usize::from(self.packet.transport_start);
        let (Some(headers), Some(payload)) = (frame.get(..start), frame.get(self.payload(number)))
        else {
            return false;
        };
        if number >= self.count() || piece.len() != start + payload.len() {
            return false;
        }
        let (head, body) = piece.split_at_mut(start);
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

    /// Where a piece's payload lies in the packet's frame.
    fn payload(&self, number: usize) -> Range<usize> {
        let end = usize::from(self.packet.end);
        let start = usize::from(self.packet.transport_start) + number * self.room;
        start.min(end)..(start + self.room).min(end)
    }
    /// Makes the packet's header a piece's. Its checksum follows by its increment: one that is wrong
    /// stays so.
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
        let units = wire::offset(number * self.room / UNIT);
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

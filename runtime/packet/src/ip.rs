//! Link and IP headers of packets that the balancer originates.
//!
//! Invariant: the written headers depend on the values alone, never on the frame's previous content.

use crate::{Address, Ethernet, Family, Link, VlanTags, ipv4, ipv6};

/// Hop limit of packets that the balancer originates (RFC 1700, "IP time to live").
pub(crate) const HOP_LIMIT: u8 = 64;

/// DSCP CS6, precedence 6 "internetwork control" (RFC 2474 section 4.2.2), as a value of the type of
/// service and traffic class fields.
pub(crate) const INTERNETWORK_CONTROL: u8 = 0xc0;

/// The headers in front of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope {
    pub(crate) ethernet: Ethernet,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    /// Type of service or traffic class.
    pub(crate) class: u8,
    pub(crate) hop_limit: u8,
    pub(crate) protocol: u8,
}

impl Envelope {
    /// Creates headers between two addresses of one family, with traffic class 0.
    pub(crate) fn new(
        link: Link,
        tags: VlanTags,
        (source, destination): (Address, Address),
        hop_limit: u8,
        protocol: u8,
    ) -> Self {
        let ethertype = match destination.family() {
            Family::V4 => ipv4::ETHERTYPE,
            Family::V6 => ipv6::ETHERTYPE,
        };
        let ethernet = Ethernet::new(link, tags, ethertype);
        Self {
            ethernet,
            source,
            destination,
            class: 0,
            hop_limit,
            protocol,
        }
    }

    /// Returns the length of the frame around a segment of `segment_len` bytes.
    pub(crate) fn frame_len(&self, segment_len: usize) -> usize {
        let network = match self.destination.family() {
            Family::V4 => ipv4::HEADER_LEN,
            Family::V6 => ipv6::HEADER_LEN,
        };
        self.ethernet.header_len() + network + segment_len
    }

    /// Writes the headers and zeroes the segment, which it returns. Returns `None` and writes nothing
    /// when the frame is too short, or the segment too long for an IP packet.
    pub(crate) fn write<'a>(
        &self,
        frame: &'a mut [u8],
        segment_len: usize,
    ) -> Option<&'a mut [u8]> {
        let segment = self.write_headers(frame, segment_len)?;
        segment.fill(0);
        Some(segment)
    }

    /// Like [`Envelope::write`], but keeps the segment's bytes.
    pub(crate) fn write_headers<'a>(
        &self,
        frame: &'a mut [u8],
        segment_len: usize,
    ) -> Option<&'a mut [u8]> {
        let (source, destination) = (self.source, self.destination);
        let frame = frame.get_mut(..self.frame_len(segment_len))?;
        let segment = match destination.family() {
            Family::V4 => {
                let total_len = u16::try_from(ipv4::HEADER_LEN + segment_len).ok()?;
                let (header, segment) = self.ethernet.write(frame)?.split_first_chunk_mut()?;
                let (ttl, protocol) = (self.hop_limit, self.protocol);
                ipv4::NewHeader {
                    type_of_service: self.class,
                    total_len,
                    ttl,
                    protocol,
                    source,
                    destination,
                }
                .write(header);
                segment
            }
            Family::V6 => {
                let payload_len = u16::try_from(segment_len).ok()?;
                let (header, segment) = self.ethernet.write(frame)?.split_first_chunk_mut()?;
                let (hop_limit, next_header) = (self.hop_limit, self.protocol);
                ipv6::NewHeader {
                    traffic_class: self.class,
                    payload_len,
                    next_header,
                    hop_limit,
                    source,
                    destination,
                }
                .write(header);
                segment
            }
        };
        Some(segment)
    }
}

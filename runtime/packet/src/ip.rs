//! The headers in front of a segment that the balancer itself sends: link and IP, of either family.
//!
//! Invariant: what is written depends on the values alone, never on what the frame held before.

use crate::{Address, Ethernet, Family, Link, VlanTags, ipv4, ipv6};

/// The hop limit of what the balancer itself sends (RFC 1700, "IP time to live").
pub(crate) const HOP_LIMIT: u8 = 64;

/// DSCP CS6, which is precedence 6, "internetwork control" (RFC 2474 section 4.2.2), as the type of
/// service and the traffic class have it.
pub(crate) const INTERNETWORK_CONTROL: u8 = 0xc0;

/// Everything in front of the segment.
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
    /// From one address to another of the same family, in the default class.
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

    /// Length of the frame around a segment.
    pub(crate) fn frame_len(&self, segment_len: usize) -> usize {
        let network = match self.destination.family() {
            Family::V4 => ipv4::HEADER_LEN,
            Family::V6 => ipv6::HEADER_LEN,
        };
        self.ethernet.header_len() + network + segment_len
    }

    /// Writes the headers and gives the segment's place, zeroed; `None`, and nothing written,
    /// where the frame is shorter or the segment longer than an IP packet can be.
    pub(crate) fn write<'a>(
        &self,
        frame: &'a mut [u8],
        segment_len: usize,
    ) -> Option<&'a mut [u8]> {
        let segment = self.write_headers(frame, segment_len)?;
        segment.fill(0);
        Some(segment)
    }

    /// The same, but the segment's place is as the frame had it.
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

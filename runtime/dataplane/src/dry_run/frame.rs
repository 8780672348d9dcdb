//! A packet written for a dry run, and the I/O that it meets there.

use std::time::Duration;

use waxwing_packet::{
    Address, Ethernet, Family, Link, Packet, Protocol, TcpFlags, VlanTags, checksum, ipv4, ipv6,
};

use crate::path::tuple_of;
use crate::session::Tuple;
use crate::{DropReason, FrameBuf, FrameIo, PortId};

/// Free bytes before a frame: two VLAN tags may be added.
const HEADROOM: usize = 64;
/// The hop limit of a packet from a client.
const HOP_LIMIT: u8 = 64;

/// The link header that a packet arrives with.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    pub(super) port: PortId,
    pub(super) link: Link,
    pub(super) tags: VlanTags,
}

/// A frame of one buffer.
pub(super) struct DryFrame {
    port: PortId,
    buffer: Vec<u8>,
    start: usize,
}

impl DryFrame {
    /// Writes a TCP or UDP packet of `len` bytes, or more if its headers are longer. It must not be
    /// fragmented.
    pub(super) fn new(arrival: &Arrival, tuple: &Tuple, flags: u8, len: usize) -> Self {
        let (header_len, ethertype) = match tuple.source.family() {
            Family::V4 => (20, ipv4::ETHERTYPE),
            Family::V6 => (40, ipv6::ETHERTYPE),
        };
        let ethernet = Ethernet::new(arrival.link, arrival.tags, ethertype);
        let segment = segment(tuple, flags, len.saturating_sub(header_len));
        let mut buffer = vec![0; HEADROOM + ethernet.header_len()];
        // The buffer is as long as the header.
        let _ = ethernet.write(&mut buffer[HEADROOM..]);
        buffer.extend(header(tuple, segment.len()));
        buffer.extend(segment);
        Self {
            port: arrival.port,
            buffer,
            start: HEADROOM,
        }
    }
}

/// Returns an IP header before so many bytes.
fn header(tuple: &Tuple, len: usize) -> Vec<u8> {
    let long = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    let protocol = tuple.protocol as u8;
    match tuple.source.family() {
        Family::V4 => {
            let [high, low] = long(20 + len);
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, HOP_LIMIT, protocol, 0, 0];
            header.extend(tuple.source.v4_octets());
            header.extend(tuple.destination.v4_octets());
            let sum = checksum::of(&header).to_be_bytes();
            header[10..12].copy_from_slice(&sum);
            header
        }
        Family::V6 => {
            let [high, low] = long(len);
            let mut header = vec![0x60, 0, 0, 0, high, low, protocol, HOP_LIMIT];
            header.extend(tuple.source.octets());
            header.extend(tuple.destination.octets());
            header
        }
    }
}

/// Returns a segment or datagram of `len` bytes, or more if its header is longer.
fn segment(tuple: &Tuple, flags: u8, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    bytes.extend(tuple.source_port.to_be_bytes());
    bytes.extend(tuple.destination_port.to_be_bytes());
    let sum_at = match tuple.protocol {
        Protocol::Tcp => {
            bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
            16
        }
        Protocol::Udp => {
            let len = u16::try_from(len.max(8)).unwrap_or(u16::MAX);
            bytes.extend(len.to_be_bytes());
            bytes.extend([0, 0]);
            6
        }
    };
    bytes.resize(len.max(bytes.len()), 0);
    let (from, to) = (tuple.source, tuple.destination);
    let sum = checksum::transport(from, to, tuple.protocol as u8, &bytes).to_be_bytes();
    bytes[sum_at..sum_at + 2].copy_from_slice(&sum);
    bytes
}

/// The flags of a client's first segment.
pub(super) const OPENS: u8 = TcpFlags::SYN;
/// Those of a server's first segment.
pub(super) const ANSWERS: u8 = TcpFlags::SYN | TcpFlags::ACK;
/// Those of later ones.
pub(super) const GOES_ON: u8 = TcpFlags::ACK;

impl FrameBuf for DryFrame {
    fn port(&self) -> PortId {
        self.port
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..]
    }

    fn rest_len(&self) -> usize {
        0
    }

    fn rest(&self, _: usize) -> Option<&[u8]> {
        None
    }

    fn rest_mut(&mut self, _: usize) -> Option<&mut [u8]> {
        None
    }

    fn move_start(&mut self, by: isize) -> bool {
        let start = self.start.checked_add_signed(by);
        let moved = start.filter(|start| *start <= self.buffer.len());
        self.start = moved.unwrap_or(self.start);
        moved.is_some()
    }

    fn set_len(&mut self, len: usize) -> bool {
        self.buffer.resize(self.start + len, 0);
        true
    }
}

/// Keeps what would leave.
#[derive(Default)]
pub(super) struct DryIo {
    pub(super) sent: Vec<(PortId, Vec<u8>)>,
}

impl FrameIo for DryIo {
    type Frame = DryFrame;

    fn receive(&mut self, _: &mut Vec<DryFrame>) {}

    fn allocate(&mut self, port: PortId) -> Option<DryFrame> {
        Some(DryFrame {
            port,
            buffer: vec![0; HEADROOM],
            start: HEADROOM,
        })
    }

    fn send(&mut self, port: PortId, frame: DryFrame) -> Result<(), DropReason> {
        self.sent.push((port, frame.bytes().to_vec()));
        Ok(())
    }

    fn pass_to_kernel(&mut self, _: DryFrame) -> Result<(), DropReason> {
        Ok(())
    }

    fn flush(&mut self) {}

    fn wait(&mut self, _: Duration) {}
}

/// Reads a frame that would leave: its link header, and its addresses and ports if it is TCP or UDP.
pub(super) fn read(frame: &[u8]) -> Option<(Ethernet, Option<Tuple>)> {
    match waxwing_packet::parse(frame) {
        Ok(Packet::Ip(packet)) => Some((packet.ethernet, tuple_of(&packet))),
        _ => None,
    }
}

/// Puts a tuple together.
pub(super) const fn tuple(
    protocol: Protocol,
    (source, source_port): (Address, u16),
    (destination, destination_port): (Address, u16),
) -> Tuple {
    Tuple {
        source,
        destination,
        source_port,
        destination_port,
        protocol,
    }
}

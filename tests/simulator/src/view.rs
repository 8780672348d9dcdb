//! A second frame parser, which shares no code with the core's parser and checksums.
//!
//! Invariant: a [`View`] is of a complete TCP, UDP or ICMP packet without IP options, extension headers or
//! fragmentation. Other frames have no view.

use std::ops::Range;

use waxwing_packet::{Address, Mac};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const ICMP_V4: u8 = 1;
const ICMP_V6: u8 = 58;

/// The fields of a frame and their places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) v6: bool,
    /// The start of the IP header.
    pub(crate) network: usize,
    /// The start of the transport header.
    pub(crate) segment: usize,
    /// The start of the transport payload.
    pub(crate) payload: usize,
    /// The end of the packet.
    pub(crate) end: usize,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) hop_limit: u8,
    pub(crate) protocol: u8,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// TCP only, as the next two fields; otherwise 0.
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgment: u32,
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from(word(bytes, at)) << 16 | u32::from(word(bytes, at + 2))
}

/// A frame's destination and source MAC address.
pub(crate) fn macs(frame: &[u8]) -> (Mac, Mac) {
    let mac = |at: usize| Mac(std::array::from_fn(|n| frame[at + n]));
    (mac(0), mac(6))
}

/// The link header after the MAC addresses: VLAN tags and EtherType.
pub(crate) fn tags(frame: &[u8], network: usize) -> &[u8] {
    &frame[12..network]
}

/// Parses a frame; `None` for frames without a view.
pub(crate) fn view(frame: &[u8]) -> Option<View> {
    let mut network = 14;
    while network <= 18
        && frame.len() > network
        && [0x8100, 0x88a8].contains(&word(frame, network - 2))
    {
        network += 4;
    }
    let ip = frame.get(network..)?;
    let (v6, header_len, total, protocol) = match word(frame, network - 2) {
        0x0800 if ip.len() >= 20 && ip[0] == 0x45 && word(ip, 6) & 0x3fff == 0 => {
            (false, 20, usize::from(word(ip, 2)), ip[9])
        }
        0x86dd if ip.len() >= 40 && ip[0] >> 4 == 6 => {
            (true, 40, 40 + usize::from(word(ip, 4)), ip[6])
        }
        _ => return None,
    };
    let segment = ip.get(header_len..total)?;
    let header = match protocol {
        TCP if segment.len() >= 20 => usize::from(segment[12] >> 4) * 4,
        UDP if segment.len() >= 8 && usize::from(word(segment, 4)) == segment.len() => 8,
        ICMP_V4 if !v6 && segment.len() >= 8 => 8,
        ICMP_V6 if v6 && segment.len() >= 8 => 8,
        _ => return None,
    };
    if header > segment.len() || (protocol == TCP && header < 20) {
        return None;
    }
    let tcp = protocol == TCP;
    let ports = tcp || protocol == UDP;
    let address = |v4: usize, v6_at: usize| {
        if v6 {
            Address::v6(std::array::from_fn(|n| ip[v6_at + n]))
        } else {
            Address::v4(std::array::from_fn(|n| ip[v4 + n]))
        }
    };
    Some(View {
        v6,
        network,
        segment: network + header_len,
        payload: network + header_len + header,
        end: network + total,
        source: address(12, 8),
        destination: address(16, 24),
        hop_limit: if v6 { ip[7] } else { ip[8] },
        protocol,
        source_port: if ports { word(segment, 0) } else { 0 },
        destination_port: if ports { word(segment, 2) } else { 0 },
        flags: if tcp { segment[13] } else { 0 },
        sequence: if tcp { long(segment, 4) } else { 0 },
        acknowledgment: if tcp { long(segment, 8) } else { 0 },
    })
}

/// The sum of 16-bit words modulo 65,535: 0 if they include a correct checksum.
fn residue(words: impl Iterator<Item = u64>) -> u64 {
    words.sum::<u64>() % 0xffff
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u64::from(pair[0]) << 8 | u64::from(low)
    })
}

impl View {
    /// The place of the transport checksum.
    pub(crate) fn checksum_at(&self) -> usize {
        self.segment
            + match self.protocol {
                TCP => 16,
                UDP => 6,
                _ => 2,
            }
    }

    /// Whether the packet is a UDP datagram without a checksum.
    pub(crate) fn has_no_checksum(&self, frame: &[u8]) -> bool {
        self.protocol == UDP && word(frame, self.checksum_at()) == 0
    }

    /// The errors of the checksums of the IPv4 header and of the segment. A translation must preserve both.
    pub(crate) fn checksum_errors(&self, frame: &[u8]) -> (u64, u64) {
        let header = if self.v6 {
            0
        } else {
            residue(words(&frame[self.network..self.segment]))
        };
        let segment = &frame[self.segment..self.end];
        let addresses: Range<usize> = if self.v6 { 8..40 } else { 12..20 };
        let pseudo = match self.protocol {
            ICMP_V4 => 0,
            protocol => residue(
                words(&frame[self.network..][addresses])
                    .chain([u64::from(protocol), segment.len() as u64]),
            ),
        };
        let sum = if self.has_no_checksum(frame) {
            0
        } else {
            residue(words(segment).chain([pseudo]))
        };
        (header, sum)
    }

    pub(crate) fn has_valid_checksums(&self, frame: &[u8]) -> bool {
        self.checksum_errors(frame) == (0, 0) && !(self.v6 && self.has_no_checksum(frame))
    }
}

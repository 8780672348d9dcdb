//! A parsed frame: offsets, and the fields that forwarding depends on.

use crate::{Address, Ethernet, Family, TcpFlags};

/// The protocol number of `ICMPv6`.
pub(crate) const ICMP_V6: u8 = 58;

/// A frame's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// An IPv4 or IPv6 packet.
    Ip(IpPacket),
    /// ARP; see [`crate::arp`].
    Arp(Ethernet),
    /// Any other `EtherType`.
    Other(Ethernet),
}

/// An IP packet's offsets in its frame, and the fields that forwarding depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPacket {
    /// Link header.
    pub ethernet: Ethernet,
    /// Family.
    pub family: Family,
    /// Offset of the IP header.
    pub network: u16,
    /// Offset of the transport header (behind options and extension headers).
    pub transport_start: u16,
    /// Offset of the IP packet's end; Ethernet padding may follow.
    pub end: u16,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// The fragment's place; `None` for a whole packet.
    pub fragment: Option<Fragment>,
    /// Transport header; [`Transport::Other`] in every fragment but the first.
    pub transport: Transport,
}

impl IpPacket {
    /// Returns whether all IP and MAC addresses are unicast. No other packet is answered.
    #[must_use]
    pub const fn is_unicast(&self) -> bool {
        self.source.is_unicast()
            && self.destination.is_unicast()
            && !self.ethernet.source.is_group()
            && !self.ethernet.destination.is_group()
    }
}

/// A fragment's place in its packet (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The value that all fragments of one packet share.
    pub identification: u32,
    /// Offset in bytes.
    pub offset: u16,
    /// Length of the fragment's data, in bytes.
    pub len: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

/// The transport header's fields that forwarding depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Flags.
        flags: TcpFlags,
        /// Offset of the payload in the frame.
        payload: u16,
    },
    /// UDP; the payload starts 8 bytes behind `transport_start`.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// `ICMPv4` (only in IPv4) or `ICMPv6` (only in IPv6), by the packet's family.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Any other protocol number. Includes a routing header (43) with nodes left to visit, because
    /// the packet's destination is not its final one, and an authentication header (51), because it
    /// covers the addresses and so forbids rewriting them.
    Other(u8),
}

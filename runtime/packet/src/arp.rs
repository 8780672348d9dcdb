//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).
//!
//! Invariant: a message is a value that is parsed and written as a whole, so no field of a request
//! remains in its reply.

use crate::{Address, Ethernet, Link, Mac, ParseError, VlanTags, ipv4, wire};

/// The `EtherType`.
pub const ETHERTYPE: u16 = 0x0806;
/// Length of a message for IPv4 over Ethernet.
pub const LEN: usize = 28;

mod field {
    use std::ops::Range;

    /// Hardware type, protocol type and the two address lengths.
    pub(super) const FORMAT: Range<usize> = 0..6;
    pub(super) const OPERATION: Range<usize> = 6..8;
    pub(super) const SENDER_MAC: Range<usize> = 8..14;
    pub(super) const SENDER: Range<usize> = 14..18;
    pub(super) const TARGET_MAC: Range<usize> = 18..24;
    pub(super) const TARGET: Range<usize> = 24..28;
}

/// Hardware type Ethernet (1), protocol IPv4, address lengths 6 and 4.
const FORMAT: [u8; 6] = {
    let [high, low] = ipv4::ETHERTYPE.to_be_bytes();
    [0, 1, high, low, 6, 4]
};

/// A message's operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Asks for the MAC address of the target address.
    Request = 1,
    /// States that the sender's MAC address has the sender's IPv4 address.
    Reply = 2,
}

/// A message and its link header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// The link header.
    pub ethernet: Ethernet,
    /// Request or reply.
    pub operation: Operation,
    /// The sender's MAC address.
    pub sender_mac: Mac,
    /// The sender's IPv4 address; 0.0.0.0 in a probe (RFC 5227 section 1.1).
    pub sender: Address,
    /// The target's MAC address; undefined in a request.
    pub target_mac: Mac,
    /// The target's IPv4 address.
    pub target: Address,
}

impl Arp {
    /// Parses the message of a frame whose [`crate::Packet`] is `Arp(ethernet)`.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] when the frame is too short; [`ParseError::Forbidden`] when the
    /// message is not IPv4 over Ethernet, neither request nor reply, or its sender is a group address.
    pub fn parse(frame: &[u8], ethernet: &Ethernet) -> Result<Self, ParseError> {
        let message = frame
            .get(ethernet.header_len()..)
            .and_then(<[u8]>::first_chunk::<LEN>)
            .ok_or(ParseError::Truncated)?;
        let operation = match wire::word(message, field::OPERATION) {
            1 => Operation::Request,
            2 => Operation::Reply,
            _ => return Err(ParseError::Forbidden),
        };
        let sender_mac = Mac(wire::bytes(message, field::SENDER_MAC));
        if wire::bytes(message, field::FORMAT) != FORMAT || sender_mac.is_group() {
            return Err(ParseError::Forbidden);
        }
        Ok(Self {
            ethernet: *ethernet,
            operation,
            sender_mac,
            sender: Address::v4(wire::bytes(message, field::SENDER)),
            target_mac: Mac(wire::bytes(message, field::TARGET_MAC)),
            target: Address::v4(wire::bytes(message, field::TARGET)),
        })
    }

    /// Creates a broadcast request for `target` on a VLAN.
    #[must_use]
    pub fn request(mac: Mac, tags: VlanTags, sender: Address, target: Address) -> Self {
        let link = Link {
            source: mac,
            destination: Mac::BROADCAST,
        };
        Self {
            ethernet: Ethernet::new(link, tags, ETHERTYPE),
            operation: Operation::Request,
            sender_mac: mac,
            sender,
            target_mac: Mac::default(),
            target,
        }
    }

    /// Creates the announcement that `mac` has `address`: a request for its own address, the form that
    /// every receiver accepts as a cache update (RFC 5227 section 3).
    #[must_use]
    pub fn announcement(mac: Mac, tags: VlanTags, address: Address) -> Self {
        Self::request(mac, tags, address, address)
    }

    /// Creates the unicast reply to this request: `mac` has the target address.
    #[must_use]
    pub const fn reply(&self, mac: Mac) -> Self {
        Self {
            ethernet: self.ethernet.answer(mac, self.sender_mac),
            operation: Operation::Reply,
            sender_mac: mac,
            sender: self.target,
            target_mac: self.sender_mac,
            target: self.sender,
        }
    }

    /// Returns the length of the frame that [`Arp::write`] writes.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.ethernet.header_len() + LEN
    }

    /// Writes the message at the start of `frame`. Returns `false` and writes nothing when `frame` is
    /// shorter than [`Arp::frame_len`].
    #[must_use]
    pub fn write(&self, frame: &mut [u8]) -> bool {
        if frame.len() < self.frame_len() {
            return false;
        }
        let payload = self.ethernet.write(frame);
        let Some(message) = payload.and_then(<[u8]>::first_chunk_mut::<LEN>) else {
            return false;
        };
        wire::set(message, field::FORMAT, FORMAT);
        wire::set_word(message, field::OPERATION, self.operation as u16);
        wire::set(message, field::SENDER_MAC, self.sender_mac.0);
        wire::set(message, field::SENDER, self.sender.v4_octets());
        wire::set(message, field::TARGET_MAC, self.target_mac.0);
        wire::set(message, field::TARGET, self.target.v4_octets());
        true
    }
}

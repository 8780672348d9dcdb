//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227).
//!
//! Invariant: a message is a value, parsed from one frame and written to another (or to the same);
//! what it does not hold cannot leak from a request into its reply.

use crate::{Address, Ethernet, Link, Mac, ParseError, VlanTags, ipv4, wire};

/// The `EtherType`.
pub const ETHERTYPE: u16 = 0x0806;
/// Length of a message for IPv4 over Ethernet.
pub const LEN: usize = 28;

mod field {
    use std::ops::Range;

    /// Hardware type, protocol type and their address lengths: one value here.
    pub(super) const FORMAT: Range<usize> = 0..6;
    pub(super) const OPERATION: Range<usize> = 6..8;
    pub(super) const SENDER_MAC: Range<usize> = 8..14;
    pub(super) const SENDER: Range<usize> = 14..18;
    pub(super) const TARGET_MAC: Range<usize> = 18..24;
    pub(super) const TARGET: Range<usize> = 24..28;
}

/// Ethernet (1), IPv4, six and four bytes of address.
const FORMAT: [u8; 6] = {
    let [high, low] = ipv4::ETHERTYPE.to_be_bytes();
    [0, 1, high, low, 6, 4]
};

/// What a message asks or says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Operation {
    /// Who has the target address?
    Request = 1,
    /// The sender has its address.
    Reply = 2,
}

/// A message with the link header that it travels under.
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
    /// The target's MAC address; without meaning in a request.
    pub target_mac: Mac,
    /// The target's IPv4 address.
    pub target: Address,
}

impl Arp {
    /// Reads the message of a frame whose [`crate::Packet`] is `Arp(ethernet)`.
    ///
    /// # Errors
    /// [`ParseError::Truncated`] where the frame is too short; [`ParseError::Forbidden`] where it
    /// is not IPv4 over Ethernet, neither request nor reply, or sent by a group address.
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

    /// The question who has `target`, to everyone on the VLAN.
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

    /// The announcement that `mac` has `address`: a request for itself, the form that every
    /// receiver updates its cache by (RFC 5227 section 3).
    #[must_use]
    pub fn announcement(mac: Mac, tags: VlanTags, address: Address) -> Self {
        Self::request(mac, tags, address, address)
    }

    /// The reply to this request that `mac` has the target address, to its sender alone.
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

    /// Length of the frame that [`Arp::write`] writes.
    #[must_use]
    pub fn frame_len(&self) -> usize {
        self.ethernet.header_len() + LEN
    }

    /// Writes the frame; what lies behind it is left. `false`, and nothing written, where `frame`
    /// is shorter than [`Arp::frame_len`].
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Packet, VlanTag, build, parse};

    const ASKER_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const VIP_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
    const ASKER: Address = Address::v4([192, 0, 2, 1]);
    const VIP: Address = Address::v4([203, 0, 113, 10]);
    const TAGS: VlanTags = VlanTags::one(VlanTag {
        tpid: 0x8100,
        tci: 7,
    });

    fn read(frame: &[u8]) -> Result<Arp, ParseError> {
        match parse(frame) {
            Ok(Packet::Arp(ethernet)) => Arp::parse(frame, &ethernet),
            other => panic!("not ARP: {other:?}"),
        }
    }

    fn request(tags: VlanTags, sender: Address) -> Vec<u8> {
        build::ArpRequest {
            mac: ASKER_MAC,
            tags,
            sender,
            target: VIP,
        }
        .frame()
    }

    #[test]
    fn the_reply_goes_to_the_asker_in_place_and_on_its_vlan() {
        // A probe's sender has no address yet (RFC 5227 section 2.1.1).
        for sender in [ASKER, Address::v4([0; 4])] {
            let mut frame = request(TAGS, sender);
            let question = read(&frame).expect("a request");
            assert_eq!(question.operation, Operation::Request);
            assert!(question.reply(VIP_MAC).write(&mut frame));

            let reply = read(&frame).expect("a reply");
            assert_eq!(reply.operation, Operation::Reply);
            assert_eq!((reply.sender_mac, reply.sender), (VIP_MAC, VIP));
            assert_eq!((reply.target_mac, reply.target), (ASKER_MAC, sender));
            assert_eq!(
                (reply.ethernet.source, reply.ethernet.destination),
                (VIP_MAC, ASKER_MAC)
            );
            assert_eq!(reply.ethernet.tags, TAGS);
        }
    }

    #[test]
    fn an_announcement_is_a_broadcast_request_for_itself() {
        let announcement = Arp::announcement(VIP_MAC, VlanTags::NONE, VIP);
        let mut frame = vec![0xa5; announcement.frame_len()];
        assert!(!announcement.write(&mut frame[1..]));
        assert!(frame.iter().all(|byte| *byte == 0xa5));
        assert!(announcement.write(&mut frame));
        assert_eq!(read(&frame), Ok(announcement));
        assert_eq!((announcement.sender, announcement.target), (VIP, VIP));
        assert_eq!(announcement.ethernet.destination, Mac::BROADCAST);
    }

    #[test]
    fn what_is_not_ipv4_over_ethernet_is_refused() {
        // What is wrong, the byte of the message that says so, its value.
        let rows = [
            ("hardware type", field::FORMAT.start + 1, 6),
            ("protocol type", field::FORMAT.start + 2, 0x86),
            ("address length", field::FORMAT.end - 1, 16),
            ("operation", field::OPERATION.start + 1, 3),
            ("sender is a group", field::SENDER_MAC.start, 1),
        ];
        for (what, at, value) in rows {
            let mut frame = request(VlanTags::NONE, ASKER);
            frame[crate::ethernet::HEADER_LEN + at] = value;
            assert_eq!(read(&frame), Err(ParseError::Forbidden), "{what}");
        }
        let frame = request(VlanTags::NONE, ASKER);
        assert_eq!(read(&frame[..frame.len() - 1]), Err(ParseError::Truncated));
    }
}

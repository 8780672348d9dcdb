//! Frames of the protocols by which stations find each other's MAC addresses: ARP (RFC 826) and neighbour
//! discovery (RFC 4861).

use waxwing_packet::arp::Arp;
use waxwing_packet::ndp::{Advertisement, Solicitation};
use waxwing_packet::{Address, Family, Mac, VlanTags};

/// An ARP request, broadcast.
#[derive(Clone, Copy, Debug, Default)]
pub struct ArpRequest {
    pub mac: Mac,
    pub tags: VlanTags,
    pub sender: Address,
    pub target: Address,
}

/// A neighbour solicitation to the target's solicited-node multicast group.
#[derive(Clone, Copy, Debug, Default)]
pub struct NeighborSolicitation {
    pub mac: Mac,
    pub tags: VlanTags,
    /// The sender's IPv6 address; `::` in duplicate address detection.
    pub source: Address,
    pub target: Address,
}

impl ArpRequest {
    pub fn frame(&self) -> Vec<u8> {
        let request = Arp::request(self.mac, self.tags, self.sender, self.target);
        let mut frame = vec![0; request.frame_len()];
        assert!(
            request.write(&mut frame),
            "the frame has the message's length"
        );
        frame
    }
}

impl NeighborSolicitation {
    pub fn frame(&self) -> Vec<u8> {
        let solicitation = Solicitation::new(self.mac, self.tags, self.source, self.target);
        let mut frame = vec![0; solicitation.frame_len()];
        assert!(
            solicitation.write(&mut frame),
            "the frame has the message's length"
        );
        frame
    }
}

/// Returns the frame in which a station says that an address is its own: a gratuitous ARP request (RFC 5227
/// section 3), or an unsolicited neighbour advertisement (RFC 4861 section 7.2.6).
pub fn announcement(mac: Mac, tags: VlanTags, address: Address) -> Vec<u8> {
    let (frame, is_written) = match address.family() {
        Family::V4 => {
            let arp = Arp::announcement(mac, tags, address);
            let mut frame = vec![0; arp.frame_len()];
            let is_written = arp.write(&mut frame);
            (frame, is_written)
        }
        Family::V6 => {
            let advertisement = Advertisement::announcement(mac, tags, address);
            let mut frame = vec![0; advertisement.frame_len()];
            let is_written = advertisement.write(&mut frame);
            (frame, is_written)
        }
    };
    assert!(is_written, "the frame has the message's length");
    frame
}

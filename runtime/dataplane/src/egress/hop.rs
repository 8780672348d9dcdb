//! A next hop, and its form as one atomic word.

use waxwing_packet::Mac;

use crate::PortId;

/// A MAC address behind a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The egress port, or a VLAN on one.
    pub port: PortId,
    /// The destination MAC.
    pub mac: Mac,
}

/// Set in a word that holds a next hop; an empty word is zero. Below it are the port (8 bits) and the MAC
/// address (48), as in a session's return hop.
const RESOLVED: u64 = 1 << 63;

#[inline(always)]
pub(crate) const fn is_resolved(word: u64) -> bool {
    word & RESOLVED != 0
}

#[inline]
pub(super) const fn encode(hop: NextHop) -> u64 {
    let [a, b, c, d, e, f] = hop.mac.0;
    RESOLVED | u64::from_be_bytes([0, hop.port.0, a, b, c, d, e, f])
}

#[inline]
pub(super) fn decode(word: u64) -> Option<NextHop> {
    is_resolved(word).then(|| {
        let [_, port, mac @ ..] = word.to_be_bytes();
        NextHop {
            port: PortId(port),
            mac: Mac(mac),
        }
    })
}

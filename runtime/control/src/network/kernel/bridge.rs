//! Bridges in the kernel's link and neighbour messages.

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{BridgeStpState, InfoBridge, InfoData, LinkInfo};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use waxwing_packet::Mac;

use super::mac;

/// An entry of a bridge's forwarding database: the port that a station is behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Station {
    /// The station's MAC address.
    pub mac: Mac,
    /// The index of the bridge port.
    pub port: u32,
}

/// Returns whether a link is a bridge that runs the spanning tree protocol.
pub(super) fn has_spanning_tree(info: &LinkInfo) -> bool {
    let LinkInfo::Data(InfoData::Bridge(settings)) = info else {
        return false;
    };
    settings.iter().any(|setting| match setting {
        InfoBridge::StpState(state) => *state != BridgeStpState::Disabled,
        _ => false,
    })
}

/// Returns whether a message is about a bridge's forwarding database.
pub(super) fn is_fdb(message: &NeighbourMessage) -> bool {
    message.header.family == AddressFamily::Bridge
}

/// Returns a learned or static entry. Permanent entries are the bridge's own addresses; entries
/// without a bridge are an interface's receive filter.
pub(super) fn station(message: &NeighbourMessage) -> Option<Station> {
    let mut of_bridge = false;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Controller(_) => of_bridge = true,
            NeighbourAttribute::LinkLocalAddress(bytes) => address = mac(bytes),
            _ => {}
        }
    }
    let own = message.header.state == NeighbourState::Permanent;
    let station = Station {
        mac: address?,
        port: message.header.ifindex,
    };
    (of_bridge && !own).then_some(station)
}

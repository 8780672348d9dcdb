//! Routes to clients and servers, as their frames show them.

use waxwing_dataplane::session::Tuple;
use waxwing_dataplane::{NextHop, PortId};
use waxwing_packet::{Address, Mac, Packet, VlanTags, parse};

use crate::addresses::{BACK, PORT_MACS, server_mac, server_port};
use crate::balancer::Handled;
use crate::random::Map;
use crate::view::macs;

/// A next hop towards a client, with its VLAN tags.
pub(crate) type Route = (NextHop, VlanTags);

/// The routes of fragments without ports, by source and destination address. They also set a client's return
/// route once the balancer knows their flow.
#[derive(Default)]
pub(crate) struct FragmentRoutes(Map<(Address, Address), Vec<Route>>);

impl FragmentRoutes {
    pub(super) fn add(&mut self, ends: (Address, Address), route: Route) {
        let routes = self.0.entry(ends).or_default();
        if !routes.contains(&route) {
            routes.push(route);
        }
    }

    /// Whether a fragment may have set the return route of this flow's client.
    pub(super) fn has(&self, tuple: &Tuple, route: Route) -> bool {
        let routes = self.0.get(&(tuple.source, tuple.destination));
        routes.is_some_and(|routes| routes.contains(&route))
    }
}

fn vlan_tags(frame: &[u8]) -> VlanTags {
    match parse(frame) {
        Ok(Packet::Ip(packet)) => packet.ethernet.tags,
        _ => VlanTags::NONE,
    }
}

/// The route that a client's frame arrived by.
pub(super) fn route_of(frame: &Handled) -> Route {
    let (_, mac) = macs(&frame.bytes);
    let port = frame.port;
    (NextHop { port, mac }, vlan_tags(&frame.bytes))
}

/// The route that a frame to a client was sent by.
pub(super) fn route_to(port: PortId, out: &[u8]) -> Route {
    let (mac, _) = macs(out);
    (NextHop { port, mac }, vlan_tags(out))
}

/// Whether a server's frame came by the port and VLAN that it is behind.
pub(super) fn is_from_server(server: Address, (hop, tags): &Route) -> bool {
    let (_, expected) = server_port(server);
    let is_untagged = expected == VlanTags::NONE && tags.is_untagged();
    hop.port == BACK && (is_untagged || tags.is_same_vlan(&expected))
}

/// Whether a MAC address may be a sender's.
fn is_station(mac: Mac) -> bool {
    !mac.is_group() && mac != Mac([0; 6])
}

/// Whether a client whose route is `from` may send by the route `to`: by any on its own side, and from the
/// servers' side only by the same VLAN.
pub(super) fn may_move(from: &Route, to: &Route) -> bool {
    is_station(to.0.mac) && (to.0.port != BACK || is_same_vlan(from, to))
}

fn is_same_vlan(from: &Route, to: &Route) -> bool {
    from.0.port == to.0.port && from.1.is_same_vlan(&to.1)
}

/// Whether a sent frame has the link header of frames to a backend.
pub(super) fn is_link_to(backend: Address, (port, out): (PortId, &[u8])) -> bool {
    let link = (server_mac(backend), PORT_MACS[BACK.index()]);
    port == BACK && macs(out) == link && vlan_tags(out) == server_port(backend).1
}

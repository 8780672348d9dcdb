//! Next hops behind our bridge (transparent mode): behind which of its two ports each neighbour is.
//!
//! Invariant: a neighbour is behind the port where the bridge saw it last, even after the bridge forgot
//! it. A neighbour that the bridge never saw is on the port opposite to the sender.

use waxwing_dataplane::PortId;
use waxwing_packet::Mac;

use super::NextHopTable;
use crate::network::kernel::Station;
use crate::network::port::PortLink;

impl NextHopTable {
    /// Replaces the stations by all that bridges know now.
    pub(super) fn note_stations(&mut self, mut stations: Vec<Station>) {
        stations.retain(|station| self.is_at_port(station));
        self.stations.note_all(stations);
    }

    /// Records a station's port.
    pub(super) fn note_station(&mut self, station: Station) {
        self.changed |= self.is_at_port(&station) && self.stations.note(station);
    }

    /// Removes the stations that bridges forgot, except those in use: workers take their packets, so
    /// the bridge no longer sees them.
    pub(super) fn forget_stations(&mut self) {
        let in_use = || {
            let keys = self.probes.keys();
            keys.filter_map(|key| self.neighbours.get(key)?.mac)
                .collect()
        };
        self.stations.remove_forgotten(in_use);
    }

    fn is_at_port(&self, station: &Station) -> bool {
        self.ports.iter().any(|port| port.link == station.port)
    }

    /// Returns whether a link's frames leave through our ports: a port, a VLAN device on one, or our
    /// bridge.
    pub(super) fn is_ours(&self, link: u32) -> bool {
        self.port_of(link).is_some() || self.is_our_bridge(link)
    }

    pub(super) fn is_our_bridge(&self, link: u32) -> bool {
        let bridge_of = |port: &PortLink| {
            let port = self.host.links.get(&port.link)?;
            self.host.bridge_of(port)
        };
        let mut bridges = self.ports.iter().filter_map(bridge_of);
        bridges.any(|bridge| bridge.index == link)
    }

    /// Returns the port that a neighbour on a link is behind, and the link that must be up for it.
    pub(super) fn port_towards(&self, link: u32, mac: Option<Mac>) -> Option<(PortId, u32)> {
        let port_at = |link| Some((self.port_of(link)?, link));
        port_at(link).or_else(|| {
            let learned = || port_at(self.stations.port_of(mac?)?);
            self.is_our_bridge(link)
                .then(|| learned().unwrap_or((PortId::ACROSS, link)))
        })
    }
}

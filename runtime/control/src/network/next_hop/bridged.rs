//! Next hops behind a bridge whose ports are ours (transparent mode): which of its ports each is behind.
//!
//! Invariant: a neighbour of the bridge is behind the port where the bridge saw it last, also once it has
//! forgotten that; one that it never saw is across of whoever sends to it.

use waxwing_dataplane::PortId;
use waxwing_packet::Mac;

use super::Table;
use crate::network::kernel::Station;
use crate::network::port::PortLink;

impl Table {
    /// Takes in all stations that bridges know.
    pub(super) fn note_stations(&mut self, mut stations: Vec<Station>) {
        stations.retain(|station| self.is_at_ours(station));
        self.stations.note_all(stations);
    }

    /// Takes in where a station is.
    pub(super) fn note_station(&mut self, station: Station) {
        self.changed |= self.is_at_ours(&station) && self.stations.note(station);
    }

    /// Forgets the stations that bridges have forgotten, but for those that packets are sent to: workers
    /// hide these from the bridge.
    pub(super) fn forget_stations(&mut self) {
        let wanted = || {
            let keys = self.asked.keys();
            keys.filter_map(|key| self.neighbours.get(key)?.mac)
                .collect()
        };
        self.stations.keep(wanted);
    }

    fn is_at_ours(&self, station: &Station) -> bool {
        self.ports.iter().any(|port| port.link == station.port)
    }

    /// Whether what leaves by a link leaves by our ports: it is one, or a VLAN or a bridge of one.
    pub(super) fn is_ours(&self, link: u32) -> bool {
        self.port_of(link).is_some() || self.is_our_bridge(link)
    }

    pub(super) fn is_our_bridge(&self, link: u32) -> bool {
        let bridge_of = |port: &PortLink| {
            let port = self.facts.links.get(&port.link)?;
            self.facts.bridge_of(port)
        };
        let mut bridges = self.ports.iter().filter_map(bridge_of);
        bridges.any(|bridge| bridge.index == link)
    }

    /// The port that a neighbour on a link is behind, and the link that has to be up for it.
    pub(super) fn port_towards(&self, link: u32, mac: Option<Mac>) -> Option<(PortId, u32)> {
        let port_at = |link| Some((self.port_of(link)?, link));
        port_at(link).or_else(|| {
            let place = || port_at(self.stations.port_of(mac?)?);
            self.is_our_bridge(link)
                .then(|| place().unwrap_or((PortId::ACROSS, link)))
        })
    }
}

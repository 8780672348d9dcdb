//! The bridge whose two ports are attached in transparent mode.
//!
//! Invariant: the bridge belongs to the operator and is never changed here. Each error and warning names
//! the command that fixes it.

use std::collections::{HashMap, HashSet};

use waxwing_dataplane::PortId;
use waxwing_dataplane::model::{Bridge, Port};
use waxwing_packet::Mac;

use crate::network::host::{HostNetwork, is_link_local};
use crate::network::kernel::{Link, Station};
use crate::network::port::PortLink;

/// Returns the bridge that all these interfaces are ports of.
pub(crate) fn common_bridge<'a, 'b>(
    host: &'a HostNetwork,
    ports: impl IntoIterator<Item = &'b str>,
) -> Option<&'a Link> {
    let mut bridges = ports
        .into_iter()
        .map(|name| host.link(name).and_then(|port| host.bridge_of(port)));
    let first = bridges.next()??;
    bridges
        .all(|other| other.is_some_and(|other| other.index == first.index))
        .then_some(first)
}

/// Sets each port's peer and the host's MAC addresses. If the bridge is gone, its last address stays.
pub(crate) fn set_peers(ports: &mut [Port], links: &[PortLink], host: &HostNetwork) {
    let bridge = common_bridge(host, links.iter().map(|link| &*link.name));
    let [first, second] = ports else { return };
    let before = first.bridge.map(|bridge| bridge.macs[2]);
    let own = bridge.and_then(|bridge| bridge.mac).or(before);
    let macs = [first.mac, second.mac, own.unwrap_or(first.mac)];
    for (port, peer) in [(first, PortId(1)), (second, PortId(0))] {
        port.bridge = Some(Bridge { peer, macs });
    }
}

/// Returns why transparent mode cannot work on these two interfaces, each error with the index of its
/// interface. Missing interfaces are reported elsewhere.
pub(crate) fn errors(host: &HostNetwork, ports: [&str; 2]) -> Vec<(usize, String)> {
    let links = ports.map(|name| host.link(name));
    let bridges = links.map(|link| link.and_then(|port| host.bridge_of(port)));
    let mut errors = Vec::new();
    for (at, (name, (link, bridge))) in ports.iter().zip(links.iter().zip(bridges)).enumerate() {
        if link.is_some() && bridge.is_none() {
            let to = bridges.iter().flatten().next();
            errors.push((at, no_bridge(name, to.map(|bridge| &*bridge.name))));
        }
    }
    let [Some(first), Some(second)] = bridges else {
        return errors;
    };
    if first.index != second.index {
        let text = format!(
            "{} is a port of {} and {} is a port of {}, but transparent mode needs both in one bridge; \
             `ip link set {} master {}`",
            ports[0], first.name, ports[1], second.name, ports[1], first.name
        );
        errors.push((1, text));
        return errors;
    }
    let others = host.links.values().filter(|link| {
        link.master == Some(first.index) && !ports.iter().any(|port| *port == link.name)
    });
    for other in others {
        let text = format!(
            "{} has a third port, {}, so the peer of a port is ambiguous; `ip link set {} nomaster`",
            first.name, other.name, other.name
        );
        errors.push((0, text));
    }
    errors
}

fn no_bridge(name: &str, bridge: Option<&str>) -> String {
    let make = match bridge {
        Some(bridge) => format!("`ip link set {name} master {bridge}`"),
        None => format!(
            "`ip link add br0 type bridge`, `ip link set br0 up`, `ip link set {name} master br0`, the \
             same for the other port, then move this host's addresses to br0"
        ),
    };
    format!("{name} is not in a bridge, but transparent mode needs both ports in one; {make}")
}

/// Returns settings of the bridge that are likely mistakes, with the index of the interface.
pub(crate) fn warnings(host: &HostNetwork, ports: [&str; 2]) -> Vec<(usize, String)> {
    let Some(bridge) = common_bridge(host, ports) else {
        return Vec::new();
    };
    let name = &bridge.name;
    let mut warnings = Vec::new();
    if !bridge.up {
        let text =
            format!("{name} is down, so it passes no other traffic; `ip link set {name} up`");
        warnings.push((0, text));
    }
    if bridge.spanning_tree {
        let text = format!(
            "{name} runs the spanning tree protocol, which waxwing ignores: service traffic passes through \
             blocked ports; `ip link set {name} type bridge stp_state 0`"
        );
        warnings.push((0, text));
    }
    let links = ports.map(|port| host.link(port));
    if let [Some(first), Some(second)] = links
        && first.mtu != second.mtu
    {
        let text = format!(
            "the MTU of {} is {} and that of {} is {}: the bridge drops what is too big for one of them and \
             tells nobody; give both the same with `ip link set {} mtu {}`",
            ports[0], first.mtu, ports[1], second.mtu, ports[1], first.mtu
        );
        warnings.push((1, text));
    }
    for (at, link) in links.iter().enumerate() {
        let addresses = link
            .iter()
            .flat_map(|link| host.addresses_of(link.index))
            .filter(|address| !is_link_local(*address));
        for address in addresses {
            let text = format!(
                "{address} is on {}, whose packets go to the bridge; move it to {name}",
                ports[at]
            );
            warnings.push((at, text));
        }
    }
    warnings
}

/// The bridge port of each station, by MAC.
#[derive(Debug, Default)]
pub(crate) struct Stations {
    places: HashMap<Mac, Place>,
    /// Whether a station was forgotten since [`Stations::remove_forgotten`].
    have_forgotten: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    /// The index of the bridge port.
    port: u32,
    /// Whether the bridge forgot the station: it does not see the packets that workers take.
    forgotten: bool,
}

impl Stations {
    /// Records a station's port, and returns whether it is new or moved.
    pub(crate) fn note(&mut self, Station { mac, port }: Station) -> bool {
        let place = Place {
            port,
            forgotten: false,
        };
        let before = self.places.insert(mac, place);
        before.is_none_or(|before| before.port != port)
    }

    /// Records that a bridge forgot a station at a port. (After a move the bridge learns the new port
    /// first and then forgets the old one.)
    pub(crate) fn note_gone(&mut self, Station { mac, port }: Station) {
        if let Some(place) = self.places.get_mut(&mac)
            && place.port == port
        {
            place.forgotten = true;
            self.have_forgotten = true;
        }
    }

    /// Replaces the stations by all that bridges know now.
    pub(crate) fn note_all(&mut self, all: Vec<Station>) {
        for place in self.places.values_mut() {
            place.forgotten = true;
            self.have_forgotten = true;
        }
        for station in all {
            self.note(station);
        }
    }

    /// Returns the port where a station was last seen.
    pub(crate) fn port_of(&self, mac: Mac) -> Option<u32> {
        self.places.get(&mac).map(|place| place.port)
    }

    /// Removes the stations that bridges forgot since the last call, except those in use.
    pub(crate) fn remove_forgotten(&mut self, in_use: impl FnOnce() -> HashSet<Mac>) {
        if std::mem::take(&mut self.have_forgotten) {
            let in_use = in_use();
            self.places
                .retain(|mac, place| !place.forgotten || in_use.contains(mac));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::kernel::LocalAddress;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    fn link(index: u32, name: &str, master: Option<u32>) -> Link {
        Link {
            index,
            name: name.into(),
            mac: Some(Mac([2, 0, 0, 0, 1, 1])),
            mtu: 1500,
            up: true,
            carrier: true,
            master,
            bridge: name.starts_with("br"),
            spanning_tree: false,
            macvlan: None,
            vlan: None,
        }
    }

    fn host(links: &[Link]) -> HostNetwork {
        HostNetwork {
            links: links.iter().map(|l| (l.index, l.clone())).collect(),
            ..HostNetwork::default()
        }
    }

    fn good() -> [Link; 3] {
        [
            link(1, "eth0", Some(3)),
            link(2, "eth1", Some(3)),
            link(3, "br0", None),
        ]
    }

    #[test]
    fn each_error_names_its_remedy() {
        let [eth0, eth1, br0] = good();
        let rows = [
            (good().to_vec(), vec![]),
            (
                vec![link(1, "eth0", None), link(2, "eth1", None)],
                vec![(0, "ip link add br0 type bridge"), (1, "ip link add br0")],
            ),
            (
                vec![eth0.clone(), link(2, "eth1", None), br0.clone()],
                vec![(1, "`ip link set eth1 master br0`")],
            ),
            // Enslaved, but to a bond.
            (
                vec![
                    eth0.clone(),
                    link(2, "eth1", Some(4)),
                    br0.clone(),
                    link(4, "bond0", None),
                ],
                vec![(1, "`ip link set eth1 master br0`")],
            ),
            (
                vec![
                    eth0.clone(),
                    link(2, "eth1", Some(4)),
                    br0.clone(),
                    link(4, "br1", None),
                ],
                vec![(1, "eth1 is a port of br1")],
            ),
            (
                vec![eth0, eth1, br0, link(4, "tap3", Some(3))],
                vec![(0, "`ip link set tap3 nomaster`")],
            ),
        ];
        for (links, expected) in rows {
            let found = errors(&host(&links), ["eth0", "eth1"]);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((at, text), (expected_at, part)) in found.iter().zip(&expected) {
                assert_eq!(at, expected_at, "{text}");
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn each_warning_names_its_remedy() {
        type Row = (fn(&mut HostNetwork), usize, &'static str);
        let address = |text: &str| LocalAddress {
            prefix_len: 24,
            link: 2,
            address: text
                .parse::<std::net::IpAddr>()
                .expect("an IP address")
                .into(),
        };
        assert_eq!(warnings(&host(&good()), ["eth0", "eth1"]), []);
        let rows: [Row; 3] = [
            (
                |host| host.links.get_mut(&3).expect("br0").up = false,
                0,
                "`ip link set br0 up`",
            ),
            (
                |host| host.links.get_mut(&3).expect("br0").spanning_tree = true,
                0,
                "stp_state 0",
            ),
            (
                |host| host.links.get_mut(&2).expect("eth1").mtu = 9000,
                1,
                "`ip link set eth1 mtu 1500`",
            ),
        ];
        for (change, at, part) in rows {
            let mut changed = host(&good());
            change(&mut changed);
            let found = warnings(&changed, ["eth0", "eth1"]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].0 == at && found[0].1.contains(part), "{found:?}");
        }
        let mut with = host(&good());
        with.addresses = [address("10.0.0.1"), address("fe80::1")].into();
        let found = warnings(&with, ["eth0", "eth1"]);
        assert_eq!(found.len(), 1, "{found:?}");
        let text = "10.0.0.1 is on eth1, whose packets go to the bridge; move it to br0";
        assert_eq!(found[0], (1, text.to_owned()));
    }

    #[test]
    fn ports_get_their_peer_and_keep_the_mac_of_a_removed_bridge() {
        let port = |last| {
            let mac = Mac([2, 0, 0, 0, 0, last]);
            Port::attached(PortId(last - 1), "port".into(), mac, 1500)
        };
        let links = [(0, "eth0"), (1, "eth1")].map(|(id, name)| PortLink {
            id: PortId(id),
            name: name.into(),
            link: u32::from(id) + 1,
        });
        let mut ports = [port(1), port(2)];
        for now in [host(&good()), host(&[])] {
            set_peers(&mut ports, &links, &now);
            let macs = [ports[0].mac, ports[1].mac, Mac([2, 0, 0, 0, 1, 1])];
            let expected = [1, 0].map(|peer| {
                Some(Bridge {
                    peer: PortId(peer),
                    macs,
                })
            });
            assert_eq!([ports[0].bridge, ports[1].bridge], expected);
        }
    }

    #[test]
    fn a_forgotten_station_is_kept_while_in_use_and_follows_its_moves() {
        let mut stations = Stations::default();
        let at = |port| Station { mac: MAC, port };
        assert!(stations.note(at(1)));
        assert!(!stations.note(at(1)), "unchanged");
        stations.note_gone(at(1));
        stations.remove_forgotten(|| [MAC].into());
        assert_eq!(stations.port_of(MAC), Some(1));
        assert!(stations.note(at(2)));
        // The notification about the old port comes late.
        stations.note_gone(at(1));
        stations.remove_forgotten(HashSet::new);
        assert_eq!(stations.port_of(MAC), Some(2));
        stations.note_all(Vec::new());
        stations.remove_forgotten(HashSet::new);
        assert_eq!(stations.port_of(MAC), None);
    }
}

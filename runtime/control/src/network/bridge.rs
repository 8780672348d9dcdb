//! The bridge whose two ports are ours in transparent mode.
//!
//! Invariant: the bridge is the operator's. Nothing here changes it; what is asked of it is said with the
//! command that makes it so.

use std::collections::{HashMap, HashSet};

use waxwing_dataplane::PortId;
use waxwing_dataplane::snapshot::{Bridge, Port};
use waxwing_packet::{Address, Family, Mac};

use crate::network::host::HostNetwork;
use crate::network::kernel::{Link, Station};
use crate::network::port::PortLink;

/// The bridge that all of these interfaces are ports of.
pub(crate) fn shared<'a, 'b>(
    facts: &'a HostNetwork,
    ports: impl IntoIterator<Item = &'b str>,
) -> Option<&'a Link> {
    let mut bridges = ports
        .into_iter()
        .map(|name| facts.link(name).and_then(|port| facts.bridge_of(port)));
    let first = bridges.next()??;
    bridges
        .all(|other| other.is_some_and(|other| other.index == first.index))
        .then_some(first)
}

/// Tells both ports of each other, and of the MAC addresses that are the host's. Of a bridge that is gone
/// the last address stays known.
pub(crate) fn join(ports: &mut [Port], links: &[PortLink], facts: &HostNetwork) {
    let bridge = shared(facts, links.iter().map(|link| &*link.name));
    let [first, second] = ports else { return };
    let before = first.bridge.map(|bridge| bridge.macs[2]);
    let own = bridge.and_then(|bridge| bridge.mac).or(before);
    let macs = [first.mac, second.mac, own.unwrap_or(first.mac)];
    for (port, peer) in [(first, PortId(1)), (second, PortId(0))] {
        port.bridge = Some(Bridge { peer, macs });
    }
}

/// Why these two interfaces cannot be what transparent mode needs, each with the place of the interface
/// that it is about. One that does not exist is not complained of here.
pub(crate) fn faults(facts: &HostNetwork, ports: [&str; 2]) -> Vec<(usize, String)> {
    let links = ports.map(|name| facts.link(name));
    let bridges = links.map(|link| link.and_then(|port| facts.bridge_of(port)));
    let mut faults = Vec::new();
    for (at, (name, (link, bridge))) in ports.iter().zip(links.iter().zip(bridges)).enumerate() {
        if link.is_some() && bridge.is_none() {
            let to = bridges.iter().flatten().next();
            faults.push((at, no_bridge(name, to.map(|bridge| &*bridge.name))));
        }
    }
    let [Some(first), Some(second)] = bridges else {
        return faults;
    };
    if first.index != second.index {
        let text = format!(
            "{} is a port of {} and {} is one of {}, but transparent mode passes frames between the two \
             ports of one bridge; `ip link set {} master {}`",
            ports[0], first.name, ports[1], second.name, ports[1], first.name
        );
        faults.push((1, text));
        return faults;
    }
    let others = facts.links.values().filter(|link| {
        link.master == Some(first.index) && !ports.iter().any(|port| *port == link.name)
    });
    for other in others {
        let text = format!(
            "{} has a third port, {}, and what passes through would have two ways to go; `ip link set {} \
             nomaster`",
            first.name, other.name, other.name
        );
        faults.push((0, text));
    }
    faults
}

fn no_bridge(name: &str, bridge: Option<&str>) -> String {
    let make = match bridge {
        Some(bridge) => format!("`ip link set {name} master {bridge}`"),
        None => format!(
            "`ip link add br0 type bridge`, `ip link set br0 up`, `ip link set {name} master br0`, \
             likewise the other port, and this host's addresses go to br0"
        ),
    };
    format!("{name} is a port of no bridge, and transparent mode needs both in one; {make}")
}

/// What may well be meant otherwise; the bridge itself is as it must be.
pub(crate) fn doubts(facts: &HostNetwork, ports: [&str; 2]) -> Vec<(usize, String)> {
    let Some(bridge) = shared(facts, ports) else {
        return Vec::new();
    };
    let name = &bridge.name;
    let mut doubts = Vec::new();
    if !bridge.up {
        let text = format!("{name} is down, so nothing else passes; `ip link set {name} up`");
        doubts.push((0, text));
    }
    if bridge.spanning_tree {
        let text = format!(
            "{name} has the spanning tree protocol on, which waxwing does not heed: what is a service's \
             passes through a port that is blocked; `ip link set {name} type bridge stp_state 0`"
        );
        doubts.push((0, text));
    }
    let links = ports.map(|port| facts.link(port));
    if let [Some(first), Some(second)] = links
        && first.mtu != second.mtu
    {
        let text = format!(
            "the MTU of {} is {} and that of {} is {}: the bridge drops what is too big for one of them and \
             tells nobody; give both the same with `ip link set {} mtu {}`",
            ports[0], first.mtu, ports[1], second.mtu, ports[1], first.mtu
        );
        doubts.push((1, text));
    }
    for (at, link) in links.iter().enumerate() {
        let addresses = link
            .iter()
            .flat_map(|link| facts.addresses_of(link.index))
            .filter(|address| !is_link_local(*address));
        for address in addresses {
            let text = format!(
                "{address} is on {}, but what arrives there is the bridge's; move it to {name}",
                ports[at]
            );
            doubts.push((at, text));
        }
    }
    doubts
}

/// Every IPv6 interface has such an address, whether it is of use or not.
fn is_link_local(address: Address) -> bool {
    address.family() == Family::V6 && address.bits() >> 118 == 0xfe80 >> 6
}

/// Behind which port of a bridge each station is, by its MAC.
#[derive(Debug, Default)]
pub(crate) struct Stations {
    places: HashMap<Mac, Place>,
    /// Whether something was forgotten since [`Stations::keep`].
    have_forgotten: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    /// The index of the bridge's port.
    port: u32,
    /// Whether the bridge has forgotten it: it sees nothing of what workers take, and forgets who is
    /// silent otherwise.
    forgotten: bool,
}

impl Stations {
    /// Takes in where one is. Whether that is news.
    pub(crate) fn note(&mut self, Station { mac, port }: Station) -> bool {
        let place = Place {
            port,
            forgotten: false,
        };
        let before = self.places.insert(mac, place);
        before.is_none_or(|before| before.port != port)
    }

    /// Takes in that a bridge has forgotten one. (Of one that moved it forgets the old place after it has
    /// learned the new one.)
    pub(crate) fn note_gone(&mut self, Station { mac, port }: Station) {
        if let Some(place) = self.places.get_mut(&mac)
            && place.port == port
        {
            place.forgotten = true;
            self.have_forgotten = true;
        }
    }

    /// Takes in all that bridges know now.
    pub(crate) fn note_all(&mut self, all: Vec<Station>) {
        for place in self.places.values_mut() {
            place.forgotten = true;
            self.have_forgotten = true;
        }
        for station in all {
            self.note(station);
        }
    }

    /// Which port one is behind, or was when it was last heard of.
    pub(crate) fn port_of(&self, mac: Mac) -> Option<u32> {
        self.places.get(&mac).map(|place| place.port)
    }

    /// Drops what bridges have forgotten since the last call, but for those whom packets are sent to.
    pub(crate) fn keep(&mut self, wanted: impl FnOnce() -> HashSet<Mac>) {
        if std::mem::take(&mut self.have_forgotten) {
            let wanted = wanted();
            self.places
                .retain(|mac, place| !place.forgotten || wanted.contains(mac));
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
            vlan: None,
        }
    }

    fn facts(links: &[Link]) -> HostNetwork {
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
    fn each_fault_says_what_makes_it_right() {
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
                vec![(1, "eth1 is one of br1")],
            ),
            (
                vec![eth0, eth1, br0, link(4, "tap3", Some(3))],
                vec![(0, "`ip link set tap3 nomaster`")],
            ),
        ];
        for (links, expected) in rows {
            let found = faults(&facts(&links), ["eth0", "eth1"]);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((at, text), (expected_at, part)) in found.iter().zip(&expected) {
                assert_eq!(at, expected_at, "{text}");
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn each_doubt_says_what_to_do() {
        type Row = (fn(&mut HostNetwork), usize, &'static str);
        let address = |text: &str| LocalAddress {
            link: 2,
            address: text.parse::<std::net::IpAddr>().expect("it is one").into(),
        };
        assert_eq!(doubts(&facts(&good()), ["eth0", "eth1"]), []);
        let rows: [Row; 3] = [
            (
                |facts| facts.links.get_mut(&3).expect("br0").up = false,
                0,
                "`ip link set br0 up`",
            ),
            (
                |facts| facts.links.get_mut(&3).expect("br0").spanning_tree = true,
                0,
                "stp_state 0",
            ),
            (
                |facts| facts.links.get_mut(&2).expect("eth1").mtu = 9000,
                1,
                "`ip link set eth1 mtu 1500`",
            ),
        ];
        for (change, at, part) in rows {
            let mut changed = facts(&good());
            change(&mut changed);
            let found = doubts(&changed, ["eth0", "eth1"]);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].0 == at && found[0].1.contains(part), "{found:?}");
        }
        let mut with = facts(&good());
        with.addresses = [address("10.0.0.1"), address("fe80::1")].into();
        let found = doubts(&with, ["eth0", "eth1"]);
        assert_eq!(found.len(), 1, "{found:?}");
        let text = "10.0.0.1 is on eth1, but what arrives there is the bridge's; move it to br0";
        assert_eq!(found[0], (1, text.to_owned()));
    }

    #[test]
    fn ports_know_each_other_and_keep_the_address_of_a_bridge_that_is_gone() {
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
        for now in [facts(&good()), facts(&[])] {
            join(&mut ports, &links, &now);
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
    fn a_station_stays_known_while_it_is_wanted_and_moves_when_it_moves() {
        let mut stations = Stations::default();
        let at = |port| Station { mac: MAC, port };
        assert!(stations.note(at(1)));
        assert!(!stations.note(at(1)), "no news");
        stations.note_gone(at(1));
        stations.keep(|| [MAC].into());
        assert_eq!(stations.port_of(MAC), Some(1));
        assert!(stations.note(at(2)));
        // The word of its old place comes late.
        stations.note_gone(at(1));
        stations.keep(HashSet::new);
        assert_eq!(stations.port_of(MAC), Some(2));
        stations.note_all(Vec::new());
        stations.keep(HashSet::new);
        assert_eq!(stations.port_of(MAC), None);
    }
}

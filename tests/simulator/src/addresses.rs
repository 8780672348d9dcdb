//! The addresses of the simulated network: the balancer's ports, services, clients and servers.

use waxwing_dataplane::{Backend, PortId, Ports};
use waxwing_packet::{Address, Family, Mac, Protocol, VlanTag, VlanTags};

use crate::random::Random;

/// The port towards the clients.
pub(crate) const FRONT: PortId = PortId(0);
/// The port towards the servers.
pub(crate) const BACK: PortId = PortId(1);
/// A VLAN on [`BACK`] with some of the servers.
pub(crate) const BACK_VLAN: PortId = PortId(2);
pub(crate) const BACK_TAGS: VlanTags = VlanTags::one(VlanTag {
    tpid: 0x8100,
    tci: 200,
});
/// The MAC addresses of [`FRONT`] and [`BACK`].
pub(crate) const PORT_MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];

/// The most client addresses of a family. Damaged frames have addresses beyond those of the plan.
pub(crate) const CLIENTS_MAX: u64 = 64;

/// A service: VIP, ports, protocol, and the port of its servers.
pub(crate) type ServiceAddress = (Address, Ports, Protocol, u16);

/// All services. Several have the same servers, so the ports of one client collide there.
pub(crate) fn service_addresses() -> [ServiceAddress; 8] {
    let v4 = Address::v4([203, 0, 113, 10]);
    let other = Address::v4([203, 0, 113, 11]);
    let v6 = Address::from_bits(0x2001_0db8 << 96 | 0x10);
    let one = |vip, port, protocol, server_port| (vip, Ports::one(port), protocol, server_port);
    let range = Ports::range(8079, 8081).unwrap_or(Ports::ALL);
    [
        one(v4, 80, Protocol::Tcp, 8080),
        one(v4, 81, Protocol::Tcp, 8080),
        one(other, 80, Protocol::Tcp, 8080),
        (other, range, Protocol::Tcp, Backend::PORT_KEPT),
        one(v6, 80, Protocol::Tcp, 8080),
        one(v6, 443, Protocol::Tcp, 443),
        one(v4, 53, Protocol::Udp, 53),
        one(v6, 53, Protocol::Udp, 5353),
    ]
}

/// Whether the servers of a service serve no other one at the same port.
pub(crate) fn has_own_servers(at: usize) -> bool {
    let all = service_addresses();
    let (vip, _, protocol, port) = all[at];
    (0..)
        .zip(&all)
        .all(|(other, (its, _, its_protocol, its_port))| {
            let is_same_port = port == *its_port || [port, *its_port].contains(&Backend::PORT_KEPT);
            other == at
                || (vip.family(), protocol) != (its.family(), *its_protocol)
                || !is_same_port
        })
}

/// Draws a service of a protocol: VIP and port.
pub(crate) fn any_service(random: &mut Random, protocol: Protocol) -> (Address, u16) {
    loop {
        let (vip, ports, its, _) = random.one(&service_addresses());
        if its == protocol {
            let port = ports.first() + random.below(ports.count().into()) as u16;
            return (vip, port);
        }
    }
}

/// The address of client `n`, of the VIP's family.
pub(crate) fn client(vip: Address, n: u64) -> Address {
    let base = match vip.family() {
        Family::V4 => Address::v4([198, 51, 100, 0]).bits(),
        Family::V6 => 0x2001_0db8_0002 << 80,
    };
    Address::from_bits(base + 7 + u128::from(n))
}

/// The source NAT address of a client: every third client has one.
pub(crate) fn source_address(of: Address) -> Option<Address> {
    let n = of.bits().checked_sub(client(of, 0).bits())?;
    if n >= CLIENTS_MAX.into() || n % 3 != 0 {
        return None;
    }
    let [v4, v6] = SOURCE_ADDRESSES;
    Some(match of.family() {
        Family::V4 => v4,
        Family::V6 => v6,
    })
}

/// The source NAT addresses, by family.
pub(crate) const SOURCE_ADDRESSES: [Address; 2] = [
    Address::v4([10, 2, 0, 9]),
    Address::from_bits(0xfd00_0002 << 96 | 9),
];

/// The address of a server, of the VIP's family, by its place in its service.
pub(crate) fn server(vip: Address, place: usize) -> Address {
    let base = match vip.family() {
        Family::V4 => Address::v4([10, 2, 0, 10]).bits(),
        Family::V6 => 0xfd00_0002 << 96 | 0x10,
    };
    Address::from_bits(base + place as u128)
}

/// The port or VLAN of a server, and its VLAN tags.
pub(crate) fn server_port(address: Address) -> (PortId, VlanTags) {
    match address.bits() % 2 {
        0 => (BACK_VLAN, BACK_TAGS),
        _ => (BACK, VlanTags::NONE),
    }
}

pub(crate) fn server_mac(address: Address) -> Mac {
    let [.., last] = address.octets();
    Mac([2, 0, 0, 0, 2, last])
}

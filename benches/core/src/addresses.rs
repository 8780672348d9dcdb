//! The addresses of services, clients, backends and the balancer.

use waxwing_dataplane::PortId;
use waxwing_packet::{Address, Mac, Protocol, VlanTag, VlanTags};

/// Addresses of one family, and the transport protocol.
#[derive(Clone, Copy, Debug)]
pub struct AddressPlan {
    /// The name in benchmarks.
    pub name: &'static str,
    /// The protocol of all services.
    pub protocol: Protocol,
    /// The VLAN tags of the clients' frames.
    pub(crate) tags: VlanTags,
    /// The first service's VIP; the others follow it.
    vips: Address,
    /// The first client's address; the others follow it.
    clients: Address,
    /// The first backend's address; the others follow it.
    backends: Address,
}

/// The balancer's ports towards the clients and towards the backends.
pub(crate) const FRONT: PortId = PortId(0);
pub(crate) const BACK: PortId = PortId(1);

/// The MAC addresses of both ports, of the clients' router, and of the backends.
pub(crate) const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
pub(crate) const ROUTER: Mac = Mac([2, 0, 0, 0, 1, 0]);
pub(crate) const SERVERS: Mac = Mac([2, 0, 0, 0, 2, 0]);

/// The transport port of every service, client and backend.
pub(crate) const VIP_PORT: u16 = 80;
const CLIENT_PORT: u16 = 4000;
pub(crate) const BACKEND_PORT: u16 = 8080;

impl AddressPlan {
    /// All plans.
    pub const ALL: [Self; 4] = [Self::V4, Self::V6, Self::V4_UDP, Self::V6_UDP];

    /// TCP over IPv4.
    pub const V4: Self = Self {
        name: "v4",
        protocol: Protocol::Tcp,
        tags: VlanTags::NONE,
        vips: Address::v4([203, 0, 113, 10]),
        clients: Address::v4([100, 64, 0, 0]),
        backends: Address::v4([10, 2, 0, 10]),
    };

    /// TCP over IPv6.
    pub const V6: Self = Self {
        name: "v6",
        protocol: Protocol::Tcp,
        tags: VlanTags::NONE,
        vips: Address::v6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]),
        clients: Address::v6([0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        backends: Address::v6([0xfd, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]),
    };

    /// TCP over IPv4; the clients are in a VLAN.
    pub const V4_VLAN: Self = Self {
        name: "v4_vlan",
        tags: VlanTags::one(VlanTag {
            tpid: 0x8100,
            tci: 100,
        }),
        ..Self::V4
    };

    /// UDP over IPv4.
    pub const V4_UDP: Self = Self {
        name: "v4_udp",
        protocol: Protocol::Udp,
        tags: VlanTags::NONE,
        ..Self::V4
    };

    /// UDP over IPv6.
    pub const V6_UDP: Self = Self {
        name: "v6_udp",
        protocol: Protocol::Udp,
        tags: VlanTags::NONE,
        ..Self::V6
    };

    /// The address and port of a service.
    pub fn vip(&self, service: u32) -> (Address, u16) {
        (offset(self.vips, service), VIP_PORT)
    }

    /// The address and port of a client.
    pub fn client(&self, number: u32) -> (Address, u16) {
        (offset(self.clients, number), CLIENT_PORT)
    }

    /// The address and port of a backend.
    pub fn backend(&self, number: u32) -> (Address, u16) {
        (offset(self.backends, number), BACKEND_PORT)
    }

    /// The number of the backend at an address.
    pub(crate) fn backend_at(&self, address: Address) -> Option<u32> {
        let number = address.bits().checked_sub(self.backends.bits())?;
        u32::try_from(number).ok()
    }
}

fn offset(address: Address, by: u32) -> Address {
    Address::from_bits(address.bits() + u128::from(by))
}

//! Who has which address.

use waxwing_dataplane::PortId;
use waxwing_packet::{Address, Mac, Protocol};

/// Addresses of one family, and the protocol that is spoken.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What a bench calls it.
    pub name: &'static str,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The first service's VIP; the others' follow.
    vips: Address,
    /// The first client's; the others' follow.
    clients: Address,
    /// The first backend's; the others' follow.
    backends: Address,
}

/// The port towards the clients, and the one towards the backends.
pub(crate) const FRONT: PortId = PortId(0);
pub(crate) const BACK: PortId = PortId(1);

/// The balancer's MAC addresses on both, and those of whom it meets there.
pub(crate) const MACS: [Mac; 2] = [Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])];
pub(crate) const ROUTER: Mac = Mac([2, 0, 0, 0, 1, 0]);
pub(crate) const SERVERS: Mac = Mac([2, 0, 0, 0, 2, 0]);

/// Every service's port, every client's, every backend's.
pub(crate) const VIP_PORT: u16 = 80;
const CLIENT_PORT: u16 = 4000;
pub(crate) const BACKEND_PORT: u16 = 8080;

impl Plan {
    /// TCP over IPv4.
    pub const V4: Self = Self {
        name: "v4",
        protocol: Protocol::Tcp,
        vips: Address::v4([203, 0, 113, 10]),
        clients: Address::v4([100, 64, 0, 0]),
        backends: Address::v4([10, 2, 0, 10]),
    };

    /// TCP over IPv6.
    pub const V6: Self = Self {
        name: "v6",
        protocol: Protocol::Tcp,
        vips: Address::v6([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]),
        clients: Address::v6([0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        backends: Address::v6([0xfd, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10]),
    };

    /// UDP over IPv4.
    pub const V4_UDP: Self = Self {
        name: "v4_udp",
        protocol: Protocol::Udp,
        ..Self::V4
    };

    /// UDP over IPv6.
    pub const V6_UDP: Self = Self {
        name: "v6_udp",
        protocol: Protocol::Udp,
        ..Self::V6
    };

    /// A service's address and port.
    #[must_use]
    pub fn vip(&self, service: u32) -> (Address, u16) {
        (offset(self.vips, service), VIP_PORT)
    }

    /// A client's address and port.
    #[must_use]
    pub fn client(&self, number: u32) -> (Address, u16) {
        (offset(self.clients, number), CLIENT_PORT)
    }

    /// A backend's address and port.
    #[must_use]
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

//! IP and MAC addresses, small and `Copy`.
//!
//! Invariant: an IPv4 address is stored in its IPv4-mapped form (RFC 4291 section 2.5.5.2), so one
//! key type, one comparison and one hash serve both families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The upper 96 bits of an IPv4-mapped IPv6 address, `::ffff:0:0`.
const MAPPED: u128 = 0xffff << 32;

/// An IPv4 or IPv6 address as one 128-bit value, most significant bit first (IPv4 in mapped form).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Address(u128);

/// The IP version of a packet, an address or a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// IPv4 (RFC 791).
    V4,
    /// IPv6 (RFC 8200).
    V6,
}

impl Address {
    /// Creates an IPv4 address from its octets.
    #[inline]
    #[must_use]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self(MAPPED | u32::from_be_bytes(octets) as u128)
    }

    /// Creates an IPv6 address from its octets.
    #[inline]
    #[must_use]
    pub const fn v6(octets: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(octets))
    }

    /// Returns the sixteen octets, of an IPv4 address in mapped form.
    #[inline]
    #[must_use]
    pub const fn octets(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Returns the last four octets: those of an IPv4 address.
    #[inline]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower 32 bits are the address"
    )]
    pub const fn v4_octets(self) -> [u8; 4] {
        (self.0 as u32).to_be_bytes()
    }

    /// Returns the 128-bit value, most significant bit first.
    #[inline]
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// Creates an address from the value that [`Address::bits`] returns.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Returns whether this is not unspecified, multicast, or the limited broadcast address of IPv4.
    #[must_use]
    pub const fn is_unicast(self) -> bool {
        match self.family() {
            Family::V4 => {
                let ip = Ipv4Addr::from_octets(self.v4_octets());
                !(ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast())
            }
            Family::V6 => {
                let ip = Ipv6Addr::from_octets(self.octets());
                !(ip.is_unspecified() || ip.is_multicast())
            }
        }
    }

    /// Returns the address's family.
    #[inline]
    #[must_use]
    pub const fn family(self) -> Family {
        if self.0 >> 32 == MAPPED >> 32 {
            Family::V4
        } else {
            Family::V6
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address.family() {
            Family::V4 => Self::V4(Ipv4Addr::from(address.v4_octets())),
            Family::V6 => Self::V6(Ipv6Addr::from(address.octets())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A 48-bit IEEE 802 MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Returns the group address that an IPv6 multicast address maps to (RFC 2464 section 7).
    #[must_use]
    pub const fn of_multicast(address: Address) -> Self {
        let [a, b, c, d] = address.v4_octets();
        Self([0x33, 0x33, a, b, c, d])
    }

    /// Returns whether the group bit is set: multicast or broadcast.
    #[inline]
    #[must_use]
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Returns whether a station may have it: it is neither a group's nor zero.
    #[inline]
    #[must_use]
    pub const fn is_station(self) -> bool {
        !self.is_group() && !matches!(self.0, [0, 0, 0, 0, 0, 0])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A transport protocol that Waxwing balances.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Protocol {
    /// TCP (RFC 9293), IP protocol 6.
    Tcp = 6,
    /// UDP (RFC 768), IP protocol 17.
    Udp = 17,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

//! Networks: all addresses that begin alike.
//!
//! Invariant: the bits behind the prefix are zero, so that each network is one value.

use std::fmt;

use crate::{Address, Family};

/// An IPv4 or IPv6 network (RFC 4632, RFC 4291 section 2.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Prefix {
    network: Address,
    /// Of the 128 bits that an address is held in.
    len: u8,
}

/// Before an IPv4 address in its 128 bits.
const MAPPED_LEN: u8 = 96;

impl Prefix {
    /// The network of this length that an address is in; `None` where its family has no such length.
    #[must_use]
    pub const fn of(address: Address, len: u8) -> Option<Self> {
        let len = match address.family() {
            Family::V4 if len <= 32 => MAPPED_LEN + len,
            Family::V6 if len <= 128 => len,
            _ => return None,
        };
        let network = Address::from_bits(address.bits() & mask(len));
        Some(Self { network, len })
    }

    /// The network of one address.
    #[must_use]
    pub const fn of_one(address: Address) -> Self {
        Self {
            network: address,
            len: 128,
        }
    }

    /// Its first address.
    #[must_use]
    pub const fn network(self) -> Address {
        self.network
    }

    /// How many bits its addresses share, of 32 or 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self.network.family() {
            Family::V4 => self.len - MAPPED_LEN,
            Family::V6 => self.len,
        }
    }

    /// Whether an address is in it. No IPv4 address is in an IPv6 network.
    #[inline]
    #[must_use]
    pub fn contains(self, address: Address) -> bool {
        (address.bits() ^ self.network.bits()) & mask(self.len) == 0
            && address.family() == self.network.family()
    }
}

/// The upper `len` bits of 128.
const fn mask(len: u8) -> u128 {
    match len {
        0 => 0,
        len => u128::MAX << (128 - len),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn v6(first: u8, last: u8) -> Address {
        Address::v6([first, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        let rows = [
            (Address::v4([10, 2, 0, 9]), 24, [10, 2, 0, 255], true),
            (Address::v4([10, 2, 0, 9]), 24, [10, 2, 1, 0], false),
            (Address::v4([10, 2, 0, 9]), 32, [10, 2, 0, 9], true),
            (Address::v4([10, 2, 0, 9]), 32, [10, 2, 0, 8], false),
            (Address::v4([10, 2, 0, 9]), 0, [192, 0, 2, 1], true),
            (v6(0, 0), 0, [192, 0, 2, 1], false),
        ];
        for (address, len, other, expected) in rows {
            let prefix = Prefix::of(address, len).expect("there is such a length");
            assert_eq!(prefix.contains(Address::v4(other)), expected, "{prefix}");
        }
        let prefix = Prefix::of(v6(0xfd, 9), 64).expect("there is such a length");
        assert!(prefix.contains(v6(0xfd, 200)) && !prefix.contains(v6(0xfc, 9)));
    }

    #[test]
    fn each_network_is_one_value() {
        let of = |last, len| Prefix::of(Address::v4([10, 2, 0, last]), len);
        assert_eq!(of(9, 24), of(200, 24));
        assert_ne!(of(9, 24), of(9, 25));
        assert_eq!(of(9, 33), None);
        assert_eq!(of(9, 24).expect("it is one").to_string(), "10.2.0.0/24");
        assert_eq!(Prefix::of(v6(0xfd, 9), 129), None);
        let text = Prefix::of(v6(0xfd, 9), 8).expect("it is one").to_string();
        assert_eq!(text, "fd00::/8");
    }
}

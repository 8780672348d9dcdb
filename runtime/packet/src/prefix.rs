//! IP networks in prefix notation.
//!
//! Invariant: the bits behind the prefix are zero, so equal networks are equal values.

use std::fmt;

use crate::{Address, Family};

/// An IPv4 or IPv6 network (RFC 4632, RFC 4291 section 2.3). A network sorts before the networks that
/// it contains.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Prefix {
    network: Address,
    /// Counted in the 128 bits of an [`Address`].
    len: u8,
}

/// Number of bits before an IPv4 address in its mapped form.
const MAPPED_LEN: u8 = 96;

impl Prefix {
    /// Creates the network of all addresses that share the first `len` bits of `address`. A `len`
    /// above 32 (IPv4) or 128 (IPv6) counts as 32 or 128.
    #[must_use]
    pub const fn new(address: Address, len: u8) -> Self {
        let len = match address.family() {
            Family::V4 if len <= 32 => MAPPED_LEN + len,
            Family::V6 if len <= 128 => len,
            _ => 128,
        };
        Self {
            network: Address::from_bits(address.bits() & mask(len)),
            len,
        }
    }

    /// Returns the first address.
    #[must_use]
    pub const fn network(self) -> Address {
        self.network
    }

    /// Returns the prefix length: 0 to 32 (IPv4) or 128 (IPv6).
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self.network.family() {
            Family::V4 => self.len - MAPPED_LEN,
            Family::V6 => self.len,
        }
    }

    /// Returns the first and the last address.
    #[must_use]
    pub const fn bounds(self) -> (Address, Address) {
        let last = self.network.bits() | !mask(self.len);
        (self.network, Address::from_bits(last))
    }

    /// Returns whether the network contains an address. An IPv6 network contains no IPv4 address.
    #[inline]
    #[must_use]
    pub fn contains(self, address: Address) -> bool {
        (address.bits() ^ self.network.bits()) & mask(self.len) == 0
            && address.family() == self.network.family()
    }
}

/// Returns a mask of the upper `len` bits.
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
    fn a_network_contains_exactly_the_addresses_with_its_prefix() {
        let rows = [
            (Address::v4([10, 2, 0, 9]), 24, [10, 2, 0, 255], true),
            (Address::v4([10, 2, 0, 9]), 24, [10, 2, 1, 0], false),
            (Address::v4([10, 2, 0, 9]), 32, [10, 2, 0, 9], true),
            (Address::v4([10, 2, 0, 9]), 32, [10, 2, 0, 8], false),
            (Address::v4([10, 2, 0, 9]), 0, [192, 0, 2, 1], true),
            (v6(0, 0), 0, [192, 0, 2, 1], false),
        ];
        for (address, len, other, expected) in rows {
            let prefix = Prefix::new(address, len);
            assert_eq!(prefix.contains(Address::v4(other)), expected, "{prefix}");
        }
        let prefix = Prefix::new(v6(0xfd, 9), 64);
        assert!(prefix.contains(v6(0xfd, 200)) && !prefix.contains(v6(0xfc, 9)));
    }

    #[test]
    fn equal_networks_are_equal_values() {
        let of = |last, len| Prefix::new(Address::v4([10, 2, 0, last]), len);
        assert_eq!(of(9, 24), of(200, 24));
        assert_ne!(of(9, 24), of(9, 25));
        assert_eq!(of(9, 33), of(9, 32));
        assert_eq!(
            (of(9, 24).bits(), of(9, 24).to_string().as_str()),
            (24, "10.2.0.0/24")
        );
        let of = |len| Prefix::new(v6(0xfd, 9), len);
        assert_eq!(of(129), of(128));
        assert_eq!((of(8).bits(), of(8).to_string().as_str()), (8, "fd00::/8"));
    }

    #[test]
    fn bounds_are_the_first_and_last_address() {
        let rows = [
            ([10, 2, 0, 9], 24, [10, 2, 0, 0], [10, 2, 0, 255]),
            ([10, 2, 0, 9], 32, [10, 2, 0, 9], [10, 2, 0, 9]),
            ([10, 2, 0, 9], 0, [0, 0, 0, 0], [255, 255, 255, 255]),
        ];
        for (address, len, first, last) in rows {
            let prefix = Prefix::new(Address::v4(address), len);
            let expected = (Address::v4(first), Address::v4(last));
            assert_eq!(prefix.bounds(), expected, "{prefix}");
        }
        let all = Prefix::new(v6(0xfd, 9), 0).bounds();
        assert_eq!((all.0.bits(), all.1.bits()), (0, u128::MAX));
    }

    #[test]
    fn a_network_sorts_before_the_networks_that_it_contains() {
        let of = |last, len| Prefix::new(Address::v4([10, 2, 0, last]), len);
        let sorted = [
            of(9, 0),
            of(9, 8),
            of(9, 24),
            of(9, 25),
            of(9, 32),
            of(200, 25),
        ];
        assert!(sorted.is_sorted(), "{sorted:?}");
    }
}

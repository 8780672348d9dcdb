//! Prefixes of both families as ranges of one address space, with IPv4 in mapped form.
//!
//! Invariant: the bits after the prefix are zero; the parser refuses others.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use waxwing_sdk::ConfigError;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Prefix {
    first: u128,
    bits: u32,
}

/// Bits in front of an IPv4 address in mapped form.
const MAPPED: u32 = 96;

/// All of IPv4.
pub(crate) const IPV4: Prefix = Prefix {
    first: 0xffff << 32,
    bits: MAPPED,
};

impl Prefix {
    /// Parses `10.0.0.0/8` or `2001:db8::/32`.
    pub(crate) fn parse(text: &str) -> Result<Self, ConfigError> {
        let (address, bits) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address
            .parse()
            .map_err(|_| "expected an address and a length, like 10.0.0.0/8")?;
        let (first, before) = match address {
            IpAddr::V4(v4) => (v4.to_ipv6_mapped().to_bits(), MAPPED),
            IpAddr::V6(v6) => (v6.to_bits(), 0),
        };
        let bits_max = u128::BITS - before;
        if bits.is_empty() {
            return Err(
                format!("expected a length; for one address write {address}/{bits_max}").into(),
            );
        }
        let bits: u32 = bits
            .parse()
            .ok()
            .filter(|bits| *bits <= bits_max)
            .ok_or_else(|| format!("a prefix has 0 to {bits_max} bits"))?;
        let written = Self {
            first,
            bits: before + bits,
        };
        let prefix = Self {
            first: first & !written.behind(),
            ..written
        };
        let is_mapped = address.is_ipv6() && prefix.bits >= MAPPED && prefix.is_ipv4();
        if prefix != written || is_mapped {
            return Err(format!("write {prefix}").into());
        }
        Ok(prefix)
    }

    /// Returns the lowest address.
    pub(crate) const fn first(&self) -> u128 {
        self.first
    }

    /// Returns the highest address.
    pub(crate) fn last(&self) -> u128 {
        self.first | self.behind()
    }

    /// Returns the prefix length in the common address space: for IPv4, 96 more than written.
    pub(crate) const fn bits(&self) -> u32 {
        self.bits
    }

    /// Returns the mask of the bits after the prefix.
    fn behind(&self) -> u128 {
        u128::MAX.checked_shr(self.bits).unwrap_or(0)
    }

    const fn is_ipv4(&self) -> bool {
        self.bits >= MAPPED && self.first >> 32 == IPV4.first >> 32
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = Ipv6Addr::from_bits(self.first);
        match address.to_ipv4_mapped().filter(|_| self.is_ipv4()) {
            Some(v4) => write!(f, "{v4}/{}", self.bits - MAPPED),
            None => write!(f, "{address}/{}", self.bits),
        }
    }
}
